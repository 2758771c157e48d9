"""What rows tell of their stages, made up."""

from pipelines.spans import Span, with_span
from pipelines.stage import Row


def with_spans(row: Row, *spans: tuple[str, str, float, float], **moved: int) -> Row:
    """The row after so many stages: (stage, worker, when it began, seconds). `moved`: by each of them; else nothing."""
    moved = {"bytes_read": 0, "bytes_written": 0, "num_retries": 0, **moved}
    for stage, worker, started_at, seconds in spans:
        span = Span(stage=stage, worker=worker, started_at=started_at, seconds=seconds, **moved)
        row = {**row, "spans": with_span(row, span)}
    return row
