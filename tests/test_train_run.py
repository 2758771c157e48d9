from dataclasses import replace

import pytest

from pipelines.train_run import claim, look_first
from stableavatar.errors import BadInput
from stableavatar.training.config import AudioOptions, Optimiser, TrainingConfig, VaeOptions, Workers
from tests.training import small_config


@pytest.fixture
def config(base: str) -> TrainingConfig:
    return small_config(output=base)


def test_a_run_goes_on_with_what_does_not_decide_its_curve(config: TrainingConfig) -> None:
    config = replace(config, accumulate=6)
    claim(config, ["a", "b"])
    claim(config, ["a", "b"])
    workers = Workers(use_gpu=False, precision="fp32", num_workers=3, sharding="fsdp", max_failures=1)
    again = replace(config, num_steps=9, checkpoint_every=1, log_every=1, workers=workers, accumulate=2)
    claim(again, ["a", "b"])
    claim(replace(again, optimiser=replace(config.optimiser, lr=1e-5, max_norm=0.01)), ["a", "b"])  # after an infinity
    claim(replace(again, vae=VaeOptions(kl=1.0), audio=AudioOptions(noise=0.1)), ["a", "b"])  # of other tasks


def test_another_number_of_workers_takes_as_many_samples_a_step(config: TrainingConfig) -> None:
    claim(config, ["a"])
    with pytest.raises(BadInput, match="another run: samples of a step was 1, is 3"):
        claim(replace(config, workers=replace(config.workers, num_workers=3)), ["a"])


def test_another_run_is_refused_before_its_data_are_looked_at(config: TrainingConfig) -> None:
    look_first(config)
    claim(config, ["a"])
    look_first(config)
    with pytest.raises(BadInput, match="seed was 42, is 1"):
        look_first(replace(config, seed=1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"seed": 1}, "seed was 42, is 1"),
        ({"optimiser": Optimiser(lr=1e-3, weight_decay=1.0)}, "optimiser.weight_decay was 0.03, is 1.0"),
        ({"batch_size": 2}, "samples of a step was 1, is 2"),
        ({"task": "vae", "vae": VaeOptions(kl=1.0)}, "task was 'avatar', is 'vae'; vae.edges was None, is 0.5"),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"start": "4567"}, "the weights that it began with are others now"),
        ({"encoders": "4567"}, "the frozen networks of its model are others than before"),
    ],
)
def test_other_networks_are_another_run(config: TrainingConfig, words: dict, message: str) -> None:
    networks = {"start": "0123", "encoders": "0123"}
    claim(config, ["a"], **networks)
    claim(config, ["a"], **networks)
    with pytest.raises(BadInput, match=message):
        claim(config, ["a"], **networks | words)
    look_first(config)
