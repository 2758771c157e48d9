import json
import shutil
from pathlib import Path
from typing import Any

from pipelines import plan, storage
from pipelines.carry_over import find_list, list_uri, write_list
from pipelines.check import Check
from pipelines.stage import fail
from stableavatar.presets import Preset
from tests.conftest import EXAMPLES

GOOD = b'{"portrait": "a.png", "audio": "a.wav", "id": "%s", "team": {"x": [1]}}\n'


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
    write_list(output, [row])
    (again,) = plan.select_rows(
        plan.read_manifest(f"{output}/carry-over.jsonl"), None, model="tiny", weights_hash="0123"
    )
    again = check(again)
    assert (again["id"], again["content_id"]) == (row["id"], row["content_id"])
    assert plan.unpack(again) == {"team": "blue"}
    write_list(output, [])
    assert not storage.exists(f"{output}/carry-over.jsonl")


def test_a_row_that_could_not_be_read_is_not_carried_over(tmp_path: Path) -> None:
    bad, good = plan.select_rows(plan.read_rows(b"not json\n" + GOOD % b"1", f"{tmp_path}/a.jsonl"), None, model="tiny")
    write_list(f"{tmp_path}", [bad, good])
    assert [row["id"] for row in plan.read_manifest(f"{tmp_path}/carry-over.jsonl")] == ["1"]


def test_rows_that_failed_by_no_fault_of_theirs_are_left_to_the_next_night(tmp_path: Path) -> None:
    kinds = ("network", "storage", "bad_input", "quarantined")
    rows = plan.select_rows(plan.read_rows(b"".join(GOOD % kind.encode() for kind in kinds), "a.jsonl"), None)
    failed = [fail(row, "check", kind, "it did not work") for row, kind in zip(rows, kinds, strict=True)]
    write_list(f"{tmp_path}", failed)
    assert [row["id"] for row in plan.read_manifest(list_uri(f"{tmp_path}"))] == ["network", "storage"]


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
    write_list(f"{tmp_path}", rows)
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


def test_what_was_left_is_kept_under_a_name_of_its_own(tmp_path: Path) -> None:
    assert find_list(str(tmp_path), True) == ""
    rows = plan.select_rows(plan.read_rows(GOOD % b"1", f"{tmp_path}/a.jsonl"), None, model="tiny")
    write_list(str(tmp_path), rows)
    first = find_list(str(tmp_path), True)
    assert find_list(str(tmp_path), True) == first
    assert find_list(str(tmp_path), True, keep=False) == f"{tmp_path}/carry-over.jsonl"
    assert find_list(str(tmp_path), False) == ""
    assert find_list(str(tmp_path), "left.jsonl") == f"{Path.cwd()}/left.jsonl"
    write_list(str(tmp_path), [])
    assert [row["id"] for row in plan.read_manifest(first)] == ["1"]


def test_rows_that_a_run_knew_nothing_of_stay_listed(tmp_path: Path) -> None:
    rows = plan.select_rows(plan.read_rows(GOOD % b"1" + GOOD % b"2" + GOOD % b"3", "a.jsonl"), None, model="tiny")
    write_list(str(tmp_path), rows[:2])
    write_list(str(tmp_path), rows[2:], known={"1", "3"})
    assert [row["id"] for row in plan.read_manifest(list_uri(str(tmp_path)))] == ["2", "3"]
    uri = list_uri(str(tmp_path))
    storage.write(storage.read(uri) + b"\n", uri)  # somebody edited it
    write_list(str(tmp_path), [], known={"1", "2", "3"})
    assert not storage.exists(list_uri(str(tmp_path)))
    storage.write(b"[1]\n{broken\n" + (GOOD % b"4").strip(), uri)
    write_list(str(tmp_path), rows[:1], known={"1"})
    text = storage.read(uri)
    assert text.startswith(b"[1]\n{broken\n")
    assert [json.loads(line)["id"] for line in text.splitlines()[2:]] == ["4", "1"]
