"""The trainer: one worker's part of a run. What it computes depends on the run's description and the step alone."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from stableavatar.presets import Preset, SavedWeights, find_preset, save_model_file
from stableavatar.training.audio_objective import AudioObjective
from stableavatar.training.avatar_objective import AvatarObjective
from stableavatar.training.config import TrainingConfig
from stableavatar.training.encode import Sample
from stableavatar.training.lora import add_lora, save_lora, split_lora
from stableavatar.training.objective import Moment, Objective, Source
from stableavatar.training.optimise import Average, clip_gradients, learning_rate, make_optimiser
from stableavatar.training.order import ALONE, Place
from stableavatar.training.spread import mean_over_workers, spread, unspread, without_sync
from stableavatar.training.start import starting_network
from stableavatar.training.vae_objective import VaeObjective

OBJECTIVES: dict[str, type[Objective]] = {"avatar": AvatarObjective, "vae": VaeObjective, "audio": AudioObjective}
_NUMBER_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_PARTS = ("transformer", "vae", "text", "image", "audio")


class Trainer:
    """One worker's part of a training run."""

    def __init__(self, config: TrainingConfig, place: Place = ALONE, device: str = "cpu"):
        """Build everything and put it on the device.

        Raises:
            WeightsError: the weights to start from are missing or damaged.
        """
        self.config, self.place, self.device = config, place, torch.device(device)
        self.preset: Preset = find_preset(config.model, config.weights)
        network = starting_network(config, self.preset)
        if config.lora is not None:
            add_lora(network, config.lora)
        objective = OBJECTIVES[config.task](network, config)
        wanted = set(objective.trained())
        for name, parameter in objective.named_parameters():
            parameter.requires_grad_(name in wanted)
        self.module: nn.Module = spread(objective, config.workers.sharding, self.device)
        self.objective = unspread(self.module)
        self.parameters = {name: p for name, p in self.objective.named_parameters() if p.requires_grad}
        self.optimiser = make_optimiser(self.parameters.values(), config.optimiser)
        self.average = Average(self.parameters, config.optimiser.ema_decay)
        self.step = 0  # of the optimizer, that are done

    @property
    def position(self) -> int:
        """How many samples all workers together have taken."""
        return self.step * self.config.accumulate * self.config.batch_size * self.place.num_workers

    def train_step(self, batches: Sequence[Sample]) -> dict[str, float]:
        """One step of the optimizer on `accumulate` batches; returns the mean losses over all workers.

        Raises:
            FloatingPointError: the loss is not finite. Nothing has changed.
        """
        settings = self.config.optimiser
        sums: dict[str, Tensor] = {}
        self.module.train()
        for number, batch in enumerate(batches):
            moment = Moment(step=self.step, batch=number, place=self.place)
            with without_sync(self.module, last=number == len(batches) - 1), self._arithmetic():
                losses = self.module(self._placed(batch), moment)
                (losses["loss"] / len(batches)).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() / len(batches)
        norm = clip_gradients(self.parameters.values(), self.step, settings)
        values = mean_over_workers(torch.stack(list(sums.values())).float())
        if not (math.isfinite(norm) and bool(values.isfinite().all())):
            self.optimiser.zero_grad()
            raise FloatingPointError(
                f"step {self.step}: the loss is not finite. Lower optimiser.lr or look at the data."
            )
        rate = learning_rate(self.step, self.config.num_steps, settings)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update(self.parameters, self.step)
        self.step += 1
        return dict(zip(sums, values.tolist(), strict=True)) | {"gradient_norm": norm, "learning_rate": rate}

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Sample]) -> dict[str, float]:
        """Mean losses on samples that are not trained on. Their random draws are the same every time."""
        self.module.eval()
        sums: dict[str, float] = {}
        count = 0
        for number, batch in enumerate(batches):
            with self._arithmetic():
                losses = self.module(self._placed(batch), Moment(step=-1, batch=number, place=self.place))
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in losses.items()}
            count += 1
        return {name: value / max(1, count) for name, value in sums.items()}

    def save(self, folder: Path) -> None:
        """Write everything that a later `load` needs to go on. All workers call it, with folders of one content."""
        dcp.save(self._state(), checkpoint_id=folder, no_dist=not dist.is_initialized())
        if self.place.rank == 0:
            (folder / "progress.json").write_text(json.dumps({"step": self.step, "position": self.position}) + "\n")

    def load(self, folder: Path) -> None:
        """Go on where `save` has left the run. All workers call it; there may be more or fewer than then."""
        state = self._state()
        dcp.load(state, checkpoint_id=folder, no_dist=not dist.is_initialized())
        set_model_state_dict(self.objective, state["model"], options=_TRAINED)
        set_optimizer_state_dict(self.objective, self.optimiser, state["optimiser"], options=_TRAINED)
        self.average.values = state["average"]
        self.step = json.loads((folder / "progress.json").read_text())["step"]

    def _state(self) -> dict[str, Any]:
        return {
            "model": get_model_state_dict(self.objective, options=_TRAINED),
            "optimiser": get_optimizer_state_dict(self.objective, self.optimiser, options=_TRAINED),
            "average": self.average.values,
        }

    def export(self, folder: Path, source: Source) -> None:
        """Write the trained model so that `--model folder` finds it. All workers call it; the first one writes."""
        tensors = self._whole_tensors()
        if self.place.rank != 0:
            return
        folder.mkdir(parents=True, exist_ok=True)
        preset, config = self.preset, self.config
        if config.lora is not None:
            tensors, low_rank = split_lora(tensors)
            save_lora(low_rank, config.lora, folder)
        files = dict(preset.weights.files) if isinstance(preset.weights, SavedWeights) else {}
        names = {part: f"{part}.safetensors" for part in (*files, self.objective.part)}
        for part, path in files.items():
            (folder / names[part]).write_bytes(Path(path).read_bytes())
        as_saved = {name: _saved(tensor, config.save_as) for name, tensor in tensors.items()}
        save_file(as_saved, folder / names[self.objective.part])
        changed = self.objective.finish(source, preset)
        save_model_file(replace(preset, name=config.name, **changed), folder, names)

    def _whole_tensors(self) -> dict[str, Tensor]:
        """Every tensor of the network, gathered on the first worker: averages where there are some."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        tensors: dict[str, Any] = dict(get_model_state_dict(self.objective, options=options))
        for name, value in self.average.values.items():
            whole = value.full_tensor() if hasattr(value, "full_tensor") else value
            if self.place.rank == 0:
                tensors[name] = whole.cpu()
        prefix = "network."
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    def _placed(self, batch: Sample) -> Sample:
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _arithmetic(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.workers.precision == "bf16")


_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


def _saved(tensor: Tensor, number_type: str) -> Tensor:
    return (tensor.to(_NUMBER_TYPES[number_type]) if tensor.is_floating_point() else tensor).contiguous()
