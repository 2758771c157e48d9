"""The samples of each kind of run."""

from collections.abc import Collection, Hashable, Sequence

import numpy as np

from stableavatar.errors import BadInput
from stableavatar.training.audio_objective import Utterances
from stableavatar.training.clips import Clip, ClipWindow, read_window
from stableavatar.training.config import TrainingConfig
from stableavatar.training.encode import Sample
from stableavatar.training.objective import Source
from stableavatar.training.order import Draw
from stableavatar.training.shards import EncodedWindows, as_sample
from stableavatar.training.vae_objective import Crops
from stableavatar.units import frames_of


class Encoded:
    """Windows that were encoded before."""

    def __init__(self, folders: Sequence[str], num_latents: int, sizes: Collection[tuple[int, int]] = ()):
        """Those of other `sizes` (width and height) are left out, if any are given.

        Raises:
            BadInput: there is none, or not all have `num_latents` latent frames.
        """
        self.windows = EncodedWindows(folders, sizes)
        if not self.windows.sizes:
            known = ", ".join(f"{width}x{height}" for width, height in sizes)
            raise BadInput(f"{', '.join(folders)}: no encoded window is of {known} pixels (data.sizes)")
        if wrong := {size[2] for size in self.windows.sizes} - {num_latents}:
            raise BadInput(
                f"{', '.join(folders)}: windows of {wrong.pop()} latent frames, but data.num_latents is {num_latents}"
            )

    def __len__(self) -> int:
        return len(self.windows)

    def read(self, draw: Draw) -> Sample:
        """The window's tensors, as `encode.Encoder` makes them."""
        return as_sample(self.windows[draw.index])


def random_window(clip: Clip, num_latents: int, seed: int) -> tuple[int, ClipWindow]:
    """A window of a clip that starts anywhere; its first frame, and what is in it."""
    start = start_of(clip, num_latents, seed)
    return start, read_window(clip, start, frames_of(num_latents))


def start_of(clip: Clip, num_latents: int, seed: int) -> int:
    """The first frame of the window that a seed chooses."""
    return int(np.random.default_rng(seed).integers(clip.num_frames - frames_of(num_latents) + 1))


def source_of(config: TrainingConfig, clips: Sequence[Clip] = ()) -> Source:
    """The samples of a run; `clips` are those that were found fit, where the run reads clips.

    Raises:
        BadInput: there is nothing to read.
    """
    if config.task == "avatar":
        return Encoded(config.data.encoded, config.data.num_latents, config.data.sizes)
    if not clips:
        raise BadInput(f"no clip of {', '.join(config.data.clips)} can be trained on")
    return _of_clips(config, clips)


def sizes_of(source: Source) -> Sequence[Hashable]:
    """The size of each sample, where they differ."""
    return source.windows.sizes if isinstance(source, Encoded) else ()


def num_frames_needed(config: TrainingConfig) -> int:
    """The shortest clip that a run can use, in frames."""
    if config.task == "avatar":
        return frames_of(config.data.num_latents)
    return _of_clips(config).num_frames


def num_pixels_needed(config: TrainingConfig) -> int:
    """The shortest side of a clip that a run can use."""
    found = _of_clips(config) if config.task != "avatar" else None
    return found.num_pixels if isinstance(found, Crops) else 1


def _of_clips(config: TrainingConfig, clips: Sequence[Clip] = ()) -> Crops | Utterances:
    if config.task == "vae":
        return Crops(clips, config.vae, config.batch_size)
    return Utterances(clips, config.audio)
