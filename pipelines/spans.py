"""What each stage did with a row: when, where, how long, and what it moved. The row carries it as JSON in `spans`."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Span:
    """A row in a stage. `worker`: machine and process, as `node-3/4711`; `started_at`: seconds since 1970, UTC."""

    stage: str
    worker: str
    started_at: float
    seconds: float
    bytes_read: int
    bytes_written: int
    num_retries: int  # requests to stores that were repeated


def spans_of(row: Mapping[str, Any]) -> list[Span]:
    """The spans of a row, in their order; none of one that no stage has seen."""
    return [Span(**span) for span in json.loads(row.get("spans") or "[]")]


def with_span(row: Mapping[str, Any], span: Span) -> str:
    """The row's `spans` with one more."""
    return json.dumps([*map(asdict, spans_of(row)), asdict(span)])


@cache
def worker() -> str:
    """This process."""
    return f"{socket.gethostname()}/{os.getpid()}"
