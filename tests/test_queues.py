import time
from typing import Any

import pytest

from pipelines import queues
from pipelines.queues import Queues
from pipelines.stage import Row
from pipelines.workers import Pool, flow


class Operator:
    def __init__(self, name: str) -> None:
        self.name = name


class State:
    def __init__(self, number: int) -> None:
        self.number = number

    def total_enqueued_input_blocks(self) -> int:
        return self.number


class Executor:
    def __init__(self, **waiting: int) -> None:
        inputs: dict[Any, Any] = {Operator("Input"): State(9)}
        self._topology = inputs | {Operator(f"Map({name})"): State(number) for name, number in waiting.items()}


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Queues, "lengths", {})


def test_rows_are_counted_by_the_name_of_their_stage_and_not_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    callback = Queues()
    callback.on_execution_step(Executor(Prepare=3, EncodeText=1))
    assert Queues.lengths == {"prepare": 3, "encode_text": 1}
    callback.on_execution_step(Executor(Prepare=2, EncodeText=2))
    assert Queues.lengths["prepare"] == 3
    monkeypatch.setattr(queues, "LOOK_EVERY_S", 0.0)
    callback.on_execution_step(Executor(Prepare=2, EncodeText=2))
    assert Queues.lengths["prepare"] == 2


def test_nothing_waits_when_a_flow_is_over() -> None:
    Queues().on_execution_step(Executor(Prepare=3))
    Queues().after_execution_succeeds(Executor())
    assert Queues.lengths == {}
    Queues().on_execution_step(Executor(Prepare=3))
    Queues().after_execution_fails(Executor(), OSError())
    assert Queues.lengths == {}


class SlowStage:
    def __call__(self, row: Row) -> Row:
        time.sleep(0.3)
        return row


@pytest.mark.slow
def test_a_real_flow_tells_what_waits(ray_cluster: None) -> None:
    rows = flow([{"number": number} for number in range(20)], [Pool(stage=SlowStage, num_cpus=0.2)])
    waiting = [Queues.lengths.get("slow_stage", -1) for _ in rows]
    assert max(waiting) > 5
    assert min(number for number in waiting if number >= 0) < max(waiting)
    assert Queues.lengths == {}
