"""Does the small model really talk? Held-out people, voices and sentences, measured frame by frame.

python -m tests.benchmarks.bench_mini [--model mini|FOLDER] [--clips 12] [--minutes 5] [--only sync,drift] [--output D]

Videos are kept in the output folder, by the model's weights and values: a second run makes only what is missing, and
two runs of other parts in one folder share the work. The last run's tables are in results.md and results.json.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

import stableavatar
from pipelines.check import RENDERER_VERSION
from stableavatar.drawn.figures import BIN_S, Estimate, mean_of, slope_of
from stableavatar.drawn.judge import COLOURS, Judged
from stableavatar.drawn.lips import correlation, correlations_by_lag, sync_of
from stableavatar.model.weights import weights_hash
from stableavatar.presets import Preset
from stableavatar.sampling.plan import PLANS
from stableavatar.units import FPS, frames_of
from tests.benchmarks.mini_pictures import write_curves, write_sheet
from tests.benchmarks.mini_tables import (
    LIP_COLUMNS,
    Table,
    ablation,
    lip_cells,
    lips_over_time,
    seam_table,
    write_results,
)
from tests.heldout import FIRST_SEED, NO_MODULATION, NUM_FRAMES, Studio, Take, clip_of, true_frames

LONG_SEED = FIRST_SEED + 500
NUM_STRANGERS = 12
SCALES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
BLENDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("none", {"overlap": 0}),
    ("uniform, 5 latents", {"overlap": 5, "blend": "uniform"}),
    ("log, 5 latents", {"overlap": 5, "blend": "log"}),
    ("uniform, 10 latents", {"overlap": 10, "blend": "uniform"}),
)
ADAPTERS = (("as trained", None), ("told t = 500 in every step", 500.0), ("not modulated", NO_MODULATION))
THREE_WINDOWS = 63  # latent frames, without overlap
TAIL_LATENTS = 57  # four windows with an overlap of 5, of which the published plan cuts the last to 9
TAIL_LAG = 6  # frames; a second has not many more


@dataclass(frozen=True, kw_only=True)
class Scope:
    """How much is made."""

    num_clips: int
    num_seeds: int  # of the sampler, for each clip
    num_few: int  # clips in each row of an ablation
    minutes: float
    output: Path


def takes_of(preset: Preset, num_clips: int, choices: dict[str, Any] | None = None, **words: Any) -> list[Take]:
    """A take of each of the first clips. What the preset does anyway is no choice of theirs."""
    chosen = {name: value for name, value in (choices or {}).items() if getattr(preset, name) != value}
    seeds = range(FIRST_SEED, FIRST_SEED + num_clips)
    return [Take(seed=seed, choices=tuple(sorted(chosen.items())), **words) for seed in seeds]


def sync(studio: Studio, scope: Scope) -> list[Table]:
    """The lips against the truth, against another's truth, and with another's sound."""
    preset = studio.model.preset
    seeds = range(preset.seed, preset.seed + scope.num_seeds)
    takes = [take for seed in seeds for take in takes_of(preset, scope.num_clips, {"seed": seed})]
    first = takes[: scope.num_clips]
    swapped = [replace(take, speech_seed=_next(take).seed) for take in first]
    rows = [
        ("generated", "truth", [(studio.judged(take), take) for take in takes]),
        ("truth after the VAE", "truth", [(studio.ceiling(take), take) for take in first]),
        ("truth", "truth", [(studio.truth(take), take) for take in first]),
        ("generated", "another clip's truth", [(studio.judged(take), _next(take)) for take in takes]),
        ("generated, another's sound", "truth of the face", [(studio.judged(take), take) for take in swapped]),
        ("generated, another's sound", "truth of the sound", [(studio.judged(take), _next(take)) for take in swapped]),
        ("truth", "another clip's truth", [(studio.truth(take), _next(take)) for take in first]),
    ]
    write_sheet(studio, first[:6], scope.output / "sheet.png")
    table = Table(
        title="Do the lips follow the speech?",
        columns=("mouth", "against", *LIP_COLUMNS),
        rows=[(mouth, against, *lip_cells(pairs)) for mouth, against, pairs in rows],
        notes=(
            f"Clips of {NUM_FRAMES} frames; means over clips (seeds of the sampler averaged first) ± standard error. "
            "Closed: opening at p, b and m by that at open vowels, 0 is shut. Best lag: mean of the clips.",
        ),
    )
    return [table]


def drift(studio: Studio, scope: Scope) -> list[Table]:
    """One long speech: identity, colours and lips over time."""
    take = Take(seed=LONG_SEED, num_frames=round(scope.minutes * 60 * FPS))
    made, truth = studio.judged(take), studio.truth(take)
    courses = {"generated": _courses(made), "truth": _courses(truth)}
    strangers = mean_of(_strangers(studio, take))
    table = Table(
        title=f"One speech of {scope.minutes:g} minutes",
        columns=("", "first minute", "last minute", "growth per minute", "first minute of the truth", "its growth"),
        notes=(
            f"Identity: distance to the portrait in steps of colour, 0 to 255; that of other people is {strangers}. "
            "Growth: a line through means of 10 s, ± standard error. The truth is the drawn video of the same speech.",
        ),
    )
    for name in courses["truth"]:
        ours, theirs = (courses[kind][name] for kind in ("generated", "truth"))
        ends = _minute(ours[:60]), _minute(ours[-60:])
        table.rows.append((name, *ends, slope_of(ours), _minute(theirs[:60]), slope_of(theirs)))
    panels = {name: {kind: course[name] for kind, course in courses.items()} for name in courses["truth"]}
    panels["identity"]["other people"] = np.full(len(panels["identity"]["truth"]), strangers.value)
    write_curves(panels, scope.output / "drift.svg")
    rows = lips_over_time(made.mouth_V, clip_of(take.seed, take.num_frames).mouth[:, 0])
    lips = Table(title="Its lips", columns=("minute", "correlation", "best lag, frames"), rows=rows)
    return [table, lips, seam_table(studio, "Its seams", [("as the preset has it", [take])])]


def guidance(studio: Studio, scope: Scope) -> list[Table]:
    """The two scales of guidance, one at a time."""
    preset, tables = studio.model.preset, []
    for kind, other in (("audio", "text"), ("text", "audio")):
        title = f"Guidance by {kind}, with {other} at {getattr(preset, f'{other}_scale'):g}"
        rows = [(f"{scale:g}", takes_of(preset, scope.num_few, {f"{kind}_scale": scale})) for scale in SCALES]
        tables.append(ablation(studio, title, "scale", rows))
    return tables


def blend(studio: Studio, scope: Scope) -> list[Table]:
    """How windows fade into each other."""
    preset, num_frames = studio.model.preset, frames_of(THREE_WINDOWS)
    rows = [(name, takes_of(preset, scope.num_few, choices, num_frames=num_frames)) for name, choices in BLENDS]
    title = f"Blends, {num_frames} frames"
    return [ablation(studio, title, "blend", rows), seam_table(studio, "Their seams", rows)]


def tail(studio: Studio, scope: Scope) -> list[Table]:
    """The last second of a video that does not fill its windows."""
    preset, num_frames = studio.model.preset, frames_of(TAIL_LATENTS)
    table = Table(
        title=f"The last second of {num_frames} frames",
        columns=("mode", "correlation", "best lag of the mean course, frames", "there", "in all before"),
        notes=(
            "`reference` plans the windows as the published code does: the last one has 9 latent frames, and the "
            "speech that is left is stretched over a whole window.",
        ),
    )
    for mode in PLANS:
        takes = takes_of(preset, scope.num_few, {"mode": mode}, num_frames=num_frames)
        pairs = [(studio.judged(take).mouth_V, clip_of(take.seed, num_frames).mouth[:, 0]) for take in takes]
        lags = np.array([correlations_by_lag(made[-FPS:], truth[-FPS:], TAIL_LAG) for made, truth in pairs])
        found = sync_of(lags.mean(axis=0))
        before = mean_of(correlation(made[:-FPS], truth[:-FPS]) for made, truth in pairs)
        table.rows.append((mode, mean_of(lags[:, TAIL_LAG]), found.best_lag, f"{found.best_correlation:.2f}", before))
    return [table]


def adapter(studio: Studio, scope: Scope) -> list[Table]:
    """The adapter without its modulation by the time step."""
    preset = studio.model.preset
    rows = [(name, takes_of(preset, scope.num_few, adapter_time=time)) for name, time in ADAPTERS]
    table = ablation(studio, "The adapter's modulation by the time step", "adapter", rows)
    note = "The weights were trained with the modulation: it is taken away from the finished model."
    return [replace(table, notes=(*table.notes, note))]


PARTS: dict[str, Callable[[Studio, Scope], list[Table]]] = {
    part.__name__: part for part in (sync, drift, guidance, blend, tail, adapter)
}


def _next(take: Take) -> Take:
    """The clip that is compared, or heard, in place of this one."""
    return replace(take, seed=take.seed + 1)


def _strangers(studio: Studio, take: Take) -> Iterator[float]:
    """Distances of other people to the portrait of a take."""
    likeness = studio.likeness(take)
    for seed in range(FIRST_SEED, FIRST_SEED + NUM_STRANGERS):
        yield likeness.distance(next(true_frames(clip_of(seed), studio.size)))


def _minute(values_S: np.ndarray) -> Estimate:
    """Mean of a minute. Neighbouring seconds resemble each other: 10 s count once."""
    return mean_of(values_S.tolist(), (np.arange(len(values_S)) // BIN_S).tolist())


def _courses(judged: Judged) -> dict[str, np.ndarray]:
    """What is followed over time, one value a second."""
    colours_S3 = judged.colours_S3()
    return {"identity": judged.distances_S()} | {name: colours_S3[:, n] for n, name in enumerate(COLOURS)}


def films_folder(preset: Preset, output: Path) -> Path:
    """Where this model's videos are kept: the name stands for everything that changes them."""
    values = {item.name: repr(getattr(preset, item.name)) for item in fields(preset) if item.name != "weights"}
    words = json.dumps([RENDERER_VERSION, weights_hash(preset), values], sort_keys=True)
    return output / f"films-{hashlib.sha256(words.encode()).hexdigest()[:12]}"


def main() -> None:
    """Measure, print and write."""
    args = _arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    model = stableavatar.load(args.model)
    studio = Studio(
        model=model,
        folder=films_folder(model.preset, args.output),
        on_film=lambda name: print(f"making {name}", file=sys.stderr, flush=True),
    )
    scope = Scope(
        num_clips=args.clips, num_seeds=args.seeds, num_few=args.few, minutes=args.minutes, output=args.output
    )
    started, tables, text = time.monotonic(), list[Table](), ""
    for part in args.only:
        tables += PARTS[part](studio, scope)
        head = _head(model.preset, args, time.monotonic() - started)
        text = write_results(tables, head, args.output)  # now: a later part may be interrupted
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="mini", help="a preset, or a folder that training has left")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2, help="of the sampler, for each clip")
    parser.add_argument("--few", type=int, default=4, help="clips in each row of an ablation")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--only", type=_parts, default=tuple(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench_mini"))
    return parser.parse_args()


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if unknown := ", ".join(part for part in parts if part not in PARTS):
        raise argparse.ArgumentTypeError(f"there is no {unknown}; there is: {', '.join(PARTS)}")
    return parts


def _head(preset: Preset, args: argparse.Namespace, seconds: float) -> str:
    return (
        f"Model `{args.model}`, weights {weights_hash(preset)[:12]}: {preset.num_steps} steps, text scale "
        f"{preset.text_scale:g}, audio scale {preset.audio_scale:g}. Held-out clips {FIRST_SEED} to "
        f"{FIRST_SEED + args.clips - 1}, {args.seeds} seeds of the sampler from {preset.seed}; {args.few} clips in "
        f"each row of the ablations; long video of clip {LONG_SEED}. {seconds:.0f} s."
    )


if __name__ == "__main__":
    main()
