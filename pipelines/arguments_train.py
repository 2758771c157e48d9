"""The words of the commands that make training data and train, and what they mean."""

import argparse
import math
from typing import Any

from pipelines.values import amount, node_file, positive, size, whole
from stableavatar.drawn.sentences import SPLITS
from stableavatar.preprocess.layout import CATEGORIES
from stableavatar.preprocess.rules import Rules
from stableavatar.units import FPS


def add_training_commands(commands: Any) -> None:
    """All of them."""
    add_drawn_command(commands)
    add_prepare_command(commands)

    train = commands.add_parser("train", help="train a model, or go on with it")
    train.add_argument("config", metavar="CONFIG", help="YAML file of the run")
    train.set_defaults(command="train")

    encode = commands.add_parser("encode-data", help="encode training clips once, for all runs on them")
    encode.add_argument("config", metavar="CONFIG", help="YAML file of a run: its clips, model and window")
    encode.add_argument("--output", required=True, metavar="URI", help="folder or URI for the encoded windows")
    encode.add_argument("--windows-per-clip", type=positive, default=1, metavar="K", help="each starts elsewhere (1)")
    encode.add_argument("--num-clips", type=positive, metavar="N", help="only the first N clips")
    encode.set_defaults(command="encode-data")


def add_drawn_command(commands: Any) -> None:
    """The one that draws clips."""
    drawn = commands.add_parser(
        "draw-data", help="a data set of drawn talking heads, of which the truth is known, to try training on"
    )
    drawn.add_argument("output", metavar="OUTPUT", help="folder of the data set; what is there already stays")
    drawn.add_argument("--clips", type=positive, required=True, metavar="N", help="how many: one for each seed")
    drawn.add_argument("--seed", type=whole, default=0, metavar="S", help="the first seed (0)")
    drawn.add_argument(
        "--split", choices=SPLITS, default=SPLITS[0], help="their sentences and voices have nothing in common"
    )
    drawn.add_argument("--size", type=size, default=(96, 96), metavar="WxH", help="pixels (96x96)")
    drawn.add_argument("--frames", type=positive, default=81, metavar="N", help="of each clip, 25 a second (81)")
    drawn.add_argument("--workers", type=positive, default=1, metavar="K", help="clips drawn at a time (1)")
    drawn.set_defaults(command="draw-data")


def add_prepare_command(commands: Any) -> None:
    """The one that makes training data of raw videos."""
    usual = Rules()
    prepare = commands.add_parser("prepare-data", help="raw videos to training data: clips, sound, frames and masks")
    prepare.add_argument("videos", nargs="+", metavar="VIDEO_OR_FOLDER", help="paths or URIs")
    prepare.add_argument(
        "--output", required=True, metavar="ROOT", help="folder of the training data, seen by all nodes"
    )
    prepare.add_argument(
        "--category", choices=CATEGORIES, default=usual.category, help="what the people do (%(default)s)"
    )
    prepare.add_argument(
        "--face-landmarks", type=node_file, metavar="FILE.task",
        help="model of MediaPipe's Face Landmarker, which draws the masks of face and lips; without: all ones",
    )  # fmt: skip
    prepare.add_argument(
        "--min-seconds",
        type=amount,
        default=usual.min_frames / FPS,
        metavar="N",
        help="shorter shots are left out (%(default)g)",
    )
    prepare.add_argument("--max-seconds", type=amount, metavar="N", help="longer shots become several clips")
    prepare.add_argument(
        "--scene-threshold", type=amount, default=usual.scene_threshold, metavar="N",
        help="how much a cut changes the picture, up to 100; less finds more cuts (%(default)g)",
    )  # fmt: skip
    prepare.set_defaults(command="prepare-data")


def chosen_rules(args: argparse.Namespace) -> Rules:
    """What becomes a clip, by the options. Raises BadInput."""
    return Rules(
        category=args.category,
        min_frames=math.ceil(args.min_seconds * FPS - 1e-6),
        max_frames=None if args.max_seconds is None else int(args.max_seconds * FPS + 1e-6),
        scene_threshold=args.scene_threshold,
    )
