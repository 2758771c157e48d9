"""A contact sheet: what a video shows, in one small picture."""

import io
from typing import Any

from PIL import Image

NUM_FRAMES = 4
HEIGHT = 112  # pixels
QUALITY = 75  # of JPEG: about 3 KB a frame


class ContactSheet:
    """A few frames of a video at even distances, side by side."""

    def __init__(self, num_frames: int) -> None:
        """`num_frames`: how many will be seen."""
        self._wanted = {num_frames * (2 * k + 1) // (2 * NUM_FRAMES) for k in range(NUM_FRAMES)}
        self._frames: list[Any] = []
        self._num_seen = 0

    def see(self, frame: Any) -> None:
        """The next frame of the video, as PyAV decodes it. A few are kept as they are, none is converted."""
        if self._num_seen in self._wanted:
            self._frames.append(frame)
        self._num_seen += 1

    def jpeg(self) -> bytes:
        """The picture. Raises ValueError if no frame was seen."""
        if not self._frames:
            raise ValueError("a contact sheet of no frames")
        width = max(1, round(self._frames[0].width * HEIGHT / self._frames[0].height))
        sheet = Image.new("RGB", (width * len(self._frames), HEIGHT))
        for number, frame in enumerate(self._frames):
            sheet.paste(frame.to_image(width=width, height=HEIGHT, interpolation="AREA"), (number * width, 0))
        file = io.BytesIO()
        sheet.save(file, "jpeg", quality=QUALITY, optimize=True)
        return file.getvalue()
