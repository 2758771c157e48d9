import math

import numpy as np
import pytest

from stableavatar.drawn.figures import mean_of, slope_of


def test_a_mean_tells_its_error_and_leaves_out_what_is_not_known() -> None:
    found = mean_of([1.0, 2.0, math.nan, 3.0])
    assert (found.value, found.num) == (2.0, 3)
    assert found.error == pytest.approx(1 / math.sqrt(3))
    assert str(found) == "2.00 ± 0.58"
    assert str(mean_of([])) == "-"
    assert str(mean_of([0.5])) == "0.500"


def test_what_belongs_together_counts_once() -> None:
    found = mean_of([1.0, 1.0, 1.0, 4.0], ["a", "a", "a", "b"])
    assert (found.value, found.num) == (2.5, 2)
    assert found.error == pytest.approx(1.5)


def test_growth_is_found_in_noise_with_an_error_that_fits() -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(300)
    off = []
    for _ in range(200):
        # Neighbouring seconds resemble each other, as those of a swaying head do.
        noise = np.convolve(rng.standard_normal(305), np.ones(6) / 6, "valid")
        found = slope_of(0.7 * seconds / 60 + noise)
        off.append((found.value - 0.7) / found.error)
    assert abs(np.mean(off)) < 0.3
    assert np.std(off) == pytest.approx(1.15, abs=0.25)


def test_growth_of_too_little_is_not_known() -> None:
    assert math.isnan(slope_of(np.arange(29.0)).value)
    assert slope_of(np.arange(30.0)).value == pytest.approx(60)
