import time
from dataclasses import replace

import numpy as np
import pytest

from stableavatar.drawn.draw import Pose, draw
from stableavatar.drawn.faces import draw_identity
from stableavatar.drawn.measure import mouth_amount

FACE = draw_identity(np.random.default_rng(4))
OPEN = Pose(mouth_opening=1.0, mouth_width=0.8)


def middle(mask_HW: np.ndarray) -> np.ndarray:
    """x and y of the middle, pixels."""
    y, x = np.nonzero(mask_HW)
    return np.array([x.mean(), y.mean()])


@pytest.mark.parametrize("size", [(96, 96), (512, 512), (832, 480), (480, 832), (64, 48)])
def test_any_size_and_shape(size: tuple[int, int]) -> None:
    drawn = draw(FACE, OPEN, size)
    assert drawn.image_HWC.shape == (size[1], size[0], 3)
    assert drawn.image_HWC.dtype == np.uint8
    side = min(size)
    assert np.abs(middle(drawn.face_mask_HW) - np.array(size) / 2).max() < 0.08 * side
    assert 0.2 * side**2 < drawn.face_mask_HW.sum() < 0.5 * side**2
    assert 0.01 * side**2 < drawn.lip_mask_HW.sum() < 0.08 * side**2
    assert not (drawn.lip_mask_HW & ~drawn.face_mask_HW).any()


def test_an_open_mouth_is_large_and_a_closed_one_shows_nothing_red() -> None:
    amount_HW = mouth_amount(draw(replace(FACE, scale=1.0), OPEN, (96, 96)).image_HWC)
    assert amount_HW.sum(axis=0).max() == pytest.approx(16, abs=1.5)
    assert amount_HW.sum(axis=1).max() == pytest.approx(21, abs=2)
    for seed in range(60):
        identity = draw_identity(np.random.default_rng(seed))
        assert mouth_amount(draw(identity, Pose(), (96, 96)).image_HWC).max() < 0.05, seed


def test_the_lip_mask_holds_the_open_mouth_and_little_else() -> None:
    drawn = draw(FACE, OPEN, (192, 192))
    amount_HW = mouth_amount(drawn.image_HWC)
    assert amount_HW[~drawn.lip_mask_HW].max() < 0.05
    assert amount_HW[drawn.lip_mask_HW].mean() > 0.4


def test_the_head_moves_as_the_pose_says_and_the_background_stays() -> None:
    still, moved = draw(FACE, OPEN, (200, 200)), draw(FACE, replace(OPEN, dx=0.02, dy=-0.01), (200, 200))
    np.testing.assert_allclose(middle(moved.face_mask_HW) - middle(still.face_mask_HW), (4, -2), atol=0.1)
    np.testing.assert_allclose(middle(moved.lip_mask_HW) - middle(still.lip_mask_HW), (4, -2), atol=0.3)
    np.testing.assert_array_equal(moved.image_HWC[:20, :10], still.image_HWC[:20, :10])
    rolled = draw(FACE, replace(OPEN, roll_degrees=3), (200, 200))
    shift = middle(rolled.lip_mask_HW) - middle(still.lip_mask_HW)
    assert 1 < abs(shift[0]) < 4
    assert abs(shift[1]) < 0.5


def test_a_blink_changes_the_eyes_alone() -> None:
    eyes_open, closed = (draw(FACE, Pose(blink=blink), (96, 96)).image_HWC.astype(int) for blink in (0.0, 1.0))
    rows, columns = np.nonzero(np.abs(eyes_open - closed).sum(axis=2))
    assert 20 < len(rows) < 400
    assert 30 < rows.min() < rows.max() < 52
    assert len(columns) > 0


def test_the_same_pose_gives_the_same_pixels() -> None:
    np.testing.assert_array_equal(draw(FACE, OPEN, (96, 96)).image_HWC, draw(FACE, OPEN, (96, 96)).image_HWC)


def test_a_frame_takes_milliseconds() -> None:
    draw(FACE, OPEN, (96, 96))
    started = time.process_time()
    for _ in range(50):
        draw(FACE, OPEN, (96, 96))
    assert (time.process_time() - started) / 50 < 0.010  # 1 ms on a quiet machine
