"""Tables of the small model's benchmark, and the figures that stand in them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stableavatar.drawn.figures import Estimate, mean_of
from stableavatar.drawn.judge import Judged, seam_scores, seams_of
from stableavatar.drawn.lips import closures, judge_sync
from stableavatar.sampling.plan import PLANS
from stableavatar.units import FPS
from tests.heldout import Studio, Take, clip_of

LIP_COLUMNS = ("correlation", "best lag, frames", "there", "closed by p, b, m", "clips")
SHORTEST_S = 10  # of a part of a long video by itself


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of words and figures under a title."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [self.columns, ("---",) * len(self.columns), *([str(cell) for cell in row] for row in self.rows)]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join([f"### {self.title}", table, *self.notes])


def write_results(tables: Sequence[Table], head: str, output: Path) -> str:
    """Writes results.md and results.json, and gives the Markdown."""
    text = "\n\n".join([head, *(table.markdown() for table in tables)]) + "\n"
    (output / "results.md").write_text(text)
    plain = [asdict(replace(table, rows=[tuple(map(_plain, row)) for row in table.rows])) for table in tables]
    (output / "results.json").write_text(json.dumps({"about": head, "tables": plain}, indent=1) + "\n")
    return text


def lip_cells(pairs: Sequence[tuple[Judged, Take]]) -> tuple[Any, ...]:
    """Under LIP_COLUMNS: mouths against the truth of clips. Several of one clip count once."""
    clips = [clip_of(take.seed, take.num_frames) for _, take in pairs]
    seeds = [take.seed for _, take in pairs]
    both = list(zip((judged.mouth_V for judged, _ in pairs), clips, strict=True))
    found = [judge_sync(mouth_V, clip.mouth[:, 0]) for mouth_V, clip in both]
    within = np.mean([abs(one.best_lag) <= 1 for one in found])
    return (
        mean_of((one.correlation for one in found), seeds),
        f"{np.mean([one.best_lag for one in found]):+.1f} ({within:.0%} within 1)",
        mean_of((one.best_correlation for one in found), seeds),
        mean_of((closures(mouth_V, clip.speech.phonemes) for mouth_V, clip in both), seeds),
        len(set(seeds)),
    )


def ablation(studio: Studio, title: str, what: str, rows: Sequence[tuple[str, list[Take]]]) -> Table:
    """Lips and picture of the takes of each row."""
    table = Table(
        title=title,
        columns=(what, *LIP_COLUMNS, "movement", "identity", "brightness"),
        notes=(
            "Movement: standard deviation of the opening, by that of the truth. Identity: distance to the portrait in "
            "steps of colour, 0 to 255. Brightness: above that of the truth.",
        ),
    )
    for name, takes in rows:
        both = [(studio.judged(take), studio.truth(take)) for take in takes]
        made = [one for one, _ in both]
        figures = (
            mean_of(float(one.mouth_V.std() / truth.mouth_V.std()) for one, truth in both),
            mean_of(float(one.distances_K.mean()) for one in made),
            mean_of(float((one.colours_V3 - truth.colours_V3)[:, 0].mean()) for one, truth in both),
        )
        table.rows.append((name, *lip_cells(list(zip(made, takes, strict=True))), *figures))
    return table


def seam_table(studio: Studio, title: str, rows: Sequence[tuple[str, list[Take]]]) -> Table:
    """How the seams of windows show in the takes of each row."""
    table = Table(
        title=title,
        columns=("blend", "seam score", "of the truth there", "seams"),
        notes=("Seam score: change from frame to frame at the seams of windows by that elsewhere; 1 is no seam.",),
    )
    for name, takes in rows:
        made, truth = (
            mean_of(score for take in takes for score in seam_scores(judge(take).changes_V, seams_in(studio, take)))
            for judge in (studio.judged, studio.truth)
        )
        table.rows.append((name, made, truth, made.num))
    return table


def lips_over_time(mouth_V: np.ndarray, truth_V: np.ndarray) -> list[tuple[Any, ...]]:
    """Minute, correlation and best lag; an end that is too short for that is left out."""
    rows, step = list[tuple[Any, ...]](), 60 * FPS
    for number, start in enumerate(range(0, len(truth_V), step)):
        part = slice(start, start + step)
        if start and len(truth_V[part]) < SHORTEST_S * FPS:
            break
        found = judge_sync(mouth_V[part], truth_V[part])
        rows.append((number + 1, f"{found.correlation:.3f}", found.best_lag))
    return rows


def seams_in(studio: Studio, take: Take) -> list[range]:
    """The frames at which its windows meet."""
    preset, choices = studio.model.preset, dict(take.choices)
    mode, overlap = choices.get("mode", preset.mode), choices.get("overlap", preset.overlap)
    return seams_of(PLANS[mode](take.num_frames, preset.window_latents, overlap).windows, overlap)


def _plain(cell: Any) -> Any:
    return asdict(cell) if isinstance(cell, Estimate) else cell
