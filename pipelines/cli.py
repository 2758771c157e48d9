"""The command `stableavatar`: render, check, status."""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape

from manifests.cells import BadCell, Value, convert
from manifests.schema import MANIFEST, ManifestError
from pipelines import plan, results, storage, tables
from pipelines.stage import Row, start_logging
from pipelines.status import read_status
from stableavatar.checkpoints.layout import VARIANTS
from stableavatar.choices import BACKENDS, CHOICES, MODES
from stableavatar.errors import BadInput, RowError, WeightsError
from stableavatar.limits import Limits
from stableavatar.presets import PRESETS, Preset, find_preset

ALL_FINE, CANNOT_GO_ON, SOME_FAILED = 0, 1, 2


WIDE = 160  # columns, where nobody's terminal says otherwise


class RunError(Exception):
    """The run could not go on, for a reason that is not in the manifest or the stores."""


console = Console(width=None if sys.stdout.isatty() else WIDE)
errors = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0: all fine; 2: some rows failed; 1: the command itself could not go on."""
    args = parser().parse_args(arguments)
    try:
        return args.run(args)
    except (ManifestError, RowError, RunError, WeightsError) as error:
        errors.print(f"[red]Cannot go on:[/] {escape(str(error))}", soft_wrap=True)
    except KeyboardInterrupt:
        errors.print("Interrupted. What is finished is kept; the same command goes on from there.")
    return CANNOT_GO_ON


class Parser(argparse.ArgumentParser):
    """Wrong words end the command with 1, as everything that stops it; argparse itself would say 2."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message."""
        self.print_usage(sys.stderr)
        self.exit(CANNOT_GO_ON, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The words of the command line."""
    top = Parser(prog="stableavatar", description="Talking videos from portraits and speech, in bulk.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    manifest = Parser(add_help=False)
    manifest.add_argument("manifest", metavar="MANIFEST", help="JSONL, CSV or Parquet, a folder of them; path or URI")
    manifest.add_argument(
        "--model", default="tiny", help=f"{', '.join(PRESETS)}, or the folder of a published model (see download)"
    )
    manifest.add_argument("--weights", choices=VARIANTS, default=VARIANTS[0], help="which weights of a published model")
    manifest.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what rows that say nothing take, for example num_steps=30. Names: " + ", ".join(CHOICES),
    )
    manifest.add_argument("--lora", metavar="FILE:WEIGHT,...", help="LoRA files for rows that name none")
    manifest.add_argument("--memory", choices=("auto", *MODES), default="auto", help="where the networks live")
    manifest.add_argument("--attention", choices=("auto", *BACKENDS), default="auto", help="attention kernel")
    manifest.add_argument("--limit", type=positive, metavar="N", help="only the first N rows of the manifest")

    limits = limit_options()
    render = commands.add_parser("render", parents=[manifest, limits], help="make the videos that are not made yet")
    render.add_argument("--output", required=True, metavar="URI", help="folder or URI for videos and results")
    render.add_argument("--dry-run", action="store_true", help="only show what there is to do; write nothing")
    render.set_defaults(run=run_render)

    check = commands.add_parser(
        "check", parents=[manifest, limits], help="everything that can be known without the model"
    )
    check.set_defaults(run=run_check, output="")

    fetch = commands.add_parser("download", help="fetch a published model")
    fetch.add_argument("size", metavar="SIZE", help="1.3b or 14b")
    fetch.add_argument("folder", nargs="?", default="checkpoints", metavar="DIR", help="where to (checkpoints)")
    fetch.set_defaults(run=run_download)

    inspect = commands.add_parser("inspect", help="what of a published model is there, what is missing or damaged")
    inspect.add_argument("folder", metavar="DIR")
    inspect.add_argument("--hashes", action="store_true", help="read everything: sha256 of each file")
    inspect.add_argument("--checksums", action="store_true", help="read everything: the files' own checksums")
    inspect.set_defaults(run=run_inspect)

    to_safetensors = commands.add_parser("convert", help="write a published model as safetensors, which load faster")
    to_safetensors.add_argument("folder", metavar="DIR")
    to_safetensors.add_argument("out", metavar="OUT", help="may be DIR itself")
    to_safetensors.set_defaults(run=run_convert)

    status = commands.add_parser("status", help="how far an output is")
    status.add_argument("output", metavar="OUTPUT", help="folder or URI given to render")
    status.add_argument("--json", action="store_true", help="for machines")
    status.set_defaults(run=run_status)
    return top


def limit_options() -> Parser:
    """Which files rows may name, and how large they may be."""
    options = Parser(add_help=False)
    group = options.add_argument_group("files of rows")
    usual = Limits()
    group.add_argument("--max-portrait-pixels", type=amount, default=usual.max_portrait_pixels, metavar="N")
    group.add_argument("--max-sound-s", type=amount, default=usual.max_sound_s, metavar="SECONDS")
    group.add_argument(
        "--max-file-bytes", type=amount, default=usual.max_file_bytes, metavar="N", help="for example 5e9"
    )
    group.add_argument(
        "--input-schemes",
        default=",".join(usual.input_schemes),
        metavar="NAME,...",
        help="stores; as given: %(default)s",
    )
    group.add_argument(
        "--inputs", action="append", default=[], metavar="PREFIX", help="folder or URI of all files; may be repeated"
    )
    return options


def chosen_limits(args: argparse.Namespace) -> Limits:
    """The limits that the options ask for."""
    return Limits(
        max_portrait_pixels=int(args.max_portrait_pixels),
        max_sound_s=args.max_sound_s,
        max_file_bytes=int(args.max_file_bytes),
        input_schemes=tuple(name.strip() for name in args.input_schemes.split(",")),
        inputs=tuple(storage.absolute(prefix) for prefix in args.inputs),
    )


def run_render(args: argparse.Namespace) -> int:
    """Render a manifest; a line for each failed row, and a summary."""
    if args.dry_run:
        return run_check(args)
    preset = chosen_preset(args)
    from ray.exceptions import RayError  # the other commands need not wait for Ray to load

    from pipelines.render import render
    from pipelines.workers import ClusterError

    start_logging()
    try:
        report = render(
            args.manifest, args.output, preset, limit=args.limit, limits=chosen_limits(args), console=console
        )
    except ClusterError as error:
        raise RunError(str(error)) from error
    except RayError as error:
        raise RunError(f"Ray failed: {(str(error).strip() or type(error).__name__).splitlines()[-1]}") from error
    num_failed = print_failures(report.finished)
    console.print(tables.counts(len(report.finished) - num_failed, num_failed, report.num_done_before))
    console.print(
        f"Videos: {storage.join(args.output, 'videos')}  Results: {storage.join(args.output, 'results')}",
        soft_wrap=True,
        markup=False,
    )
    return SOME_FAILED if num_failed else ALL_FINE


def run_check(args: argparse.Namespace) -> int:
    """List what a manifest asks for, row by row; with an output, also what is done already."""
    from pipelines.check import Check
    from stableavatar.model.weights import weights_hash

    preset = chosen_preset(args)
    rows = plan.read_manifest(args.manifest)
    rows = plan.select_rows(rows, args.limit, model=preset.name, weights_hash=weights_hash(preset))
    output = storage.absolute(args.output or ".")
    rows = plan.check_rows(rows, Check(preset, output, chosen_limits(args)))
    done = results.split_finished(rows, results.read_results(output), output)[1] if args.output else []
    console.print(tables.listing(rows, {results.stem(row) for row in done}))
    num_failed = print_failures(rows)
    console.print(f"{len(rows)} rows: {len(rows) - num_failed} good, {num_failed} bad, {len(done)} already done")
    return SOME_FAILED if num_failed else ALL_FINE


def run_status(args: argparse.Namespace) -> int:
    """Show how far an output is."""
    status = read_status(args.output)
    if args.json:
        print(status.to_json())
    else:
        console.print(tables.status(status))
    return ALL_FINE


def print_failures(rows: list[Row]) -> int:
    """A line for each failed row, and their number."""
    lines = tables.failures(rows)
    for line in lines:
        console.print(line, soft_wrap=True)
    return len(lines)


def run_download(args: argparse.Namespace) -> int:
    """Fetch a published model; what is there already stays."""
    from stableavatar.checkpoints.download import download

    folder = download(args.size, args.folder)
    console.print(f"{folder} is complete. Use it with --model {args.folder}", markup=False)
    return ALL_FINE


def run_inspect(args: argparse.Namespace) -> int:
    """List the files of a published model, and what is wrong with them."""
    from stableavatar.checkpoints.inspect import inspect_folder

    report = inspect_folder(args.folder, hashes=args.hashes, checksums=args.checksums)
    console.print(tables.folder(report))
    for problem in report.problems:
        errors.print(f"[red]{escape(problem)}[/]", soft_wrap=True)
    return CANNOT_GO_ON if report.problems else ALL_FINE


def run_convert(args: argparse.Namespace) -> int:
    """Write a published model as safetensors."""
    from stableavatar.checkpoints.convert import convert_folder

    convert_folder(
        args.folder,
        args.out,
        lambda path, was_there: console.print(f"{path}{' (was there)' if was_there else ''}", markup=False),
    )
    return ALL_FINE


def chosen_preset(args: argparse.Namespace) -> Preset:
    """The preset that the options ask for. A folder of weights is looked at before anything else happens.

    Raises WeightsError if there is no such model or its files are damaged, BadInput for a value that is none.
    """
    from stableavatar.checkpoints.inspect import verify_folder

    preset = find_preset(args.model, args.weights)
    verify_folder(preset)
    choices: dict[str, Any] = dict(map(choice, args.set))
    if args.lora:
        choices["lora"] = ",".join(f"{storage.absolute(path)}:{weight:g}" for path, weight in loras(args.lora))
    return replace(preset, memory=args.memory, attention=args.attention, **choices)


def choice(text: str) -> tuple[str, Value]:
    """NAME=VALUE, the value typed as in a manifest."""
    name, _, value = text.partition("=")
    columns = {column.name: column for column in MANIFEST if column.name in CHOICES}
    if name not in columns:
        raise BadInput(f"--set {text}: there is no {name!r} to set; there is: {', '.join(CHOICES)}.")
    try:
        converted = convert(columns[name], value)
        if converted is None:
            raise BadCell(f"{name} is empty; give a value after the =")
        return name, converted
    except BadCell as error:
        raise BadInput(f"--set {text}: {error}.") from error


def loras(text: str) -> list[tuple[str, float]]:
    """FILE:WEIGHT,... as in a manifest."""
    from stableavatar.model.lora import parse_loras

    try:
        return parse_loras(text)
    except ValueError as error:
        raise BadInput(f"--lora: {error}.") from error


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def amount(text: str) -> float:
    """A number above 0, also written as 5e9."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
