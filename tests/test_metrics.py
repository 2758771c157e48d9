"""What Prometheus would scrape, from a real metrics agent; and what the numbers mean, without one."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from pipelines import metrics
from pipelines.metrics import BOUNDARIES, COUNTERS, GAUGES, HISTOGRAMS, PREFIX, Metrics
from pipelines.outcome import RunReport
from pipelines.stage import Row
from tests.spans import with_spans

RUN = {
    **{"output": "s3://key:secret@host/out", "num_rows": 10, "num_done": 2, "left": {"internal": 1}},
    "num_generators": 2,
}
FACTS = {
    **{"num_ok": 1, "num_failed": 1, "running": [{"id": "anna"}], "windows_done": 4.5, "windows_per_s": 0.5},
    **{"seconds_left": 60.0, "num_retries": 1, "checkpoint_age_s": 30.0, "waiting": {"prepare": 3}},
}
ROW: Row = {"manifest": "night.csv", "row_number": 3, "id": "anna", "status": "ok", "error_kind": ""}
REPORT = RunReport(finished=[{**ROW}], unfinished=[{}, {}], left=[], done=[{}, {}], stopped="it is late")
APPEARS_WITHIN_S = 60  # workers report every ten seconds


def after(row: Row, *stages: str) -> Row:
    """The row after these stages, a second in each."""
    spans = [(stage, "node/1", float(number), 1.0) for number, stage in enumerate(stages)]
    return with_spans(row, *spans, bytes_read=10, num_retries=2)


class Recorded:
    """Stands for each of Ray's kinds of metrics."""

    def __init__(self, name: str, *_: Any) -> None:
        self.values: dict[tuple[str, ...], list[float]] = {}
        made[name.removeprefix(PREFIX)] = self

    def set_default_tags(self, tags: dict[str, str]) -> None:
        self.defaults = tags

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        self.values.setdefault(tuple((tags or {}).values()), []).append(value)

    inc = observe = set


made: dict[str, Recorded] = {}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Recorded]]:
    for kind in ("Gauge", "Counter", "Histogram"):
        monkeypatch.setattr(metrics, kind, Recorded)
    yield made
    made.clear()


def last(recorded: dict[str, Recorded], name: str) -> dict[str, float]:
    return {" ".join(tags): values[-1] for tags, values in recorded[name].values.items()}


def total(recorded: dict[str, Recorded], name: str) -> dict[str, float]:
    return {" ".join(tags): sum(values) for tags, values in recorded[name].values.items()}


def test_the_states_of_all_rows_add_up_to_the_manifest(recorded: dict[str, Recorded]) -> None:
    observer = Metrics()
    observer.begin(RUN)
    observer.tick(FACTS)
    states = last(recorded, "rows")
    assert states == {"ok": 3, "failed": 2, "running": 1, "waiting": 4, "unfinished": 0}
    assert last(recorded, "generators_busy") == {"": 1}
    assert last(recorded, "queue_length") == {"prepare": 3}
    observer.end(REPORT)
    observer.tick(FACTS)  # from another thread, a little late
    assert last(recorded, "rows") == {"ok": 3, "failed": 1, "running": 0, "waiting": 4, "unfinished": 2}
    assert last(recorded, "queue_length") == {"prepare": 0}
    assert last(recorded, "generators") == last(recorded, "seconds_left") == {"": 0}


def test_gauges_are_set_at_every_tick_or_ray_forgets_them(recorded: dict[str, Recorded]) -> None:
    observer = Metrics()
    observer.begin(RUN)
    assert [recorded[name].values for name in GAUGES] == [{}] * len(GAUGES)
    for _ in range(2):
        observer.tick(FACTS)
    assert {len(values) for name in GAUGES for values in recorded[name].values.values()} == {2}


def test_an_observer_that_could_not_begin_says_nothing(recorded: dict[str, Recorded]) -> None:
    Metrics().tick(FACTS)
    assert recorded == {}


def test_counters_go_on_where_what_counts_began_anew(recorded: dict[str, Recorded]) -> None:
    observer = Metrics()
    observer.begin(RUN)
    for windows_done in (4.5, 5.5, 0.5, 1.0):  # the third after the actor that counts died
        observer.tick({**FACTS, "windows_done": windows_done})
    assert total(recorded, "windows") == {"": 6.0}
    assert total(recorded, "row_retries") == {"": 1}


def test_seconds_of_generators_are_those_of_all_that_work(
    recorded: dict[str, Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    observer = Metrics()
    observer.begin(RUN)
    running = [{"id": id} for id in ("anna", "ben", "its generator died")]  # of two generators
    for now, rows in ((102.5, running[:1]), (104.0, running), (110.0, [])):  # noqa: B007  the clock reads it
        observer.tick({**FACTS, "running": rows})
    assert total(recorded, "generator_seconds") == {"": 2.5 + 2 * 1.5}


def test_a_row_that_is_tried_again_brings_what_was_done_before_only_once(recorded: dict[str, Recorded]) -> None:
    observer = Metrics()
    observer.begin(RUN)
    failed = {**ROW, "status": "failed", "error_kind": "network"}
    observer.finished(after(failed, "check", "prepare"))
    observer.finished(after(ROW, "check", "prepare", "generate"))
    assert total(recorded, "finished_rows") == {"failed network": 1, "ok ": 1}
    assert total(recorded, "bytes_read") == {"check": 10, "prepare": 10, "generate": 10}
    assert total(recorded, "request_retries") == {"check": 2, "prepare": 2, "generate": 2}
    assert recorded["bytes_written"].values == {}
    assert total(recorded, "stage_seconds") == {"check": 1.0, "prepare": 1.0, "generate": 1.0}


def test_no_credentials_and_no_rows_in_tags(recorded: dict[str, Recorded]) -> None:
    Metrics().begin(RUN)
    assert {metric.defaults["output"] for metric in recorded.values()} == {"s3://***@host/out"}
    names = {name for words in (GAUGES, COUNTERS, HISTOGRAMS) for _, tags in words.values() for name in tags}
    assert names == {"state", "stage", "status", "error_kind"}


def scraped() -> str:
    """What the metrics agent of this node says."""
    node = ray.nodes()[0]
    with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
        return answer.read().decode()


def ours(family: Any) -> list[Any]:
    """The samples of RUN: other runs of this process have left theirs."""
    return [sample for sample in family.samples if sample.labels["output"] == "s3://***@host/out"]


@pytest.mark.slow
def test_prometheus_finds_every_metric_and_understands_it(ray_cluster: None) -> None:
    for observer in (Metrics(), Metrics()):  # of two runs of one process
        observer.begin(RUN)
        observer.tick(FACTS)
    observer.finished(after({**ROW, "spans": "[]"}, "prepare"))
    observer._count("bytes_written", 7, stage="measure")
    expected = {f"ray_{PREFIX}{name}" for name in (*GAUGES, *COUNTERS, *HISTOGRAMS)}
    until = time.monotonic() + APPEARS_WITHIN_S
    found: dict[str, Any] = {}
    while not found.keys() >= expected and time.monotonic() < until:
        time.sleep(1)
        found = {family.name: family for family in text_string_to_metric_families(scraped())}
    assert expected - found.keys() == set()
    kinds = {name: found[f"ray_{PREFIX}{name}"].type for name in (*GAUGES, *COUNTERS, *HISTOGRAMS)}
    assert {kinds[name] for name in GAUGES} == {"gauge"}
    assert {kinds[name] for name in COUNTERS} == {"counter"}
    assert {kinds[name] for name in HISTOGRAMS} == {"histogram"}
    rows = {sample.labels["state"]: sample.value for sample in ours(found["ray_stableavatar_rows"])}
    assert rows == {"ok": 3, "failed": 2, "running": 1, "waiting": 4, "unfinished": 0}
    (windows,) = ours(found["ray_stableavatar_windows"])
    assert (windows.name, windows.value) == ("ray_stableavatar_windows_total", 9.0)
    buckets = [s for s in ours(found["ray_stableavatar_stage_seconds"]) if s.name.endswith("_bucket")]
    assert [float(sample.labels["le"]) for sample in buckets] == [*BOUNDARIES, float("inf")]
