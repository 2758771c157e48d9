"""Outputs as runs leave them, made up: result tables, run.json, videos and contact sheets, without a run."""

import io
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines import results, storage
from pipelines.stage import Row, fail
from tests.spans import with_spans

BEGAN = datetime(2026, 3, 2, 22, 15, tzinfo=UTC).timestamp()
FAILURES = (
    ("bad_input", "s3://takes/{number}.wav does not exist. Check the name."),
    ("storage", "a disk failed (No space left on device). Make room on the scratch disk, and run again."),
    ("out_of_memory", "the device has 24 GB, this video needs 31 GB. Use a larger one."),
)
MakeRow = Callable[..., Row]


def spans(began_at: float, generate_s: float, number: int = 0) -> str:
    """What a row went through: five stages, one after the other, on one of four generators."""
    seconds = {"check": 0.2, "prepare": 0.5, "encode_text": 0.1, "generate": generate_s, "measure": 0.3}
    begins = accumulate(seconds.values(), initial=began_at)
    workers = (f"node-{number % 4}/{4000 + len(stage)}" for stage in seconds)
    return with_spans({}, *zip(seconds, workers, begins, seconds.values(), strict=False))["spans"]


def made(row: Row, *, began_at: float = BEGAN, generate_s: float = 20.0, number: int = 0, **words: Any) -> Row:
    """The row as `measure` leaves it."""
    times = {"started_at": began_at, "finished_at": began_at + generate_s + 1.1, "generate_s": generate_s}
    size = {"width": 480, "height": 832, "num_frames": 125, "num_windows": 3, "content_id": f"{number:032x}"}
    return {**row, **times, **size, "gpu_s": generate_s, "spans": spans(began_at, generate_s, number), **words}


def failed(row: Row, kind: str, message: str, stage: str = "check", *, at: float = BEGAN) -> Row:
    """The row as `write` leaves it."""
    return fail({**row, "started_at": at}, stage, kind, message) | {"finished_at": at + 1}


def write_rows(output: str, rows: Iterable[Row]) -> None:
    """The rows as a result table."""
    tables = [results.to_table({**row, "status": row["status"].replace("ready", "ok")}, pa.schema([])) for row in rows]
    file = io.BytesIO()
    pq.write_table(results.concat(tables), file)
    storage.write(file.getvalue(), storage.join(output, results.COMPACTED))


def write_run(output: str, began_at: float = BEGAN, **words: Any) -> None:
    """What a run notes when it begins at this time."""
    noted = {"manifest": "night.jsonl", "model": "mini", "num_done": 0, "left": {}, "num_generators": 4, **words}
    results.write_run(output, began_at=began_at, **noted)


def write_media(output: str, row: Row, size: tuple[int, int] = (256, 112)) -> None:
    """A file where the row's video lies, and a contact sheet."""
    storage.write(b"video", results.video_uri(output, row))
    draw = random.Random(row["content_id"])
    sheet, file = Image.new("RGB", size), io.BytesIO()
    for number in range(4):
        colour = tuple(draw.randrange(60, 220) for _ in range(3))
        sheet.paste(colour, (number * size[0] // 4, 0, (number + 1) * size[0] // 4, size[1]))
    sheet.save(file, "jpeg")
    storage.write(file.getvalue(), results.sheet_uri(output, row))


def write_night(output: str, make_row: MakeRow, num_rows: int, num_media: int = 80) -> list[Row]:
    """A night of so many rows on four generators, of which some failed; the last tenth is unfinished."""
    draw = random.Random(7)
    free_at = [BEGAN] * 4
    rows = []
    for number in range(num_rows * 9 // 10):
        row = make_row(manifest="night.jsonl", id=f"presenter-{number:04}", row_number=number + 1, model="mini")
        took, mine = draw.lognormvariate(3, 0.6), number % 4
        if number % 20 == 7:
            kind, message = FAILURES[number // 20 % 3]
            rows.append(failed(row, kind, message.format(number=number), at=free_at[mine]))
            continue
        rows.append(made(row, began_at=free_at[mine], generate_s=took, number=number))
        free_at[mine] += took + draw.random()
    for row in [row for row in rows if row["status"] == "ready"][:num_media]:
        write_media(output, row)
    write_rows(output, rows)
    write_run(output, num_rows=num_rows)
    return rows
