from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stableavatar.drawn.draw import Pose, draw
from stableavatar.drawn.faces import Identity, draw_identity, mix
from stableavatar.drawn.likeness import Likeness

SIZE = (96, 96)
FACES = [draw_identity(np.random.default_rng(seed)) for seed in range(6)]


def picture(face: Identity, **pose: float) -> np.ndarray:
    return draw(face, Pose(**pose), SIZE).image_HWC


@pytest.mark.parametrize("face", FACES)
def test_a_face_that_sways_talks_and_blinks_stays_itself_and_others_do_not(face: Identity) -> None:
    likeness = Likeness.of(face, Pose(mouth_opening=0.2, dx=-0.02, dy=0.01, roll_degrees=2.5), SIZE)
    swayed = picture(face, mouth_opening=0.9, mouth_width=0.1, blink=1.0, dx=0.018, dy=-0.015, roll_degrees=-2.5)
    own = likeness.distance(swayed)
    assert likeness.distance(likeness.portrait_HWC) < 0.01
    assert own < 6
    assert own < 0.6 * min(likeness.distance(picture(other)) for other in FACES if other is not face)


def test_a_face_that_changes_gets_farther_away_step_by_step() -> None:
    face = FACES[1]
    likeness = Likeness.of(face, Pose(), SIZE)
    away = [
        likeness.distance(picture(replace(face, skin=mix(face.skin, (90, 130, 90), amount)), dx=0.01))
        for amount in (0.0, 0.1, 0.2, 0.4)
    ]
    assert np.diff(away).min() > 2


def test_blur_brings_no_face_nearer_to_another() -> None:
    likeness = Likeness.of(FACES[0], Pose(), SIZE)
    own, other = (
        likeness.distance(gaussian_filter(picture(face, mouth_opening=0.5), (1.2, 1.2, 0))) for face in FACES[:2]
    )
    assert own < 0.5 * other


def test_neither_mouth_nor_eyes_are_in_it() -> None:
    likeness = Likeness.of(FACES[2], Pose(), SIZE)
    wide = picture(FACES[2], mouth_opening=1.0, mouth_width=1.0, blink=1.0)
    rows, columns = likeness.points_N2.T
    np.testing.assert_array_equal(wide[rows, columns], likeness.portrait_HWC[rows, columns])
    assert len(likeness.points_N2) > 1000
