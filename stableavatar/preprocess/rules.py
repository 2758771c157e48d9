"""What of a video becomes a clip."""

from dataclasses import dataclass

from stableavatar.errors import BadInput
from stableavatar.preprocess.layout import MIN_FRAMES
from stableavatar.units import FPS

SCENE_THRESHOLD = 10.0  # of ffmpeg's scdet filter, 0 to 100: by how much a frame differs from the one before


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What becomes a clip; longer shots become several. Raises BadInput for what cannot be."""

    category: str = "speech"
    min_frames: int = MIN_FRAMES
    max_frames: int | None = None
    scene_threshold: float = SCENE_THRESHOLD

    def __post_init__(self) -> None:
        least_s = MIN_FRAMES / FPS
        if self.min_frames < MIN_FRAMES:
            raise BadInput(
                f"--min-seconds is below {least_s:g}: training takes {MIN_FRAMES} frames of a clip. Raise it."
            )
        if self.max_frames is not None and self.max_frames < 2 * self.min_frames:  # else halves would be too short
            raise BadInput(f"--max-seconds is below twice --min-seconds, {2 * self.min_frames / FPS:g}. Raise it.")
