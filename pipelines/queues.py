"""How many rows wait before each stage: Ray's executor knows, and tells it nobody else."""

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ray.data._internal.execution.execution_callback import ExecutionCallback

LOOK_EVERY_S = 0.5


class Queues(ExecutionCallback):
    """Ray calls this at every step of a flow.

    `lengths`: rows before each stage of the flow that runs in this process, which no worker has been given yet; empty
    while none runs.
    """

    lengths: ClassVar[Mapping[str, int]] = {}

    def __init__(self) -> None:
        self._looked_at = 0.0

    def on_execution_step(self, executor: Any) -> None:
        """Look, now and then."""
        if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            Queues.lengths = dict(lengths_of(executor._topology))

    def after_execution_succeeds(self, executor: object) -> None:
        """Nothing waits any more."""
        Queues.lengths = {}

    def after_execution_fails(self, executor: object, error: Exception) -> None:
        """Nothing waits any more."""
        Queues.lengths = {}


def lengths_of(topology: Mapping[Any, Any]) -> Iterator[tuple[str, int]]:
    """(stage, rows) for each operator that runs one: every row is a block."""
    for operator, state in topology.items():
        if found := re.search(r"\((\w+)\)$", operator.name):  # Map(EncodeText)
            stage = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", found[1]).lower()
            yield stage, state.total_enqueued_input_blocks()
