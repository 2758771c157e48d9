import datetime
import io
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.read import carried_schema, fail_duplicates, fit_carried, parse_manifest, resolve
from manifests.schema import MANIFEST, RESULT, ManifestError, result_schema

EXAMPLES = Path(__file__).parents[1] / "manifests" / "examples"
FILES = {"portrait": "a.png", "audio": "b.wav"}


def jsonl(*rows: Any) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


def parse(*rows: Any, uri: str = "s3://b/demo.jsonl") -> list[dict[str, Any]]:
    return list(parse_manifest(jsonl(*rows), uri))


def parse_table(table: pa.Table) -> list[dict[str, Any]]:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return list(parse_manifest(sink.getvalue(), "m.parquet"))


def errors(rows: Iterable[dict[str, Any]]) -> list[str]:
    return [row["error"] for row in rows]


def test_a_row_has_every_column_and_its_place() -> None:
    row = parse(FILES | {"seed": 7.0, "campaign": "en", "prompt": ""})[0]
    assert row == {
        **{column.name: None for column in MANIFEST},
        **FILES,
        **{"manifest": "s3://b/demo.jsonl", "row_number": 1, "seed": 7, "carried": {"campaign": "en"}},
        **{"status": "ready", "error_kind": "", "error": ""},
    }


def test_a_bad_row_fails_alone_with_row_file_line_column_and_remedy() -> None:
    rows = parse(FILES, FILES, "", FILES | {"id": "x", "num_steps": -2}, FILES)
    assert [row["status"] for row in rows] == ["ready", "ready", "failed", "ready"]
    bad = rows[2]
    assert bad["error"] == ("row 3 of s3://b/demo.jsonl (line 4): num_steps is -2; give a whole number from 1 to 1000")
    assert (bad["error_kind"], bad["row_number"], bad["id"], bad["num_steps"]) == ("bad_input", 3, "x", None)


def test_every_bad_cell_of_a_row_is_named_at_once() -> None:
    (error,) = errors(parse(FILES | {"num_steps": True, "text_scale": "NaN"}))
    assert "num_steps is True; give a whole number from 1 to 1000. text_scale is NaN; give a number" in error


def test_a_line_that_is_no_object_fails_alone() -> None:
    rows = parse(FILES, "[1, 2]", "{oops", FILES)
    assert [row["status"] for row in rows] == ["ready", "failed", "failed", "ready"]
    assert rows[1]["error"].startswith("row 2 of s3://b/demo.jsonl (line 2): JSON, but a list and no object; write one")
    assert rows[2]["error"].startswith("row 3 of s3://b/demo.jsonl (line 3): not JSON (")


def test_a_missing_cell_of_a_required_column_fails_the_row() -> None:
    rows = parse(FILES, {"portrait": "a.png"}, FILES | {"portrait": None}, FILES | {"portrait": " "})
    assert [row["status"] for row in rows] == ["ready", "failed", "failed", "failed"]
    assert "audio is empty; give the path or URI of the speech" in rows[1]["error"]
    assert "portrait is empty; give the path or URI of the image" in rows[3]["error"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"start_s": 2, "end_s": 2}, "start_s is 2 and end_s is 2; let end_s be greater than start_s"),
        ({"start_s": 2.5, "end_s": 1}, "start_s is 2.5 and end_s is 1"),
        ({"end_s": 0}, "start_s is 0 and end_s is 0"),
        ({"width": 96}, "width is 96 and height is empty; give both or neither"),
        ({"height": 96}, "height is 96 and width is empty; give both or neither"),
    ],
)
def test_cells_that_contradict_each_other(cells: dict[str, Any], message: str) -> None:
    assert message in errors(parse(FILES | cells))[0]


def test_csv_text_becomes_typed_values() -> None:
    data = (
        "portrait , audio,num_steps,start_s,separate_vocals,prompt,campaign,\r\n"
        ' a.png ,b.wav, 3 ,1.5,yes,"A ""good"" day,\r\nis it?",en,x\r\n'
        "ñ.png,b.wav,,,,,,\r\n"
    )
    first, second = parse_manifest(b"\xef\xbb\xbf" + data.encode(), "m.csv")
    assert (first["portrait"], first["num_steps"], first["start_s"], first["separate_vocals"]) == (
        "a.png",
        3,
        1.5,
        True,
    )
    assert first["prompt"] == 'A "good" day,\r\nis it?'
    assert first["carried"] == {"campaign": "en"}  # the column without a name is dropped
    assert (second["portrait"], second["num_steps"], second["separate_vocals"]) == ("ñ.png", None, None)
    assert second["carried"] == {"campaign": ""}


def test_csv_rows_of_another_length_fail_alone() -> None:
    rows = list(parse_manifest(b"portrait,audio\na,b\na\na,b,c\na,b\n", "m.csv"))
    assert [row["status"] for row in rows] == ["ready", "failed", "failed", "ready"]
    assert rows[2]["error"].startswith("row 3 of m.csv (line 4): 3 cells where the header has 2; put cells")


@pytest.mark.parametrize("type", [pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.string(), pa.decimal128(5, 1)])
def test_parquet_numbers_of_any_type(type: pa.DataType) -> None:
    steps = pa.array([2, None], pa.int8()).cast(pa.float32()).cast(type)
    rows = parse_table(pa.table({"portrait": ["a", "a"], "audio": ["b", "b"], "num_steps": steps}))
    assert [(row["num_steps"], row["status"]) for row in rows] == [(2, "ready"), (None, "ready")]


@pytest.mark.parametrize("type", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_text_of_any_type(type: pa.DataType) -> None:
    (row,) = parse_table(pa.table({"portrait": pa.array(["a"], type), "audio": pa.array(["b"], type)}))
    assert (row["portrait"], row["status"]) == ("a", "ready")


def test_parquet_messages_name_the_row() -> None:
    rows = parse_table(pa.table({"portrait": ["a"], "audio": ["b"], "seed": [-1]}))
    assert errors(rows) == ["row 1 of m.parquet: seed is -1; give a whole number from 0 to 9223372036854775807"]


def test_nan_is_an_error_but_what_pandas_writes_for_missing_is_not() -> None:
    nan = pa.table({"portrait": ["a"], "audio": ["b"], "seed": np.array([np.nan])})
    assert "seed is NaN; give a whole number" in errors(parse_table(nan))[0]
    frame = pd.DataFrame({"portrait": ["a", "a"], "audio": ["b", "b"], "seed": [1, np.nan]})
    sink = io.BytesIO()
    frame.to_parquet(sink)
    assert [row["seed"] for row in parse_manifest(sink.getvalue(), "m.parquet")] == [1, None]
    assert [row["seed"] for row in parse_manifest(frame.to_csv().encode(), "m.csv")] == [1, None]


def test_carried_parquet_columns_keep_their_types() -> None:
    when = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    carried = {"when": when, "tags": ["x", "y"], "speaker": {"name": "Ada", "age": 36}, "blob": b"\0\1", "none": None}
    rows = parse_table(pa.table({name: [value] for name, value in {**FILES, **carried}.items()}))
    assert rows[0]["carried"] == carried
    schema = carried_schema(rows)
    assert schema.field("when").type == pa.timestamp("us", tz="UTC")
    assert schema.field("speaker").type == pa.struct([("name", pa.string()), ("age", pa.int64())])
    assert schema.field("none").type == pa.string()
    assert fit_carried(rows[0]["carried"], schema) == carried


def test_carried_columns_do_not_clash_with_those_that_the_run_fills_in() -> None:
    row = parse(FILES | {"status": "draft", "model": "anna-2", "campaign": "en"})[0]
    assert row["carried"] == {"manifest_status": "draft", "manifest_model": "anna-2", "campaign": "en"}
    assert row["status"] == "ready"


def test_a_result_table_can_be_fed_in_again() -> None:
    result = {column.name: None for column in RESULT} | FILES | {"status": "ok", "video": "v.mp4", "campaign": "en"}
    row = parse(result)[0]
    assert row["carried"] == {"campaign": "en"}
    assert row["status"] == "ready"


@pytest.mark.parametrize(
    ("data", "uri", "message"),
    [
        (b"", "m.jsonl", r"m\.jsonl: the manifest is empty; write one row for each video"),
        (b"\n \n", "m.jsonl", "the manifest is empty"),
        (b"portrait,audio\n", "m.csv", "the manifest is empty"),
        (b'[\n{"portrait": "a", "audio": "b"\n}]', "m.json", "no row can be read; line 1 is not JSON"),
        (jsonl({"audio": "b"}), "m.jsonl", r"m\.jsonl has no column `portrait`; add it\. Columns found: audio"),
        (b"Portrait,audio\na,b\n", "m.csv", "has no column `portrait`; did you mean `portrait` by `Portrait`\\?"),
        (b"portrait,audio_path\na,b\n", "m.csv", "has no column `audio`; did you mean `audio` by `audio_path`\\?"),
        (b"portrait;audio\na;b\n", "m.csv", "separate the columns by commas"),
        (b"{}", "m.jsonl", "Columns found: none"),
    ],
)
def test_manifests_that_cannot_be_used_at_all(data: bytes, uri: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_manifest(data, uri)  # at once, not when the first row is taken


def test_an_optional_column_that_is_nearly_known_is_carried_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        row = parse(FILES | {"Num_Steps": 3})[0]
    assert row["carried"] == {"Num_Steps": 3}
    assert "column `Num_Steps` is only carried; did you mean `num_steps`?" in caplog.text
    caplog.clear()
    parse(FILES | {"num_steps": 3, "campaign": "en", "speaker": "x", "seeds": 1, "seed": 2})
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("reference", "manifest", "resolved"),
    [
        ("a.png", "s3://b/dir/m.jsonl", "s3://b/dir/a.png"),
        ("faces/a.png", "s3://b/m.jsonl", "s3://b/faces/a.png"),
        ("../a.png", "s3://b/x/y/m.jsonl", "s3://b/x/a.png"),
        ("../../../a.png", "s3://b/x/m.jsonl", "s3://b/a.png"),
        ("./a b?.png", "s3://b/x/m.jsonl", "s3://b/x/a b?.png"),
        ("s3://c/a.png", "s3://b/m.jsonl", "s3://c/a.png"),
        ("https://h/a.png", "/data/m.csv", "https://h/a.png"),
        ("/data/a.png", "s3://b/m.jsonl", "/data/a.png"),
        ("a.png", "/data/m.jsonl", "/data/a.png"),
        ("../a.png", "/data/m/m.jsonl", "/data/m/../a.png"),
        ("a.png", "file:///data/m.jsonl", "file:///data/a.png"),
        ("a.png", "memory://m.jsonl", "memory://a.png"),
        ("a.png", "https://h/x/m.csv?token=1/2#3", "https://h/x/a.png"),
        ("a.png", "m.jsonl", f"{os.getcwd()}/a.png"),
        ("a.png", "x/m.jsonl", f"{os.getcwd()}/x/a.png"),
    ],
)
def test_relative_paths_start_at_the_manifest(reference: str, manifest: str, resolved: str) -> None:
    assert resolve(reference, manifest) == resolved


def test_rows_that_share_an_id_fail_and_name_each_other() -> None:
    rows = parse(*(FILES | {"id": id, "seed": seed} for seed, id in enumerate(["a", "b", "a", "a"])))
    rows += parse(FILES | {"id": "b"}, uri="other.jsonl")
    a1, b1, a2, _, b2 = errors(fail_duplicates(rows))
    uri = "s3://b/demo.jsonl"
    assert a1 == f"row 1 of {uri}: id is 'a', as in row 3 of {uri}, row 4 of {uri}; give each row an id of its own"
    assert a2.startswith(f"row 3 of {uri}: id is 'a', as in row 1 of {uri}, row 4 of {uri};")
    assert "as in row 1 of other.jsonl" in b1
    assert "as in row 2 of s3://b/demo.jsonl" in b2
    assert all(row["error_kind"] == "bad_input" for row in fail_duplicates(rows))


def test_rows_without_an_id_that_say_the_same_are_one_video_asked_for_twice() -> None:
    once, twice, other = fail_duplicates(parse(FILES, FILES | {"campaign": "en"}, FILES | {"seed": 1}))
    assert once["error"].endswith(
        "asks for the same video as row 2 of s3://b/demo.jsonl; remove one or give each an id"
    )
    assert (twice["status"], other["status"]) == ("failed", "ready")


def test_a_failed_row_keeps_its_own_error_but_still_holds_its_id() -> None:
    rows = fail_duplicates(parse(FILES | {"id": "a", "seed": -1}, FILES | {"id": "a"}, "{", "{"))
    assert "seed is -1" in rows[0]["error"]
    assert "as in row 1 of" in rows[1]["error"]
    assert all("not JSON" in row["error"] for row in rows[2:])


def test_only_some_of_many_duplicates_are_named() -> None:
    error = errors(fail_duplicates(parse(*[FILES | {"id": "a"}] * 100)))[0]
    assert error.count("row ") == 7  # itself, five others, and the remedy's word
    assert "and 94 more; give each row an id of its own" in error


@pytest.mark.parametrize(
    ("values", "type", "fitted"),
    [
        ([1, 2], pa.int64(), [1, 2]),
        ([1, 2.5, None], pa.float64(), [1, 2.5, None]),
        ([1, "x"], pa.string(), ["1", "x"]),
        ([True, {"a": "ñ"}], pa.string(), ["true", '{"a": "ñ"}']),
        ([None, None], pa.string(), [None, None]),
        ([{}], pa.string(), ["{}"]),
        ([[], [None]], pa.string(), ["[]", "[null]"]),
        ([2**70], pa.string(), [str(2**70)]),
        ([{"a": 1}, {"b": "x"}], pa.struct([("a", pa.int64()), ("b", pa.string())]), [{"a": 1}, {"b": "x"}]),
        ([{"a": {}}], pa.string(), ['{"a": {}}']),
    ],
)
def test_carried_values_find_one_type_that_can_be_stored(
    values: list[Any], type: pa.DataType, fitted: list[Any]
) -> None:
    rows = [{"carried": {"x": value}} for value in values] + [{"carried": {}}]
    schema = carried_schema(rows)
    assert schema == pa.schema([("x", type)])
    stored = [fit_carried(row["carried"], schema) for row in rows]
    assert [row["x"] for row in stored] == [*fitted, None]
    pq.write_table(pa.Table.from_pylist(stored, schema=result_schema(schema)), io.BytesIO())


def test_the_examples_are_a_good_manifest() -> None:
    uri = str(EXAMPLES / "demo.jsonl")
    rows = fail_duplicates(parse_manifest(Path(uri).read_bytes(), uri))
    assert len(rows) >= 4
    assert errors(rows) == [""] * len(rows)
    for row in rows:
        assert Path(resolve(row["portrait"], uri)).is_file()
        assert Path(resolve(row["audio"], uri)).is_file()
    assert sum(file.stat().st_size for file in EXAMPLES.iterdir()) < 1_500_000
