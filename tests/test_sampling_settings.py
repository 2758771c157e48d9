from dataclasses import replace
from typing import Any

import pytest

from stableavatar.sampling.settings import Sampling


@pytest.mark.parametrize("name", ["mode", "blend", "scheduler", "guidance"])
def test_unknown_choices_name_what_there_is(name: str) -> None:
    choice: dict[str, Any] = {name: "fancy"}
    with pytest.raises(ValueError, match=f"there is no {name} 'fancy'; there is: {getattr(Sampling(), name)}, "):
        replace(Sampling(), **choice)


def test_scales_are_read_at_once() -> None:
    with pytest.raises(ValueError, match="many"):
        Sampling(native_pair="many")
