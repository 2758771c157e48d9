"""Spans as a collector receives them: OTLP over HTTP, by a real server."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pipelines import traces
from pipelines.api import observers_of
from pipelines.metrics import Metrics
from pipelines.report import ReportWriter
from pipelines.stage import Row
from pipelines.traces import ENDPOINTS, Traces
from tests.spans import with_spans

RUN = {"output": "s3://key:secret@host/out", "model": "tiny"}
UNSEEN: Row = {
    **{"manifest": "https://host/night.csv?token=5ec2e7", "row_number": 3, "id": "anna", "attempts": 2},
    **{"status": "ok", "error_kind": "", "error": "", "stage": "", "num_frames": None},
}
SPANS = (("prepare", "node/7", 1000.0, 1.5), ("generate", "node/7", 1005.0, 1.5))
OK = with_spans(UNSEEN, *SPANS, bytes_read=10, bytes_written=20, num_retries=2)
FAILED = {**OK, "id": "ben", "status": "failed", "error_kind": "network", "error": "row 3: gone", "stage": "generate"}


class Collector(ThreadingHTTPServer):
    """Answers with `status`; with none, only when it is let go."""

    daemon_threads = True
    status: int | None = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receive)
        self.requests: list[Any] = []
        self.let_go = threading.Event()


class Receive(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, ExportTraceServiceRequest.FromString(body)))
        if self.server.status is None:
            self.server.let_go.wait()
        self.send_response(self.server.status or 503)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.let_go.set()
    server.shutdown()
    server.server_close()


def observe(*rows: Row) -> float:
    """All that an observer hears of a run. Gives the seconds that this held up the run, without the end."""
    observer = Traces.from_environment()
    assert observer
    started = time.monotonic()
    observer.begin(RUN)
    for row in rows:
        observer.finished(row)
    held_up_s = time.monotonic() - started
    observer.close()
    return held_up_s


def attributes(of: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


def test_a_collector_gets_a_trace_for_each_row_with_a_span_for_each_stage(collector: Collector) -> None:
    observe(OK, FAILED)
    ((path, request),) = collector.requests
    assert path == "/v1/traces"
    (resource,) = request.resource_spans
    about = attributes(resource.resource)
    assert about["service.name"] == "stableavatar"
    assert about["stableavatar.output"] == "s3://***@host/out"
    spans = [span for scope in resource.scope_spans for span in scope.spans]
    roots = {attributes(span)["stableavatar.row"]: span for span in spans if not span.parent_span_id}
    assert roots.keys() == {"anna", "ben"}
    assert len({root.trace_id for root in roots.values()}) == 2
    for root in roots.values():
        parts = [span for span in spans if span.parent_span_id == root.span_id]
        assert {span.trace_id for span in parts} == {root.trace_id}
        times = [(span.name, span.start_time_unix_nano, span.end_time_unix_nano) for span in parts]
        assert times == [
            ("prepare", 1000_000_000_000, 1001_500_000_000), ("generate", 1005_000_000_000, 1006_500_000_000),
        ]  # fmt: skip
        assert (root.start_time_unix_nano, root.end_time_unix_nano) == (1000_000_000_000, 1006_500_000_000)
        assert [span.status.code for span in parts] == [0, 2 if root is roots["ben"] else 0]
    said = attributes(roots["ben"])
    assert said["stableavatar.manifest"] == "https://host/night.csv?token=***"
    assert (said["stableavatar.status"], said["stableavatar.error_kind"]) == ("failed", "network")
    assert (roots["ben"].status.code, roots["ben"].status.message) == (2, "row 3: gone")
    assert (roots["anna"].status.code, attributes(roots["anna"])["stableavatar.attempts"]) == (0, 2)
    part = attributes(next(span for span in spans if span.name == "generate"))
    assert part["stableavatar.worker"] == "node/7"
    names = ("bytes_read", "bytes_written", "num_retries")
    assert [part[f"stableavatar.{name}"] for name in names] == [10, 20, 2]


def test_the_environment_may_name_the_service(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
    observe(OK)
    assert attributes(collector.requests[0][1].resource_spans[0].resource)["service.name"] == "nightly"


def test_a_collector_that_never_answers_holds_up_nothing_and_the_end_for_a_bounded_time(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "CLOSE_S", 0.5)
    collector.status = None
    started = time.monotonic()
    assert observe(*[OK] * 1000) < 5.0
    assert time.monotonic() - started < 8.0


def test_without_an_endpoint_there_is_nothing_and_without_the_exporter_a_remedy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert Traces.from_environment() is None
    assert caplog.messages == []
    monkeypatch.setenv(ENDPOINTS[0], "http://127.0.0.1:1/v1/traces")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with caplog.at_level(logging.WARNING):
        assert Traces.from_environment() is None
    assert "pip install 'stableavatar[otel]'" in caplog.text


def test_every_run_is_measured_and_reported_and_traced_if_there_is_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert [type(observer) for observer in observers_of([])] == [Metrics, ReportWriter]
    monkeypatch.setenv(ENDPOINTS[1], "http://127.0.0.1:1")
    assert [type(observer) for observer in observers_of([])] == [Metrics, ReportWriter, Traces]


def test_a_row_that_no_stage_has_seen_has_no_trace(collector: Collector) -> None:
    observe({**FAILED, "spans": None})
    assert collector.requests == []
