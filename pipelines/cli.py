"""The command `stableavatar`: what each of its words does."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape

from manifests.redact import redacted
from manifests.schema import ManifestError
from pipelines import carry_over, plan, results, storage, tables
from pipelines.api import render, retry
from pipelines.arguments import api_arguments, chosen_span, common_cells, parser
from pipelines.cli_train import TRAINING_COMMANDS
from pipelines.logs import is_json, start_logging
from pipelines.look import Look
from pipelines.observers import Observer
from pipelines.outcome import RenderResult
from pipelines.report import write_report
from pipelines.stage import Row
from pipelines.status import read_status
from pipelines.terminal import (
    ALL_FINE,
    BAD_CONFIG,
    CANNOT_GO_ON,
    SOME_FAILED,
    BadConfig,
    RunError,
    console,
    counted,
    errors,
    say,
)
from stableavatar.errors import RowError, WeightsError
from stableavatar.presets import find_preset

NOISE = (
    "the preset tiny has random weights, and its pictures are noise. Name a model: "
    "--model with mini, or with the folder that `stableavatar download` makes."
)

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    0: all fine; 1: the command itself could not go on; 2: some rows failed, or the file of a training cannot be
    understood; 3: it stopped before all rows were made.
    """
    args = parser().parse_args(arguments)
    try:
        return COMMANDS[args.command](args)
    except (ManifestError, RowError, RunError, WeightsError) as error:
        complain("Cannot go on:", str(error))
    except BadConfig as error:
        complain("Cannot begin:", str(error))
        return BAD_CONFIG
    except KeyboardInterrupt:
        complain("Interrupted.", "What is finished is kept; the same command goes on from there.")
    return CANNOT_GO_ON


def complain(what: str, why: str) -> None:
    """Say why a command ends, in the way of its log."""
    if is_json():
        logger.error("%s %s", what, why)
    else:
        errors.print(f"[red]{what}[/] {escape(redacted(why))}", soft_wrap=True)


def run_render(args: argparse.Namespace) -> int:
    """Render a manifest; a line for each failed row, and a summary."""
    if args.dry_run:
        return run_check(args)
    start_logging(args.log_json)
    observers = [NoiseWarning()] if args.model == "tiny" else []
    return print_result(render(**api_arguments(args), observers=observers, console=console))


class NoiseWarning(Observer):
    """Says what a model of random weights makes, before it does."""

    def begin(self, run: Mapping[str, Any]) -> None:
        """Unless nothing is left to be made."""
        if run["num_rows"] == run["num_done"] + sum(run["left"].values()):
            return
        if is_json():
            logger.warning(NOISE)
        else:
            console.print(f"[yellow]Only noise:[/] {escape(NOISE)}", soft_wrap=True)


def run_retry(args: argparse.Namespace) -> int:
    """Render the rows again that failed, as the newest run on this output was told to."""
    start_logging(args.log_json)
    return print_result(retry(**api_arguments(args), console=console))


def print_result(result: RenderResult) -> int:
    """What came of a run, and what to do next. Gives the exit code."""
    print_failures([vars(row) for row in result.failed if not row.was_before])
    console.print(tables.counts(result.num_ok - result.num_done_before, len(result.failed), result.num_done_before))
    if left := [vars(row) for row in result.failed if row.was_before]:
        print_failures(left)
        say(
            f"{len(left)} of them failed in an earlier run, where trying again would hardly help, and were left "
            f"alone. `stableavatar retry {result.output}` makes them again."
        )
    if result.unfinished and not result.stopped:
        say(
            f"Not made yet: {counted(len(result.unfinished), 'row')}. A retry makes only what failed; `stableavatar "
            "render` goes on with the rest."
        )
    elif result.unfinished:
        say(
            f"Stopped because {result.stopped}: {len(result.unfinished)} rows are unfinished. The same command goes on "
            f"from where they are; they are listed in {result.carry_over_uri}."
        )
    say(f"Videos: {result.videos_uri}  Results: {result.results_uri}  Report: {result.report_uri}")
    return result.exit_code


def run_check(args: argparse.Namespace) -> int:
    """List what a manifest asks for, row by row; with an output, also what is done already."""
    from pipelines.check import Check
    from stableavatar.audio.separator import find_separator
    from stableavatar.model.weights import weights_hash

    words = api_arguments(args)
    preset = Look.of(**words).preset()
    output = storage.absolute(args.output or ".")
    carried = carry_over.find_list(output, args.carry_over, keep=False)
    rows = plan.read_manifest(args.manifest, may_be_empty=args.carry_over)
    rows += plan.read_manifest(carried) if carried else []
    rows = plan.select_rows(rows, args.limit, carried, model=preset.name, weights_hash=weights_hash(preset))
    check = Check(preset, output, words["limits"], find_separator(preset, args.separator))
    rows = plan.check_rows(rows, check)
    done = results.split_finished(rows, results.read_results(output), output)[1] if args.output else []
    console.print(tables.listing(rows, {results.stem(row) for row in done}))
    num_failed = print_failures(rows)
    console.print(f"{len(rows)} rows: {len(rows) - num_failed} good, {num_failed} bad, {len(done)} already done")
    return SOME_FAILED if num_failed else ALL_FINE


def run_manifest(args: argparse.Namespace) -> int:
    """Make a manifest, and say of what."""
    from pipelines.build import build_manifest

    built = build_manifest(
        args.out,
        portraits=args.portraits,
        voices=args.voices or (),
        languages=args.languages,
        prompts=args.prompts,
        id=args.id,
        video_name=args.video_name,
        common=common_cells(args),
        force=args.force,
    )
    how = "each with the voices that are named like it" if built.is_by_name else "every one with every voice"
    say(
        f"{built.uri}: {counted(built.num_rows, 'row')} of {counted(built.num_portraits, 'portrait')} "
        f"and {counted(built.num_voices, 'voice')}, {how}"
    )
    for reference in built.left_out:
        say(f"Not used: {reference}")
    return ALL_FINE


def run_status(args: argparse.Namespace) -> int:
    """Show how far an output is."""
    status = read_status(args.output)
    if args.json:
        print(status.to_json())
    else:
        console.print(tables.status(status))
    return ALL_FINE


def run_report(args: argparse.Namespace) -> int:
    """Write the page about an output, and say where it lies."""
    say(write_report(args.output))
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

    folder = download(args.size, args.folder, base=args.base)
    say(f"{folder} is complete. Use it with --model {args.folder}")
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
        lambda path, was_there: say(f"{path}{' (was there)' if was_there else ''}"),
    )
    return ALL_FINE


def run_extract_audio(args: argparse.Namespace) -> int:
    """Write the sound of a medium as 16 kHz mono WAV."""
    from pipelines.extract import extract_audio

    extract_audio(args.source, args.out, chosen_span(args), force=args.force)
    say(args.out)
    return ALL_FINE


def run_separate_vocals(args: argparse.Namespace) -> int:
    """Write the voice in a sound as a file."""
    from pipelines.separate import separate_file
    from stableavatar.audio.separator import find_separator

    separator = find_separator(find_preset(args.model), args.separator)
    separate_file(args.source, args.out, separator, stream=args.audio_stream, force=args.force)
    say(f"The voice is in {args.out}")
    return ALL_FINE


COMMANDS = {
    "render": run_render,
    "retry": run_retry,
    "check": run_check,
    "manifest": run_manifest,
    "status": run_status,
    "report": run_report,
    "download": run_download,
    "inspect": run_inspect,
    "convert": run_convert,
    "extract-audio": run_extract_audio,
    "separate-vocals": run_separate_vocals,
} | TRAINING_COMMANDS

if __name__ == "__main__":
    sys.exit(main())
