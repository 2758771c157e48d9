"""A trace for each row, by OpenTelemetry: the row is a span, and each stage that it went through is one below it.

Made in the driver when the row is finished, with the times that the stages noted.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span as OpenSpan
from opentelemetry.trace import StatusCode, set_span_in_context

from manifests.redact import redacted
from pipelines.observers import Observer
from pipelines.spans import Span, spans_of
from pipelines.stage import Row

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SERVICE = "stableavatar"
CLOSE_S = 10.0  # how long the last spans may take on their way

logger = logging.getLogger(__name__)


class Traces(Observer):
    """Sends spans in batches, from a thread of its own. A collector that is down costs the traces and nothing else."""

    def __init__(self, exporter: Callable[[], SpanExporter]) -> None:
        """`exporter()` gives what sends the spans."""
        self._exporter = exporter
        self._provider: TracerProvider | None = None

    @classmethod
    def from_environment(cls) -> Self | None:
        """As the variables of OpenTelemetry say; None if they name no endpoint (OTLP over HTTP)."""
        if not any(map(os.environ.get, ENDPOINTS)):
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError:
            logger.warning("no traces: OpenTelemetry's exporter is missing. pip install 'stableavatar[otel]'")
            return None
        return cls(OTLPSpanExporter)

    def begin(self, run: Mapping[str, Any]) -> None:
        """Say whose spans they are: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES may say more."""
        service = os.environ.get("OTEL_SERVICE_NAME", SERVICE)
        about = {"service.name": service, "stableavatar.output": redacted(run["output"])}
        about["stableavatar.model"] = redacted(str(run["model"]))
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter()))

    def finished(self, row: Row) -> None:
        """Its trace, from the beginning of its first stage to the end of its last."""
        spans = spans_of(row)
        if not (spans and self._provider):
            return
        tracer = self._provider.get_tracer(__name__)
        whole = tracer.start_span("row", start_time=_ns(spans[0].started_at), attributes=row_attributes(row))
        for number, span in enumerate(spans, start=1):
            part = tracer.start_span(
                span.stage,
                context=set_span_in_context(whole),
                start_time=_ns(span.started_at),
                attributes=stage_attributes(row, span),
            )
            if number == len(spans) and span.stage == row["stage"]:
                _mark_failed(part, row)
            part.end(_ns(span.started_at + span.seconds))
        _mark_failed(whole, row)
        whole.end(max(_ns(span.started_at + span.seconds) for span in spans))

    def close(self) -> None:
        """Send what is left, if that takes no longer than CLOSE_S."""
        if self._provider:
            closing = threading.Thread(target=self._provider.shutdown, daemon=True)
            closing.start()
            closing.join(CLOSE_S)


def row_attributes(row: Row) -> dict[str, Any]:
    """What the span of a row says."""
    about = {**_place(row), "attempts": row.get("attempts"), "num_frames": row.get("num_frames")}
    about |= {"status": row["status"], "error_kind": row["error_kind"] or None}
    return _named(about)


def stage_attributes(row: Row, span: Span) -> dict[str, Any]:
    """What the span of a stage says."""
    moved = {name: getattr(span, name) for name in ("bytes_read", "bytes_written", "num_retries")}
    return _named({**_place(row), "stage": span.stage, "worker": span.worker, **moved})


def _place(row: Row) -> dict[str, Any]:
    return {"row": redacted(row["id"]), "manifest": redacted(row["manifest"]), "row_number": row["row_number"]}


def _named(about: Mapping[str, Any]) -> dict[str, Any]:
    """Under names of our own; without what is not known, which has no place in a span."""
    return {f"{SERVICE}.{name}": value for name, value in about.items() if value is not None}


def _mark_failed(span: OpenSpan, row: Row) -> None:
    if row["status"] == "failed":
        span.set_status(StatusCode.ERROR, redacted(row["error"]))
        span.set_attribute("error.type", row["error_kind"])


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
