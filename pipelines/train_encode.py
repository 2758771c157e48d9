"""Windows of clips, encoded by Ray Data while a training goes on: the frozen networks run in actors beside the trainer.

Each worker has a dataset of its own, whose rows are its draws in their order. So a run sees the same data, bit for bit,
whether it is resumed or not, and as if the windows had been encoded before.
"""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayActorError

from pipelines.workers import ROW_ATTEMPTS, through_actors
from stableavatar.errors import BadInput
from stableavatar.reproducible import reproducible
from stableavatar.training.clips import Clip
from stableavatar.training.config import TrainingConfig
from stableavatar.training.encode import Encoder, Sample, collate, pause_rms
from stableavatar.training.feed import read_or_replace
from stableavatar.training.order import Draw, Order, Place
from stableavatar.training.shards import SCHEMA, as_row, as_sample
from stableavatar.training.sources import random_window
from stableavatar.training.start import preset_of

MAX_BLOCKS = 2048  # of a dataset: each is a task that is known from the start
CPU_THREADS = 1  # of an encoder: the same numbers wherever it runs
LOADER_CPUS = 1


class EncodeDraws:
    """In: `id`, the number of one of a worker's samples. Out: its window, encoded as a row of `shards.SCHEMA`, and

    position (in the run), seed (of its random numbers), error (empty if all is well: Ray would lose its type).
    """

    def __init__(self, config: TrainingConfig, clips: Any, order: Order, start: int, place: Place):
        """`clips`: a reference to them. `start`: position in the run of the first sample of all workers."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = Encoder.load(preset_of(config), device, pause_rms(config))
        self.clips: Sequence[Clip] = ray.get(clips)
        self.num_latents, self.order, self.start, self.place = config.data.num_latents, order, start, place

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row of a draw; of an error, and empty, if neither the clip nor those after it can be read."""
        draw = self.order.draw(self.order.position(row["id"], self.start, self.place))
        known = {"position": draw.position, "seed": draw.seed}
        try:
            return read_or_replace(self._encode, draw, self.order) | known | {"error": ""}
        except BadInput as error:
            return dict.fromkeys(SCHEMA.names) | known | {"error": str(error)}

    def _encode(self, draw: Draw) -> dict[str, Any]:
        return encode_window(self.encoder, self.clips[draw.index], self.num_latents, draw.seed)


def encode_window(encoder: Encoder, clip: Clip, num_latents: int, seed: int) -> dict[str, Any]:
    """A window of a clip that starts where the seed says, as a row of `shards.SCHEMA`. Raises BadInput."""
    first, window = random_window(clip, num_latents, seed)
    with reproducible(CPU_THREADS):
        sample = encoder.encode(window)
    size = {"width": clip.width, "height": clip.height}
    return as_row(sample, clip=clip.folder, recording=clip.recording, start=first, **size)


def encoded_batches(
    config: TrainingConfig, clips: Sequence[Clip], start: int, num_batches: int, place: Place
) -> Generator[Sample]:
    """The next `num_batches` batches of a worker from the position `start` of the run on.

    Raises:
        BadInput: clips one after the other cannot be read.
        RuntimeError: the rows did not come in the order of the run, or their loaders died again and again.
    """
    size = config.batch_size
    order = Order(len(clips), config.seed, size, [(clip.width, clip.height) for clip in clips])
    rows = draws_dataset(config, clips, order, start, num_batches, place)
    taken = 0
    for batch in _lists_of(rows, size):
        expected = [order.position(taken + number, start, place) for number in range(size)]
        if [row["position"] for row in batch] != expected:
            raise RuntimeError(f"samples came as {[row['position'] for row in batch]}, not as {expected}")
        if wrong := next((row["error"] for row in batch if row["error"]), ""):
            raise BadInput(wrong)
        taken += size
        yield collate([as_sample(row) | {"seed": torch.tensor(row["seed"])} for row in batch])


def _lists_of(rows: Dataset, size: int) -> Generator[list[dict[str, Any]]]:
    try:
        for table in rows.iter_batches(batch_size=size, batch_format="pyarrow", prefetch_batches=2):
            yield table.to_pylist()
    except RayActorError as error:
        raise RuntimeError(
            f"a process that encodes clips died {ROW_ATTEMPTS} times at one of them. `stableavatar encode-data` finds "
            "that clip and leaves it out; where memory is short, lower data.num_loaders."
        ) from error


def draws_dataset(
    config: TrainingConfig, clips: Sequence[Clip], order: Order, start: int, num_batches: int, place: Place
) -> Dataset:
    """The dataset of a worker: its draws, in order."""
    # Blocks that are there already: tasks that made them would ask for a CPU beside those of workers and loaders.
    numbers = np.array_split(np.arange(num_batches * config.batch_size), min(num_batches, MAX_BLOCKS))
    rows = through_actors(
        ray.data.from_arrow([pa.table({"id": some}) for some in numbers]),
        EncodeDraws,
        (config, ray.put(clips), order, start, place),
        ActorPoolStrategy(size=config.data.num_loaders),
        num_cpus=LOADER_CPUS,
        num_gpus=config.data.loader_gpus if config.workers.use_gpu else 0,
    )
    context = rows.context  # its own: what is set there holds for no other dataset of this process
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a trainer that renders takes nothing for long
    context.max_errored_blocks = 0  # a sample that is missing would be another run
    return rows
