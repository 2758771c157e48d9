import math
from typing import Any

import pytest

from stableavatar.audio.span import Span
from stableavatar.errors import BadInput


@pytest.mark.parametrize("name", ["start_s", "pad_before_s", "pad_after_s"])
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_times_before_zero_are_refused(name: str, value: float) -> None:
    words: dict[str, Any] = {name: value}
    with pytest.raises(BadInput, match=rf"{name} is .* Give seconds from 0"):
        Span(**words)


@pytest.mark.parametrize("end_s", [0.5, 1.0, math.nan])
def test_an_end_that_is_not_after_the_start_is_refused(end_s: float) -> None:
    with pytest.raises(BadInput, match=r"start_s is 1\. Let end_s be greater"):
        Span(start_s=1.0, end_s=end_s)


def test_the_whole_medium_is_a_span() -> None:
    assert (Span().start_s, Span().end_s) == (0.0, None)
