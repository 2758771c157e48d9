"""The command `stableavatar`: render, check, status."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from manifests.schema import ManifestError
from pipelines import plan, results, storage, tables
from pipelines.stage import Row, start_logging
from stableavatar.errors import BadInput, RowError
from stableavatar.presets import PRESETS, Preset

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
    except (ManifestError, RowError, RunError) as error:
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
    manifest.add_argument("--model", type=preset, default="tiny", metavar="NAME", help=f"one of: {', '.join(PRESETS)}")
    manifest.add_argument("--limit", type=positive, metavar="N", help="only the first N rows of the manifest")

    render = commands.add_parser("render", parents=[manifest], help="make the videos that are not made yet")
    render.add_argument("--output", required=True, metavar="URI", help="folder or URI for videos and results")
    render.add_argument("--dry-run", action="store_true", help="only show what there is to do; write nothing")
    render.set_defaults(run=run_render)

    check = commands.add_parser("check", parents=[manifest], help="everything that can be known without the model")
    check.set_defaults(run=run_check, output="")

    status = commands.add_parser("status", help="how far an output is")
    status.add_argument("output", metavar="OUTPUT", help="folder or URI given to render")
    status.set_defaults(run=run_status)
    return top


def run_render(args: argparse.Namespace) -> int:
    """Render a manifest; a line for each failed row, and a summary."""
    if args.dry_run:
        return run_check(args)
    from ray.exceptions import RayError  # the other commands need not wait for Ray to load

    from pipelines.render import render
    from pipelines.workers import ClusterError

    start_logging()
    try:
        report = render(args.manifest, args.output, args.model, limit=args.limit, console=console)
    except ClusterError as error:
        raise RunError(str(error)) from error
    except RayError as error:
        raise RunError(f"Ray failed: {str(error).strip().splitlines()[-1]}") from error
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

    rows = plan.read_manifest(args.manifest)
    rows = plan.select_rows(rows, args.limit, model=args.model.name, weights_hash=weights_hash(args.model))
    output = storage.absolute(args.output or ".")
    rows = plan.check_rows(rows, Check(args.model, output))
    done = results.split_finished(rows, results.read_results(output), output)[1] if args.output else []
    console.print(tables.listing(rows, {results.stem(row) for row in done}))
    num_failed = print_failures(rows)
    console.print(f"{len(rows)} rows: {len(rows) - num_failed} good, {num_failed} bad, {len(done)} already done")
    return SOME_FAILED if num_failed else ALL_FINE


def run_status(args: argparse.Namespace) -> int:
    """Show how far an output is."""
    table, run = results.read_results(args.output), results.read_run(args.output)
    if not len(table) and not run:
        raise BadInput(f"{args.output} holds no results. Give the folder or URI that was given to render.")
    console.print(tables.status(table, run))
    return ALL_FINE


def print_failures(rows: list[Row]) -> int:
    """A line for each failed row, and their number."""
    lines = tables.failures(rows)
    for line in lines:
        console.print(line, soft_wrap=True)
    return len(lines)


def preset(name: str) -> Preset:
    """The preset of that name."""
    if name not in PRESETS:
        raise argparse.ArgumentTypeError(f"there is no model {name!r}; there is: {', '.join(PRESETS)}")
    return PRESETS[name]()


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
