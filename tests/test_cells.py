from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from manifests.cells import BadCell, convert, shown
from manifests.schema import MANIFEST

COLUMNS = {column.name: column for column in MANIFEST}
STEPS = "give a whole number from 1 to 1000"


@pytest.mark.parametrize(
    ("name", "cell", "value"),
    [
        ("num_steps", 2, 2),
        ("num_steps", 2.0, 2),
        ("num_steps", "2", 2),
        ("num_steps", " 2.0 ", 2),
        ("num_steps", "1e2", 100),
        ("num_steps", Decimal("3"), 3),
        ("num_steps", np.int32(4), 4),
        ("num_steps", 1, 1),
        ("num_steps", 1000, 1000),
        ("seed", "9007199254740993", 9007199254740993),  # more than a float can hold exactly
        ("seed", 2**63 - 1, 2**63 - 1),
        ("text_scale", 3, 3.0),
        ("text_scale", ".5", 0.5),
        ("start_s", np.float16(1.5), 1.5),
        ("start_s", "-0", 0.0),
        ("separate_vocals", True, True),
        ("separate_vocals", "Yes", True),
        ("separate_vocals", "FALSE", False),
        ("separate_vocals", "no", False),
        ("separate_vocals", "1", True),
        ("separate_vocals", 0.0, False),
        ("id", 17, "17"),
        ("id", " spaces stay ", " spaces stay "),
        ("prompt", 'A "quoted"\nline', 'A "quoted"\nline'),
        ("prompt", "  ", None),
        ("num_steps", "", None),
        ("num_steps", None, None),
    ],
)
def test_values(name: str, cell: Any, value: Any) -> None:
    converted = convert(COLUMNS[name], cell)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("name", "cell", "message"),
    [
        ("num_steps", -2, f"num_steps is -2; {STEPS}"),
        ("num_steps", 0, f"num_steps is 0; {STEPS}"),
        ("num_steps", 1001, f"num_steps is 1001; {STEPS}"),
        ("num_steps", 2.5, f"num_steps is 2.5; {STEPS}"),
        ("num_steps", True, f"num_steps is True; {STEPS}"),
        ("num_steps", "many", f"num_steps is 'many'; {STEPS}"),
        ("num_steps", "1_0", f"num_steps is '1_0'; {STEPS}"),
        ("num_steps", "٣", f"num_steps is '٣'; {STEPS}"),
        ("num_steps", [2], f"num_steps is [2]; {STEPS}"),
        ("num_steps", float("nan"), f"num_steps is NaN; {STEPS}, or leave the cell empty (null)"),
        ("num_steps", "nan", f"num_steps is NaN; {STEPS}, or leave the cell empty (null)"),
        ("num_steps", np.float32("nan"), f"num_steps is NaN; {STEPS}, or leave the cell empty (null)"),
        ("num_steps", 10**400, "num_steps is 1000"),
        ("seed", -1, "seed is -1; give a whole number from 0 to 9223372036854775807"),
        ("seed", 2**63, "seed is 9223372036854775808; give a whole number from 0 to 9223372036854775807"),
        ("text_scale", float("inf"), "text_scale is inf; give a number from 0 to 100"),
        ("text_scale", "1e999", "text_scale is inf; give a number from 0 to 100"),
        ("text_scale", -0.1, "text_scale is -0.1; give a number from 0 to 100"),
        ("start_s", 10**400, "start_s is 1000"),
        ("start_s", "0:05", "start_s is '0:05'; give a number from 0 to 1000000"),
        ("separate_vocals", "maybe", "separate_vocals is 'maybe'; give true or false"),
        ("separate_vocals", 2, "separate_vocals is 2; give true or false"),
        ("separate_vocals", float("nan"), "separate_vocals is NaN; give true or false, or leave the cell empty"),
        ("prompt", {"a": 1}, "prompt is {'a': 1}; give text"),
        ("id", True, "id is True; give text"),
        ("portrait", 5, "portrait is 5; give text"),
        ("portrait", None, "portrait is empty; give the path or URI of the image"),
        ("audio", "  ", "audio is empty; give the path or URI of the speech"),
        ("audio", "a\x00.wav", r"audio is 'a\x00.wav'; take the control characters out"),
        ("id", "a\nb", r"id is 'a\nb'; take the control characters out"),
    ],
)
def test_bad_cells_say_what_was_found_and_the_remedy(name: str, cell: Any, message: str) -> None:
    with pytest.raises(BadCell) as error:
        convert(COLUMNS[name], cell)
    assert str(error.value).startswith(message)
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


def test_long_and_unprintable_values_are_cut_and_escaped() -> None:
    assert shown("x" * 1000) == f"'{'x' * 76}..."
    assert shown("a\u202eb\n") == r"'a\u202eb\n'"


@pytest.mark.parametrize("id", ["=1+1", "+1", "-rf", "@SUM(A1)", " =1", "\uff1d1"])
def test_an_id_that_a_spreadsheet_would_run_is_refused(id: str) -> None:
    with pytest.raises(BadCell, match="would take as a formula; begin with another sign"):
        convert(COLUMNS["id"], id)


@pytest.mark.parametrize("sign", ["\u202e", "\u200b", "\u2066", "\ufeff", "\u00ad", "\u2028", "\u3164", "\ud800"])
def test_an_id_with_signs_that_nobody_sees_is_refused_and_they_are_shown(sign: str) -> None:
    with pytest.raises(BadCell, match=r"id is 'an\\.*na'; take out the signs"):
        convert(COLUMNS["id"], f"an{sign}na")


def test_ids_that_look_the_same_are_the_same() -> None:
    assert convert(COLUMNS["id"], "Ame\u0301lie") == convert(COLUMNS["id"], "Am\u00e9lie")


@pytest.mark.parametrize(("name", "most"), [("id", 255), ("prompt", 10_000), ("portrait", 8192), ("mode", 1000)])
def test_text_has_a_greatest_length(name: str, most: int) -> None:
    assert convert(COLUMNS[name], "x" * most) == "x" * most
    with pytest.raises(BadCell, match=f"{name} has {most + 1:,} characters; give at most {most:,}"):
        convert(COLUMNS[name], "x" * (most + 1))
