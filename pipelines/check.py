"""Everything that can be known about a row without the model: its files, its size, its length, its identity."""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.identity import content_id
from pipelines import cache, inputs, results
from pipelines.correct import check_correction, identity_of
from pipelines.stage import Row, Stage
from stableavatar.audio.decode import measure_sound
from stableavatar.audio.separator import read_separator
from stableavatar.errors import BadInput, WeightsError
from stableavatar.limits import Limits
from stableavatar.model.lora import parse_loras, read_lora
from stableavatar.presets import Preset
from stableavatar.sampling.plan import num_windows
from stableavatar.settings import CHOICES, check_settings, with_defaults
from stableavatar.subtitles import read_subtitles
from stableavatar.tracks import SUBTITLES, language_of, row_tracks
from stableavatar.units import FPS, frames_in
from stableavatar.video.portrait import check_portrait, choose_size

if TYPE_CHECKING:
    from stableavatar.model.dit import StableAvatarTransformer

# Raise this when the same row and weights begin to give other pixels or sound: every row gets a new identity.
RENDERER_VERSION = 3

# Part of a row's identity; OPTIONAL only where it is set, so that other rows keep theirs when a new one is added.
OPTIONAL = ("loudness", "audio_stream", "pad_before_s", "pad_after_s")
SETTINGS = (
    *(name for name in CHOICES if name not in ("lora", *OPTIONAL)),
    *("width", "height", "start_s", "end_s", "separate_vocals"),
)


class Check(Stage):
    """In: a row of the manifest. Out: the same with every default filled in, and

    audio_stream (its number, empty for the first), width, height (pixels), num_frames, duration_s, num_windows,
    portrait_sha256, audio_sha256, loras (JSON: uri,
    weight and sha256 of each), tracks (JSON: kind, language, uri and sha256 of each), correction (JSON, see `correct`),
    separator (hash of the vocal separator, empty if the row wants none), content_id, video and sheet (the URIs they
    will have).
    """

    name = "check"

    def __init__(self, preset: Preset, output: str, limits: Limits = Limits(), separator: str = "") -> None:
        """`separator`: path of the vocal separator's file, for the rows that want one."""
        self.preset = preset
        self.output = output
        self.limits = limits
        self.separator = separator

    def process(self, row: Row) -> Row:
        """Raises BadInput if the row cannot be rendered, StorageError if a store refuses."""
        row = with_defaults(row, self.preset)
        row = {**row, "start_s": row["start_s"] or 0.0, "separate_vocals": bool(row["separate_vocals"])}
        check_settings(row, self.preset)
        row["separator"] = self._separator(row)
        row = {**row, **self._portrait(row)}
        row = {**row, **self._sound(row), "loras": self._loras(row)}
        row["tracks"] = self._tracks(row)
        row |= check_correction(row, self.limits)
        row["content_id"] = identity(row, self.preset)
        return {**row, "video": results.video_uri(self.output, row), "sheet": results.sheet_uri(self.output, row)}

    def _portrait(self, row: Row) -> Row:
        uri = inputs.locate(row["portrait"], row["manifest"], self.limits)
        with inputs.fetched(uri, self.limits) as path:
            portrait_size = check_portrait(path, self.limits)
            sha256 = cache.sha256_of(path)
        width, height = (row["width"], row["height"]) if row["width"] else choose_size(portrait_size, self.preset.sizes)
        return {"width": width, "height": height, "portrait_sha256": sha256}

    def _sound(self, row: Row) -> Row:
        uri = inputs.locate(row["audio"], row["manifest"], self.limits)
        with inputs.fetched(uri, self.limits) as path:
            sound = measure_sound(path, inputs.span_of(row), limits=self.limits)
            sha256 = cache.sha256_of(path)
        num_frames = frames_in(sound.duration_s)
        if num_frames == 0:
            raise BadInput(
                f"{uri} has {sound.duration_s:.3f} s of sound in the span, less than one video frame "
                f"({1 / FPS} s). Give a longer sound or span."
            )
        windows = num_windows(num_frames, row["window_latents"], row["overlap"], row["mode"])
        return {
            "num_frames": num_frames,
            "duration_s": sound.duration_s,
            # However the row names it, one sound has one identity, and its vocals are kept once.
            "audio_stream": str(sound.number) if sound.number else "",
            "num_windows": windows,
            "audio_sha256": sha256,
        }

    def _separator(self, row: Row) -> str:
        try:
            return read_separator(self.separator).id if row["separate_vocals"] else ""
        except WeightsError as error:  # rows that want none can go on
            raise BadInput(f"separate_vocals: {error}") from error

    def _loras(self, row: Row) -> str:
        """Each LoRA file with its weight and content, as JSON. One that does not fit the model is refused here."""
        found = []
        for reference, weight in parse_loras(row["lora"]):
            uri = inputs.locate(reference, row["manifest"], self.limits)
            with inputs.fetched(uri, self.limits) as path:
                # PEFT writes the strength of a LoRA into a file beside it, which only a local folder brings along.
                config = Path(path).with_name("adapter_config.json")
                if config.exists():
                    self._check_config(str(config), row)
                read_lora(path, self._transformer)
                if uri.rsplit("/")[-1].startswith("adapter_model") and not config.exists():
                    raise BadInput(f"{uri} needs its adapter_config.json beside it, in a local folder.")
                config_sha256 = cache.sha256_of(str(config)) if config.exists() else ""
                sha256 = cache.sha256_of(path)
                found.append({"uri": uri, "weight": weight, "sha256": sha256, "config": config_sha256})
        return json.dumps(found)

    def _tracks(self, row: Row) -> str:
        """Each further sound and subtitle with its language and content, as JSON."""
        found = []
        for kind, language, reference in row_tracks(row):
            uri = inputs.locate(reference, row["manifest"], self.limits)
            with inputs.fetched(uri, self.limits) as path:
                if kind == SUBTITLES:
                    read_subtitles(path, duration_s=row["num_frames"] / FPS)
                else:
                    measure_sound(path, limits=self.limits)
                found.append({"kind": kind, "language": language, "uri": uri, "sha256": cache.sha256_of(path)})
        return json.dumps(found)

    def _check_config(self, path: str, row: Row) -> None:
        with inputs.fetched(inputs.locate(path, row["manifest"], self.limits), self.limits):
            pass

    @cached_property
    def _transformer(self) -> "StableAvatarTransformer":
        """The shapes of the transformer's layers, without its weights."""
        from stableavatar.model.networks import TRANSFORMER  # which load for seconds, and few rows have a LoRA
        from stableavatar.model.weights import empty_network

        return empty_network(TRANSFORMER, self.preset)


def identity(row: Row, preset: Preset) -> str:
    """The row's content id: a hash of everything that changes its pixels or its sound."""
    settings = {name: row[name] for name in SETTINGS} | {name: row[name] for name in OPTIONAL if row[name]}
    files = {name: row[name] for name in ("portrait_sha256", "audio_sha256")}
    files["loras"] = [(lora["sha256"], lora["config"], lora["weight"]) for lora in json.loads(row["loras"])]
    if language := language_of(row):
        settings["language"] = language
    if tracks := [(track["kind"], track["language"], track["sha256"]) for track in json.loads(row["tracks"])]:
        files["tracks"] = tracks
    if row["separator"]:
        files["separator"] = row["separator"]
    model = {name: getattr(preset, name) for name in ("shift", "max_text_tokens")}
    # The other memory modes and attention kernels give the same video, within rounding.
    model |= {"is_fp8": preset.memory.startswith("fp8"), "is_sage": preset.attention == "sage"}
    weights = {"weights_hash": row["weights_hash"], "renderer": RENDERER_VERSION}
    return content_id({**settings, **files, **model, **weights, **identity_of(row)})
