"""The commands that make training data and train."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from pipelines import storage, tables
from pipelines.arguments_train import chosen_rules
from pipelines.logs import start_logging
from pipelines.terminal import ALL_FINE, SOME_FAILED, BadConfig, console, counted, errors, plain_errors, say
from stableavatar.errors import BadInput

if TYPE_CHECKING:
    from pipelines.train_data import Skipped
    from stableavatar.training.config import TrainingConfig


def run_train(args: argparse.Namespace) -> int:
    """Train until all steps are done."""
    from pipelines.train import train

    config = read_training(args.config)
    start_logging()
    with plain_errors():
        report = train(config, on_skipped=print_skipped)
    did = report.step - report.first_step
    what = f"{did} steps" if did else f"All {report.step} steps were done before"
    say(f"{what}. The model is in {report.model}")
    return ALL_FINE


def run_encode_data(args: argparse.Namespace) -> int:
    """Encode the clips of a training once."""
    from pipelines.encode_data import encode_data

    config = read_training(args.config)
    start_logging()
    with plain_errors():
        report = encode_data(config, args.output, per_clip=args.windows_per_clip, num_clips=args.num_clips)
    print_skipped(report.skipped)
    say(
        f"{counted(report.num_clips, 'clip')} in {report.output}, {report.num_before} of them from before. "
        "Give it to a training as data.encoded."
    )
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


def run_draw_data(args: argparse.Namespace) -> int:
    """Draw a data set of talking heads; a line for each clip that could not be made."""
    from pipelines.draw_data import DrawnData, draw_data

    start_logging()
    data = DrawnData(
        num_clips=args.clips, first_seed=args.seed, split=args.split, size=args.size, num_frames=args.frames
    )
    with plain_errors():
        report = draw_data(args.output, data, args.workers)
    for failure in report.failures:
        errors.print(f"[red]{escape(failure)}[/]", soft_wrap=True)
    say(f"{counted(report.num_clips, 'clip')} asked for; all that are there are listed in {report.list_path}")
    return SOME_FAILED if report.failures else ALL_FINE


def run_prepare_data(args: argparse.Namespace) -> int:
    """Make training data of raw videos; a table of what was made, and a line for each part that could not be used."""
    rules = chosen_rules(args)
    from pipelines.prepare_data import REPORT, Options, prepare_data
    from stableavatar.preprocess.landmarks import HOW_TO

    start_logging()
    if args.face_landmarks is None:
        errors.print(f"[yellow]No masks of faces:[/] all masks will be all ones. {escape(HOW_TO)}", soft_wrap=True)
    with plain_errors():
        lines = prepare_data(args.videos, args.output, Options(rules=rules, landmarks=args.face_landmarks))
    skips = tables.skips(lines)
    console.print(tables.prepared(lines))
    for line in skips:
        console.print(line, soft_wrap=True)
    say(f"Training data: {args.output}  Report: {storage.join(args.output, REPORT)}")
    return SOME_FAILED if skips else ALL_FINE


TRAINING_COMMANDS = {
    "train": run_train,
    "encode-data": run_encode_data,
    "draw-data": run_draw_data,
    "prepare-data": run_prepare_data,
}
