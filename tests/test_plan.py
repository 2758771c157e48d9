import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from manifests.schema import ManifestError, result_schema
from pipelines import plan, storage
from pipelines.check import Check
from stableavatar.errors import BadInput
from stableavatar.presets import Preset
from tests.conftest import EXAMPLES

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


def test_what_is_left_is_listed_as_a_manifest_of_the_same_rows(preset: Preset, tmp_path: Path) -> None:
    output = f"{tmp_path}/out"
    check = Check(preset, output)
    shutil.copy(EXAMPLES / "portrait_nasa.jpg", tmp_path / "face ü.png")
    shutil.copy(EXAMPLES / "speech_es_short.flac", tmp_path / "speech.flac")
    (tmp_path / "a.srt").write_text("1\n00:00:00,200 --> 00:00:01,000\nhello\n")
    (given,) = plan.select_rows(
        plan.read_rows(
            '{"portrait": "face ü.png", "audio": "speech.flac", "subtitles": "en=a.srt", "team": "blue"}'.encode(),
            f"{tmp_path}/a.jsonl",
        ),
        None,
        model="tiny",
        weights_hash="0123",
    )
    row = check(given)
    plan.write_carry_over(output, [row])
    (again,) = plan.select_rows(
        plan.read_manifest(f"{output}/carry-over.jsonl"), None, model="tiny", weights_hash="0123"
    )
    again = check(again)
    assert (again["id"], again["content_id"]) == (row["id"], row["content_id"])
    assert plan.unpack(again) == {"team": "blue"}
    plan.write_carry_over(output, [])
    assert not storage.exists(f"{output}/carry-over.jsonl")


def test_a_row_that_could_not_be_read_is_not_carried_over(tmp_path: Path) -> None:
    bad, good = plan.select_rows(plan.read_rows(b"not json\n" + GOOD % b"1", f"{tmp_path}/a.jsonl"), None, model="tiny")
    plan.write_carry_over(f"{tmp_path}", [bad, good])
    assert [row["id"] for row in plan.read_manifest(f"{tmp_path}/carry-over.jsonl")] == ["1"]


def test_credentials_are_taken_out_of_what_is_left_and_its_json_stays_json(tmp_path: Path) -> None:
    url = "https://x/a.srt?sig=verysecret"
    segments = [{"start_s": 1, "end_s": 2, "audio": url}]
    deep = "[" * 90 + "]" * 90
    line: dict[str, Any] = {
        "portrait": "a.png",
        "audio": "a.wav",
        "subtitles": {"en": url, "de": "b.srt"},
        "base_video": url,
    }
    line |= {"segments": segments, "note": json.dumps({"of": json.dumps({"at": url})}), "team": {"password": "hunter"}}
    data = json.dumps(line | {"deep": json.loads(deep)}).encode() + b"\n"
    data += GOOD % b"2" + json.dumps(line | {"id": "3", "segments": "[" * 90_000}).encode()
    rows = plan.select_rows(plan.read_rows(data, f"{tmp_path}/a.jsonl"), None, model="tiny")
    plan.write_carry_over(f"{tmp_path}", rows)
    first, second, third = plan.read_manifest(f"{tmp_path}/carry-over.jsonl")
    text = (tmp_path / "carry-over.jsonl").read_text()
    assert "verysecret" not in text and "hunter" not in text
    assert [row["status"] for row in (first, second, third)] == ["ready"] * 3, first["error"]
    hidden = "https://x/a.srt?sig=***"
    assert json.loads(first["subtitles"]) == {"en": hidden, "de": f"{tmp_path}/b.srt"}
    assert json.loads(first["segments"])[0]["audio"] == hidden
    assert json.loads(json.loads(plan.unpack(first)["note"])["of"]) == {"at": hidden}
    assert plan.unpack(first)["deep"] == json.loads(deep)
    assert plan.unpack(first)["team"] == {"password": "***"}


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


def test_what_was_left_is_kept_under_a_name_of_its_own(tmp_path: Path) -> None:
    assert plan.carried_over(str(tmp_path)) == ""
    rows = plan.select_rows(plan.read_rows(GOOD % b"1", f"{tmp_path}/a.jsonl"), None, model="tiny")
    plan.write_carry_over(str(tmp_path), rows)
    first = plan.carried_over(str(tmp_path))
    assert plan.carried_over(str(tmp_path)) == first
    plan.write_carry_over(str(tmp_path), [])
    assert [row["id"] for row in plan.read_manifest(first)] == ["1"]


def test_rows_that_a_run_knew_nothing_of_stay_listed(tmp_path: Path) -> None:
    rows = plan.select_rows(plan.read_rows(GOOD % b"1" + GOOD % b"2" + GOOD % b"3", "a.jsonl"), None, model="tiny")
    plan.write_carry_over(str(tmp_path), rows[:2])
    plan.write_carry_over(str(tmp_path), rows[2:], known={"1", "3"})
    assert [row["id"] for row in plan.read_manifest(plan.carry_over_uri(str(tmp_path)))] == ["2", "3"]
    uri = plan.carry_over_uri(str(tmp_path))
    storage.write(storage.read(uri) + b"\n", uri)  # somebody edited it
    plan.write_carry_over(str(tmp_path), [], known={"1", "2", "3"})
    assert not storage.exists(plan.carry_over_uri(str(tmp_path)))
    storage.write(b"[1]\n{broken\n" + (GOOD % b"4").strip(), uri)
    plan.write_carry_over(str(tmp_path), rows[:1], known={"1"})
    text = storage.read(uri)
    assert text.startswith(b"[1]\n{broken\n")
    assert [json.loads(line)["id"] for line in text.splitlines()[2:]] == ["4", "1"]
