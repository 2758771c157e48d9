import pytest

from stableavatar.sampling.scales import Scale, parse_scale, scale_at


@pytest.mark.parametrize(
    ("scale", "steps"),
    [
        (5, [5, 5, 5, 5]),
        (2.5, [2.5, 2.5, 2.5, 2.5]),
        ("5", [5, 5, 5, 5]),
        ("5x2,1", [5, 5, 1, 1]),
        (" 1x1 , 5.5 x 2,  0x1 ", [1, 5.5, 5.5, 0]),
        ("3x1", [3, 3, 3, 3]),
        ("3x9,1", [3, 3, 3, 3]),
    ],
)
def test_scales_of_steps(scale: Scale, steps: list[float]) -> None:
    schedule = parse_scale(scale)
    assert [scale_at(schedule, step) for step in range(4)] == steps


@pytest.mark.parametrize(
    ("scale", "wrong"),
    [
        ("", "an empty part"),
        ("5x2,", "an empty part"),
        (",5", "an empty part"),
        ("5,1", "'5' is followed by more"),
        ("5x", "'5x' is not written as"),
        ("x5", "'x5' is not written as"),
        ("5x2x3", "'5x2x3' is not written as"),
        ("5x0,1", "'0' is not a number of steps"),
        ("5x2.5,1", "'2.5' is not a number of steps"),
        ("5x1001", "'1001' is not a number of steps"),
        ("-1", "'-1' is not a number from 0 to 100"),
        ("101", "'101' is not a number"),
        ("1e1", "'1e1' is not a number"),
        ("1_0", "'1_0' is not a number"),
        ("strong", "'strong' is not a number"),
        ("nan", "'nan' is not a number"),
        (float("nan"), "'nan' is not a number"),
        (float("inf"), "'inf' is not a number"),
        (-0.5, "'-0.5' is not a number"),
    ],
)
def test_errors_name_what_is_wrong(scale: Scale, wrong: str) -> None:
    with pytest.raises(ValueError, match="scale") as error:
        parse_scale(scale)
    assert wrong in str(error.value)
