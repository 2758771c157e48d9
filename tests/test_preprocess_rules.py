import pytest

from stableavatar.errors import BadInput
from stableavatar.preprocess.rules import Rules


def test_a_clip_is_never_shorter_than_training_takes() -> None:
    assert Rules().min_frames == 81
    with pytest.raises(BadInput, match=r"--min-seconds is below 3\.24"):
        Rules(min_frames=80)


def test_halves_of_a_long_shot_must_be_long_enough() -> None:
    assert Rules(max_frames=162).max_frames == 162
    with pytest.raises(BadInput, match="--max-seconds is below twice --min-seconds, 8"):
        Rules(min_frames=100, max_frames=199)
