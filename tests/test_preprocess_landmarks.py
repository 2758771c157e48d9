from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from stableavatar.errors import WeightsError
from stableavatar.preprocess.landmarks import load_landmarks, to_pixels

HAS_MEDIAPIPE = find_spec("mediapipe") is not None


def test_points_are_parts_of_the_frame() -> None:
    face = [SimpleNamespace(x=0.5, y=0.25, z=9.0), SimpleNamespace(x=0.0, y=1.0, z=9.0)]
    assert to_pixels(face, 200, 100).tolist() == [[100, 25], [0, 100]]


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"face\.task: no such file"):
        load_landmarks(f"{tmp_path}/face.task")


@pytest.mark.skipif(HAS_MEDIAPIPE, reason="MediaPipe is installed")
def test_without_mediapipe_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "face.task").write_bytes(b"a model")
    with pytest.raises(WeightsError, match=r"pip install 'stableavatar\[masks\]'.*--face-landmarks FILE"):
        load_landmarks(f"{tmp_path}/face.task")


@pytest.mark.skipif(not HAS_MEDIAPIPE, reason="MediaPipe is not installed")
def test_mediapipe_refuses_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "face.task").write_bytes(b"no model" * 100)
    with pytest.raises(WeightsError, match=r"face\.task is not a model of MediaPipe's Face Landmarker"):
        load_landmarks(f"{tmp_path}/face.task")
