"""Where the face and the lips are: masks drawn from the points of a face mesh, frame by frame.

Shapes: H W height and width, C colours, N points of the mesh.
"""

import os
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

# A frame, uint8 RGB [H, W, 3], to the points of its face, [N, 2] in pixels (to the right, down). None: no face.
Landmarks = Callable[[np.ndarray], np.ndarray | None]

# Points of MediaPipe's face mesh around the lips, from corner to corner, and around the face.
_UPPER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
_LOWER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
LIPS = (*_UPPER, *_LOWER[-2:0:-1])
FACE = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
OUTLINES = {"face_masks": FACE, "lip_masks": LIPS}  # by folder

_FAST = 1  # of zlib: a quarter of the time for a tenth more bytes


def draw_mask(points_N2: np.ndarray, outline: Sequence[int], width: int, height: int) -> np.ndarray:
    """The filled polygon of those points: uint8 [H, W], 255 inside and 0 outside. What lies off the frame is cut."""
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in points_N2[list(outline)]], fill=255)
    return np.asarray(mask)


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 [H, W, 3] or [H, W]."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=_FAST)
    return file.getvalue()


def frame_name(number: int) -> str:
    """The name of a frame's file, in each of the folders of a clip."""
    return f"frame_{number}.png"


class MaskWriter:
    """Writes `face_masks/frame_N.png` and `lip_masks/frame_N.png` in the folder of a clip, from N = 0 on.

    A frame without a face gets the masks of the nearest frame with one, the earlier of two. Without `landmarks` all
    masks are all ones. Memory does not grow with the number of frames.
    """

    def __init__(self, folder: str, *, width: int, height: int, landmarks: Landmarks | None) -> None:
        self.num_frames = self.num_faces = 0
        self._folder = folder
        self._size = (width, height)
        self._landmarks = landmarks
        ones = png(np.full((height, width), 255, np.uint8))
        self._last: tuple[int, dict[str, bytes]] | None = None if landmarks else (-1, dict.fromkeys(OUTLINES, ones))
        for name in OUTLINES:
            os.makedirs(os.path.join(folder, name), exist_ok=True)

    def see(self, frame_HWC: np.ndarray) -> None:
        """Take the next frame."""
        number, self.num_frames = self.num_frames, self.num_frames + 1
        if not self._landmarks:
            self._write(range(number, number + 1))
            return
        points_N2 = self._landmarks(frame_HWC)
        if points_N2 is None:
            return
        self.num_faces += 1
        masks = {name: png(draw_mask(points_N2, outline, *self._size)) for name, outline in OUTLINES.items()}
        if self._last is None:
            self._last = (-1, masks)
        before = self._last[0]
        middle = (before + number) // 2 + 1 if before >= 0 else number
        self._write(range(before + 1, middle))
        self._last = (number, masks)
        self._write(range(middle, number + 1))

    def finish(self) -> None:
        """Write the masks of the frames behind the last face. Where no face was seen at all there are no masks."""
        if self._landmarks and self._last:
            self._write(range(self._last[0] + 1, self.num_frames))

    def _write(self, numbers: range) -> None:
        assert self._last
        for name, data in self._last[1].items():
            for number in numbers:
                Path(self._folder, name, frame_name(number)).write_bytes(data)
