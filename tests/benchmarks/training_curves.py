"""The curves of the runs that made the small model, as one picture.

python -m tests.benchmarks.training_curves [outputs/mini] [stableavatar/mini/curves.svg]
"""

import sys
from pathlib import Path

import numpy as np

from pipelines.curve import METRICS
from pipelines.lines import read_lines
from tests.benchmarks.mini_pictures import write_curves

SHOWN = {
    "vae": ("loss", "psnr_db"),
    "audio": ("loss", "accuracy"),
    "avatar": ("error", "lip_error"),
    "picture": ("error", "lip_error"),
}
NUM_POINTS = 400
SMOOTHING = 9  # lines of the log


def main(runs: str = "outputs/mini", path: str = "stableavatar/mini/curves.svg") -> None:
    """Draw what the runs below a folder have logged."""
    panels = {}
    for run, names in SHOWN.items():
        lines = read_lines(f"{runs}/{run}/{METRICS}")
        steps = np.array([line["step"] for line in lines])
        shown = np.linspace(steps[0], steps[-1], NUM_POINTS)
        for name in names:
            values = _smooth(np.array([line[name] for line in lines]))
            panels[f"{run}: {name}, {steps[-1]} steps"] = {name: np.interp(shown, steps, values)}
    write_curves(panels, Path(path), "points")


def _smooth(values: np.ndarray) -> np.ndarray:
    """Means over neighbouring lines, fewer at the ends."""
    half = SMOOTHING // 2
    return np.array([values[max(0, n - half) : n + half + 1].mean() for n in range(len(values))])


if __name__ == "__main__":
    main(*sys.argv[1:])
