import json
import pickle
from typing import Any

import pytest

from pipelines.outcome import RenderResult, RowResult, RunReport, outcome

ROW: dict[str, Any] = {"manifest": "/in/night.jsonl", "row_number": 1, "error_kind": "", "error": "", "spans": "[]"}
FAILED = {**ROW, "status": "failed", "error_kind": "internal", "error": "row 3 of /in/night.jsonl: strange"}


def reported(**rows: list[dict[str, Any]]) -> RenderResult:
    empty: Any = {name: [] for name in ("finished", "unfinished", "left", "done")}
    return outcome("/out", RunReport(**empty | rows, stopped="it is late" if "unfinished" in rows else ""))


def test_every_row_of_the_manifest_is_there_in_its_order() -> None:
    result = reported(
        finished=[{**ROW, "id": "new", "row_number": 4, "status": "ok", "video": "/out/videos/new.mp4"}],
        unfinished=[{**ROW, "id": "rest", "row_number": 2, "status": "ready", "video": "/out/videos/rest.mp4"}],
        left=[{**FAILED, "id": "strange", "row_number": 3, "video": "/out/videos/strange.mp4"}],
        done=[{**ROW, "id": "old", "status": "ready", "video": "/out/videos/old.mp4"}],
    )
    assert [(row.id, row.status, row.video, row.was_before) for row in result.rows] == [
        ("old", "ok", "/out/videos/old.mp4", True),
        ("rest", "unfinished", None, False),
        ("strange", "failed", None, True),
        ("new", "ok", "/out/videos/new.mp4", False),
    ]
    assert (result.num_ok, result.num_done_before, result.stopped) == (2, 1, "it is late")
    assert ([row.id for row in result.failed], [row.id for row in result.unfinished]) == (["strange"], ["rest"])
    assert result.failed[0].error_kind == "internal"


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ({"done": [{**ROW, "id": "a"}]}, 0),
        ({"finished": [{**FAILED, "id": "a"}]}, 2),
        ({"left": [{**FAILED, "id": "a"}]}, 2),
        ({"finished": [{**FAILED, "id": "a"}], "unfinished": [{**ROW, "id": "b", "status": "ready"}]}, 3),
    ],
)
def test_the_exit_code_is_that_of_the_command(rows: dict[str, Any], code: int) -> None:
    assert reported(**rows).exit_code == code


def test_it_travels_to_other_processes_and_as_json_without_credentials() -> None:
    signed = {**ROW, "id": "a", "manifest": "https://store/night.jsonl?sig=verysecret"}
    result = reported(done=[signed])
    assert pickle.loads(pickle.dumps(result)) == result
    told = json.loads(json.dumps(result.to_dict()))
    assert RowResult(**told["rows"][0]).manifest == "https://store/night.jsonl?sig=***"
    assert (told["num_ok"], told["exit_code"], told["videos_uri"]) == (1, 0, "/out/videos")
