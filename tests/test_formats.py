import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import formats
from manifests.formats import Record, read_records
from manifests.schema import ManifestError

BOM = b"\xef\xbb\xbf"


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def cells(data: bytes, uri: str) -> list[dict[str, object]]:
    return [record.cells for record in read_records(data, uri)]


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "json", "JSONL"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("start", [b"", BOM])
def test_json_lines(suffix: str, newline: bytes, start: bytes) -> None:
    data = start + newline.join([b'{"a": 1}', b"", b"   ", b'{"a": "\xc3\xb1", "b": 2}', b""])
    first, second = read_records(data, f"m.{suffix}")
    assert first == Record(line=1, cells={"a": 1})
    assert second == Record(line=4, cells={"a": "ñ", "b": 2})


def test_json_line_separators_within_text_do_not_end_the_line() -> None:
    text = "one\u2028two\u0085three"
    assert cells(json.dumps({"prompt": text}, ensure_ascii=False).encode(), "m.jsonl") == [{"prompt": text}]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": 1},', "not JSON"),
        (b"[1]", "JSON, but a list and no object"),
        (b"null", "JSON, but a NoneType and no object"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\\ud800"}', "not UTF-8"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "nested too deeply"),
        (b'{"a": 1, "a": 2}', "not JSON ('a' is there twice in one object)"),
        (b'{"x": {"en": 1, "en": 2}}', "not JSON ('en' is there twice in one object)"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_bad_json_line_spoils_only_itself(line: bytes, problem: str) -> None:
    good = b'{"a": 1}\n'
    before, bad, after = read_records(good + line + b"\n" + good, "m.jsonl")
    assert before.cells == after.cells == {"a": 1}
    assert bad.problem.startswith(problem)
    assert ";" in bad.problem  # the remedy
    assert (bad.line, after.line) == (2, 3)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", [b"", BOM])
def test_csv(newline: str, start: bytes) -> None:
    lines = [" a , b", "1,ñ 🙂", "", '"x, ""y""",', "3, z "]
    records = read_records(start + newline.join(lines).encode(), "m.csv")
    assert [r.cells for r in records] == [{"a": "1", "b": "ñ 🙂"}, {"a": 'x, "y"', "b": ""}, {"a": "3", "b": " z "}]
    assert [r.line for r in records] == [2, 4, 5]


def test_csv_cells_over_several_lines() -> None:
    records = read_records(b'a,b\n"one\ntwo",1\nthree,2\n', "m.csv")
    assert records == [
        Record(line=2, cells={"a": "one\ntwo", "b": "1"}),
        Record(line=4, cells={"a": "three", "b": "2"}),
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b"1", "1 cells where the header has 2; put cells that hold commas in quotes"),
        (b"1,2,3", "3 cells where the header has 2"),
        (b'"1"x,2', "not CSV"),
        (b"\xff,2", "not UTF-8"),
        (b"x" * 200_000 + b",2", "not CSV"),
    ],
)
def test_a_bad_csv_row_spoils_only_itself(row: bytes, problem: str) -> None:
    before, bad, after = read_records(b"a,b\n1,2\n" + row + b"\n3,4\n", "m.csv")
    assert (before.cells, after.cells) == ({"a": "1", "b": "2"}, {"a": "3", "b": "4"})
    assert bad.problem.startswith(problem)
    assert (bad.line, after.line) == (3, 4)


def test_an_open_quote_is_no_silent_loss_of_rows() -> None:
    with pytest.raises(ManifestError, match=r"m\.csv \(line 3\): a quote is opened and never closed"):
        read_records(b'a,b\n1,2\n3,"4\n5,6\n', "m.csv")


def test_parquet_keeps_types() -> None:
    table = pa.table({"a": pa.array([1, None], pa.int8()), "b": [[1.5], []], "c": [{"d": "e"}, None]})
    assert cells(parquet(table), "s3://b/m.parquet") == [
        {"a": 1, "b": [1.5], "c": {"d": "e"}},
        dict(a=None, b=[], c=None),
    ]
    assert cells(parquet(table), "m.PQ") == cells(parquet(table), "m.parquet")


@pytest.mark.parametrize(
    ("data", "uri", "message"),
    [
        (b"", "m.xlsx", r"m\.xlsx: unknown kind of manifest; name it \.csv, \.json, "),
        (b"", "m", "unknown kind"),
        (b"", "dir.csv/m", "unknown kind"),
        (b"", "m.parquet", "not a Parquet file"),
        (b"PAR1 and then nothing", "m.parquet", "not a Parquet file"),
        (b"a,b,a \n1,2,3", "m.csv", "column `a` is there twice"),
        (parquet(pa.table([[1], [2]], names=["a", "a"])), "m.parquet", "column `a` is there twice"),
        (b'"a"x,b\n1,2', "m.csv", r"\(line 1\): not CSV"),
    ],
)
def test_files_that_cannot_be_read_at_all(data: bytes, uri: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_records(data, uri)


def test_text_in_parquet_that_is_not_utf8() -> None:
    text = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    with pytest.raises(ManifestError, match="not a Parquet file that can be read"):
        read_records(parquet(pa.table({"a": text})), "m.parquet")


def test_suffix_of_a_web_address_with_a_signature() -> None:
    assert cells(b"a\n1\n", "https://host/m.csv?signature=x.y/z") == [{"a": "1"}]


def test_empty_files_have_no_records() -> None:
    assert read_records(b"", "m.jsonl") == read_records(BOM, "m.csv") == read_records(b"a,b\n", "m.csv") == []
    assert read_records(parquet(pa.table({"a": pa.array([], pa.int8())})), "m.parquet") == []


def test_column_names_that_are_not_utf8_stop_the_manifest() -> None:
    for data in ("portrait,audio,größe\na,b,c\n".encode("latin-1"), "portrait,audio\na,b\n".encode("utf-16")):
        with pytest.raises(ManifestError, match="save the manifest as UTF-8"):
            read_records(data, "a.csv")


def test_rows_that_take_no_room_in_the_file_are_counted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    data = parquet(pa.table({"portrait": ["a"] * 1000}))
    monkeypatch.setattr(formats, "MAX_ROWS", 999)
    with pytest.raises(ManifestError, match=r"has 1,000 rows; split it, at 999 rows at most"):
        read_records(data, "m.parquet")
