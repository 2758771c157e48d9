import numpy as np
import pytest

from stableavatar.drawn.espeak import Phoneme
from stableavatar.drawn.lips import (
    CLOSED,
    OPEN,
    closures,
    correlation,
    correlations_by_lag,
    frames_at,
    judge_sync,
    sync_of,
)
from stableavatar.drawn.scene import Clip, plan_clip
from stableavatar.drawn.sentences import HELD_OUT

NUM_FRAMES = 81


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [plan_clip(1_000_000 + seed, HELD_OUT, NUM_FRAMES) for seed in range(12)]


def mouth(clip: Clip) -> np.ndarray:
    return clip.mouth[:, 0]


def test_the_truth_follows_itself_whatever_its_scale(clips: list[Clip]) -> None:
    for clip in clips:
        found = judge_sync(0.17 * mouth(clip) + 0.01, mouth(clip))
        assert found.correlation == pytest.approx(1.0)
        assert found.best_lag == 0


@pytest.mark.parametrize("late", [-5, -1, 2, 7])
def test_a_mouth_that_comes_late_or_early_is_found_out(clips: list[Clip], late: int) -> None:
    for clip in clips:
        found = judge_sync(np.roll(mouth(clip), late), mouth(clip))
        assert found.best_lag == late
        assert found.best_correlation > 0.99 > found.correlation


def test_the_mouth_of_another_clip_follows_nothing(clips: list[Clip]) -> None:
    others = [correlation(mouth(one), mouth(other)) for one in clips for other in clips if one is not other]
    assert abs(np.mean(others)) < 0.1
    assert correlation(np.full(NUM_FRAMES, 0.1), mouth(clips[0])) == 0


def test_lags_of_several_clips_can_be_averaged_first(clips: list[Clip]) -> None:
    rng = np.random.default_rng(0)
    noisy = [np.roll(mouth(clip), 1) + rng.normal(0, 0.5, NUM_FRAMES) for clip in clips]
    lags = np.mean([correlations_by_lag(one, mouth(clip)) for one, clip in zip(noisy, clips, strict=True)], axis=0)
    assert sync_of(lags).best_lag == 1


def test_lips_close_at_p_b_and_m(clips: list[Clip]) -> None:
    own = [closures(mouth(clip), clip.speech.phonemes) for clip in clips]
    other = [closures(mouth(clips[number - 1]), clip.speech.phonemes) for number, clip in enumerate(clips)]
    assert np.nanmax(own) < 0.02
    assert np.nanmean(other) > 0.5
    assert np.isnan(closures(np.zeros(NUM_FRAMES), clips[0].speech.phonemes))


def test_a_closure_is_seen_where_it_is_drawn() -> None:
    phonemes = [
        Phoneme(name="a", start_s=0.0, end_s=0.2),
        Phoneme(name="p", start_s=0.2, end_s=0.5),  # closed for 0.09 s; the rest is breath
        Phoneme(name="a", start_s=0.5, end_s=0.7),
        Phoneme(name="m", start_s=2.0, end_s=2.1),
    ]
    assert frames_at(phonemes, CLOSED, 50) == [6]
    assert frames_at(phonemes, OPEN, 50) == [2, 15]


def test_courses_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="80 measured and 81 true frames"):
        judge_sync(np.zeros(80), np.zeros(81))
    with pytest.raises(ValueError, match="up to a lag of 12"):
        judge_sync(np.zeros(14), np.zeros(14))
