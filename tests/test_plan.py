from pathlib import Path

import pytest

from manifests.schema import ManifestError
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


def test_a_row_that_never_came_back_is_lost() -> None:
    rows = plan.select_rows(plan.read_rows(GOOD % b"1" + GOOD % b"2", "a.jsonl"), None, model="tiny")
    kept, lost = plan.with_lost(rows, rows[:1], "check")
    assert kept is rows[0]
    assert (lost["id"], lost["status"], lost["error_kind"], lost["stage"]) == ("2", "failed", "worker_lost", "check")


def test_a_row_that_cannot_be_read_still_says_when_and_what_for() -> None:
    (row, _) = plan.select_rows(plan.read_rows(b"not json\n" + GOOD % b"1", "a.jsonl"), None, model="tiny")
    assert (row["status"], row["stage"], row["model"]) == ("failed", "read", "tiny")
    assert row["started_at"] > 0


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


def test_failed_rows_first_and_then_the_longest() -> None:
    def row(id: str, num_frames: int, width: int, num_steps: int) -> dict:
        size = {"num_frames": num_frames, "width": width, "height": 100, "num_steps": num_steps}
        return {"id": id, "status": "ready", **size}

    rows = [
        row("short", 10, 100, 2),
        row("long", 50, 100, 2),
        {"id": "bad", "status": "failed"},
        row("wide", 10, 900, 2),
    ]
    assert [row["id"] for row in plan.longest_first(rows)] == ["bad", "wide", "long", "short"]
