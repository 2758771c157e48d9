from dataclasses import replace

import pytest

from pipelines.train_run import claim
from stableavatar.errors import BadInput
from stableavatar.training.config import Optimiser, TrainingConfig, Workers
from tests.training import small_config


@pytest.fixture
def config(base: str) -> TrainingConfig:
    return small_config(output=base)


def test_a_run_goes_on_with_what_does_not_decide_its_curve(config: TrainingConfig) -> None:
    claim(config, ["a", "b"])
    claim(config, ["a", "b"])
    workers = Workers(use_gpu=False, precision="fp32", num_workers=3, sharding="fsdp", max_failures=1)
    claim(replace(config, num_steps=9, checkpoint_every=1, log_every=1, workers=workers), ["a", "b"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"seed": 1}, "seed was 42, is 1"),
        ({"optimiser": Optimiser(lr=1.0)}, "optimiser.lr was 0.001, is 1.0"),
        ({"num_steps": 2}, "num_steps was 4, is 2"),
        ({"workers": Workers(use_gpu=False, precision="bf16")}, "workers.precision was 'fp32', is 'bf16'"),
    ],
)
def test_another_run_is_refused_with_what_differs(config: TrainingConfig, words: dict, message: str) -> None:
    claim(config, ["a"])
    with pytest.raises(BadInput, match="holds another run") as error:
        claim(replace(config, **words), ["a"])
    assert message in str(error.value)
    claim(config, ["a"])  # the first one still may


def test_a_falling_learning_rate_has_a_fixed_end(config: TrainingConfig) -> None:
    config = replace(config, optimiser=Optimiser(schedule="cosine"))
    claim(config, ["a"])
    with pytest.raises(BadInput, match="num_steps was 4, is 9"):
        claim(replace(config, num_steps=9), ["a"])


def test_other_data_is_another_run(config: TrainingConfig) -> None:
    claim(config, ["a"])
    with pytest.raises(BadInput, match="clips in its data are others than before"):
        claim(config, ["a", "b"])
