from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from manifests.schema import ManifestError, result_schema
from pipelines import plan
from stableavatar.errors import BadInput

GOOD = b'{"portrait": "a.png", "audio": "a.wav", "id": "%s", "team": {"x": [1]}}\n'


def test_a_folder_is_its_manifest_files_by_name(tmp_path: Path) -> None:
    for name in ("b.csv", "a.jsonl", "face.png", ".hidden.csv", "run.json"):
        (tmp_path / name).write_bytes(b"")
    assert plan.manifest_files(f"{tmp_path}/") == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.csv"]
    assert plan.manifest_files(f"{tmp_path}/b.csv") == [f"{tmp_path}/b.csv"]


def test_a_folder_may_hold_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.jsonl").write_bytes(GOOD % b"1")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.jsonl").symlink_to(tmp_path / "real" / "x.jsonl")
    assert plan.manifest_files(f"{tmp_path}/links") == [f"{tmp_path}/links/a.jsonl"]


def test_a_row_that_never_came_back_is_quarantined() -> None:
    rows = plan.select_rows(plan.read_rows(GOOD % b"1" + GOOD % b"2", "a.jsonl"), None, model="tiny")
    (lost,) = plan.lost(rows, rows[:1], "check")
    assert (lost["id"], lost["status"], lost["error_kind"], lost["stage"]) == ("2", "failed", "quarantined", "check")
    assert lost["attempts"] == 3


def test_a_row_that_cannot_be_read_still_says_when_and_what_for() -> None:
    (row, _) = plan.select_rows(plan.read_rows(b"not json\n" + GOOD % b"1", "a.jsonl"), None, model="tiny")
    assert (row["status"], row["stage"], row["model"]) == ("failed", "read", "tiny")
    assert row["started_at"] > 0


def test_a_row_that_cannot_be_read_tells_no_credentials_of_its_manifest() -> None:
    uri = "https://anna:hunter2@host/night.jsonl?token=verysecret"
    for row in plan.select_rows(plan.read_rows(b"not json\n" + 2 * (GOOD % b"1"), uri), None, model="tiny"):
        assert row["error"].startswith("row ") and "hunter2" not in row["error"] and "verysecret" not in row["error"]


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no manifest"):
        plan.manifest_files(str(tmp_path))
    with pytest.raises(BadInput, match=r"no\.csv does not exist"):
        plan.manifest_files(f"{tmp_path}/no.csv")


def test_rows_are_selected_in_the_manifests_order_whatever_order_they_come_in() -> None:
    rows = plan.read_rows(GOOD % b"1" + GOOD % b"2", "b.jsonl") + plan.read_rows(GOOD % b"3", "a.jsonl")
    assert [row["id"] for row in plan.select_rows(rows, 2)] == ["3", "1"]


def test_the_same_id_in_two_files_fails_both_rows_but_not_the_others() -> None:
    rows = plan.read_rows(GOOD % b"1" + GOOD % b"2", "b.jsonl") + plan.read_rows(GOOD % b"1", "a.jsonl")
    rows = plan.select_rows(rows, None)
    assert [row["status"] for row in rows] == ["failed", "failed", "ready"]
    assert "row 1 of b.jsonl" in rows[0]["error"]


def test_every_row_has_an_id() -> None:
    data = b'{"portrait": "a.png", "audio": "b.wav"}\nnot json\n'
    rows = plan.select_rows(plan.read_rows(data, "a.jsonl"), None)
    assert rows[0]["id"].startswith("a_b_")
    assert rows[1]["status"] == "failed"
    assert rows[1]["id"]


def test_carried_values_stay_what_they_are() -> None:
    assert plan.unpack(plan.read_rows(GOOD % b"1", "a.jsonl")[0]) == {"team": {"x": [1]}}


def test_a_file_that_is_no_manifest_stops_everything() -> None:
    with pytest.raises(ManifestError, match=r"b\.csv.*audio"):
        plan.select_rows(plan.read_rows(GOOD % b"1", "a.jsonl") + plan.read_rows(b"portrait\na.png\n", "b.csv"), None)


def failed_before(row: dict[str, Any], **words: Any) -> pa.Table:
    old = {**row, "status": "failed", "attempts": 2, "gpu_s": 9.0, **words}
    return pa.Table.from_pylist([old], result_schema())


def test_attempts_count_on_from_earlier_runs(make_row: Callable[..., dict[str, Any]]) -> None:
    row = make_row(content_id="c" * 32, attempts=1, gpu_s=0.0)

    def counted(table: pa.Table) -> tuple[int, float]:
        (row_again,) = plan.with_history([row], table)
        return row_again["attempts"], row_again["gpu_s"]

    assert counted(failed_before(row)) == (3, 9.0)
    assert counted(failed_before(row, content_id="")) == (3, 9.0)  # it failed before its content was known
    assert counted(failed_before(row, content_id="d" * 32)) == (1, 0.0)  # it was another row then
    assert counted(failed_before(row, row_number=99)) == (1, 0.0)
    assert counted(failed_before(row, attempts=None, gpu_s=None)) == (1, 0.0)


def read(*files: tuple[str, bytes]) -> list[dict[str, Any]]:
    return [row for name, data in files for row in plan.read_rows(data, name)]


def test_what_was_left_comes_before_the_manifest_and_each_id_once() -> None:
    left = GOOD % b"old" + GOOD % b"both"
    rows = read(("a.jsonl", GOOD % b"new" + GOOD % b"both" + GOOD % b"late"), ("left.jsonl", left))
    chosen = plan.select_rows(rows, 2, "left.jsonl", model="tiny")
    assert [(row["id"], row["manifest"], row["is_carried"]) for row in chosen] == [
        ("old", "left.jsonl", True),
        ("new", "a.jsonl", False),
        ("both", "a.jsonl", True),  # the manifest's words
    ]
    assert [row["status"] for row in chosen] == ["ready"] * 3
    late = plan.select_rows(read(("a.jsonl", GOOD % b"new" + GOOD % b"old"), ("left.jsonl", left)), 1, "left.jsonl")
    assert [row["id"] for row in late] == ["old", "both", "new"]  # the limit is the manifest's


def test_a_row_of_the_manifest_that_cannot_be_read_does_not_replace_the_one_that_was_left() -> None:
    bad = b'{"id": "both", "portrait": "a.png", "audio": "a.wav", "num_steps": "many"}\n'
    rows = read(("a.jsonl", bad + GOOD % b"twice" + GOOD % b"twice"), ("left.jsonl", GOOD % b"both" + GOOD % b"twice"))
    chosen = plan.select_rows(rows, None, "left.jsonl", model="tiny")
    assert [(row["id"], row["manifest"], row["status"]) for row in chosen] == [
        ("both", "left.jsonl", "ready"),
        ("twice", "left.jsonl", "ready"),
        ("both", "a.jsonl", "failed"),
        ("twice", "a.jsonl", "failed"),
        ("twice", "a.jsonl", "failed"),
    ]


def test_a_folder_may_be_empty_where_something_was_left(tmp_path: Path) -> None:
    assert plan.manifest_files(f"{tmp_path}/", may_be_empty=True) == []
    assert plan.manifest_files(f"{tmp_path}/tonight/", may_be_empty=True) == []  # S3 has no empty folders
    with pytest.raises(BadInput, match="does not exist"):
        plan.manifest_files(f"{tmp_path}/tonight.jsonl", may_be_empty=True)
    with pytest.raises(ManifestError, match="holds no manifest"):
        plan.manifest_files(f"{tmp_path}/")


def test_a_file_that_cannot_be_read_is_told_as_data(tmp_path: Path) -> None:
    [row] = plan.read_file(f"{tmp_path}/missing.jsonl")
    with pytest.raises(ManifestError, match=r"missing\.jsonl does not exist"):
        plan.select_rows([row], None, model="tiny")
