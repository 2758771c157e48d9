"""The video of a row, made and published by one actor. Frames never leave it."""

import hashlib
import json
import logging
import os
import pickle
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch

from manifests.identity import file_stem
from pipelines import cache, scratch, storage
from pipelines.checkpoint import EVERY_S, VIDEO, StoreCheckpoint, Unfinished, folder_uri
from pipelines.correct import correction_of
from pipelines.inputs import check_unchanged
from pipelines.logs import working_on
from pipelines.progress import Reporter
from pipelines.stage import WORKING_COLUMNS, Row, Stage, put_off
from stableavatar.checkpoint import Checkpoint
from stableavatar.correction.plan import Correction
from stableavatar.errors import Quarantined
from stableavatar.model.lora import Lora
from stableavatar.presets import Preset
from stableavatar.request import VideoReport, VideoRequest
from stableavatar.settings import sampling_arguments
from stableavatar.tracks import SUFFIXES, Track, language_of
from stableavatar.units import PIXELS_PER_LATENT, latents_for

VIDEO_BYTES = 20_000  # of a frame of a finished video, generously: 4 Mbit/s

logger = logging.getLogger(__name__)


class Generator(Protocol):
    """What this stage needs of an avatar."""

    def generate(
        self, request: VideoRequest, path: str, *, on_progress: Callable[[int], None], checkpoint: Checkpoint
    ) -> VideoReport:
        """Write one video to `path`, going on from `checkpoint` if that holds something."""

    def read_lora(self, path: str) -> Lora:
        """Read a LoRA file for this model."""


class Generate(Stage):
    """In: a prepared row with embeddings. Out: the row without those working columns, and

    staged (the URI where its video waits to be measured), num_windows, sample_s, decode_s, peak_memory_bytes (of this
    process), peak_device_bytes, node, attempts, gpu_s. Or the row as `unfinished`, saved where it is; if it killed its
    process too often but `may_return` after all others, with that as its error_kind.
    """

    name = "generate"
    fatal = (torch.AcceleratorError,)

    def __init__(
        self,
        preset: Preset,
        load_avatar: Callable[[Preset, str], Generator],
        output: str,
        run: str = "",
        save_every_s: float = EVERY_S,
        reporter: Reporter | None = None,
    ) -> None:
        """`load_avatar(preset, device)` gives the generator; the device is a GPU if this actor was given one.

        `output`: the folder or URI of the run. `run`: its name, which tells deaths in it from deaths of it.
        """
        self.avatar = load_avatar(preset, "cuda" if torch.cuda.is_available() else "cpu")
        self.output = output
        self.run = run
        self.save_every_s = save_every_s
        self.reporter = reporter or Reporter()

    def __call__(self, row: Row) -> Row:
        """The row after this stage. A GPU that has failed once fails at everything: then this process must die.

        Its row goes to a new process, for a bounded number of times.
        """
        if row["status"] == "ready" and not self.reporter.may_begin(row):
            return put_off(row)
        try:
            return super().__call__(row)
        except torch.AcceleratorError:
            with working_on(row, self.name):
                logger.exception("%s: the GPU failed, this process ends", row["id"])
            os._exit(1)

    def process(self, given: Row) -> Row:
        """Make the video, unless an earlier attempt did. Raises what the avatar and the store raise."""
        uri = folder_uri(self.output, file_stem(given["id"], given["content_id"]))
        row = {**given, "staged": storage.join(uri, VIDEO)}
        known = {"attempts": row["attempts"], "gpu_s": row["gpu_s"]}
        with scratch.folder() as folder, self.reporter.running(row) as on_progress:
            checkpoint = StoreCheckpoint(
                uri,
                folder,
                every_s=self.save_every_s,
                is_stopping=lambda: self.reporter.is_stopping,
                on_resume=self.reporter.resumed,
                on_save=self.reporter.saved,
            )
            try:
                with checkpoint.attempt(self.run, fatal=self.fatal, **known):
                    if not (VIDEO in checkpoint.names or storage.exists(row["video"])):
                        checkpoint.report = self._make(row, folder, checkpoint, on_progress)
            except Unfinished:
                return put_off(row)
            except Quarantined as error:
                if not row.get("may_return"):
                    raise
                # Not written down: if the run dies before the row returns, the next one begins with it anew.
                logger.warning("%s: %s It is tried once more after all other rows", row["id"], error)
                spent = {"attempts": checkpoint.attempts.begun, "gpu_s": checkpoint.gpu_s}
                return {**put_off(row), **spent, "error_kind": error.kind}
            finally:
                given |= {"attempts": checkpoint.attempts.begun, "gpu_s": checkpoint.gpu_s}  # also if it fails
        kept = {name: value for name, value in row.items() if name not in WORKING_COLUMNS}
        report = checkpoint.report or {}
        again = report.pop("num_tries", 1) - 1  # after memory ran out
        spent = {"attempts": given["attempts"] + again, "gpu_s": given["gpu_s"]}
        return {**kept, **report, **spent, "peak_memory_bytes": peak_memory_bytes(), "node": socket.gethostname()}

    def _make(
        self, row: Row, folder: str, checkpoint: StoreCheckpoint, on_progress: Callable[[int], None]
    ) -> Row | None:
        """Make the video and publish it. One whose upload fails stays on this node, for the next attempt."""
        if row["twin"] and storage.exists(row["twin"]):
            storage.copy(row["twin"], row["staged"])
            return None
        # Another output of this machine may want the same video at the same time.
        stem = file_stem(row["id"], row["content_id"])
        waiting = scratch.outbox(f"{hashlib.sha256(self.output.encode()).hexdigest()[:8]}-{stem}.mp4")
        report = None
        if not os.path.exists(waiting):
            scratch.require_space(scratch_bytes(row))
            path = os.path.join(folder, "video.mp4")
            with correction_of(row) as correction:
                request = to_request(row, folder, tuple(self._loras(row)), correction)
                made = self.avatar.generate(request, path, on_progress=on_progress, checkpoint=checkpoint)
            report = vars(made)
            os.replace(path, waiting)
        storage.publish(waiting, row["staged"])
        os.remove(waiting)
        return report

    def _loras(self, row: Row) -> Iterator[tuple[Lora, float]]:
        for lora in json.loads(row["loras"]):
            with cache.fetched(lora["uri"]) as path:
                check_unchanged(path, lora["uri"], lora["sha256"])
                yield self.avatar.read_lora(path), lora["weight"]


def load_avatar(preset: Preset, device: str) -> Generator:
    """The model, where it is to work: its code loads for seconds, which no other process waits for."""
    from stableavatar.avatar import Avatar

    return Avatar.load(preset, device)


def load_in_part(load: Callable[[Preset, str], Generator], part: float, preset: Preset, device: str) -> Generator:
    """What `load(preset, device)` gives, in `part` of the GPU's memory: another generator has the rest."""
    if device == "cuda" and 0 < part < 1:
        torch.cuda.set_per_process_memory_fraction(part)
    return load(preset, device)


def to_request(
    row: Row, folder: str, loras: tuple[tuple[Lora, float], ...] = (), correction: Correction | None = None
) -> VideoRequest:
    """The row as the avatar takes it. Its sound and its tracks are written to `folder`."""
    sound_path = os.path.join(folder, "sound.m4a")
    Path(sound_path).write_bytes(row["sound"])
    same = ("portrait_HWC", "speech", "num_frames", "width", "height", "prompt_embeds", "negative_prompt_embeds")
    given = {name: row[name] for name in same}
    return VideoRequest(
        sound_path=sound_path,
        language=language_of(row),
        tracks=tuple(write_tracks(row, folder)),
        loras=loras,
        correction=correction,
        **given,
        **sampling_arguments(row),
    )


def write_tracks(row: Row, folder: str) -> Iterator[Track]:
    """The further sounds and subtitles of a row, each written to `folder`."""
    found = zip(json.loads(row["tracks"]), pickle.loads(row["track_files"]), strict=True)
    for number, (track, data) in enumerate(found):
        path = os.path.join(folder, f"track-{number}.{SUFFIXES[track['kind']]}")
        Path(path).write_bytes(data)
        yield Track(kind=track["kind"], language=track["language"], path=path)


def scratch_bytes(row: Row) -> float:
    """What a row may need on the local disk at once: its saved state, one on its way, and its video twice."""
    latent_bytes = 16 * row["width"] * row["height"] / PIXELS_PER_LATENT**2 * 4  # a latent frame: 16 channels, float32
    state_bytes = (
        3 * latent_bytes * latents_for(row["num_frames"])
    )  # latents, velocities, what a scheduler has gathered
    return 2 * (state_bytes + VIDEO_BYTES * row["num_frames"])


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
