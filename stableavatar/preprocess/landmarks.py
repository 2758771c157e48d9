"""The points of a face, found by MediaPipe: an extra package, and a model file that it does not bring along."""

import os

import numpy as np

from stableavatar.errors import WeightsError
from stableavatar.preprocess.masks import Landmarks
from stableavatar.text import one_line

HOW_TO = (
    "For masks of face and lips install MediaPipe (pip install 'stableavatar[masks]'), fetch its model "
    "face_landmarker.task (see Face Landmarker in MediaPipe's guide) and give it with --face-landmarks FILE."
)


def load_landmarks(path: str) -> Landmarks:
    """The finder of MediaPipe's Face Landmarker, whose model is the `.task` file at `path`.

    It takes the most prominent face, looks at every frame for itself, and is of this process only.
    Raises WeightsError: no such file, no MediaPipe, or not its model.
    """
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such file. Give MediaPipe's face_landmarker.task.")
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions
        from mediapipe.tasks.python.vision import FaceLandmarker, FaceLandmarkerOptions
    except (ImportError, OSError) as error:  # OSError: a library of the system that it needs
        raise WeightsError(f"MediaPipe cannot be used ({one_line(str(error))}). {HOW_TO}") from error
    try:
        options = FaceLandmarkerOptions(base_options=BaseOptions(model_asset_path=path), num_faces=1)
        landmarker = FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError, OSError) as error:
        raise WeightsError(
            f"{path} is not a model of MediaPipe's Face Landmarker ({one_line(str(error))}). {HOW_TO}"
        ) from error

    def find(frame_HWC: np.ndarray) -> np.ndarray | None:
        pixels = np.ascontiguousarray(frame_HWC)
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
        faces = landmarker.detect(image).face_landmarks
        return to_pixels(faces[0], frame_HWC.shape[1], frame_HWC.shape[0]) if faces else None

    return find


def to_pixels(face: list, width: int, height: int) -> np.ndarray:
    """MediaPipe's points, whose `x` and `y` are parts of the frame's width and height, in pixels: float64 [N, 2]."""
    return np.array([(point.x * width, point.y * height) for point in face])
