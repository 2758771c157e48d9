import numpy as np
import pytest

from stableavatar.drawn.draw import draw
from stableavatar.drawn.figures import slope_of
from stableavatar.drawn.judge import Judged, judge_frames, seam_scores, seams_of
from stableavatar.drawn.likeness import Likeness
from stableavatar.drawn.lips import judge_sync
from stableavatar.drawn.scene import plan_clip
from stableavatar.drawn.sentences import HELD_OUT
from stableavatar.sampling.windows import plan_windows
from stableavatar.units import FPS, frames_of

SIZE = (64, 64)
NUM_LATENTS = 150
NUM_FRAMES = frames_of(NUM_LATENTS)  # 23 s
CLIP = plan_clip(1_000_001, HELD_OUT, NUM_FRAMES)
LIKENESS = Likeness.of(CLIP.identity, CLIP.poses[0], SIZE)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.stack([draw(CLIP.identity, pose, SIZE).image_HWC for pose in CLIP.poses])


@pytest.fixture(scope="module")
def truth(frames: np.ndarray) -> Judged:
    return judge_frames(frames, LIKENESS)


def test_a_perfect_video_scores_as_one(truth: Judged) -> None:
    assert judge_sync(truth.mouth_V, CLIP.mouth[:, 0]).correlation > 0.99
    assert truth.colours_V3.shape == (NUM_FRAMES, 3)
    assert len(truth.distances_K) == 1 + (NUM_FRAMES - 1) // FPS
    assert len(truth.distances_S()) == len(truth.colours_S3()) == NUM_FRAMES // FPS
    assert truth.distances_S().max() < 8
    slope = slope_of(truth.colours_S3()[:, 0], bin_s=5)
    assert abs(slope.value) < 6 * slope.error + 1


def test_colours_are_luma_and_chroma() -> None:
    grey, red = np.full((1, 8, 8, 3), 100, np.uint8), np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    np.testing.assert_allclose(judge_frames(grey).colours_V3[0], (100, 128, 128))
    np.testing.assert_allclose(judge_frames(red).colours_V3[0], (76.2, 85.0, 255.5), atol=0.1)


def test_a_video_that_drifts_shows_it(frames: np.ndarray, truth: Judged) -> None:
    step_V = np.arange(NUM_FRAMES)[:, None, None, None] / (60 * FPS)  # minutes
    brighter = judge_frames((frames * 0.7 + 12 * step_V).astype(np.uint8), LIKENESS)
    steady = judge_frames((frames * 0.7).astype(np.uint8), LIKENESS)
    gained = slope_of((brighter.colours_S3() - steady.colours_S3())[:, 0], bin_s=5)
    assert gained.value == pytest.approx(12, rel=0.05)
    greener = frames.astype(np.float32)
    greener[..., 1] -= 60 * step_V[..., 0]
    drifting = judge_frames(greener.clip(0, 255).astype(np.uint8), LIKENESS)
    assert slope_of(drifting.distances_S(), bin_s=5).value > 10
    assert slope_of(drifting.colours_S3()[:, 2], bin_s=5).value > 10
    assert abs(slope_of(truth.distances_S(), bin_s=5).value) < 5


def test_seams_lie_where_a_window_takes_over() -> None:
    assert seams_of(plan_windows(63, 21, 0), 0) == [range(81, 82), range(165, 166)]
    # The later window has a part from latent 16 on (frames 61 ..), and is alone from latent 21 on (frame 81).
    assert seams_of(plan_windows(37, 21, 5), 5) == [range(61, 82)]
    # The last window shares more than the overlap: it takes over in the last frames that it shares.
    assert seams_of(plan_windows(40, 21, 5), 5) == [range(61, 82), range(125, 146)]


def test_a_jump_at_a_seam_is_seen_and_elsewhere_it_is_not_taken_for_one(frames: np.ndarray, truth: Judged) -> None:
    windows = plan_windows(NUM_LATENTS, 21, 0)
    seams = seams_of(windows, 0)
    assert len(seam_scores(truth.changes_V, seams)) == len(windows) - 1
    assert np.mean(seam_scores(truth.changes_V, seams)) == pytest.approx(1, abs=0.5)
    odd_V = np.searchsorted([seam.start for seam in seams], np.arange(NUM_FRAMES), side="right") % 2
    jumping = judge_frames((frames * 0.9 + 20 * odd_V[:, None, None, None]).astype(np.uint8))
    assert min(seam_scores(jumping.changes_V, seams)) > 4
    shifted = [range(seam.start + 30, seam.stop + 30) for seam in seams]
    assert np.mean(seam_scores(jumping.changes_V, shifted)) < 1


def test_seams_behind_the_end_do_not_count(truth: Judged) -> None:
    assert seam_scores(truth.changes_V[:80], [range(81, 82)]) == []
    assert len(seam_scores(truth.changes_V[:80], [range(70, 90), range(100, 101)])) == 1
