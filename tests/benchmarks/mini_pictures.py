"""Pictures of the small model's benchmark: a sheet of frames with the course of the mouth, and curves over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tests.heldout import Studio, Take, clip_of, true_frames

NUM_COLUMNS = 12
CURVE_HEIGHT, GAP = 56, 8  # pixels
TRUTH, MADE = (40, 90, 200), (220, 90, 20)
PLOT_WIDTH, PLOT_HEIGHT, MARGIN = 900, 130, 46


def write_sheet(studio: Studio, takes: Sequence[Take], path: Path) -> None:
    """For each take: drawn frames, generated frames, and both courses of the mouth, each from its least to its most."""
    width, height = studio.size
    block = 2 * height + CURVE_HEIGHT + 2 * GAP
    sheet = Image.new("RGB", (NUM_COLUMNS * width, len(takes) * block), "white")
    pen = ImageDraw.Draw(sheet)
    for number, take in enumerate(takes):
        top = number * block
        drawn = list(true_frames(clip_of(take.seed, take.num_frames), studio.size))
        for row, frames in enumerate((drawn, list(studio.frames(take)))):
            for column, frame in enumerate(np.linspace(0, len(frames) - 1, NUM_COLUMNS).round().astype(int)):
                sheet.paste(Image.fromarray(frames[frame]), (column * width, top + row * height))
        low = top + 2 * height + GAP
        for judged, colour in ((studio.truth(take), TRUTH), (studio.judged(take), MADE)):
            places = zip(_spread(len(judged.mouth_V), width), _fit(judged.mouth_V, low), strict=True)
            pen.line(list(places), fill=colour, width=2)
    sheet.save(path)


def _spread(num_frames: int, width: int) -> list[float]:
    """The middle of the sheet's columns are the frames shown above."""
    return np.linspace(width / 2, (NUM_COLUMNS - 0.5) * width, num_frames).tolist()


def _fit(values_V: np.ndarray, top: float) -> list[float]:
    least, most = float(values_V.min()), float(values_V.max())
    return (top + CURVE_HEIGHT * (1 - (values_V - least) / max(most - least, 1e-6))).tolist()


def write_curves(panels: Mapping[str, Mapping[str, np.ndarray]], path: Path, unit: str = "s") -> None:
    """An SVG of panels one below the other; each has named curves over the same time, one value a second."""
    colours = ("#dc5a14", "#285ac8", "#888888", "#2a9d4a")
    parts = []
    for number, (title, curves) in enumerate(panels.items()):
        top = number * (PLOT_HEIGHT + MARGIN) + MARGIN // 2
        values = np.concatenate([np.atleast_1d(curve) for curve in curves.values()])
        least, most = float(np.nanmin(values)), float(np.nanmax(values))
        most = most if most > least else least + 1
        parts.append(f'<text x="{MARGIN}" y="{top - 6}" font-weight="bold">{title}</text>')
        parts.append(
            f'<rect x="{MARGIN}" y="{top}" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}" fill="none" stroke="#ccc"/>'
        )
        for value, y in ((most, top + 10), (least, top + PLOT_HEIGHT)):
            parts.append(f'<text x="{MARGIN - 4}" y="{y}" text-anchor="end">{value:.3g}</text>')
        for order, (name, curve) in enumerate(curves.items()):
            places = _places(np.asarray(curve, np.float64), top, least, most)
            parts.append(f'<polyline points="{places}" fill="none" stroke="{colours[order]}" stroke-width="1.3"/>')
            x = MARGIN + PLOT_WIDTH - 190 * (len(curves) - order) + 180
            parts.append(f'<text x="{x}" y="{top - 6}" text-anchor="end" fill="{colours[order]}">{name}</text>')
        length = max(len(curve) for curve in curves.values())
        below = top + PLOT_HEIGHT + 14
        parts.append(f'<text x="{MARGIN}" y="{below}">0</text>')
        parts.append(f'<text x="{MARGIN + PLOT_WIDTH}" y="{below}" text-anchor="end">{length} {unit}</text>')
    width, height = PLOT_WIDTH + 2 * MARGIN, len(panels) * (PLOT_HEIGHT + MARGIN) + MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
    path.write_text("\n".join([f'{head} font-size="11">', *parts, "</svg>"]) + "\n")


def _places(curve_S: np.ndarray, top: int, least: float, most: float) -> str:
    xs = MARGIN + PLOT_WIDTH * np.linspace(0, 1, len(curve_S))
    ys = top + PLOT_HEIGHT * (1 - (curve_S - least) / (most - least))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True) if np.isfinite(y))
