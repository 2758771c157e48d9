"""How many workers a run has, and what each takes of the cluster: from what is there, and what there is to do."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.stage import STAGES
from pipelines.workers import Capacity

LIGHT = 0.2  # logical CPUs of a stage beside the generator: five of them and one generator fit on two cores
CPUS_EACH = 4  # CPUs for each generator are enough for all other stages
MARGIN = 1.5  # workers of a stage, to those that were just enough so far: rows differ
SHORT = 4  # of the longest rows are less than each generator has to do, if rows wait at generators
# While one generator decodes, encodes and uploads, a second one samples; a third would only wait for the GPU.
MOST_ON_A_GPU = 2
GPU_SPARE = 0.6  # of a GPU's memory may be planned for where several share it: long videos and LoRAs take more
CONTEXT_BYTES = 10**9  # that a process takes on a GPU before its first tensor

HELPERS = tuple(stage for stage in STAGES if stage not in ("check", "generate"))  # what works beside the generators
LOAD_COLUMNS = ("status", "sample_s", "generate_s", *(f"{stage}_s" for stage in HELPERS))  # of the result table


@dataclass(frozen=True, kw_only=True)
class Work:
    """What there is to do, as far as it is known."""

    lengths: Mapping[int, Sequence[float]]  # what each row takes on a generator, by priority; in any unit
    loads: Mapping[str, float] = field(default_factory=dict)  # see `loads_of`

    @property
    def num_rows(self) -> int:
        """Rows of all priorities."""
        return sum(map(len, self.lengths.values()))


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Workers of each kind, and the logical CPUs and GPUs of each of them."""

    generators: int
    generator_cpus: float
    generator_gpus: float
    queue: int  # rows at a generator: the one it works on, and those that wait there
    prepare: int
    separate: int
    measure: int
    encoders: int
    helper_cpus: float  # of prepare and measure
    separator_cpus: float
    encoder_cpus: float

    @property
    def num_devices(self) -> float:
        """GPUs of all generators; without GPUs, generators."""
        return self.generators * (self.generator_gpus or 1)


def choose_sizes(capacity: Capacity, work: Work, wanted: int | None = None) -> Sizes:
    """The sizes of a run's pools.

    Args:
        capacity: what the cluster has or will have, see `grown`. A GPU that is still to come counts for one generator.
        work: what there is to do.
        wanted: generators, by the user's word. None: as many as there is room for.
    """
    cpus, gpus = capacity.num_cpus, capacity.num_gpus
    room = (capacity.num_gpus_there * (capacity.generators_per_gpu - 1) + gpus) or max(1, cpus // 2)
    generators = max(1, min(wanted or room, work.num_rows))

    def needed(stage: str, unknown: int, most: int) -> int:
        load = work.loads.get(stage)
        return max(1, min(unknown if load is None else math.ceil(MARGIN * generators * load), most))

    prepare, separate, measure = (
        needed(stage, generators, cpus // CPUS_EACH) for stage in ("prepare", "separate", "measure")
    )
    share = max(LIGHT, cpus // 8)  # of all encoders together, and of all separators: Ray gives an actor as many threads
    encoders = needed("encode_text", 1, int(share / LIGHT))
    half_a_node = max(LIGHT, capacity.node_cpus / 2)  # a whole one is never free
    return Sizes(
        generators=generators,
        # A generator's place is its GPU. If it asked for a CPU too, other stages on that node could keep it out.
        generator_cpus=0 if gpus else 1,
        generator_gpus=_part(math.ceil(generators / gpus)) if gpus else 0,
        queue=rows_at_once(work.lengths, generators),
        prepare=prepare,
        separate=separate,
        measure=measure,
        encoders=encoders,
        helper_cpus=1 if gpus and prepare + measure + 2 * share + LIGHT <= cpus else LIGHT,
        separator_cpus=max(LIGHT, min(share / separate, half_a_node)),
        encoder_cpus=max(LIGHT, min(share / encoders, half_a_node)),
    )


def grown(capacity: Capacity, wanted: int | None) -> Capacity:
    """The cluster as it is to become for so many generators. One that was started for this run stays as it is.

    Workers that find no place are what makes an autoscaler add nodes. How many it may add, it tells nobody.
    """
    if not wanted or capacity.is_local:
        return capacity
    return replace(
        capacity,
        num_gpus=max(capacity.num_gpus, math.ceil(wanted / capacity.generators_per_gpu)),
        num_cpus=max(capacity.num_cpus, CPUS_EACH * wanted),
    )


def fitting(gpu_bytes: int, needed_bytes: int) -> int:
    """How many generators fit on a GPU of `gpu_bytes` (0: not known) side by side, with everything they need on it."""
    return max(1, min(MOST_ON_A_GPU, int(gpu_bytes * GPU_SPARE / (needed_bytes + CONTEXT_BYTES))))


def rows_at_once(lengths: Mapping[int, Sequence[float]], generators: int) -> int:
    """2: the next row is at its generator when that one is free; 1: every row waits where any generator can take it.

    A row that waits behind a long one, while another generator is free, would come last. So it is 2 only where even
    the longest row is little of what its generator has to do, among those of its priority.
    """
    is_little = (max(of_one) * generators * SHORT <= sum(of_one) for of_one in lengths.values() if of_one)
    return 2 if lengths and all(is_little) else 1


def loads_of(finished: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds in each stage for every second on a generator, by LOAD_COLUMNS of the result table.

    {} if nothing is known.
    """
    made = [row for row in finished if row["status"] == "ok" and row.get("sample_s")]
    on_generators = sum(row["generate_s"] for row in made)
    spent = {stage: sum(row.get(f"{stage}_s") or 0 for row in made) for stage in HELPERS}
    return {stage: seconds / on_generators for stage, seconds in spent.items() if on_generators and seconds}


def _part(number: int) -> float:
    """One of `number` equal parts, as exactly as Ray counts."""
    return math.floor(10_000 / number) / 10_000
