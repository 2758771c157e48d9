"""The command `stableavatar`: what each of its words does."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from manifests.schema import ManifestError
from pipelines import plan, results, storage, tables
from pipelines.arguments import (
    chosen_limits,
    chosen_preset,
    chosen_rules,
    chosen_span,
    common_cells,
    noted,
    parser,
    repeated,
)
from pipelines.checkpoint import EVERY_S
from pipelines.stage import Row, start_logging
from pipelines.status import read_status
from stableavatar.errors import BadInput, RowError, WeightsError
from stableavatar.presets import find_preset

if TYPE_CHECKING:
    from pipelines.render import RunReport
    from pipelines.train_data import Skipped
    from stableavatar.training.config import TrainingConfig

ALL_FINE, CANNOT_GO_ON, SOME_FAILED, UNFINISHED = 0, 1, 2, 3
BAD_CONFIG = 2  # of a training

WIDE = 160  # columns, where nobody's terminal says otherwise


class BadConfig(Exception):
    """The file that describes a training says what no run understands."""


class RunError(Exception):
    """The run could not go on, for a reason that is not in the manifest or the stores."""


console = Console(width=None if sys.stdout.isatty() else WIDE)
errors = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    0: all fine; 1: the command itself could not go on; 2: some rows failed; 3: it stopped before all rows were made.
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
    from ray.exceptions import RayError  # the other commands need not wait for Ray to load

    from pipelines.lease import LeaseError
    from pipelines.render import Options, render
    from pipelines.watch import Bounds
    from pipelines.workers import ClusterError

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
    try:
        report = render(args.manifest, args.output, preset, options=options, console=console)
    except (ClusterError, LeaseError) as error:
        raise RunError(str(error)) from error
    except RayError as error:
        raise RunError(f"Ray failed: {(str(error).strip() or type(error).__name__).splitlines()[-1]}") from error
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
        f"{built.uri}: {_count(built.num_rows, 'row')} of {_count(built.num_portraits, 'portrait')} "
        f"and {_count(built.num_voices, 'voice')}, {how}",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    for reference in built.left_out:
        console.print(f"Not used: {reference}", soft_wrap=True, markup=False)
    return ALL_FINE


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


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


def run_train(args: argparse.Namespace) -> int:
    """Train until all steps are done."""
    from pipelines.lease import LeaseError
    from pipelines.train import TrainingFailed, train
    from pipelines.workers import ClusterError

    config = read_training(args.config)
    start_logging()
    try:
        report = train(config, on_skipped=print_skipped)
    except (ClusterError, LeaseError, TrainingFailed) as error:
        raise RunError(str(error)) from error
    did = report.step - report.first_step
    what = f"{did} steps" if did else f"Nothing to do: all {report.step} steps were done before"
    console.print(f"{what}. The model is in {report.model}", soft_wrap=True, markup=False)
    return ALL_FINE


def run_encode_data(args: argparse.Namespace) -> int:
    """Encode the clips of a training once."""
    from pipelines.encode_data import encode_data

    config = read_training(args.config)
    start_logging()
    report = encode_data(config, args.output, per_clip=args.windows_per_clip, num_clips=args.num_clips)
    print_skipped(report.skipped)
    console.print(
        f"{_count(report.num_clips, 'clip')} in {report.output}, {report.num_before} of them from before. "
        "Give it to a training as data.encoded.",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    return SOME_FAILED if report.skipped else ALL_FINE


def read_training(path: str) -> "TrainingConfig":
    """The run that a YAML file describes."""
    from stableavatar.training.config import read_config
    from stableavatar.training.presets import TRAINING_PRESETS

    try:
        return read_config(path, TRAINING_PRESETS)
    except BadInput as error:
        raise BadConfig(str(error)) from error


def print_skipped(skipped: "Sequence[Skipped]") -> None:
    """Which clips are left out of a training, and why."""
    if skipped:
        console.print(tables.skipped(skipped))


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


def run_draw_data(args: argparse.Namespace) -> int:
    """Draw a data set of talking heads; a line for each clip that could not be made."""
    from pipelines.draw_data import DrawnData, draw_data

    start_logging()
    data = DrawnData(
        num_clips=args.clips, first_seed=args.seed, split=args.split, size=args.size, num_frames=args.frames
    )
    report = draw_data(args.output, data, args.workers)
    for failure in report.failures:
        errors.print(f"[red]{escape(failure)}[/]", soft_wrap=True)
    console.print(
        f"{_count(report.num_clips, 'clip')} asked for; all that are there are listed in {report.list_path}",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    return SOME_FAILED if report.failures else ALL_FINE


def run_prepare_data(args: argparse.Namespace) -> int:
    """Make training data of raw videos; a table of what was made, and a line for each part that could not be used."""
    rules = chosen_rules(args)
    from ray.exceptions import RayError

    from pipelines.lease import LeaseError
    from pipelines.prepare_data import REPORT, Options, prepare_data
    from stableavatar.preprocess.landmarks import HOW_TO, has_mediapipe

    start_logging()
    landmarks = args.face_landmarks if has_mediapipe() else None
    if landmarks is None:
        errors.print(f"[yellow]No masks of faces:[/] all masks will be all ones. {escape(HOW_TO)}", soft_wrap=True)
    try:
        lines = prepare_data(args.videos, args.output, Options(rules=rules, landmarks=landmarks))
    except LeaseError as error:
        raise RunError(str(error)) from error
    except RayError as error:
        raise RunError(f"Ray failed: {(str(error).strip() or type(error).__name__).splitlines()[-1]}") from error
    skips = tables.skips(lines)
    console.print(tables.prepared(lines))
    for line in skips:
        console.print(line, soft_wrap=True)
    console.print(
        f"Training data: {args.output}  Report: {storage.join(args.output, REPORT)}", soft_wrap=True, markup=False
    )
    return SOME_FAILED if skips else ALL_FINE


COMMANDS = {
    "render": run_render,
    "retry": run_retry,
    "check": run_check,
    "manifest": run_manifest,
    "status": run_status,
    "download": run_download,
    "inspect": run_inspect,
    "convert": run_convert,
    "train": run_train,
    "encode-data": run_encode_data,
    "extract-audio": run_extract_audio,
    "separate-vocals": run_separate_vocals,
    "draw-data": run_draw_data,
    "prepare-data": run_prepare_data,
}

if __name__ == "__main__":
    sys.exit(main())
