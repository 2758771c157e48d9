import numpy as np
import pytest

from stableavatar.sampling.plan import num_windows, plan_aligned, plan_published

SPEECH = np.arange(1, 125 * 640 + 1, dtype=np.float32)  # 5.0 s


def test_aligned_windows_hear_exactly_their_frames() -> None:
    plan = plan_aligned(125, 21, 5)
    assert [window.start for window in plan.windows] == [0, 11]
    assert plan.num_latents == 32
    first, last = plan.cut_speech(SPEECH)
    assert len(first) == len(last) == 81 * 640
    assert first[0] == SPEECH[0] and last[0] == SPEECH[4 * 11 * 640]


def test_silence_stands_behind_the_end_of_the_speech() -> None:
    (only,) = plan_aligned(3, 21, 5).cut_speech(SPEECH[: 3 * 640])
    assert len(only) == 81 * 640
    assert only[3 * 640 - 1] == 3 * 640 and not only[3 * 640 :].any()


def test_published_windows_hear_84_frames_or_what_is_left() -> None:
    plan = plan_published(125, 21, 5)
    assert [(window.start, window.length) for window in plan.windows] == [(0, 21), (16, 16)]
    assert [len(part) / 640 for part in plan.cut_speech(SPEECH)] == [84, 125 - 64]
    assert plan.window_latents == 21


@pytest.mark.parametrize(("num_frames", "made"), [(81, 81), (82, 81), (84, 81), (85, 85), (127, 125)])
def test_published_videos_lose_their_tail(num_frames: int, made: int) -> None:
    assert 1 + 4 * (plan_published(num_frames, 21, 5).num_latents - 1) == made
    assert 1 + 4 * (plan_aligned(num_frames, 21, 5).num_latents - 1) >= num_frames


@pytest.mark.parametrize("num_frames", [1, 2, 80])
def test_both_modes_fill_up_short_speech(num_frames: int) -> None:
    assert plan_published(num_frames, 21, 5) == plan_aligned(num_frames, 21, 5)


def test_number_of_windows() -> None:
    assert num_windows(3, 21, 5) == num_windows(81, 21, 5) == 1
    assert num_windows(82, 21, 5) == 2
    assert num_windows(82, 21, 5, mode="reference") == 1
