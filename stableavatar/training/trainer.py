"""The trainer: one worker's part of a run. What it computes depends on the run's description and the step alone."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
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

from stableavatar.presets import Preset, SavedWeights, save_model_file
from stableavatar.training.audio_objective import AudioObjective
from stableavatar.training.avatar_objective import AvatarObjective
from stableavatar.training.config import TrainingConfig
from stableavatar.training.encode import Sample
from stableavatar.training.lora import FILE as LORA_FILE
from stableavatar.training.lora import add_lora, save_lora, split_lora
from stableavatar.training.objective import Moment, Objective, Source
from stableavatar.training.optimise import Average, clip_gradients, learning_rate, make_optimiser
from stableavatar.training.order import ALONE, Place, seed_of
from stableavatar.training.spread import has_values, mean_over_workers, spread, sum_over_workers, unspread, without_sync
from stableavatar.training.start import hollow_network, preset_of, starting_network
from stableavatar.training.vae_objective import VaeObjective

OBJECTIVES: dict[str, type[Objective]] = {"avatar": AvatarObjective, "vae": VaeObjective, "audio": AudioObjective}
_NUMBER_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Trainer:
    """One worker's part of a training run."""

    def __init__(self, config: TrainingConfig, place: Place = ALONE, device: str = "cpu"):
        """Build everything and put it on the device.

        Raises:
            WeightsError: the weights to start from are missing or damaged.
        """
        self.config, self.place, self.device = config, place, torch.device(device)
        self.preset: Preset = preset_of(config)
        build = starting_network if has_values(place) else hollow_network
        network = build(config, self.preset)
        with torch.random.fork_rng(devices=[]):  # new layers are drawn from the seed, on all workers alike
            torch.manual_seed(seed_of(config.seed, "new layers"))
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
        self.position = 0  # samples that all workers together have taken

    def train_step(self, batches: Sequence[Sample]) -> dict[str, float]:
        """One step of the optimizer on `accumulate` batches; returns the mean losses over all workers.

        Raises:
            FloatingPointError: the loss is not finite. Nothing has changed.
        """
        settings = self.config.optimiser
        sums: dict[str, Tensor] = {}
        self.module.train()
        for number, batch in enumerate(batches):
            moment = Moment(step=self.step, batch=number, num_batches=len(batches), place=self.place)
            self._seed(moment)
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
        self.position += len(batches) * self.config.batch_size * self.place.num_workers
        return dict(zip(sums, values.tolist(), strict=True)) | {"gradient_norm": norm, "learning_rate": rate}

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Sample]) -> dict[str, float]:
        """Mean losses on samples that are not trained on, at the same noise every time.

        All workers call it with the same batches; each works on its share.
        """
        self.module.eval()
        place = self.place
        num_rounds = -(-len(batches) // place.num_workers)  # the same for all: they work hand in hand
        sums: dict[str, Tensor] = {}
        for number in range(place.rank, num_rounds * place.num_workers, place.num_workers):
            with self._arithmetic():
                losses = self.module(self._placed(batches[number % len(batches)]), Moment(step=-1 - number))
            counts = float(number < len(batches))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.float() * counts
        if not batches:
            return {}
        means = sum_over_workers(torch.stack(list(sums.values()))) / len(batches)
        return dict(zip(sums, means.tolist(), strict=True))

    def save(self, folder: Path) -> None:
        """Write everything that a later `load` needs to go on. All workers call it, with folders of one content."""
        dcp.save(self._state(), checkpoint_id=folder, no_dist=not dist.is_initialized())
        if self.place.rank == 0:
            (folder / "progress.json").write_text(json.dumps({"step": self.step, "position": self.position}) + "\n")

    def load(self, folder: str | Path) -> None:
        """Go on where `save` has left the run. All workers call it; there may be more or fewer than then.

        `folder`: path or URI of a folder with what all of them have saved.
        """
        state = self._state()
        dcp.load(state, checkpoint_id=str(folder), no_dist=not dist.is_initialized())
        set_model_state_dict(self.objective, state["model"], options=_TRAINED)
        set_optimizer_state_dict(self.objective, self.optimiser, state["optimiser"], options=_TRAINED)
        self.average.values = state["average"]
        with fsspec.open(f"{folder}/progress.json") as file:
            progress = json.load(file)
        self.step, self.position = progress["step"], progress["position"]

    def _state(self) -> dict[str, Any]:
        return {
            "model": get_model_state_dict(self.objective, options=_TRAINED),
            "optimiser": get_optimizer_state_dict(self.objective, self.optimiser, options=_TRAINED),
            "average": self.average.values,
        }

    def export(self, folder: Path, source: Source | None) -> None:
        """Write the trained model so that `--model folder` finds it. All workers call it; the first one writes.

        `source`: what it was trained on; None where nothing is to be measured on it, as before the end.
        """
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
        changed = self._finish(as_saved, source) if source else {}
        lora = LORA_FILE if config.lora is not None else ""
        save_model_file(replace(preset, name=config.name, lora=lora, **changed), folder, names)

    def _finish(self, saved: dict[str, Tensor], source: Source) -> Mapping[str, Any]:
        """What is measured at the end: on the tensors as they are saved, which may be averages and have fewer bits."""
        network = copy.deepcopy(self.objective.network)
        network.load_state_dict(saved)
        return self.objective.finish(network.eval(), source, self.preset)

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

    def _seed(self, moment: Moment) -> None:
        """What libraries draw by themselves depends on the place in the run too: there is no state to be saved."""
        seed = seed_of(self.config.seed, "libraries", moment.step, moment.part)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)

    def _arithmetic(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.workers.precision == "bf16")


_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


def _saved(tensor: Tensor, number_type: str) -> Tensor:
    return (tensor.to(_NUMBER_TYPES[number_type]) if tensor.is_floating_point() else tensor).contiguous()
