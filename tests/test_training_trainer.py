"""A whole trainer on one worker: what is trained, how it goes on after a save, and what it leaves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stableavatar.errors import WeightsError
from stableavatar.model.lora import lora_applied, read_lora
from stableavatar.model.names import transformer_tensors
from stableavatar.model.networks import TRANSFORMER
from stableavatar.model.weights import load_network
from stableavatar.presets import saved
from stableavatar.training.avatar_objective import AvatarObjective
from stableavatar.training.config import LoraSettings, Optimiser, TrainingConfig
from stableavatar.training.trainer import Trainer
from tests.published import golden_shapes
from tests.training import PRESET, small_batch, small_config


def trained(config: TrainingConfig, first: int, last: int, trainer: Trainer | None = None) -> tuple[Trainer, list]:
    """The steps from `first` to `last`, on samples that the step decides."""
    trainer = trainer or Trainer(config)
    return trainer, [trainer.train_step([small_batch([step])]) for step in range(first, last)]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def predicted(network: Any) -> torch.Tensor:
    batch = small_batch([1, 2])
    latents = torch.cat([batch["mean"], batch["portrait"]], dim=1)
    with torch.no_grad():
        return network(
            latents, torch.tensor([500.0, 20.0]), batch["text"], batch["image"], batch["audio"], [0, 1]
        )  # fmt: skip


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, alpha=8)])
def test_a_run_that_was_saved_goes_on_bit_for_bit(tmp_path: Path, lora: LoraSettings | None) -> None:
    config = small_config(lora=lora, train="published", optimiser=Optimiser(lr=1e-3, warmup_steps=2, ema_decay=0.9))
    whole, curve = trained(config, 0, 4)
    half, first = trained(config, 0, 2)
    half.save(tmp_path)
    torch.manual_seed(123)  # whatever else the new process draws
    again = Trainer(config)
    again.load(tmp_path)
    assert (again.step, again.position) == (2, 2)
    _, second = trained(config, 2, 4, again)
    assert first + second == curve
    assert_same(weights(again), weights(whole))
    assert_same(again.average.values, whole.average.values)
    assert curve[0]["loss"] != curve[1]["loss"]


def test_accumulated_batches_are_one_larger_batch() -> None:
    one, two = Trainer(small_config(batch_size=2)), Trainer(small_config(accumulate=2))
    for step in range(3):
        losses = (
            one.train_step([small_batch([step, 9 + step])]),
            two.train_step([small_batch([step]), small_batch([9 + step])]),
        )
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert one.position == two.position == 6
    for name, parameter in weights(one).items():
        torch.testing.assert_close(parameter, weights(two)[name], rtol=1e-3, atol=2e-5)


def test_memory_is_saved_without_changing_a_number() -> None:
    frugal = small_config(workers=replace(small_config().workers, gradient_checkpointing=True))
    for mine, usual in zip(trained(frugal, 0, 2)[1], trained(small_config(), 0, 2)[1], strict=True):
        assert mine == pytest.approx(usual)


def test_a_step_in_bfloat16_is_nearly_that_in_float32() -> None:
    mixed = replace(small_config(), workers=replace(small_config().workers, precision="bf16"))
    trainer, steps = trained(mixed, 0, 3)
    reference, plain = trained(small_config(), 0, 3)
    for mine, usual in zip(steps, plain, strict=True):
        assert mine == pytest.approx(usual, rel=0.05) and mine["loss"] != usual["loss"]
    assert {parameter.dtype for parameter in trainer.parameters.values()} == {torch.float32}
    moved = torch.cat([one.flatten() for one in weights(trainer).values()])
    expected, start = (torch.cat([one.flatten() for one in weights(t).values()]) for t in (reference, Trainer(mixed)))
    assert torch.nn.functional.cosine_similarity(moved - start, expected - start, dim=0) > 0.8


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    trainer = Trainer(small_config())
    before, batch = weights(trainer), small_batch([0])
    batch["mean"][:] = torch.nan
    with pytest.raises(FloatingPointError, match="step 0: the loss is not finite"):
        trainer.train_step([batch])
    assert_same(weights(trainer), before)
    assert trainer.step == 0 and all(parameter.grad is None for parameter in trainer.parameters.values())


def test_evaluation_sees_the_same_every_time_and_changes_nothing() -> None:
    trainer = Trainer(small_config())
    batches = [small_batch([seed]) for seed in (5, 6, 7)]
    before = weights(trainer)
    values = trainer.evaluate(batches)
    assert values["loss"] > 0 and values == trainer.evaluate(batches) != trainer.evaluate(batches[:2])
    assert_same(weights(trainer), before)
    assert trainer.evaluate([]) == {}


def test_published_choice_of_what_is_trained() -> None:
    # spec: everything whose published name holds one of these words
    names = golden_shapes("transformer")
    wanted = {name for name in names if any(word in name for word in ("vocal", "audio", "attn", "blocks"))}
    assert len(names) - len(wanted) > 5
    wanted_here = {f"network.{name}" for name in transformer_tensors({name: torch.empty(2, 2) for name in wanted})}
    trainer = Trainer(small_config(train="published"))
    assert set(trainer.parameters) == wanted_here
    frozen = [name for name, one in trainer.objective.named_parameters() if not one.requires_grad]
    assert frozen and all(not name.startswith("network.blocks") for name in frozen)
    before = {name: one.detach().clone() for name, one in trainer.objective.named_parameters()}
    trained(trainer.config, 0, 3, trainer)  # one of them may be silent
    changed = {name for name, one in trainer.objective.named_parameters() if not torch.equal(one, before[name])}
    assert changed == wanted_here


def test_a_lora_leaves_the_trunk_as_it_is_and_trains_the_audio_path() -> None:
    trainer = Trainer(small_config(lora=LoraSettings(rank=4, alpha=8)))
    kinds = {"lora" if ".lora_" in name else "vocal" if "vocal" in name else name for name in trainer.parameters}
    assert kinds == {"lora", "vocal"}
    layers = {name.split(".lora_")[0] for name in trainer.parameters if ".lora_" in name}
    expected = {
        f"network.{name}"
        for name, layer in load_network(TRANSFORMER, PRESET, "cpu", None).named_modules()
        if isinstance(layer, torch.nn.Linear) and "vocal" not in name
    }
    assert layers == expected


def test_the_exported_model_is_the_trained_one(tmp_path: Path) -> None:
    trainer, _ = trained(small_config(), 0, 2)
    trainer.export(tmp_path, None)
    network = load_network(TRANSFORMER, saved(tmp_path), "cpu", torch.float32)
    objective = trainer.objective.eval()
    assert isinstance(objective, AvatarObjective)
    assert torch.equal(predicted(network), predicted(objective.network))


def test_what_is_exported_is_the_average_where_there_is_one(tmp_path: Path) -> None:
    trainer, _ = trained(small_config(optimiser=Optimiser(lr=1e-3, warmup_steps=1, ema_decay=0.5)), 0, 3)
    trainer.export(tmp_path, None)
    tensors = load_network(TRANSFORMER, saved(tmp_path), "cpu", torch.float32).state_dict()
    averages = {name.removeprefix("network."): value for name, value in trainer.average.values.items()}
    assert_same({name: tensors[name] for name in averages}, averages)
    assert not torch.equal(averages["blocks.0.ffn.net.2.weight"], weights(trainer)["network.blocks.0.ffn.net.2.weight"])


def test_an_exported_lora_gives_the_trained_networks_output(tmp_path: Path) -> None:
    config = small_config(lora=LoraSettings(rank=4, alpha=6), optimiser=Optimiser(lr=1e-2, warmup_steps=1))
    trainer, _ = trained(config, 0, 3)
    trainer.export(tmp_path, None)
    network = load_network(TRANSFORMER, saved(tmp_path), "cpu", torch.float32)
    lora = read_lora(saved(tmp_path).lora, network)  # which a model that was trained so brings with it
    plain = predicted(network)
    with lora_applied(network, [(lora, 1.0)]):
        with_lora = predicted(network)
    torch.testing.assert_close(with_lora, predicted(trainer.objective.eval().network), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, with_lora, rtol=1e-3, atol=1e-4)
    with pytest.raises(WeightsError, match="is a model with a LoRA"):
        Trainer(small_config(model=str(tmp_path), start="weights"))
