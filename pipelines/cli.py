"""The command `stableavatar`: what each of its words does."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from manifests.schema import ManifestError
from pipelines import plan, results, storage, tables
from pipelines.arguments import (
    chosen_limits,
    chosen_preset,
    chosen_span,
    common_cells,
    noted,
    parser,
    repeated,
)
from pipelines.checkpoint import EVERY_S
from pipelines.cli_train import TRAINING_COMMANDS
from pipelines.stage import Row, start_logging
from pipelines.status import read_status
from pipelines.terminal import (
    ALL_FINE,
    BAD_CONFIG,
    CANNOT_GO_ON,
    SOME_FAILED,
    UNFINISHED,
    BadConfig,
    RunError,
    console,
    counted,
    errors,
    plain_errors,
)
from stableavatar.errors import BadInput, RowError, WeightsError
from stableavatar.presets import find_preset

if TYPE_CHECKING:
    from pipelines.run import RunReport


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    0: all fine; 1: the command itself could not go on; 2: some rows failed, or the file of a training cannot be
    understood; 3: it stopped before all rows were made.
    """
    args = parser().parse_args(arguments)
    try:
        return COMMANDS[args.command](args)
    except (ManifestError, RowError, RunError, WeightsError) as error:
        errors.print(f"[red]Cannot go on:[/] {escape(str(error))}", soft_wrap=True)
    except BadConfig as error:
        errors.print(f"[red]Cannot begin:[/] {escape(str(error))}", soft_wrap=True)
        return BAD_CONFIG
    except KeyboardInterrupt:
        errors.print("Interrupted. What is finished is kept; the same command goes on from there.")
    return CANNOT_GO_ON


def run_render(args: argparse.Namespace) -> int:
    """Render a manifest; a line for each failed row, and a summary."""
    if args.dry_run:
        return run_check(args)
    preset = chosen_preset(args)
    from pipelines.run import Options, run  # the other commands need not wait for Ray to load
    from pipelines.watch import Bounds

    start_logging()
    options = Options(
        limit=args.limit,
        limits=chosen_limits(args),
        retry=args.retry,
        separator=args.separator,
        save_every_s=args.save_every_s or EVERY_S,
        bounds=Bounds(stop_by=args.stop_by, max_gpu_hours=args.max_gpu_hours),
        arguments=noted(args),
    )
    with plain_errors():
        report = run(args.manifest, args.output, preset, options=options, console=console)
    return print_report(report, args.output)


def print_report(report: "RunReport", output: str) -> int:
    """What came of a run, and what to do next. Gives the exit code."""
    num_failed = print_failures(report.finished)
    num_ok = len(report.finished) - num_failed
    console.print(tables.counts(num_ok, num_failed + len(report.left), report.num_done_before))
    if report.left:
        print_failures(report.left)
        console.print(
            f"{len(report.left)} of them failed in an earlier run, where trying again would hardly help, and were left "
            f"alone. `stableavatar retry {output}` makes them again.",
            soft_wrap=True, markup=False,
        )  # fmt: skip
    if report.unfinished:
        console.print(
            f"Stopped because {report.stopped}: {len(report.unfinished)} rows are unfinished. The same command goes on "
            f"from where they are; they are listed in {plan.carry_over_uri(output)}.",
            soft_wrap=True, markup=False,
        )  # fmt: skip
    where = f"Videos: {storage.join(output, 'videos')}  Results: {storage.join(output, results.COMPACTED)}"
    console.print(where, soft_wrap=True, markup=False)
    if report.unfinished:
        return UNFINISHED
    return SOME_FAILED if num_failed or report.left else ALL_FINE


def run_retry(args: argparse.Namespace) -> int:
    """Render the rows again that failed, as the newest run on this output was told to."""
    run = results.read_run(args.output)
    if not run or not run.get("arguments"):
        raise BadInput(f"{args.output} holds no run that could be repeated. Give what was given to render --output.")
    return run_render(repeated(run, args))


def run_check(args: argparse.Namespace) -> int:
    """List what a manifest asks for, row by row; with an output, also what is done already."""
    from pipelines.check import Check
    from stableavatar.audio.separator import find_separator
    from stableavatar.model.weights import weights_hash

    preset = chosen_preset(args)
    rows = plan.read_manifest(args.manifest)
    rows = plan.select_rows(rows, args.limit, model=preset.name, weights_hash=weights_hash(preset))
    output = storage.absolute(args.output or ".")
    check = Check(preset, output, chosen_limits(args), find_separator(preset, args.separator))
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
    console.print(
        f"{built.uri}: {counted(built.num_rows, 'row')} of {counted(built.num_portraits, 'portrait')} "
        f"and {counted(built.num_voices, 'voice')}, {how}",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    for reference in built.left_out:
        console.print(f"Not used: {reference}", soft_wrap=True, markup=False)
    return ALL_FINE


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

    folder = download(args.size, args.folder, base=args.base)
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


def run_extract_audio(args: argparse.Namespace) -> int:
    """Write the sound of a medium as 16 kHz mono WAV."""
    from pipelines.extract import extract_audio

    extract_audio(args.source, args.out, chosen_span(args), force=args.force)
    console.print(args.out, soft_wrap=True, markup=False)
    return ALL_FINE


def run_separate_vocals(args: argparse.Namespace) -> int:
    """Write the voice in a sound as a file."""
    from pipelines.separate import separate_file
    from stableavatar.audio.separator import find_separator

    separator = find_separator(find_preset(args.model), args.separator)
    separate_file(args.source, args.out, separator, stream=args.audio_stream, force=args.force)
    console.print(f"The voice is in {args.out}", markup=False)
    return ALL_FINE


COMMANDS = {
    "render": run_render,
    "retry": run_retry,
    "check": run_check,
    "manifest": run_manifest,
    "status": run_status,
    "download": run_download,
    "inspect": run_inspect,
    "convert": run_convert,
    "extract-audio": run_extract_audio,
    "separate-vocals": run_separate_vocals,
} | TRAINING_COMMANDS

if __name__ == "__main__":
    sys.exit(main())
