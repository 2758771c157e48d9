"""What a training run reads: its clips looked at once, by tasks all over the cluster, and batches for each worker."""

import json
import logging
import posixpath
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import ray

from manifests.redact import redacted
from pipelines import storage
from pipelines.train_encode import encoded_batches
from stableavatar.errors import BadInput
from stableavatar.presets import Preset
from stableavatar.training.clips import Clip, find_clips
from stableavatar.training.config import Data, TrainingConfig
from stableavatar.training.encode import Sample, encoding_hash, pause_rms
from stableavatar.training.feed import feed
from stableavatar.training.inspection import inspect_clip, recording_of
from stableavatar.training.objective import Source
from stableavatar.training.order import Order, Place
from stableavatar.training.places import plain
from stableavatar.training.shards import EncodedWindows, is_encoded
from stableavatar.training.sources import Encoded, num_frames_needed, num_pixels_needed, sizes_of, source_of

SKIPPED = "skipped.jsonl"
CHUNK = 16  # clips that one task looks at

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A clip that is not trained on, and why."""

    folder: str
    reason: str
    recording: str = ""  # as `Clip.recording`, where it can be told


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a clip must be for a run."""

    num_frames: int
    num_pixels: int  # of each side
    sizes: tuple[tuple[int, int], ...]  # width and height; none: all do
    missing_masks: str

    @classmethod
    def of(cls, config: TrainingConfig, preset: Preset) -> Self:
        """For this run."""
        return cls(
            num_frames=num_frames_needed(config),
            num_pixels=num_pixels_needed(config),
            sizes=(config.data.sizes or preset.sizes) if config.task == "avatar" else (),
            missing_masks=config.data.missing_masks,
        )


@dataclass(frozen=True, kw_only=True)
class Found:
    """What there is to train on."""

    clips: tuple[Clip, ...] = ()
    held_out: tuple[Clip, ...] = ()
    held_out_at: str = ""  # where these lie encoded
    skipped: tuple[Skipped, ...] = ()
    shards: tuple[str, ...] = ()  # names of the files of encoded windows
    encoders: str = ""  # hash of the frozen networks, and of what is silence to them


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What is never trained on: folders of clips, and windows that were encoded before."""

    folders: Sequence[str]
    windows: EncodedWindows
    clips: tuple[Clip, ...] = ()  # in the folders, as far as they can be used; none: nobody has looked yet
    skipped: tuple[Skipped, ...] = ()  # the others

    @property
    def names(self) -> set[str]:
        """The folders of all clips that it is of."""
        return {*self.folders, *self.windows.clips}

    @property
    def recordings(self) -> set[str]:
        """Their recordings, by which they are known in other places too."""
        found = {clip.recording for clip in self.clips} | {one.recording for one in self.skipped if one.recording}
        return found | self.windows.recordings


def find_held_out(data: Data) -> HeldOut:
    """What the run must not see. Raises BadInput."""
    encoded = [root for root in data.held_out if is_encoded(root)]
    folders = find_clips([root for root in data.held_out if root not in encoded])
    return HeldOut(folders=folders, windows=EncodedWindows(encoded))


def look_at_held_out(config: TrainingConfig, preset: Preset) -> tuple[HeldOut, list[Skipped]]:
    """The same with its clips, and those that cannot be used. Raises BadInput."""
    held_out = find_held_out(config.data)
    clips, skipped = inspect_clips(held_out.folders, config, preset)
    return replace(held_out, clips=tuple(clips), skipped=tuple(skipped)), skipped


def training_folders(data: Data, held_out: HeldOut) -> list[str]:
    """The folders of a run's clips, without those that are held out. Raises BadInput."""
    left_out = held_out.names
    return [folder for folder in find_clips(data.clips) if folder not in left_out]


def training_clips(
    config: TrainingConfig, preset: Preset, held_out: HeldOut, limit: int | None = None
) -> tuple[list[Clip], list[Skipped]]:
    """The clips of a run, without those that are held out or copies of them, and those that cannot be used.

    `limit`: only so many are looked at. Raises BadInput.
    """
    clips, skipped = inspect_clips(training_folders(config.data, held_out)[:limit], config, preset)
    left_out = held_out.recordings
    return [clip for clip in clips if clip.recording not in left_out], skipped


def find_data(config: TrainingConfig, preset: Preset) -> Found:
    """Look at every clip of a run. Those that cannot be trained on are listed in `<output>/skipped.jsonl`.

    Raises:
        BadInput: none can, or encoded windows are not for this run.
        WeightsError: a file of the frozen networks is missing.
        StorageError: a store does not answer.
    """
    held_out, skipped_too = look_at_held_out(config, preset)
    encoders = encoding_hash(preset, pause_rms(config)) if config.task == "avatar" else ""
    shards = find_shards(config, held_out, encoders)
    clips, skipped = ([], []) if shards else training_clips(config, preset, held_out)
    write_skipped(config.output, [*skipped, *skipped_too])
    if not clips and not shards:
        reasons = "; ".join(clip.reason for clip in skipped[:3]) or "none is listed that is not held out"
        raise BadInput(f"no clip of {', '.join(config.data.clips)} can be trained on: {reasons}")
    return Found(
        clips=tuple(clips),
        held_out=held_out.clips,
        skipped=(*skipped, *skipped_too),
        shards=shards,
        encoders=encoders,
    )


def find_shards(config: TrainingConfig, held_out: HeldOut, encoders: str) -> tuple[str, ...]:
    """The names of the files of encoded windows that a run reads, in order; none if it reads clips.

    Raises:
        BadInput: the frozen networks of hash `encoders` have not made them, or they are held out.
    """
    if config.task != "avatar":
        return ()
    held_out.windows.require_encoders(encoders)
    if not config.data.encoded:
        return ()
    held_folders = set(map(plain, config.data.held_out))
    if both := [folder for folder in config.data.encoded if plain(folder) in held_folders]:
        raise BadInput(
            f"{both[0]} is in data.encoded and in data.held_out. Encode what is held out into a folder of its own."
        )
    windows = Encoded(config.data.encoded, config.data.num_latents, config.data.sizes).windows
    windows.require_encoders(encoders)
    windows.refuse(held_out.names, held_out.recordings)
    return tuple(posixpath.basename(shard.path) for shard in windows.shards)


def inspect_clips(folders: Sequence[str], config: TrainingConfig, preset: Preset) -> tuple[list[Clip], list[Skipped]]:
    """The clips that a run can use, and the others."""
    look = ray.remote(num_cpus=1, max_retries=3)(_inspect)
    fit = Fit.of(config, preset)
    tasks = [look.remote(chunk, fit) for chunk in (folders[at : at + CHUNK] for at in range(0, len(folders), CHUNK))]
    found = [one for several in ray.get(tasks) for one in several]
    return [one for one in found if isinstance(one, Clip)], [one for one in found if isinstance(one, Skipped)]


def _inspect(folders: Iterable[str], fit: Fit) -> list[Clip | Skipped]:
    return [inspect_one(folder, fit) for folder in folders]


def inspect_one(folder: str, fit: Fit) -> Clip | Skipped:
    """A clip, or why it is none for a run."""
    try:
        clip = inspect_clip(folder, fit.num_frames, missing_masks=fit.missing_masks)
        size = f"{folder} has {clip.width}x{clip.height} pixels"
        if fit.sizes and (clip.width, clip.height) not in fit.sizes:
            known = ", ".join(f"{width}x{height}" for width, height in fit.sizes)
            raise BadInput(f"{size}, which is none of {known} (data.sizes).")
        if min(clip.width, clip.height) < fit.num_pixels:
            raise BadInput(
                f"{size}, and a crop has {fit.num_pixels} a side (vae.windows). Leave it out, or lower that."
            )
    except BadInput as error:
        return Skipped(folder=folder, reason=redacted(str(error)), recording=recording_of(folder))
    return clip


def write_skipped(output: str, skipped: Iterable[Skipped]) -> None:
    """List clips with the reason why they are left out; an old list goes."""
    lines = [json.dumps({"clip": clip.folder, "reason": clip.reason}) + "\n" for clip in skipped]
    uri = storage.join(output, SKIPPED)
    if lines:
        storage.write("".join(lines).encode(), uri)
    else:
        storage.remove(uri)


def samples_of(found: Found) -> list[Any]:
    """What a run's samples are, in order. The names of files say what is in them."""
    return [clip.stamp for clip in found.clips] or list(found.shards)


def loads_clips(config: TrainingConfig) -> bool:
    """Whether a run encodes its clips while it goes on."""
    return config.task == "avatar" and not config.data.encoded


def held_out_source(config: TrainingConfig, found: Found) -> Source | None:
    """What a run is measured on and never trained on."""
    if config.task != "avatar":
        return source_of(config, found.held_out) if found.held_out else None
    folders = [root for root in config.data.held_out if is_encoded(root)]
    folders += [found.held_out_at] if found.held_out_at else []
    return Encoded(folders, config.data.num_latents, config.data.sizes) if folders else None


def batches(
    config: TrainingConfig, clips: Sequence[Clip], start: int, num_batches: int, place: Place
) -> Generator[Sample]:
    """The batches of a worker from the position `start` of the run on, at least `num_batches` of them."""
    if loads_clips(config):
        yield from encoded_batches(config, clips, start, num_batches, place)
    else:
        source = source_of(config, clips)
        order = Order(len(source), config.seed, config.batch_size, sizes_of(source))
        yield from feed(source, order, start, place)
