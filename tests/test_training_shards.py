"""Encoded windows: which are read, in which order, and which are refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stableavatar.errors import BadInput
from stableavatar.model.weights import encoders_hash
from stableavatar.training.shards import SCHEMA, EncodedWindows, as_row, write_shard
from stableavatar.training.sources import Encoded
from tests.training import PRESET, small_sample, write_encoded


def test_windows_are_numbered_by_the_names_of_their_files(base: str) -> None:
    sample = small_sample(0)
    for name in ("b", "a", "c"):
        rows = [as_row(sample, clip=name, start=start, width=32, height=32) for start in range(2)]
        write_shard(base, rows, name, "0123")
    windows = EncodedWindows([base])
    found = [(windows[number]["clip"], windows[number]["start"]) for number in range(len(windows))]
    assert found == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("c", 0), ("c", 1)]
    assert windows.clips == {"a", "b", "c"} and windows.sizes == [(32, 32, 3)] * 6


def test_only_windows_of_the_wanted_sizes_are_read(tmp_path: Path) -> None:
    for name, width in (("a", 32), ("b", 48), ("c", 32)):
        row = as_row(small_sample(0), clip=name, start=0, width=width, height=32)
        write_shard(str(tmp_path), [row], name, "0123")
    source = Encoded([str(tmp_path)], 3, ((48, 32), (64, 64)))
    assert len(source) == 1 and source.windows[0]["clip"] == "b"
    with pytest.raises(BadInput, match="no encoded window is of 64x64 pixels"):
        Encoded([str(tmp_path)], 3, ((64, 64),))


def test_windows_of_other_encoders_are_refused(tmp_path: Path) -> None:
    write_encoded(str(tmp_path), 2)
    windows = EncodedWindows([str(tmp_path)])
    windows.require_encoders(encoders_hash(PRESET))
    with pytest.raises(BadInput, match=r"clip-000\.parquet .*other networks.*into another folder"):
        windows.require_encoders("0123")
    row = as_row(small_sample(0), clip="a", start=0, width=32, height=32)
    old = tmp_path / "old"
    old.mkdir()
    pq.write_table(pa.Table.from_pylist([row], SCHEMA), old / "a.parquet", row_group_size=1)
    with pytest.raises(BadInput, match=r"a\.parquet .*it says not what encoded it"):
        EncodedWindows([str(old)]).require_encoders("0123")


def test_files_of_the_same_clips_under_other_names_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        row = as_row(small_sample(0), clip=f"/data/{name}", recording=f"seen {name}", start=0, width=32, height=32)
        write_shard(str(tmp_path), [row], f"{name}-0123", "4567")
    windows = EncodedWindows([str(tmp_path)])
    windows.refuse_others({"a-0123"}, {"/data/a", "/data/c"}, {"seen a", "seen c"})
    for clips, recordings in (({"/data/a"}, {"another take"}), ({"/moved/a"}, {"seen a"})):
        with pytest.raises(BadInput, match=r"a-0123\.parquet: windows of the same clips.*another folder"):
            windows.refuse_others({"a-89ab"}, clips, recordings)
    with pytest.raises(BadInput, match=r"a-0123\.parquet and 1 more files"):
        windows.refuse_others(set(), {"/data/a"}, {"seen b"})


def test_another_table_is_no_encoded_window(tmp_path: Path) -> None:
    pq.write_table(SCHEMA.empty_table().select(["clip"]), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="holds no encoded windows"):
        EncodedWindows([str(tmp_path)])
    with pytest.raises(BadInput, match="holds no encoded windows"):
        EncodedWindows([str(tmp_path / "none")])
