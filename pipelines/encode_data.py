"""Training clips encoded once, for every run that trains on them: a Parquet file for each clip, whole or not at all."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from manifests.redact import redacted
from pipelines import storage
from pipelines.stage import Row
from pipelines.train_data import Found, Skipped, look_at_held_out, training_clips
from pipelines.train_encode import CPU_THREADS, encode_window
from pipelines.workers import Capacity, Pool, cluster, flow
from stableavatar.errors import BadInput
from stableavatar.model.conditions import PAUSE_RMS
from stableavatar.presets import Preset
from stableavatar.training.clips import Clip
from stableavatar.training.config import TrainingConfig
from stableavatar.training.encode import Encoder, encoding_hash, pause_rms
from stableavatar.training.order import seed_of
from stableavatar.training.shards import EncodedWindows, is_encoded, write_shard
from stableavatar.training.sources import start_of
from stableavatar.training.start import preset_of

HELD_OUT = "held-out"  # folder in a run's output: clips that are held out, encoded


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Which windows of each clip are encoded."""

    num_latents: int
    seed: int
    per_clip: int = 1  # each starts elsewhere; fewer where a clip has no more
    least_rms: float = PAUSE_RMS  # of a speech that is heard

    @classmethod
    def of(cls, config: TrainingConfig, per_clip: int = 1) -> Self:
        """Those that a run takes."""
        return cls(
            num_latents=config.data.num_latents, seed=config.seed, per_clip=per_clip, least_rms=pause_rms(config)
        )

    def seeds(self, clip: Clip) -> list[int]:
        """The seeds of a clip's windows, each of which begins at another frame."""
        seeds = [seed_of(self.seed, "window", clip.id, number) for number in range(self.per_clip)]
        starts = {start_of(clip, self.num_latents, seed): seed for seed in reversed(seeds)}
        return [seed for seed in seeds if seed in starts.values()]


@dataclass(frozen=True, kw_only=True)
class EncodeReport:
    """What came of encoding."""

    output: str
    num_clips: int  # encoded, of which
    num_before: int  # were there before
    skipped: tuple[Skipped, ...]


class EncodeClip:
    """In: `clip`, the number of one, and `name`, that of its file. Out: the same and `error`, empty if all is well."""

    def __init__(self, preset: Preset, clips: Sequence[Clip], windows: Windows, output: str, encoders: str):
        self.encoder = Encoder.load(preset, "cuda" if torch.cuda.is_available() else "cpu", windows.least_rms)
        self.clips, self.windows, self.output, self.encoders = clips, windows, output, encoders

    def __call__(self, row: Row) -> Row:
        """Encode the windows of a clip and write its file."""
        clip = self.clips[row["clip"]]
        try:
            encoded = [
                encode_window(self.encoder, clip, self.windows.num_latents, seed) for seed in self.windows.seeds(clip)
            ]
        except BadInput as error:
            return {**row, "error": redacted(str(error))}
        write_shard(self.output, encoded, row["name"], self.encoders)
        return {**row, "error": ""}


def encode_data(
    config: TrainingConfig, output: str, *, per_clip: int = 1, num_clips: int | None = None
) -> EncodeReport:
    """Encode the clips of a run but for those that are held out; those that are encoded already stay.

    Args:
        config: the run: its clips, model, window and seed.
        output: folder or URI of the Parquet files, to be given to runs as `data.encoded`.
        per_clip: windows of each clip.
        num_clips: only the first ones.

    Raises:
        BadInput: no clip can be used, or what is in `output` was encoded by other networks, or of the same clips in
            another way.
        WeightsError, StorageError, ClusterError: it cannot begin.
    """
    output, preset = storage.absolute(output), preset_of(config)
    storage.check_writable(output)
    windows = Windows.of(config, per_clip)
    encoders = encoding_hash(preset, windows.least_rms)
    before = EncodedWindows([output] if is_encoded(output) else [])
    before.require_encoders(encoders)  # what a run would refuse in the end is not begun
    with cluster() as capacity:
        held_out, _ = look_at_held_out(config, preset)
        clips, skipped = training_clips(config, preset, held_out, num_clips)
        names = {shard_name(clip, windows, encoders) for clip in clips}
        before.refuse_others(names, {clip.folder for clip in clips}, {clip.recording for clip in clips})
        num_before, failed = encode_clips(clips, preset, windows, output, capacity)
    skipped += failed
    if not storage.names_in(output):
        raise BadInput(f"no clip can be encoded: {'; '.join(clip.reason for clip in skipped[:3]) or 'there is none'}")
    return EncodeReport(
        output=output, num_clips=len(clips) - len(failed), num_before=num_before, skipped=tuple(skipped)
    )


def encode_held_out(config: TrainingConfig, preset: Preset, found: Found, capacity: Capacity) -> Found:
    """The same, with the clips encoded that a run is measured on; those that cannot be are skipped."""
    if not found.held_out or config.task != "avatar":
        return found
    uri = held_out_uri(config, found)
    _, failed = encode_clips(found.held_out, preset, Windows.of(config), uri, capacity)
    is_there = len(failed) < len(found.held_out)
    return replace(found, held_out_at=uri if is_there else "", skipped=(*found.skipped, *failed))


def held_out_uri(config: TrainingConfig, found: Found) -> str:
    """Where the clips that are held out lie encoded: elsewhere for other clips, or for other encoders."""
    words = json.dumps([config.data.num_latents, found.encoders, [clip.stamp for clip in found.held_out]])
    return storage.join(config.output, f"{HELD_OUT}/{hashlib.sha256(words.encode()).hexdigest()[:16]}")


def encode_clips(
    clips: Sequence[Clip], preset: Preset, windows: Windows, output: str, capacity: Capacity
) -> tuple[int, list[Skipped]]:
    """Write a file for each clip that has none. Gives how many had one, and the clips that cannot be encoded."""
    encoders = encoding_hash(preset, windows.least_rms)
    names = {shard_name(clip, windows, encoders): number for number, clip in enumerate(clips)}  # of copies one is taken
    there = set(storage.names_in(output))
    rows: list[Row] = [{"clip": n, "name": name} for name, n in names.items() if f"{name}.parquet" not in there]
    pool = Pool(
        stage=EncodeClip,
        args=(preset, clips, windows, output, encoders),
        size=max(1, min(len(rows), capacity.num_gpus or capacity.num_cpus // CPU_THREADS)),
        num_cpus=CPU_THREADS,
        num_gpus=1 if capacity.num_gpus else 0,
    )
    errors: dict[int, str] = {row["clip"]: row["error"] for row in flow(rows, [pool])}
    lost = "its encoder died again and again: look at the log"
    failed = {row["clip"]: errors.get(row["clip"], lost) for row in rows if errors.get(row["clip"], lost)}
    return len(names) - len(rows), [Skipped(folder=clips[n].folder, reason=why) for n, why in failed.items()]


def shard_name(clip: Clip, windows: Windows, encoders: str) -> str:
    """The name of a clip's file, made from everything that is in it. Where the clip lies does not matter."""
    words = [clip.stamp, encoders, windows.num_latents, *windows.seeds(clip)]
    return f"{clip.id}-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]}"
