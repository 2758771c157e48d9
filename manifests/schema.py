"""The columns of the manifest (in) and of the result table (out): one list for reading, checking and documentation.

A word that both tables share is the same `Column` object in both.
"""

from dataclasses import dataclass

import pyarrow as pa

TEXT = pa.string()
WHOLE = pa.int64()
NUMBER = pa.float64()
YES_NO = pa.bool_()
TIME = pa.timestamp("us", tz="UTC")
PER_SECOND = pa.list_(pa.float32())  # one value per second of video

MAX_REFERENCE = 8192  # characters; a path has at most 4096, a signed URL somewhat more
MAX_PROMPT = 10_000  # characters; the text encoder reads about the first 2,000
MAX_ID = 255  # characters

TYPE_WORDS = {
    TEXT: "text",
    WHOLE: "whole number",
    NUMBER: "number",
    YES_NO: "true or false",
    TIME: "time (UTC)",
    PER_SECOND: "list of numbers",
}


class ManifestError(ValueError):
    """The manifest cannot be used at all. The message names the file and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. Numbers have bounds, both inclusive, text a greatest length; `default` is for the documentation."""

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""
    default: str = ""
    required: bool = False
    minimum: int | None = None
    maximum: int | None = None
    max_length: int = 1000  # characters of text
    also_number: bool = False  # text that may be written as a whole number
    also_json: bool = False  # text that may be written as a list or an object, which becomes JSON

    @property
    def range(self) -> str:
        """The bounds in words, such as `from 1 to 1000`; empty where there are none."""
        return "" if self.minimum is None else f"from {self.minimum} to {self.maximum}"


MANIFEST: tuple[Column, ...] = (
    Column(
        name="portrait",
        type=TEXT,
        required=True,
        meaning="path or URI of the image of the person who is to speak",
        max_length=MAX_REFERENCE,
    ),
    Column(
        name="audio",
        type=TEXT,
        required=True,
        meaning="path or URI of the speech: a sound file, or a video with sound",
        max_length=MAX_REFERENCE,
    ),
    Column(
        name="id",
        type=TEXT,
        default="made from the row's own words",
        meaning="name of the video, once per run",
        max_length=MAX_ID,
        also_number=True,
    ),
    Column(name="prompt", type=TEXT, default="the preset's", meaning="what the picture shows", max_length=MAX_PROMPT),
    Column(
        name="negative_prompt",
        type=TEXT,
        default="the preset's",
        meaning="what the picture must not show",
        max_length=MAX_PROMPT,
    ),
    Column(
        name="width",
        type=WHOLE,
        unit="pixels",
        default="from the portrait's shape",
        meaning="one of the preset's sizes, together with `height`",
        minimum=16,
        maximum=8192,
    ),
    Column(
        name="height",
        type=WHOLE,
        unit="pixels",
        default="from the portrait's shape",
        meaning="one of the preset's sizes, together with `width`",
        minimum=16,
        maximum=8192,
    ),
    Column(
        name="seed",
        type=WHOLE,
        default="the preset's",
        meaning="start of the random numbers",
        minimum=0,
        maximum=2**63 - 1,
    ),
    Column(
        name="num_steps",
        type=WHOLE,
        default="the preset's",
        meaning="denoising steps of each window",
        minimum=1,
        maximum=1000,
    ),
    Column(
        name="text_scale",
        type=NUMBER,
        default="the preset's",
        meaning="strength of text guidance; 1 is none",
        minimum=0,
        maximum=100,
    ),
    Column(
        name="audio_scale",
        type=NUMBER,
        default="the preset's",
        meaning="strength of audio guidance; 1 is none",
        minimum=0,
        maximum=100,
    ),
    Column(
        name="overlap",
        type=WHOLE,
        unit="latent frames",
        default="the preset's",
        meaning="what neighbouring windows share; less than a window",
        minimum=0,
        maximum=1000,
    ),
    Column(
        name="window_latents",
        type=WHOLE,
        unit="latent frames",
        default="the preset's",
        meaning="length of a window; the published models were made for 21, which is 81 video frames",
        minimum=2,
        maximum=1000,
    ),
    Column(
        name="text_schedule",
        type=TEXT,
        default="the preset's",
        meaning="text scales by step in place of `text_scale`: `5x20,1` is 5 in the first 20 steps, then 1",
    ),
    Column(name="audio_schedule", type=TEXT, default="the preset's", meaning="the same for `audio_scale`"),
    Column(
        name="mode",
        type=TEXT,
        default="the preset's",
        meaning="`aligned`, or `reference`: with the faults of the published code, for comparison",
    ),
    Column(
        name="blend", type=TEXT, default="the preset's", meaning="`uniform` or `log`: how a window fades into the next"
    ),
    Column(name="scheduler", type=TEXT, default="the preset's", meaning="`euler`, `unipc` or `dpm++`"),
    Column(
        name="guidance",
        type=TEXT,
        default="the preset's",
        meaning="`separate` (text and audio), or `native`: Audio Native Guidance, experimental",
    ),
    Column(
        name="lora",
        type=TEXT,
        default="the preset's",
        meaning="LoRA files with weights: `first.safetensors:0.8,second.safetensors`",
        max_length=MAX_REFERENCE,
    ),
    Column(
        name="separate_vocals",
        type=YES_NO,
        default="false",
        meaning="let only the voice move the lips, where the sound also holds music or noise",
    ),
    Column(
        name="start_s",
        type=NUMBER,
        unit="seconds",
        default="0",
        meaning="where to start in the sound",
        minimum=0,
        maximum=1_000_000,
    ),
    Column(
        name="end_s",
        type=NUMBER,
        unit="seconds",
        default="the end",
        meaning="where to stop in the sound",
        minimum=0,
        maximum=1_000_000,
    ),
    Column(
        name="audio_stream",
        type=TEXT,
        default="the first",
        meaning="which sound of a file that has several: its number among them, from 0, or its language, such as `de`",
        also_number=True,
    ),
    Column(
        name="pad_before_s",
        type=NUMBER,
        unit="seconds",
        default="0",
        meaning="silence before the sound",
        minimum=0,
        maximum=3600,
    ),
    Column(
        name="pad_after_s",
        type=NUMBER,
        unit="seconds",
        default="0",
        meaning="silence after the sound",
        minimum=0,
        maximum=3600,
    ),
    Column(
        name="loudness",
        type=NUMBER,
        unit="LUFS",
        default="the sound's own",
        meaning="what the video's sound and its `audio_tracks` are brought to (ITU-R BS.1770), such as -16",
        minimum=-70,
        maximum=-5,
    ),
    Column(
        name="language",
        type=TEXT,
        default="unknown",
        meaning="language of the speech, such as `de` or `pt-BR`: the tag of the video's sound",
    ),
    Column(
        name="subtitles",
        type=TEXT,
        default="none",
        meaning="SRT or VTT files with their languages, which players can show: `en=anna.srt,de=anna_de.vtt`",
        max_length=MAX_REFERENCE,
        also_json=True,
    ),
    Column(
        name="audio_tracks",
        type=TEXT,
        default="none",
        meaning="further sounds that players can choose, with their languages: `fr=anna_fr.wav,es=anna_es.wav`",
        max_length=MAX_REFERENCE,
        also_json=True,
    ),
    Column(
        name="video_name",
        type=TEXT,
        default="the id",
        meaning="how the name of the video's file begins; `/` makes folders",
        max_length=MAX_ID,
    ),
    Column(
        name="base_video",
        type=TEXT,
        default="none",
        meaning="path or URI of the finished video that `segments` correct",
        max_length=MAX_REFERENCE,
    ),
    Column(
        name="segments",
        type=TEXT,
        default="none",
        meaning='sentences to make again, the rest stays: `[{"start_s": 12, "end_s": 15.5, "audio": "fix.wav"}]`, '
        "in seconds of the video",
        max_length=100_000,
        also_json=True,
    ),
    Column(
        name="priority",
        type=WHOLE,
        default="0",
        meaning="rows with a higher one are made first; of equal ones the longest first",
        minimum=-1000,
        maximum=1000,
    ),
)

_SHARED = {column.name: column for column in MANIFEST}

RESULT: tuple[Column, ...] = (
    Column(name="content_id", type=TEXT, meaning="hash of everything that changes the video's pixels or sound"),
    _SHARED["id"],
    Column(name="status", type=TEXT, meaning="`ok` or `failed`"),
    Column(name="error_kind", type=TEXT, meaning="what sort of failure, such as `bad_input`; empty if ok"),
    Column(name="error", type=TEXT, meaning="what went wrong and how to put it right; empty if ok"),
    Column(name="stage", type=TEXT, meaning="the stage in which the row failed; empty if ok"),
    Column(name="video", type=TEXT, meaning="path or URI of the finished video"),
    Column(name="manifest", type=TEXT, meaning="path or URI of the manifest the row comes from"),
    Column(name="row_number", type=WHOLE, meaning="the row in that manifest, from 1"),
    *(_SHARED[name] for name in ("portrait", "audio", "prompt", "negative_prompt", "width", "height", "seed")),
    *(_SHARED[name] for name in ("num_steps", "text_scale", "audio_scale", "overlap", "window_latents")),
    *(_SHARED[name] for name in ("text_schedule", "audio_schedule", "mode", "blend", "scheduler", "guidance", "lora")),
    _SHARED["separate_vocals"],
    _SHARED["start_s"],
    _SHARED["end_s"],
    *(_SHARED[name] for name in ("audio_stream", "pad_before_s", "pad_after_s", "loudness", "language")),
    *(_SHARED[name] for name in ("subtitles", "audio_tracks", "video_name", "base_video", "segments")),
    _SHARED["priority"],
    Column(name="attempts", type=WHOLE, meaning="how often work on the row began, over all runs"),
    Column(
        name="gpu_s",
        type=NUMBER,
        unit="seconds",
        meaning="time on a generator over all attempts, also those that were killed, as far as they wrote it down",
    ),
    Column(name="num_frames", type=WHOLE, unit="video frames", meaning="length of the video"),
    Column(name="duration_s", type=NUMBER, unit="seconds", meaning="length of the sound that was used"),
    Column(name="num_windows", type=WHOLE, meaning="windows the video was made in"),
    Column(name="model", type=TEXT, meaning="name of the preset"),
    Column(name="weights_hash", type=TEXT, meaning="hash of the model's weights"),
    Column(name="check_s", type=NUMBER, unit="seconds", meaning="time taken to check the row's files"),
    Column(name="prepare_s", type=NUMBER, unit="seconds", meaning="time taken to fetch and decode"),
    Column(name="separate_s", type=NUMBER, unit="seconds", meaning="time taken to separate the voice, if asked for"),
    Column(name="encode_text_s", type=NUMBER, unit="seconds", meaning="time taken to encode the prompts"),
    Column(name="generate_s", type=NUMBER, unit="seconds", meaning="time taken to generate, all in all"),
    Column(name="sample_s", type=NUMBER, unit="seconds", meaning="of that, denoising"),
    Column(name="decode_s", type=NUMBER, unit="seconds", meaning="of that, from latents to the video file"),
    Column(name="measure_s", type=NUMBER, unit="seconds", meaning="time taken to measure the finished video"),
    Column(
        name="spans",
        type=TEXT,
        meaning="JSON: each stage with its worker, when it began, its seconds, bytes and repeated requests",
    ),
    Column(
        name="peak_memory_bytes",
        type=WHOLE,
        unit="bytes",
        meaning="most host memory that the generator's process has held so far",
    ),
    Column(name="peak_device_bytes", type=WHOLE, unit="bytes", meaning="most device memory; 0 without a device"),
    Column(name="num_blank_frames", type=WHOLE, unit="video frames", meaning="frames of one colour"),
    Column(name="num_frozen_frames", type=WHOLE, unit="video frames", meaning="frames equal to the one before"),
    Column(name="brightness", type=PER_SECOND, meaning="mean luma, a value per second of video"),
    Column(name="sharpness", type=PER_SECOND, meaning="edge strength, a value per second of video"),
    Column(name="motion", type=PER_SECOND, meaning="change between frames, a value per second of video"),
    Column(name="brightness_mean", type=NUMBER, meaning="mean of `brightness`"),
    Column(name="sharpness_mean", type=NUMBER, meaning="mean of `sharpness`"),
    Column(name="motion_mean", type=NUMBER, meaning="mean of `motion`"),
    Column(name="node", type=TEXT, meaning="machine that generated the video"),
    Column(name="started_at", type=TIME, meaning="when work on the row began"),
    Column(name="finished_at", type=TIME, meaning="when work on the row ended"),
)

MANIFEST_NAMES = frozenset(column.name for column in MANIFEST)
RESERVED_NAMES = frozenset(column.name for column in RESULT) - MANIFEST_NAMES


def result_schema(carried: pa.Schema | None = None) -> pa.Schema:
    """Schema of the result table: the RESULT columns in their order, then the `carried` ones."""
    own = [pa.field(column.name, column.type) for column in RESULT]
    return pa.schema(own + list(carried or ()))


def markdown() -> str:
    """The documentation of both tables, for the README."""
    manifest = [
        f"| `{c.name}` | {_type_words(c)} | {c.unit} | {'**required**' if c.required else c.default} | {c.meaning} |"
        for c in MANIFEST
    ]
    result = [
        f"| `{c.name}` | {TYPE_WORDS[c.type]} | {c.unit} | {c.meaning if c.name not in _SHARED else 'as used'} |"
        for c in RESULT
    ]
    return "\n".join(
        (
            "### Manifest columns\n",
            "| column | type | unit | default | meaning |\n|---|---|---|---|---|",
            *manifest,
            "| any other | any | | | carried to the result table unchanged |\n",
            "### Result columns\n",
            "| column | type | unit | meaning |\n|---|---|---|---|",
            *result,
            "| any other | as in the manifest | | carried from the manifest |\n",
        )
    )


def _type_words(column: Column) -> str:
    # An upper end that nobody meets, such as the seed's 2**63 - 1, would only be noise in a table.
    shown = f"from {column.minimum}" if (column.maximum or 0) > 10_000 else column.range
    return f"{TYPE_WORDS[column.type]} {shown}".strip()
