"""What a training run shows of itself: `metrics.jsonl` with each step once, TensorBoard, W&B, and a line in the log."""

import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

from torch.utils.tensorboard import SummaryWriter

from pipelines import scratch, storage
from pipelines.lines import read_lines, write_lines
from pipelines.retries import patience
from stableavatar.errors import StorageError
from stableavatar.training.config import TrainingConfig, as_values

METRICS, VALIDATION = "metrics.jsonl", "validation.jsonl"
WRITE_EVERY_S = 10.0  # the files, which are written anew each time: no store can append

logger = logging.getLogger(__name__)
Numbers = Mapping[str, float]


class Curve:
    """The numbers of a run, kept by its first worker. Use as a context manager."""

    def __init__(
        self,
        config: TrainingConfig,
        step: int,
        pending: Mapping[str, Any] | None = None,
        *,
        is_ours: Callable[[], bool] = lambda: True,
    ):
        """Go on after `step`: later lines, of work that was lost, go.

        Args:
            config: the run.
            step: that is done.
            pending: as the checkpoint has noted it.
            is_ours: whether the output is still this run's to write to. Asked before each time.
        """
        self.config, self._is_ours = config, is_ours
        self.metrics = Lines(storage.join(config.output, METRICS), step)
        self.validation = Lines(storage.join(config.output, VALIDATION), step)
        self._board = Board(config.output, step)
        self._wandb = _start_wandb(config)
        self._unshown: list[tuple[int, Numbers]] = []
        self._sums, self._count = dict((pending or {}).get("sums", {})), (pending or {}).get("count", 0)
        self._first_step, self._began, self._written, self._said = step, time.monotonic(), 0.0, 0.0
        self._last = (step, self._began)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):  # which would hide the error that ends the run
            self.write()
        self._board.close()
        if self._wandb:
            with _only_shown("W&B"):
                self._wandb.finish()

    @property
    def pending(self) -> dict[str, Any]:
        """What has not become a line yet, to be noted with a checkpoint."""
        return {"sums": self._sums, "count": self._count}

    def add(self, step: int, values: Numbers) -> None:
        """The numbers of one step. Every `log_every` steps their means become a line."""
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in values.items()}
        self._count += 1
        if step % self.config.log_every and step != self.config.num_steps:
            return
        means = {name: value / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        (last, then), now = self._last, time.monotonic()
        self._last = (step, now)
        self.metrics.add({"step": step, **means, "s_per_step": (now - then) / max(1, step - last)})
        self._unshown.append((step, means))
        self._say(step, means["loss"])
        if now - self._written > WRITE_EVERY_S:
            try:
                with patience(WRITE_EVERY_S):
                    self.write()
            except (StorageError, OSError) as error:  # the training is worth more; a checkpoint asks for it again
                logger.warning("step %d: the curve could not be written: %s", step, error)

    def add_validation(self, step: int, values: Numbers) -> None:
        """What was measured beside the training after a step."""
        self.validation.add({"step": step, **values})
        self._unshown.append((step, {f"validation/{name}": value for name, value in values.items()}))
        logger.info("step %d, validation: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in values.items()))

    def write(self) -> None:
        """Everything so far to the store, as long as the output is this run's. Raises StorageError, OSError."""
        self._written = time.monotonic()
        if not self._is_ours():
            return
        self.metrics.write()
        self.validation.write()
        unshown, self._unshown = self._unshown, []
        for step, values in unshown:
            self._board.add(step, values)
            if self._wandb:
                with _only_shown("W&B"):
                    self._wandb.log(dict(values), step=step)
        self._board.publish()

    def _say(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._said < WRITE_EVERY_S and step != self.config.num_steps:
            return
        self._said = now
        s_per_step = (now - self._began) / max(1, step - self._first_step)
        left = timedelta(seconds=round(s_per_step * (self.config.num_steps - step)))
        logger.info(
            "step %d of %d | loss %.4f | %.2f s/step | %s left", step, self.config.num_steps, loss, s_per_step, left
        )


class Silent:
    """What the other workers have in place of a curve."""

    pending: ClassVar[dict[str, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, step: int, values: Numbers) -> None:
        """Nothing."""

    add_validation = add

    def write(self) -> None:
        """Nothing."""


class Lines:
    """A file of one JSON object in each line, with a `step`."""

    def __init__(self, uri: str, last_step: int):
        """Read what is there, up to `last_step`."""
        self.uri = uri
        self.lines = [line for line in read_lines(uri) if line["step"] <= last_step]

    def add(self, line: Mapping[str, Any]) -> None:
        """One more line, in memory."""
        self.lines.append(dict(line))

    def write(self) -> None:
        """The whole file, anew. Raises StorageError."""
        if self.lines:
            write_lines(self.lines, self.uri)


class Board:
    """TensorBoard's files, in `<output>/tensorboard`."""

    def __init__(self, output: str, step: int):
        """`step`: what was shown after it, of work that was lost, is to be forgotten."""
        self.uri = storage.join(output, "tensorboard")
        local = storage.local_path(self.uri)
        self._is_elsewhere, self._open = local is None, ExitStack()
        self.folder = local or self._open.enter_context(scratch.folder())
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        self._writer = SummaryWriter(self.folder, purge_step=step + 1)

    def add(self, step: int, values: Numbers) -> None:
        """The numbers after a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def publish(self) -> None:
        """Send what there is to a store that is not on this machine. Raises StorageError."""
        self._writer.flush()
        if self._is_elsewhere:
            storage.publish_folder(self.folder, self.uri)

    def close(self) -> None:
        """The end of it."""
        self._writer.close()
        self._open.close()


def _start_wandb(config: TrainingConfig) -> Any:
    """The run in Weights & Biases, if that is installed and the environment says how to reach it; otherwise None."""
    if not (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE")) or not importlib.util.find_spec("wandb"):
        return None
    import hashlib

    import wandb

    name = hashlib.sha256(config.output.encode()).hexdigest()[:16]  # the same after a kill
    with _only_shown("W&B"):
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "stableavatar"), id=name, name=config.name, resume="allow",
            config=as_values(config),
        )  # fmt: skip
    return None


@contextmanager
def _only_shown(where: str) -> Iterator[None]:
    """Whatever a service raises that only shows the run is a line in the log: the training is worth more."""
    try:
        yield
    except Exception:
        logger.exception("the run cannot be shown in %s", where)
