"""Figures with their uncertainty: a mean over clips, and how much something grows from minute to minute."""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import linregress

BIN_S = 10  # longer than a sway of the head or a sentence: what bins leave over is nearly independent


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its standard error; NaN where there is too little to tell."""

    value: float
    error: float
    num: int  # of what it was made from

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "-"
        certain = math.isnan(self.error) or self.error == 0
        digits = 3 if certain else min(4, max(2, 1 - math.floor(math.log10(self.error))))
        error = "" if math.isnan(self.error) else f" ± {self.error:.{digits}f}"
        return f"{self.value:.{digits}f}{error}"


def mean_of(values: Iterable[float], groups: Iterable[Hashable] | None = None) -> Estimate:
    """Mean and its standard error; values that are NaN are left out.

    `groups`: of each value. Those of one group (videos of one clip) resemble each other, and count once, by their mean.
    """
    grouped: dict[Hashable, list[float]] = {}
    values = list(values)
    for value, group in zip(values, range(len(values)) if groups is None else groups, strict=True):
        if not math.isnan(value):
            grouped.setdefault(group, []).append(value)
    means = np.array([np.mean(group) for group in grouped.values()])
    error = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan
    return Estimate(value=float(means.mean()) if len(means) else math.nan, error=error, num=len(means))


def slope_of(values_S: np.ndarray, bin_s: int = BIN_S) -> Estimate:
    """Growth per minute of what has one value a second: a line through the means of `bin_s` seconds each.

    Neighbouring seconds resemble each other, so a line through them would seem surer than it is. The end that does not
    fill a bin is left out; under three bins there is no error to be told.
    """
    num_bins = len(values_S) // bin_s
    if num_bins < 3:
        return Estimate(value=math.nan, error=math.nan, num=num_bins)
    means = np.nanmean(np.asarray(values_S, np.float64)[: num_bins * bin_s].reshape(num_bins, bin_s), axis=1)
    minutes = (np.arange(num_bins) + 0.5) * bin_s / 60
    line = linregress(minutes, means)
    return Estimate(value=float(line.slope), error=float(line.stderr), num=num_bins)
