"""Ray: the cluster, and rows flowing through pools of actors."""

import gc
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import ray
from ray._private import auto_init_hook
from ray._private.state import state
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources, TaskPoolStrategy
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.exceptions import GetTimeoutError, RayError
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.logs import is_json, worker_logging
from pipelines.queues import Queues
from pipelines.relay import relay
from pipelines.stage import Row

ROW_ATTEMPTS = 3  # a row that kills its worker this often is given up
ANSWER_S = 60.0  # a node that has not said by then how large its GPUs are is not waited for
WORKER_RESTARTS = 100  # of one actor; bounded, so that a worker that always dies ends the run


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Workers that run one stage: actors if it is a class, which hold what it loads; tasks if it is a function."""

    stage: Callable[..., Any]
    args: tuple[Any, ...] = ()
    size: int = 1
    least: int | None = None  # actors at any time; the others come when rows wait for them. None: always `size`
    num_cpus: float
    num_gpus: float = 0
    queue: int = 2  # rows sent to an actor: the one it works on, and those that wait there
    attempts: int = ROW_ATTEMPTS  # how often a row may lose its worker here


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What the cluster has; of a cluster that tells it, with the nodes that it may still add."""

    num_cpus: int
    num_gpus: int
    num_gpus_there: int = 0  # of `num_gpus`
    generators_per_gpu: int = 1  # generators that fit on each of those
    node_cpus: int = 1  # of the largest node
    is_local: bool = True  # started for this run, or by this program: it will not grow


class ClusterError(Exception):
    """The cluster cannot do this run. The message says what it lacks."""


class FlowStopped(Exception):
    """A flow was ended before all its rows came."""


class Stopper(ExecutionCallback):
    """Ray calls this at every step of a flow: the one place where a flow can be ended from outside, in order.

    `era`: counts what uses the cluster in this process, one after the other; a flow belongs to the one that made it.
    `stopped`: the newest one whose flows are to end.
    """

    KEY: ClassVar[str] = "stableavatar_era"  # in the context of a flow
    era: ClassVar[int] = 1
    stopped: ClassVar[int] = 0

    def on_execution_step(self, executor: Any) -> None:
        """Raises FlowStopped if somebody asked for it."""
        if executor._data_context.get_config(self.KEY) <= self.stopped:
            raise FlowStopped


def stop_flows() -> None:
    """End the flows of this process, also those that are still to begin before the cluster is left.

    Who waits for their rows gets FlowStopped. Their workers are killed.
    """
    Stopper.stopped = Stopper.era


def require_room(pools: list[Pool], capacity: Capacity) -> None:
    """Raises ClusterError if the pools do not fit side by side: the last of them would wait for ever."""
    needed = round(sum((pool.least or pool.size) * pool.num_cpus for pool in pools), 4)  # as exactly as Ray counts
    if needed > capacity.num_cpus:
        raise ClusterError(f"the cluster has {capacity.num_cpus} CPUs, and this run needs {needed:g}. Add a node.")


@contextmanager
def cluster(num_cpus: int = 2, *, log_to_driver: bool = True) -> Iterator[Capacity]:
    """Connect to the cluster of RAY_ADDRESS, or start one on this machine, unless this process is connected already.

    `num_cpus`: as many logical CPUs at least as a cluster has that is started here; they may share real ones.
    `log_to_driver`: whether what workers log is printed here too, unless this process is connected already.

    Raises ClusterError if there is none.
    """
    mine = not ray.is_initialized()
    with _quiet():
        if mine:
            _init(num_cpus, log_to_driver)
        Stopper.era += 1
        try:
            yield read_capacity()
        finally:
            stop_flows()  # which an error may have left: where Ray goes on, they would too
            Stopper.era += 1
            gc.collect()  # as in `flow`, which an error may have left
            if mine:
                ray.shutdown()


def read_capacity() -> Capacity:
    """What the cluster has now. Few clusters tell Ray what their autoscaler may add; of those, with that."""
    there, to_come = ray.cluster_resources(), state.get_max_resources_from_cluster_config() or {}
    return Capacity(
        num_cpus=int(max(there.get("CPU", 0), to_come.get("CPU", 0))),
        num_gpus=int(max(there.get("GPU", 0), to_come.get("GPU", 0))),
        num_gpus_there=int(there.get("GPU", 0)),
        node_cpus=int(max(node["Resources"].get("CPU", 0) for node in ray.nodes())),
        is_local="RAY_ADDRESS" not in os.environ,
    )


def smallest_gpu_bytes() -> int:
    """Memory of the smallest GPU that is there. 0 if there is none, or some node with one does not answer."""
    look = ray.remote(num_cpus=0, num_gpus=0.01)(_gpu_bytes)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes
    ]
    try:
        return min(ray.get(asked, timeout=ANSWER_S), default=0)
    except (RayError, GetTimeoutError):  # others may hold all of its GPUs
        return 0


def _gpu_bytes() -> int:
    import torch  # here, in a process of its own: the driver needs no CUDA

    return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else 0


def flow(rows: list[Row], pools: list[Pool]) -> Iterator[Row]:
    """The rows after all pools, each as soon as it is finished. Every row is a block, so it fails or dies alone.

    A row that kills its worker again and again is not among them.
    """
    return _flow(rows, pools, Stopper.era)  # the era of now: it may be drawn from in another thread, and much later


def _flow(rows: list[Row], pools: list[Pool], era: int) -> Iterator[Row]:
    if not rows:
        return
    data: Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    _set_context(data.context, era)
    for pool in pools:
        data = _through(pool, data)
    data.context.execution_options.resource_limits = limits_of(pools)
    try:
        # iter_rows would hold every row back until the next one is there.
        for batch in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from batch.to_pylist()
    finally:
        del data
        gc.collect()  # where a row was lost, the actors keep CPUs and GPUs until the last reference to them is gone


def limits_of(pools: list[Pool]) -> ExecutionResources:
    """What the pools can use at most: without, Ray Data asks an autoscaler for more nodes as long as all are busy."""
    cpus = sum(pool.size * pool.num_cpus for pool in pools)
    gpus = sum(pool.size * pool.num_gpus for pool in pools)
    return ExecutionResources.for_limits(cpu=math.ceil(cpus), gpu=math.ceil(gpus))


def _through(pool: Pool, data: Dataset) -> Dataset:
    if isinstance(pool.stage, type):
        compute = ActorPoolStrategy(
            min_size=pool.least or pool.size, max_size=pool.size, max_tasks_in_flight_per_actor=pool.queue
        )
        resources = {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus}
        return through_actors(data, pool.stage, pool.args, compute, attempts=pool.attempts, **resources)
    with _bounds_let_pass():
        tasks = TaskPoolStrategy(pool.size)
        return data.map(pool.stage, compute=tasks, num_cpus=pool.num_cpus, max_retries=pool.attempts - 1)


def through_actors(
    data: Dataset,
    stage: type,
    args: tuple[Any, ...],
    compute: ActorPoolStrategy,
    *,
    num_cpus: float,
    num_gpus: float,
    attempts: int = ROW_ATTEMPTS,
) -> Dataset:
    """Rows through actors of a class: a row may lose its actor `attempts` times, and actors begin anew so long."""
    with _bounds_let_pass():
        return data.map(
            stage,
            fn_constructor_args=args,
            compute=compute,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            max_restarts=WORKER_RESTARTS,
            max_task_retries=attempts - 1,
        )


@contextmanager
def _bounds_let_pass() -> Iterator[None]:
    with warnings.catch_warnings():
        # Ray wants only named arguments here, but has none yet for the bounds on restarts and retries.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        yield


def _init(num_cpus: int, log_to_driver: bool) -> None:
    address = os.environ.get("RAY_ADDRESS")
    # A thread that still waits for Ray when that is left would start one of its own.
    auto_init_hook.enable_auto_connect = False
    # The stages need parts of two logical CPUs; a machine with one core still has to find room for all of them.
    local: dict[str, Any] = (
        {} if address else {"num_cpus": max(num_cpus, os.cpu_count() or 1), "include_dashboard": False}
    )
    try:
        ray.init(
            address or "local",
            logging_level=logging.ERROR,
            log_to_driver=log_to_driver,
            runtime_env={"worker_process_setup_hook": worker_logging()},
            **local,
        )
    except Exception as error:  # Ray raises anything here, also bare ones
        ray.shutdown()  # what has begun of it
        raise ClusterError(_why_no_cluster(address, error)) from error
    if is_json():
        relay()


def _why_no_cluster(address: str | None, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
    if not address:
        return f"Ray did not start on this machine. Is it too busy? Run again, or set RAY_ADDRESS. Ray says: {reason}"
    return (
        f"no Ray cluster can be used at {address}. Is it the address of a head that runs? If it wants a token, set "
        f"RAY_AUTH_MODE=token and RAY_AUTH_TOKEN. Ray says: {reason}"
    )


def _is_news(_: logging.LogRecord) -> bool:
    """Ray takes our FlowStopped for a fault of its own, and explains it at length."""
    return not isinstance(sys.exception(), FlowStopped)


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, Ray Data says only what went wrong. This process may have other flows than ours, before and after."""
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    logging.getLogger("ray.data.exceptions").addFilter(_is_news)
    try:
        yield
    finally:
        logger.setLevel(level)


def _set_context(context: DataContext, era: int) -> None:
    """How one flow is made: `context` is its own, that of the process stays as it is."""
    context.enable_progress_bars = False  # we have a display of our own
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # one video may take hours
    context.custom_execution_callback_classes = [Stopper, Queues]
    context.max_errored_blocks = -1  # rows that kill their workers are told from those that come back
    context.set_config(Stopper.KEY, era)
