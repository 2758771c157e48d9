"""The words of the command line, and what they mean."""

import argparse
import sys
from typing import Any, NoReturn

from manifests.build import DEFAULT_ID, ID_BY_LANGUAGE
from manifests.cells import Value
from manifests.schema import MANIFEST
from pipelines import storage
from pipelines.arguments_train import add_training_commands
from pipelines.checkpoint import EVERY_S
from pipelines.values import (
    absolute_loras,
    amount,
    count,
    listed,
    moment,
    node_file,
    pairs,
    positive,
    seconds,
    typed_settings,
    with_limits,
)
from stableavatar.audio.span import Span
from stableavatar.checkpoints.layout import VARIANTS
from stableavatar.choices import BACKENDS, CHOICES, MODES
from stableavatar.errors import KINDS
from stableavatar.limits import Limits
from stableavatar.presets import PRESETS

WRONG_WORDS = 1  # exit code, as of everything that ends a command

# What `manifest` finds itself, or what only a single row can say.
FOUND = ("portrait", "audio", "id", "video_name", "subtitles", "audio_tracks", "base_video", "segments")
SETTABLE = tuple(column.name for column in MANIFEST if column.name not in FOUND)


class Parser(argparse.ArgumentParser):
    """Wrong words end the command with 1, as everything that stops it; argparse itself would say 2."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message."""
        self.print_usage(sys.stderr)
        self.exit(WRONG_WORDS, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The words of the command line."""
    top = Parser(prog="stableavatar", description="Talking videos from portraits and speech, in bulk.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add_run_commands(commands)
    add_manifest_command(commands)
    add_model_commands(commands)
    add_sound_commands(commands)
    add_training_commands(commands)
    add_output_commands(commands)
    return top


def add_run_commands(commands: Any) -> None:
    """Those that make the videos of a manifest, or only look at it."""
    manifest, limits, until = manifest_options(), limit_options(), until_options()
    render = commands.add_parser(
        "render", parents=[manifest, limits, until], help="make the videos that are not made yet"
    )
    render.add_argument("--output", required=True, metavar="URI", help="folder or URI for videos and results")
    render.add_argument(
        "--carry-over", action="store_true", help="first of all the rows that an earlier run on this output has left"
    )
    render.add_argument("--dry-run", action="store_true", help="only show what there is to do; write nothing")
    render.set_defaults(command="render")

    retry = commands.add_parser("retry", parents=[until], help="make the videos again that failed in the newest run")
    retry.add_argument("output", metavar="OUTPUT", help="folder or URI given to render")
    retry.add_argument(
        "--kind", dest="kinds", action="append", choices=KINDS, help="only those that failed like this; may be repeated"
    )
    retry.set_defaults(command="retry")

    check = commands.add_parser(
        "check", parents=[manifest, limits], help="everything that can be known without the model"
    )
    check.set_defaults(command="check", output="", carry_over=False)


def add_output_commands(commands: Any) -> None:
    """Those that tell of an output."""
    status = commands.add_parser("status", help="how far an output is")
    status.add_argument("output", metavar="OUTPUT", help="folder or URI given to render")
    status.add_argument("--json", action="store_true", help="for machines")
    status.set_defaults(command="status")

    report = commands.add_parser("report", help="write OUTPUT/report.html, the page about an output as it is now")
    report.add_argument("output", metavar="OUTPUT", help="folder or URI given to render")
    report.set_defaults(command="report")


def add_model_commands(commands: Any) -> None:
    """Those about the files of published models."""
    fetch = commands.add_parser("download", help="fetch a published model")
    fetch.add_argument("size", metavar="SIZE", help="1.3b or 14b")
    fetch.add_argument("folder", nargs="?", default="checkpoints", metavar="DIR", help="where to (checkpoints)")
    fetch.add_argument("--base", action="store_true", help="also the base model's transformer, to train from")
    fetch.set_defaults(command="download")

    inspect = commands.add_parser("inspect", help="what of a published model is there, what is missing or damaged")
    inspect.add_argument("folder", metavar="DIR")
    inspect.add_argument("--hashes", action="store_true", help="read everything: sha256 of each file")
    inspect.add_argument("--checksums", action="store_true", help="read everything: the files' own checksums")
    inspect.set_defaults(command="inspect")

    to_safetensors = commands.add_parser("convert", help="write a published model as safetensors, which load faster")
    to_safetensors.add_argument("folder", metavar="DIR")
    to_safetensors.add_argument("out", metavar="OUT", help="may be DIR itself")
    to_safetensors.set_defaults(command="convert")


def add_sound_commands(commands: Any) -> None:
    """Those that make one sound of another."""
    sound = sound_options()
    extract = commands.add_parser("extract-audio", parents=[sound], help="sound as 16 kHz mono WAV")
    extract.add_argument("--start-s", type=seconds, default=0.0, metavar="N", help="where to start, seconds")
    extract.add_argument("--end-s", type=seconds, metavar="N", help="where to stop, seconds")
    extract.set_defaults(command="extract-audio")

    vocals = commands.add_parser(
        "separate-vocals", parents=[sound], help="the voice alone as 44.1 kHz stereo WAV, as long as the sound"
    )
    vocals.add_argument("--model", default="tiny", metavar="DIR", help="the folder of a published model (see download)")
    vocals.add_argument(
        "--separator", type=node_file, metavar="FILE", help="another separator than the one in that folder"
    )
    vocals.set_defaults(command="separate-vocals")


def add_manifest_command(commands: Any) -> None:
    """The one that makes a manifest."""
    build = commands.add_parser(
        "manifest", help="make a manifest: every portrait with every voice, or each with its own"
    )
    build.add_argument("out", metavar="OUT", help="the manifest to write: .jsonl, .csv or .parquet; path or URI")
    build.add_argument(
        "--portraits", nargs="+", required=True, metavar="PATH",
        help="pictures, or folders of them; anna.txt beside anna.png is her prompt",
    )  # fmt: skip
    voices = build.add_mutually_exclusive_group(required=True)
    voices.add_argument(
        "--voices", nargs="+", metavar="PATH",
        help="sounds, or folders of them, such as voices/anna/de.wav; de.srt or de.vtt beside it are its subtitles",
    )  # fmt: skip
    voices.add_argument("--languages", metavar="TABLE", help="CSV with the columns language, audio, and any others")
    build.add_argument("--prompts", metavar="TABLE", help="CSV with the columns portrait, prompt, and any others")
    build.add_argument(
        "--id", default="", metavar="PATTERN",
        help="ids, by {portrait}, {voice}, {language}, {number} or a column; as given: "
        f"{ID_BY_LANGUAGE} of voices named like portraits, if all languages are known, else {DEFAULT_ID}",
    )  # fmt: skip
    build.add_argument(
        "--video-name", default="", metavar="PATTERN", help="names of videos, such as {language}/{portrait}"
    )
    build.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a column of all rows")
    build.add_argument("--force", action="store_true", help="write over a manifest that is there")
    build.set_defaults(command="manifest")


def common_cells(args: argparse.Namespace) -> dict[str, Value]:
    """The cells that `manifest --set` gives all rows."""
    cells = typed_settings(pairs(args.set), SETTABLE)
    if cells.get("lora"):
        cells["lora"] = absolute_loras(str(cells["lora"]))
    return cells


def manifest_options() -> Parser:
    """Which rows, and what they take where they say nothing."""
    options = Parser(add_help=False)
    options.add_argument("manifest", metavar="MANIFEST", help="JSONL, CSV or Parquet, a folder of them; path or URI")
    options.add_argument(
        "--model", default="tiny", help=f"{', '.join(PRESETS)}, or the folder of a published model (see download)"
    )
    options.add_argument("--weights", choices=VARIANTS, default=VARIANTS[0], help="which weights of a published model")
    options.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what rows that say nothing take, for example num_steps=30. Names: " + ", ".join(CHOICES),
    )
    options.add_argument("--lora", metavar="FILE:WEIGHT,...", help="LoRA files for rows that name none")
    options.add_argument(
        "--separator",
        type=node_file,
        metavar="FILE",
        help="vocal separator for rows with separate_vocals (MDX-Net, ONNX)",
    )
    options.add_argument("--memory", choices=("auto", *MODES), default="auto", help="where the networks live")
    options.add_argument("--attention", choices=("auto", *BACKENDS), default="auto", help="attention kernel")
    options.add_argument("--limit", type=positive, metavar="N", help="only the first N rows of the manifest")
    return options


def sound_options() -> Parser:
    """A sound, and the file that is made of it."""
    options = Parser(add_help=False)
    options.add_argument("source", metavar="SRC", help="sound, or video with sound; path or URI")
    options.add_argument("out", metavar="OUT.wav", help="path or URI")
    options.add_argument(
        "--audio-stream", default="", metavar="STREAM", help="number of the sound, from 0, or language"
    )
    options.add_argument("--force", action="store_true", help="replace OUT.wav if it is there")
    return options


def chosen_span(args: argparse.Namespace) -> Span:
    """The part of a sound that the options ask for. Raises BadInput."""
    return Span(start_s=args.start_s, end_s=args.end_s, stream=args.audio_stream)


def limit_options() -> Parser:
    """Which files rows may name, and how large they may be."""
    options = Parser(add_help=False)
    group = options.add_argument_group("files of rows")
    usual = Limits()
    group.add_argument("--max-portrait-pixels", type=count, default=usual.max_portrait_pixels, metavar="N")
    group.add_argument("--max-sound-s", type=amount, default=usual.max_sound_s, metavar="SECONDS")
    group.add_argument(
        "--max-file-bytes", type=count, default=usual.max_file_bytes, metavar="N", help="for example 5e9"
    )
    group.add_argument(
        "--input-schemes",
        default=",".join(usual.input_schemes),
        type=listed,
        metavar="NAME,...",
        help="stores; as given: %(default)s",
    )
    group.add_argument(
        "--inputs", action="append", default=[], type=storage.absolute, metavar="PREFIX",
        help="folder or URI of all files; may be repeated",
    )  # fmt: skip
    return options


def until_options() -> Parser:
    """When a run ends, what it does meanwhile against being killed, and who hears of it."""
    options = Parser(add_help=False)
    options.add_argument(
        "--stop-by", type=moment, metavar="TIME", help="end in order at this time: 06:30, or 2026-01-31T06:30"
    )
    options.add_argument(
        "--max-gpu-hours", type=amount, metavar="N", help="end in order when all generators together have run so long"
    )
    options.add_argument(
        "--generators", type=positive, metavar="N",
        help="so many: they share GPUs, or the cluster brings more; without: one or two for each GPU that is there",
    )  # fmt: skip
    options.add_argument(
        "--save-every-s", type=amount, metavar="N",
        help=f"save videos that are being made this often, so that a kill costs no more ({EVERY_S:g})",
    )  # fmt: skip
    options.add_argument("--log-json", action="store_true", help="log a JSON object in each line")
    options.add_argument(
        "--webhook", dest="webhooks", action="append", metavar="URL",
        help="tell of each finished row, and of the end; may be repeated",
    )  # fmt: skip
    return options


def api_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What the words of `render`, `check` or `retry` ask for, as `pipelines.api` takes it."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    for name in ("command", "dry_run", "log_json"):
        given.pop(name, None)
    return with_limits(given | {"settings": pairs(given["settings"])}) if "settings" in given else given
