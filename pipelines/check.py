"""Everything that can be known about a row without the model: its files, its size, its length, its identity."""

from manifests.identity import content_id, file_stem
from manifests.read import resolve
from pipelines import storage
from pipelines.stage import Row, Stage
from stableavatar.audio.decode import measure_sound
from stableavatar.errors import BadInput
from stableavatar.presets import Preset
from stableavatar.sampling.plan import num_windows
from stableavatar.units import FPS, frames_in
from stableavatar.video.portrait import check_portrait, choose_size

# Raise this when the same row and weights begin to give other pixels or sound: every row gets a new identity.
RENDERER_VERSION = 1

DEFAULTS = ("prompt", "negative_prompt", "seed", "num_steps", "text_scale", "audio_scale", "overlap")
SETTINGS = (*DEFAULTS, "width", "height", "start_s", "end_s", "separate_vocals")


class Check(Stage):
    """In: a row of the manifest. Out: the same with every default filled in, and

    width, height (pixels), num_frames, duration_s, num_windows, portrait_sha256, audio_sha256, content_id, and video
    (the URI it will have).
    """

    name = "check"

    def __init__(self, preset: Preset, output: str) -> None:
        self.preset = preset
        self.output = output

    def process(self, row: Row) -> Row:
        """Raises BadInput if the row cannot be rendered, StorageError if a store refuses."""
        row = with_defaults(row, self.preset)
        check_settings(row, self.preset)
        row = {**row, **self._portrait(row)}
        row = {**row, **self._sound(row)}
        row["content_id"] = identity(row, self.preset)
        return {**row, "video": video_uri(self.output, row)}

    def _portrait(self, row: Row) -> Row:
        with storage.fetched(resolve(row["portrait"], row["manifest"])) as path:
            portrait_size = check_portrait(path)
            sha256 = storage.sha256_of(path)
        width, height = (row["width"], row["height"]) if row["width"] else choose_size(portrait_size, self.preset.sizes)
        return {"width": width, "height": height, "portrait_sha256": sha256}

    def _sound(self, row: Row) -> Row:
        uri = resolve(row["audio"], row["manifest"])
        with storage.fetched(uri) as path:
            sound = measure_sound(path, start_s=row["start_s"], end_s=row["end_s"])
            sha256 = storage.sha256_of(path)
        num_frames = frames_in(sound.duration_s)
        if num_frames == 0:
            raise BadInput(
                f"{uri} has {sound.duration_s:.3f} s of sound in the span, less than one video frame "
                f"({1 / FPS} s). Give a longer sound or span."
            )
        windows = num_windows(num_frames, self.preset.window_latents, row["overlap"])
        return {
            "num_frames": num_frames,
            "duration_s": sound.duration_s,
            "num_windows": windows,
            "audio_sha256": sha256,
        }


def with_defaults(row: Row, preset: Preset) -> Row:
    """The row with the preset's values where the manifest says nothing."""
    defaults = {name: getattr(preset, name) for name in DEFAULTS if row[name] is None}
    return {**row, **defaults, "start_s": row["start_s"] or 0.0, "separate_vocals": bool(row["separate_vocals"])}


def check_settings(row: Row, preset: Preset) -> None:
    """Raises BadInput if the settings do not fit the preset or each other."""
    sizes = ", ".join(f"{width}x{height}" for width, height in preset.sizes)
    if row["width"] is not None and (row["width"], row["height"]) not in preset.sizes:
        raise BadInput(
            f"size {row['width']}x{row['height']} is not one that `{preset.name}` can make. Use one of {sizes}, "
            "or leave width and height empty."
        )
    if row["overlap"] >= preset.window_latents:
        raise BadInput(
            f"overlap is {row['overlap']} latent frames, but a window has {preset.window_latents}. "
            f"Use at most {preset.window_latents - 1}."
        )
    if row["separate_vocals"]:
        raise BadInput(
            "vocal separation needs the separator model, which is not available in the "
            f"`{preset.name}` preset. Leave separate_vocals empty."
        )


def identity(row: Row, preset: Preset) -> str:
    """The row's content id: a hash of everything that changes its pixels or its sound."""
    settings = {name: row[name] for name in SETTINGS}
    files = {name: row[name] for name in ("portrait_sha256", "audio_sha256")}
    model = {name: getattr(preset, name) for name in ("shift", "window_latents", "max_text_tokens")}
    weights = {"weights_hash": row["weights_hash"], "renderer": RENDERER_VERSION}
    return content_id({**settings, **files, **model, **weights})


def video_uri(output: str, row: Row) -> str:
    """Where the video of a checked row lies: named by id and content, so no other row has this name."""
    return storage.join(output, f"videos/{file_stem(row['id'], row['content_id'])}.mp4")
