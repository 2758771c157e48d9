from collections.abc import Callable
from datetime import UTC, datetime
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
    rows = [make_row(id=id, content_id=id * 32) for id in "abc"]
    write = results.WriteResult(output, NO_COLUMNS)
    write(rows[0])
    write(rows[1])
    write(fail(rows[2], "measure", "broken_video", "blank"))
    for id in "ac":
        storage.write(b"film", f"{output}/videos/{results.stem(rows['abc'.index(id)])}.mp4")
    todo, done = results.split_finished(rows, results.read_results(output), output)
    assert [row["id"] for row in todo] == ["b", "c"]
    assert [row["id"] for row in done] == ["a"]


def test_failed_rows_of_the_same_id_all_have_a_result_until_a_run_says_anew(make_row: MakeRow, output: str) -> None:
    rows = [fail(make_row(row_number=number), "", "bad_input", "twice") for number in (1, 2)]
    for row in rows:
        results.WriteResult(output, NO_COLUMNS)(row)
    assert results.read_results(output).num_rows == 2
    results.forget_failures([make_row(row_number=1, id="renamed")], results.read_results(output), output)
    assert results.read_results(output)["row_number"].to_pylist() == [2]


def test_what_another_manifest_said_of_an_id_is_kept(make_row: MakeRow, output: str) -> None:
    results.WriteResult(output, NO_COLUMNS)(fail(make_row(manifest="other.jsonl"), "", "bad_input", "no"))
    results.forget_failures([make_row()], results.read_results(output), output)
    assert results.read_results(output).num_rows == 1


def test_a_broken_result_is_named(make_row: MakeRow, output: str) -> None:
    storage.write(b"not Parquet", f"{output}/results/broken.parquet")
    with pytest.raises(StorageError, match=r"broken\.parquet is not a result .* Remove it"):
        results.read_results(output)
    storage.write(b"{", f"{output}/run.json")
    with pytest.raises(StorageError, match=r"run\.json"):
        results.read_run(output)


def test_carried_numbers_of_different_runs_become_text_where_they_do_not_fit(output: str, make_row: MakeRow) -> None:
    for number, value in ((1, 2**60 + 1), (2, 0.5)):
        row = fail(make_row(row_number=number, carried=plan.pack({"take": value})), "", "bad_input", "no")
        results.WriteResult(output, carried_schema([{"carried": {"take": value}}]))(row)
    assert sorted(results.read_results(output)["take"].to_pylist()) == ["0.5", str(2**60 + 1)]


def test_the_newest_run_is_noted(output: str) -> None:
    results.write_run(output, manifest="a.csv", model="tiny", num_rows=3)
    run = results.read_run(output)
    assert run is not None
    assert (run["manifest"], run["num_rows"]) == ("a.csv", 3)
