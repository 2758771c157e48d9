"""The small model talks: a short form of `tests.benchmarks.bench_mini`."""

import os

import numpy as np
import pytest

import stableavatar
from stableavatar.drawn.judge import seam_scores
from stableavatar.drawn.lips import correlation, judge_sync
from stableavatar.presets import MINI, SavedWeights, mini
from stableavatar.training.config import read_config
from stableavatar.training.presets import TRAINING_PRESETS
from tests.benchmarks.mini_tables import seams_in
from tests.heldout import FIRST_SEED, NUM_FRAMES, Studio, Take, clip_of, true_frames

LEAST_CORRELATION = 0.7  # of what this test makes; the benchmark has the full figures
MOST_SHUFFLED = 0.45  # two clips are few: chance alone gives 0.2 or so
MAX_BYTES = 25_000_000
NUM_STEPS = 6
LONG = 209  # frames: three windows
MOST_SEAM = 2.0  # change from frame to frame at a seam by that elsewhere; without a blend it is about 5
TAKES = [
    Take(seed=FIRST_SEED + number, num_frames=num_frames, choices=(("num_steps", NUM_STEPS),))
    for number, num_frames in enumerate((LONG, NUM_FRAMES))
]


def truth_of(take: Take) -> np.ndarray:
    return clip_of(take.seed, take.num_frames).mouth[:, 0]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(model=stableavatar.load("mini", device="cpu"), folder=tmp_path_factory.mktemp("films"))


def test_its_weights_are_small() -> None:
    weights = mini().weights
    assert isinstance(weights, SavedWeights)
    assert weights.files.keys() == {"transformer", "vae", "audio"}
    assert sum(os.path.getsize(path) for path in weights.files.values()) < MAX_BYTES


@pytest.mark.slow
def test_its_lips_follow_speech_that_it_has_never_heard(studio: Studio) -> None:
    mouths = [studio.judged(take).mouth_V[:NUM_FRAMES] for take in TAKES]
    truths = [truth_of(take)[:NUM_FRAMES] for take in TAKES]
    own = [correlation(mouth, truth) for mouth, truth in zip(mouths, truths, strict=True)]
    other = [correlation(mouth, truth) for mouth, truth in zip(mouths, truths[::-1], strict=True)]
    assert np.mean(own) > LEAST_CORRELATION
    assert np.mean(other) < MOST_SHUFFLED


@pytest.mark.slow
def test_it_keeps_time_over_several_windows_and_their_seams_do_not_show(studio: Studio) -> None:
    judged, truth = studio.judged(TAKES[0]), truth_of(TAKES[0])
    for part in (np.s_[:], np.s_[-NUM_FRAMES:]):
        found = judge_sync(judged.mouth_V[part], truth[part])
        assert abs(found.best_lag) <= 1 and found.best_correlation > LEAST_CORRELATION
    scores = seam_scores(judged.changes_V, seams_in(studio, TAKES[0]))
    assert len(scores) == 2 and max(scores) < MOST_SEAM


@pytest.mark.slow
def test_it_shows_whom_the_portrait_shows(studio: Studio) -> None:
    for take, other in zip(TAKES, TAKES[::-1], strict=True):
        stranger = next(true_frames(clip_of(other.seed, other.num_frames), studio.size))
        assert studio.judged(take).distances_K.max() < 0.5 * studio.likeness(take).distance(stranger)
        brightness = studio.judged(take).colours_V3[:, 0] - studio.truth(take).colours_V3[:, 0]
        assert abs(brightness).max() < 15


def test_the_runs_that_make_it_follow_each_other() -> None:
    runs = [read_config(MINI / f"{name}.yaml", TRAINING_PRESETS) for name in ("vae", "audio", "avatar", "picture")]
    assert [run.task for run in runs] == ["vae", "audio", "avatar", "avatar"]
    assert [run.model for run in runs[1:]] == [f"{run.output}/model" for run in runs[:-1]]
