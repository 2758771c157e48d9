import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from manifests.read import carried_schema
from manifests.schema import result_schema
from pipelines import plan, results, storage
from pipelines.stage import fail
from stableavatar.errors import StorageError

MakeRow = Callable[..., dict[str, Any]]
NO_COLUMNS = pa.schema([])


@pytest.fixture
def output(bucket: str) -> str:
    return f"{bucket}/out"


def test_a_row_is_in_the_table_as_soon_as_it_is_written(make_row: MakeRow, output: str) -> None:
    row = make_row(content_id="c" * 32, started_at=1e9, brightness=[1.0, 2.0], carried=plan.pack({"team": "blue"}))
    results.WriteResult(output, carried_schema([{"carried": {"team": "blue"}}]))(row)
    table = results.read_results(output)
    assert table.schema.names == [*result_schema().names, "team"]
    (read,) = table.to_pylist()
    assert (read["status"], read["team"], read["brightness"]) == ("ok", "blue", [1.0, 2.0])
    assert read["started_at"] == datetime.fromtimestamp(1e9, UTC)
    assert read["finished_at"] > read["started_at"]
    assert storage.names_in(f"{output}/results") == ["anna-cccccccccccccccc.parquet"]


def test_no_results_yet(output: str) -> None:
    assert results.read_results(output).num_rows == 0
    assert results.read_run(output) is None


def test_carried_columns_may_differ_between_runs(make_row: MakeRow, output: str) -> None:
    for id, carried in (("a", {"take": 1}), ("b", {"take": "one", "new": 2.5}), ("c", {})):
        schema = carried_schema([{"carried": carried}])
        results.WriteResult(output, schema)(make_row(id=id, content_id="c" * 32, carried=plan.pack(carried)))
    table = results.read_results(output)
    assert table["take"].to_pylist() == ["1", "one", None] or table["take"].to_pylist() == ["1", '"one"', None]


def test_only_rows_with_their_video_are_finished(make_row: MakeRow, output: str) -> None:
    rows = [make_row(id=id, content_id=id * 32, row_number=ord(id)) for id in "abc"]
    write = results.WriteResult(output, NO_COLUMNS)
    write(rows[0])
    write(rows[1])
    write(fail(rows[2], "measure", "storage", "refused"))
    for id in "ac":
        storage.write(b"film", f"{output}/videos/{results.stem(rows['abc'.index(id)])}.mp4")
    todo, done, left = results.split_finished(rows, results.read_results(output), output)
    assert [row["id"] for row in todo] == ["b", "c"]
    assert [row["id"] for row in done] == ["a"]
    assert left == []


def test_a_row_that_would_only_fail_again_is_left_until_its_kind_is_asked_for(make_row: MakeRow, output: str) -> None:
    kinds = ["out_of_memory", "broken_video", "internal", "quarantined", "storage", "network"]
    rows = [make_row(id=kind, content_id="c" * 32, row_number=number) for number, kind in enumerate(kinds)]
    for row in rows:
        results.WriteResult(output, NO_COLUMNS)(fail(row, "generate", row["id"], "so it went"))
    table = results.read_results(output)
    todo, _, left = results.split_finished(rows, table, output)
    assert [row["id"] for row in todo] == ["storage", "network"]
    assert [(row["status"], row["error_kind"]) for row in left] == [("failed", kind) for kind in kinds[:4]]
    assert left[0]["error"].endswith("so it went")
    todo, _, left = results.split_finished(rows, table, output, retry={"internal"})
    assert [row["id"] for row in todo] == ["internal"]
    _, _, left = results.split_finished(rows, table, output, retry=results.FINAL_KINDS)
    assert [row["id"] for row in left] == ["storage", "network"]
    changed = [{**row, "content_id": "d" * 32} for row in rows]
    assert results.split_finished(changed, table, output)[0] == changed


def test_a_row_that_fails_its_check_again_is_written_down_again(make_row: MakeRow, output: str) -> None:
    row = fail(make_row(), "check", "internal", "strange")
    results.WriteResult(output, NO_COLUMNS)(row)
    assert results.split_finished([row], results.read_results(output), output) == ([row], [], [])


def test_a_failure_goes_when_something_newer_is_said_of_its_place(make_row: MakeRow, output: str) -> None:
    write = results.WriteResult(output, NO_COLUMNS)
    for number in (1, 2):
        write(fail(make_row(row_number=number, id="face_voice_0123abcd"), "read", "bad_input", "twice"))
    assert results.read_results(output).num_rows == 2  # both are in one run: neither is news of the other
    write(make_row(row_number=1, id="renamed", content_id="c" * 32))
    assert sorted(states(output)) == [("face_voice_0123abcd", 2, "failed"), ("renamed", 1, "ok")]


def test_a_failure_stays_when_another_row_has_taken_its_place(make_row: MakeRow, output: str) -> None:
    write = results.WriteResult(output, NO_COLUMNS)
    write(fail(make_row(row_number=2, content_id="b" * 32), "generate", "internal", "strange"))
    write(make_row(row_number=2, id="inserted above", content_id="c" * 32))
    assert sorted(states(output)) == [("anna", 2, "failed"), ("inserted above", 2, "ok")]


def test_a_checkpoint_that_a_killed_run_has_forgotten_goes(make_row: MakeRow, output: str) -> None:
    row, other = make_row(content_id="c" * 32), make_row(id="other", content_id="d" * 32)
    for stem in map(results.stem, (row, other)):
        storage.write(b"state", f"{output}/checkpoints/{stem}/state.safetensors")
    results.clean_up(output, [row])
    assert storage.folders_in(f"{output}/checkpoints") == [results.stem(other)]


def test_rows_with_the_same_content_are_made_once(make_row: MakeRow, output: str) -> None:
    made = make_row(id="made", content_id="a" * 32)
    results.WriteResult(output, NO_COLUMNS)(made)
    rows = [make_row(id=id, content_id=content * 32) for id, content in (("one", "a"), ("two", "b"), ("three", "b"))]
    twins = results.with_twins([*rows, made], results.read_results(output), output)
    assert [row["twin"] for row in twins] == [
        results.video_uri(output, made), "", results.video_uri(output, rows[1]), "",
    ]  # fmt: skip


def test_what_is_noted_of_a_run_holds_no_credentials(output: str) -> None:
    results.write_run(output, manifest="https://anna:secret@host/night.csv", model="tiny", num_rows=1)
    assert results.read_run(output)["manifest"] == "https://***@host/night.csv"  # type: ignore[index]


def test_a_failure_goes_when_its_row_has_moved_and_something_newer_is_said_of_it(
    make_row: MakeRow, output: str
) -> None:
    write = results.WriteResult(output, NO_COLUMNS)
    write(fail(make_row(row_number=7), "read", "bad_input", "unclear"))
    write(fail(make_row(row_number=3), "check", "bad_input", "missing"))
    assert states(output) == [("anna", 3, "failed")]
    write(make_row(row_number=2, content_id="c" * 32))
    assert states(output) == [("anna", 2, "ok")]


def test_a_video_that_is_there_is_not_forgotten_for_a_newer_failure(make_row: MakeRow, output: str) -> None:
    write = results.WriteResult(output, NO_COLUMNS)
    write(make_row(content_id="c" * 32))
    write(fail(make_row(content_id="d" * 32), "generate", "internal", "no"))
    assert sorted(states(output)) == [("anna", 3, "failed"), ("anna", 3, "ok")]


def test_what_another_manifest_said_of_an_id_is_kept(make_row: MakeRow, output: str) -> None:
    write = results.WriteResult(output, NO_COLUMNS)
    write(fail(make_row(manifest="other.jsonl"), "check", "bad_input", "no"))
    write(make_row(content_id="c" * 32))
    assert results.read_results(output).num_rows == 2


def test_videos_in_folders_are_found(make_row: MakeRow, output: str) -> None:
    row = make_row(id="a", content_id="c" * 32, video_name="de/anna")
    results.WriteResult(output, NO_COLUMNS)(row)
    assert results.video_uri(output, row) == f"{output}/videos/de/anna-cccccccccccccccc.mp4"
    assert results.split_finished([row], results.read_results(output), output)[0] == [row]
    storage.write(b"film", results.video_uri(output, row))
    assert results.split_finished([row], results.read_results(output), output)[1] == [row]


def test_a_video_that_gets_another_name_is_copied_and_one_that_two_rows_share_is_made_once(
    make_row: MakeRow, output: str
) -> None:
    done = make_row(id="a", content_id="c" * 32, video_name="de/anna")
    results.WriteResult(output, NO_COLUMNS)(done)
    rows = [
        {**done, "video_name": "fr/anna"},
        {**done, "id": "b"},
        make_row(id="c", content_id="d" * 32, video_name="x"),
        make_row(id="d", content_id="d" * 32, video_name="x"),
    ]
    twins = [row["twin"] for row in results.with_twins([done, *rows], results.read_results(output), output)]
    shared = results.video_uri(output, rows[2])
    assert twins == ["", *[results.video_uri(output, done)] * 2, "", shared]


def test_what_killed_runs_left_in_the_folders_of_videos_is_removed(make_row: MakeRow, tmp_path: Path) -> None:
    row = make_row(id="a", content_id="c" * 32, video_name="de/anna")
    part = tmp_path / "videos" / "de" / ".0.part"
    part.parent.mkdir(parents=True)
    part.touch()
    os.utime(part, (0, 0))
    results.clean_up(str(tmp_path), iter([row]))
    assert not part.exists()


def states(output: str) -> list[tuple[str, int, str]]:
    """What the result table says, in short."""
    return [(row["id"], row["row_number"], row["status"]) for row in results.read_results(output).to_pylist()]


def test_compacting_changes_nothing_but_the_number_of_files(make_row: MakeRow, output: str) -> None:
    columns: list[dict[str, Any]] = [{"take": 1}, {"take": "one", "new": 2.5}, {}]
    for number, carried in enumerate(columns):
        row = make_row(id=f"a{number}", row_number=number, content_id="c" * 32, carried=plan.pack(carried))
        results.WriteResult(output, carried_schema([{"carried": carried}]))(row)
    results.WriteResult(output, NO_COLUMNS)(fail(make_row(id="bad", row_number=9), "read", "bad_input", "no"))
    before = results.read_results(output).to_pylist()
    results.compact(output)
    assert storage.names_in(f"{output}/results") == []
    assert results.read_results(output).to_pylist() == before
    results.WriteResult(output, NO_COLUMNS)(make_row(id="bad", row_number=9, content_id="e" * 32))
    assert len(states(output)) == 4
    assert states(output)[-1] == ("bad", 9, "ok")
    results.compact(output)
    results.compact(output)
    assert len(states(output)) == 4
    assert storage.names_in(output) == ["results.parquet"]


def test_a_row_that_is_written_again_while_the_table_is_compacted_is_kept(
    make_row: MakeRow, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = results.WriteResult(output, NO_COLUMNS)
    write(fail(make_row(content_id="c" * 32), "generate", "network", "no"))
    really_write = storage.write

    def row_comes_in_between(data: bytes, uri: str) -> None:
        really_write(data, uri)
        if uri.endswith("/results.parquet"):
            write(make_row(content_id="c" * 32))

    monkeypatch.setattr(storage, "write", row_comes_in_between)
    results.compact(output)
    assert states(output) == [("anna", 3, "ok")]


@pytest.mark.parametrize("calls", range(12))
def test_a_compaction_that_is_killed_at_any_call_of_the_store_loses_nothing(
    make_row: MakeRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    output = str(tmp_path)
    for number in range(3):
        results.WriteResult(output, NO_COLUMNS)(make_row(id=f"a{number}", row_number=number, content_id="c" * 32))
    left = iter([None] * calls)

    def dying(name: str) -> Callable[..., Any]:
        real = getattr(storage, name)

        def call(*arguments: Any) -> Any:
            if next(left, "killed") == "killed":
                raise KeyboardInterrupt
            return real(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(results, "FILES_AT_ONCE", 1)
        for name in ("names_in", "read", "write", "remove"):
            patch.setattr(storage, name, dying(name))
        with pytest.raises(KeyboardInterrupt):
            results.compact(output)
    assert len(states(output)) == 3
    results.compact(output)
    assert len(states(output)) == 3
    assert storage.names_in(f"{output}/results") == []


def test_a_compaction_that_may_not_go_on_writes_nothing(make_row: MakeRow, output: str) -> None:
    def refuse() -> None:
        raise InterruptedError

    results.WriteResult(output, NO_COLUMNS)(make_row(content_id="c" * 32))
    with pytest.raises(InterruptedError):
        results.compact(output, refuse)
    assert storage.names_in(output) == []


def test_a_reader_sees_each_row_once_while_rows_are_written_and_compacted(make_row: MakeRow, tmp_path: Path) -> None:
    output, num_rows = str(tmp_path), 60
    written = 0
    over = threading.Event()

    def write_all() -> None:
        nonlocal written
        for number in range(num_rows):
            row = make_row(id=f"a{number:02}", row_number=number, content_id="c" * 32)
            results.WriteResult(output, NO_COLUMNS)(row)
            written = number + 1

    def compact_all() -> None:
        while not over.is_set():
            results.compact(output)

    with ThreadPoolExecutor(2) as threads:
        writer, compactor = threads.submit(write_all), threads.submit(compact_all)
        try:
            while not writer.done():
                at_least = written
                ids = [id for id, _, _ in states(output)]
                assert sorted(ids) == [f"a{number:02}" for number in range(len(ids))]
                assert len(ids) >= at_least
        finally:
            over.set()
        writer.result()
        compactor.result()
    assert len(states(output)) == num_rows


def test_a_broken_result_is_named(make_row: MakeRow, output: str) -> None:
    storage.write(b"not Parquet", f"{output}/results/broken.parquet")
    with pytest.raises(StorageError, match=r"broken\.parquet is not a result .* Remove it"):
        results.read_results(output)
    storage.write(b"{", f"{output}/run.json")
    with pytest.raises(StorageError, match=r"run\.json"):
        results.read_run(output)


def test_carried_numbers_of_different_runs_become_text_where_they_do_not_fit(output: str, make_row: MakeRow) -> None:
    for number, value in ((1, 2**60 + 1), (2, 0.5)):
        row = fail(make_row(row_number=number, carried=plan.pack({"take": value})), "read", "bad_input", "no")
        results.WriteResult(output, carried_schema([{"carried": {"take": value}}]))(row)
    assert sorted(results.read_results(output)["take"].to_pylist()) == ["0.5", str(2**60 + 1)]


def test_the_newest_run_is_noted(output: str) -> None:
    results.write_run(output, manifest="a.csv", model="tiny", num_rows=3)
    run = results.read_run(output)
    assert run is not None
    assert (run["manifest"], run["num_rows"]) == ("a.csv", 3)
