import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stableavatar.drawn.draw import Pose, draw
from stableavatar.drawn.faces import draw_identity
from stableavatar.drawn.measure import mouth_opening
from stableavatar.drawn.scene import plan_clip
from stableavatar.drawn.sentences import SPLITS

NUM_FRAMES = 40
SEEDS = range(6)


@pytest.fixture(scope="module")
def films() -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames of 12 identities, and how far their mouths truly are open."""
    clips = [plan_clip(seed, split, NUM_FRAMES) for split in SPLITS for seed in SEEDS]
    return [
        (np.stack([draw(clip.identity, pose, (96, 96)).image_HWC for pose in clip.poses]), clip.mouth[:, 0])
        for clip in clips
    ]


def correlations(films: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.array([np.corrcoef(mouth_opening(frames), truth)[0, 1] for frames, truth in films])


def test_it_follows_the_truth(films: list[tuple[np.ndarray, np.ndarray]]) -> None:
    found = correlations(films)
    assert found.mean() > 0.99
    assert found.min() > 0.97


def test_it_follows_the_truth_through_blur_and_noise(films: list[tuple[np.ndarray, np.ndarray]]) -> None:
    rng = np.random.default_rng(0)
    spoilt = []
    for frames, truth in films:
        blurred = gaussian_filter(frames.astype(np.float32), (0, 1.5, 1.5, 0)) + rng.normal(0, 8, frames.shape)
        spoilt.append((blurred.clip(0, 255).astype(np.uint8), truth))
    found = correlations(spoilt)
    assert found.mean() > 0.97
    assert found.min() > 0.9


def test_it_is_a_fraction_of_the_smaller_side_whatever_the_size_and_the_width_of_the_mouth() -> None:
    face = draw_identity(np.random.default_rng(1))
    for size in ((96, 96), (240, 160), (160, 240)):
        found = [
            mouth_opening(draw(face, Pose(mouth_opening=0.8, mouth_width=width), size).image_HWC[None])[0]
            for width in (0.0, 1.0)
        ]
        assert found == pytest.approx([0.118, 0.118], abs=0.012)


def test_a_closed_mouth_is_zero_and_sway_changes_little() -> None:
    face = draw_identity(np.random.default_rng(2))
    swaying = [Pose(mouth_opening=0.6, dx=dx, roll_degrees=roll) for dx, roll in ((0, 0), (0.02, 3), (-0.02, -3))]
    found = mouth_opening(np.stack([draw(face, pose, (96, 96)).image_HWC for pose in [Pose(), *swaying]]))
    assert found.dtype == np.float32
    assert found[0] == 0
    assert np.ptp(found[1:]) < 0.03 * found[1:].mean()
