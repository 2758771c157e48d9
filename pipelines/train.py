"""One trainer for all sizes and modes: Ray Train runs the loop below on each worker."""

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from manifests.redact import redacted
from pipelines import scratch, storage, train_checkpoint
from pipelines.curve import Curve, Silent
from pipelines.encode_data import encode_held_out
from pipelines.lease import Lease, LeaseLost, is_held_by
from pipelines.terminal import RunError
from pipelines.train_data import (
    Found,
    Skipped,
    batches,
    find_data,
    held_out_source,
    loads_clips,
    samples_of,
    write_skipped,
)
from pipelines.train_run import FILE as NOTED
from pipelines.train_run import claim, look_first
from pipelines.validate import Validation, check_validation
from pipelines.workers import Capacity, ClusterError, cluster
from stableavatar.errors import BadInput, WeightsError
from stableavatar.presets import PRESETS
from stableavatar.training.config import TrainingConfig
from stableavatar.training.order import Place
from stableavatar.training.sources import source_of
from stableavatar.training.spread import agreed, wait_for_all
from stableavatar.training.start import preset_of, start_hash
from stableavatar.training.trainer import Trainer

FATAL = "fatal.json"  # why trying again cannot help
TRAINED = "trained.json"  # in the model's folder: how many steps it has seen
HOPELESS = (BadInput, WeightsError, FloatingPointError)
PATIENCE_S = 4 * 3600  # that workers wait for each other, as while the first one renders

logger = logging.getLogger(__name__)


class TrainingFailed(RunError):
    """The training cannot go on. The message says why."""


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What came of a run."""

    model: str  # path or URI of the trained model
    step: int
    first_step: int  # that it went on from
    skipped: tuple[Skipped, ...]


def train(config: TrainingConfig, *, on_skipped: Callable[[tuple[Skipped, ...]], None] = lambda _: None) -> TrainReport:
    """Train until `num_steps` are done, from where an earlier start of the same run was killed.

    Args:
        config: the run. Its `output` holds everything that it leaves.
        on_skipped: told which clips are left out, as soon as that is known.

    Raises:
        BadInput, ManifestError: there is nothing to train on or to look at, or the output holds another run.
        WeightsError: the weights to start from are missing or damaged.
        StorageError, LeaseError, ClusterError, TrainingFailed: it cannot begin, or cannot go on.
    """
    config = with_absolute_paths(config)
    preset = preset_of(config)
    check_validation(config)
    storage.check_writable(config.output)
    with Lease(config.output) as lease, cluster(num_cpus_wanted(config)) as capacity:
        require_workers(config, capacity)
        look_first(config)
        found = find_data(config, preset)
        on_skipped(found.skipped)
        claim(config, samples_of(found), start=start_hash(config, preset), encoders=found.encoders)
        before = train_checkpoint.newest(config.output)
        step = before.step if before else 0
        num_told = len(found.skipped)
        found = encode_held_out(config, preset, found, capacity)
        if late := found.skipped[num_told:]:
            write_skipped(config.output, found.skipped)
            on_skipped(late)
        if not is_finished(config):
            _fit(config, found, lease)
    return TrainReport(
        model=model_uri(config), step=max(step, config.num_steps), first_step=step, skipped=found.skipped
    )


def is_finished(config: TrainingConfig) -> bool:
    """Whether the model is there, after as many steps as the run is to have."""
    trained = storage.read_if_there(storage.join(model_uri(config), TRAINED))
    return trained is not None and json.loads(trained)["step"] >= config.num_steps


def _fit(config: TrainingConfig, found: Found, lease: Lease) -> None:
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # workers stay where this process is
    storage.remove(storage.join(config.output, FATAL))
    settings = config.workers
    with scratch.folder() as folder:
        trainer = TorchTrainer(
            train_on_worker,
            train_loop_config={"config": config, "found": ray.put(found), "holder": lease.holder},
            scaling_config=ScalingConfig(
                num_workers=settings.num_workers,
                use_gpu=settings.use_gpu,
                resources_per_worker=worker_resources(config),
            ),
            # Ray's own notes are of no use to a later run: what that needs is in the checkpoints.
            run_config=RunConfig(
                name="run", storage_path=folder, failure_config=FailureConfig(max_failures=settings.max_failures)
            ),
            torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo", timeout_s=PATIENCE_S),
        )
        failure = ""
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            failure = _last_line(error)
    lease.check()
    if (fatal := storage.read_if_there(storage.join(config.output, FATAL))) is not None:
        failure = json.loads(fatal)["error"]
    if failure or not is_finished(config):
        raise TrainingFailed(failure or "stopped before the last step. The same command goes on from there")


def train_on_worker(given: dict[str, Any]) -> None:
    """What each worker does. An error that would come again is written down, and no worker begins anew after it."""
    config: TrainingConfig = given["config"]
    if agreed(storage.exists(storage.join(config.output, FATAL))):
        return
    try:
        train_loop(config, ray.get(given["found"]), given["holder"])
    except LeaseLost as error:
        logger.error("%s", error)  # the driver says it too, and the output is no longer ours to write to
    except HOPELESS as error:
        if is_held_by(config.output, given["holder"]):
            message = {"error": redacted(str(error))}
            storage.write(json.dumps(message).encode(), storage.join(config.output, FATAL))
        if not isinstance(error, FloatingPointError):  # which all workers meet together
            raise  # others may wait for this one: Ray ends them


def train_loop(config: TrainingConfig, found: Found, holder: str) -> None:
    """From the newest checkpoint to the finished model, as long as the output's lease is the `holder`'s."""
    context = ray.train.get_context()
    place = Place(rank=context.get_world_rank(), num_workers=context.get_world_size())
    torch.set_num_threads(config.workers.cpus_per_worker)
    if not storage.exists(storage.join(config.output, NOTED)):
        raise BadInput(f"{config.output} is not what the driver sees there: give a disk that all nodes share, or a URI")
    train_checkpoint.require_lease(config.output, holder)
    trainer = Trainer(config, place, str(get_device()) if config.workers.use_gpu else "cpu")
    saved = agreed(train_checkpoint.newest(config.output))
    if saved:
        trainer.load(saved.uri)
    num_batches = (config.num_steps - trainer.step) * config.accumulate
    validation = Validation(config, trainer, held_out_source(config, found))
    clock = Clock(config)
    with (
        curve_of(config, place, saved, holder) as curve,
        closing(batches(config, found.clips, trainer.position, num_batches, place)) as feed,
    ):
        while trainer.step < config.num_steps:
            curve.add(trainer.step + 1, trainer.train_step([next(feed) for _ in range(config.accumulate)]))
            if validation.is_due():
                train_checkpoint.require_lease(config.output, holder)
                curve.add_validation(trainer.step, validation.run())
            if clock.is_time(trainer.step):
                curve.write()
                train_checkpoint.save(trainer, config.output, curve.pending, config.keep_checkpoints, holder)
        train_checkpoint.require_lease(config.output, holder)
        publish_model(trainer, found)
        curve.write()


class Clock:
    """When to save: after so many steps, after so many minutes, and after the last step."""

    def __init__(self, config: TrainingConfig):
        self.config, self.saved = config, time.monotonic()

    def is_time(self, step: int) -> bool:
        """Whether all workers save now. Whether minutes have passed is asked as often as a line is logged."""
        config, minutes = self.config, self.config.checkpoint_minutes
        due = step % config.checkpoint_every == 0 or step == config.num_steps
        if not due and minutes and step % config.log_every == 0:
            due = agreed(time.monotonic() - self.saved > minutes * 60)
        if due:
            self.saved = time.monotonic()
        return due


def curve_of(config: TrainingConfig, place: Place, saved: train_checkpoint.Saved | None, holder: str) -> Curve | Silent:
    """What keeps the run's numbers: the first worker does."""
    if place.rank != 0:
        return Silent()
    step, notes = (saved.step, saved.notes) if saved else (0, {})
    return Curve(config, step, notes, is_ours=partial(is_held_by, config.output, holder))


def publish_model(trainer: Trainer, found: Found) -> None:
    """Write the trained model to `<output>/model`. It counts as there when the last file is."""
    config = trainer.config
    source = source_of(config, found.clips) if config.task != "avatar" else None
    with scratch.folder() as folder:
        trainer.export(Path(folder), source)
        if trainer.place.rank == 0:
            Path(folder, TRAINED).write_text(json.dumps({"step": trainer.step}) + "\n")
            storage.publish_folder(folder, model_uri(config), last=TRAINED)
    wait_for_all()


def model_uri(config: TrainingConfig) -> str:
    """Where the trained model goes."""
    return storage.join(config.output, "model")


def with_absolute_paths(config: TrainingConfig) -> TrainingConfig:
    """The run with every file named from the root, so that it means the same to every worker."""
    if not config.output:
        raise BadInput("output is missing: give the folder or URI where checkpoints, curves and the model go")
    data, validation = config.data, config.validation
    named: dict[str, Any] = {
        name: tuple(map(storage.absolute, getattr(data, name))) for name in ("clips", "encoded", "held_out")
    }
    manifest = storage.absolute(validation.manifest) if validation.manifest else ""
    return replace(
        config,
        output=storage.absolute(config.output),
        model=_from_root(config.model),
        data=replace(data, **named),
        validation=replace(validation, manifest=manifest),
    )


def _from_root(model: str) -> str:
    """A URI stays as it is: `find_preset` says what to do with it."""
    return model if model in PRESETS or "://" in model else os.path.abspath(os.path.expanduser(model))


def worker_resources(config: TrainingConfig) -> dict[str, float]:
    """What Ray sets aside for each worker; what its loaders take is not among it."""
    resources: dict[str, float] = {"CPU": config.workers.cpus_per_worker}
    if config.workers.use_gpu:
        resources["GPU"] = round(1 - config.data.loader_gpus * config.data.num_loaders * loads_clips(config), 4)
    return resources


def num_cpus_wanted(config: TrainingConfig) -> int:
    """Logical CPUs of all workers and their loaders."""
    loaders = config.data.num_loaders if loads_clips(config) else 0
    return config.workers.num_workers * (config.workers.cpus_per_worker + loaders)


def require_workers(config: TrainingConfig, capacity: Capacity) -> None:
    """Raises ClusterError if the cluster cannot hold all workers: the last would be waited for without end."""
    wanted, num_gpus = num_cpus_wanted(config), config.workers.num_workers * config.workers.use_gpu
    if worker_resources(config).get("GPU", 1) <= 0:
        raise BadInput("data.loader_gpus times data.num_loaders leave nothing of a GPU for its worker: lower them")
    if wanted > capacity.num_cpus:
        raise ClusterError(f"the cluster has {capacity.num_cpus} CPUs, and this run needs {wanted}. Add a node.")
    if num_gpus > capacity.num_gpus:
        raise ClusterError(
            f"the cluster has {capacity.num_gpus} GPUs, and this run needs {num_gpus}. Add a node, or lower "
            "workers.num_workers; `workers: {use_gpu: false}` trains on CPUs."
        )


def _last_line(error: Exception) -> str:
    """What went wrong in the first worker that failed."""
    causes = list(getattr(error, "worker_failures", {}).values()) or [error]
    return redacted((str(causes[0]).strip() or type(causes[0]).__name__).splitlines()[-1])
