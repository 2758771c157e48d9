"""The video of a row, made and published by one actor. Frames never leave it."""

import json
import logging
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch

from pipelines import cache, scratch, storage
from pipelines.prepare import check_unchanged
from pipelines.progress import Reporter
from pipelines.stage import WORKING_COLUMNS, Row, Stage
from stableavatar.avatar import VideoReport, VideoRequest
from stableavatar.model.lora import Lora
from stableavatar.presets import Preset
from stableavatar.settings import sampling_arguments

logger = logging.getLogger(__name__)


class Generator(Protocol):
    """What this stage needs of an avatar."""

    def generate(self, request: VideoRequest, path: str, *, on_progress: Callable[[int], None] = ...) -> VideoReport:
        """Write one video to `path`."""

    def read_lora(self, path: str) -> Lora:
        """Read a LoRA file for this model."""


class Generate(Stage):
    """In: a prepared row with embeddings. Out: the row without those working columns, its video published, and

    num_windows, sample_s, decode_s, peak_memory_bytes (of this process), peak_device_bytes, node.
    """

    name = "generate"
    fatal = (torch.AcceleratorError,)

    def __init__(
        self,
        preset: Preset,
        load_avatar: Callable[[Preset, str], Generator],
        reporter: Reporter | None = None,
    ) -> None:
        """`load_avatar(preset, device)` gives the generator; the device is a GPU if this actor was given one."""
        self.avatar = load_avatar(preset, "cuda" if torch.cuda.is_available() else "cpu")
        self.reporter = reporter or Reporter()

    def __call__(self, row: Row) -> Row:
        """The row after this stage. A GPU that has failed once fails at everything: then this process must die.

        Its row goes to a new process, for a bounded number of times.
        """
        try:
            return super().__call__(row)
        except torch.AcceleratorError:
            logger.exception("%s: the GPU failed, this process ends", row["id"])
            os._exit(1)

    def process(self, row: Row) -> Row:
        """Make the video in a temporary folder, then publish it. Raises what the avatar and the store raise."""
        with scratch.folder() as folder, self.reporter.running(row) as on_progress:
            path = os.path.join(folder, "video.mp4")
            request = to_request(row, folder, tuple(self._loras(row)))
            report = self.avatar.generate(request, path, on_progress=on_progress)
            storage.publish(path, row["video"])
        made = {name: value for name, value in row.items() if name not in WORKING_COLUMNS}
        return {**made, **vars(report), "peak_memory_bytes": peak_memory_bytes(), "node": socket.gethostname()}

    def _loras(self, row: Row) -> Iterator[tuple[Lora, float]]:
        for lora in json.loads(row["loras"]):
            with cache.fetched(lora["uri"]) as path:
                check_unchanged(path, lora["uri"], lora["sha256"])
                yield self.avatar.read_lora(path), lora["weight"]


def to_request(row: Row, folder: str, loras: tuple[tuple[Lora, float], ...] = ()) -> VideoRequest:
    """The row as the avatar takes it. Its sound is written to `folder`."""
    sound_path = os.path.join(folder, "sound.m4a")
    Path(sound_path).write_bytes(row["sound"])
    same = ("portrait_HWC", "speech", "num_frames", "width", "height", "prompt_embeds", "negative_prompt_embeds")
    given = {name: row[name] for name in same}
    return VideoRequest(sound_path=sound_path, loras=loras, **given, **sampling_arguments(row))


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
