import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines import rounds as module
from pipelines.estimate import Estimate
from pipelines.progress import Progress
from pipelines.rounds import ROUNDS, check_rounds, read_files, rounds
from pipelines.stage import Row, fail, place
from pipelines.watch import Bounds, Watch
from pipelines.workers import Pool
from tests.actors import Direct


def row(number: int, **words: Any) -> Row:
    plan = {"width": 8, "height": 8, "num_windows": 1, "num_steps": 1, "window_latents": 21, "priority": None}
    state = {"status": "ready", "error_kind": "", "error": "", "attempts": 1, "gpu_s": 0.0}
    return {"manifest": "m", "row_number": number, "id": str(number), **plan, **state, **words}


class Store:
    """Stands for the pools: row 1 is fine, 2 fails as often as told, 3 for good, 4 never comes back."""

    def __init__(self, num_failures: int, kind: str = "network") -> None:
        self.num_failures = num_failures
        self.kind = kind
        self.seen: list[list[tuple[int, int]]] = []

    def flow(self, rows: list[Row], pools: object) -> Iterator[Row]:
        self.seen.append([(row["row_number"], row["attempts"]) for row in rows])
        for row in rows:
            if row["row_number"] == 1:
                yield {**row, "status": "ok"}
            elif row["row_number"] == 2 and self.kind == "quarantined" and row["may_return"]:
                yield {**row, "status": "unfinished", "error_kind": self.kind}
            elif row["row_number"] == 2 and len(self.seen) <= self.num_failures:
                yield {**fail(row, "generate", self.kind, "gone"), "gpu_s": row["gpu_s"] + 5.0}
            elif row["row_number"] == 2:
                yield {**row, "status": "ok"}
            elif row["row_number"] == 3:
                yield fail(row, "generate", "storage", "refused")


def run(store: Store, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...] = (1, 2, 3, 4)) -> list[Row]:
    monkeypatch.setattr(module, "flow", store.flow)
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    with Watch(Bounds()) as watch:
        progress = Direct(Progress())
        return list(rounds(map(row, numbers), [], Estimate(), watch, progress, lambda row: {**row, "written": True}))


def test_a_run_that_is_to_stop_waits_for_no_node_to_know_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()

    def flow(files: list[Row], pools: list[Pool]) -> Iterator[Row]:
        yield pools[0].stage(files[0])
        watch.reason = "enough"
        stuck.wait()

    monkeypatch.setattr(module, "flow", flow)
    with Watch(Bounds(), stop_flows=stuck.set) as watch:
        assert read_files(["a", "b"], lambda uri: [{"id": uri}], watch) == [{"id": "a"}, {"id": "b"}]


def test_only_what_may_pass_is_tried_again_and_its_attempts_count_on(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(num_failures=1)
    came = [(row["row_number"], row["status"], row["gpu_s"]) for row in run(store, monkeypatch)]
    assert came == [(1, "ok", 0.0), (2, "failed", 5.0), (3, "failed", 0.0), (2, "ok", 5.0), (4, "failed", 0.0)]
    assert store.seen == [[(1, 1), (2, 1), (3, 1), (4, 1)], [(2, 2), (4, 4)]]


def test_it_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(num_failures=100)
    assert run(store, monkeypatch, (2,))[-1]["error_kind"] == "network"
    assert store.seen == [[(2, attempt)] for attempt in range(1, ROUNDS + 1)]


def test_a_row_that_killed_its_processes_is_tried_once_more_after_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(num_failures=100, kind="quarantined")
    assert [row["status"] for row in run(store, monkeypatch, (1, 2))] == ["ok", "unfinished", "failed"]


def test_a_row_that_never_came_back_is_tried_once_more_and_then_written_down_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store(0)
    (lost,) = run(store, monkeypatch, (4,))
    assert (lost["error_kind"], lost["written"]) == ("quarantined", True)
    assert len(store.seen) == 2


def test_a_run_that_is_to_stop_tries_nothing_again_and_takes_nothing_for_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(num_failures=1)
    monkeypatch.setattr(module, "flow", store.flow)
    with Watch(Bounds(), lambda: "enough") as watch:
        assert list(rounds(map(row, (1, 2, 4)), [], Estimate(), watch, Direct(Progress()), lambda row: row)) == []


def test_a_later_round_waits_only_for_what_began_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, stuck = Progress(), threading.Event()
    flows = []

    def flow(rows: list[Row], pools: object) -> Iterator[Row]:
        flows.append(len(rows))
        for row in rows:
            progress.begin(place(row))
            yield fail(row, "generate", "network", "gone")
            if len(flows) == 2:
                watch.reason = "enough"
                stuck.wait()

    monkeypatch.setattr(module, "flow", flow)
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    with Watch(Bounds(), stop_flows=stuck.set) as watch:
        assert len(list(rounds(map(row, (1, 2, 3)), [], Estimate(), watch, Direct(progress), lambda row: row))) == 4
    assert flows == [3, 3]


def test_a_row_whose_node_died_is_waited_for_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, stuck = Progress(), threading.Event()

    def flow(rows: list[Row], pools: object) -> Iterator[Row]:
        for row in rows:
            progress.begin(place(row))
        yield {**rows[0], "status": "ok"}
        watch.reason = "enough"
        stuck.wait(20)

    monkeypatch.setattr(module, "flow", flow)
    monkeypatch.setattr("pipelines.progress.SILENT_S", 0.5)
    with Watch(Bounds(), stop_flows=stuck.set) as watch:
        came = list(rounds(map(row, (1, 2)), [], Estimate(), watch, Direct(progress), lambda row: row))
        assert stuck.is_set()
    assert [row["row_number"] for row in came] == [1]


def test_a_check_that_could_not_reach_its_store_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(num_failures=1)
    monkeypatch.setattr(module, "flow", store.flow)
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    with Watch(Bounds()) as watch:
        checked = check_rounds([row(1), row(2), row(4)], [], watch)
    assert [(row["row_number"], row["status"]) for row in checked] == [(1, "ok"), (2, "ok"), (4, "failed")]
