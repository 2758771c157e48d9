"""Encoded windows in Parquet: written once, then read in any order. One row is one row group, so that one sample is
one request.

A tensor is a column of bytes in float16, its shape in the column beside it.
"""

import posixpath
import uuid
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from stableavatar.errors import BadInput
from stableavatar.training.encode import Sample

TENSORS = ("mean", "logvar", "portrait", "image", "text", "audio", "face", "lip")
SCHEMA = pa.schema(
    [
        ("clip", pa.string()),
        ("start", pa.int64()),  # first frame of the window
        ("width", pa.int64()),  # pixels
        ("height", pa.int64()),
        *((name, pa.binary()) for name in TENSORS),
        *((f"{name}_shape", pa.list_(pa.int64())) for name in TENSORS),
    ]
)


def as_row(sample: Sample, *, clip: str, start: int, width: int, height: int) -> dict:
    """An encoded window as a row of `SCHEMA`."""
    row: dict = dict(clip=clip, start=start, width=width, height=height)
    for name in TENSORS:
        row[name] = sample[name].to(torch.float16).contiguous().numpy().tobytes()
        row[f"{name}_shape"] = list(sample[name].shape)
    return row


def as_sample(row: dict) -> Sample:
    """The tensors of a row, float32."""
    return {
        name: torch.from_numpy(np.frombuffer(row[name], np.float16).reshape(row[f"{name}_shape"]).astype(np.float32))
        for name in TENSORS
    }


def write_shard(folder: str, rows: Sequence[dict], name: str = "") -> str:
    """Write rows as one file, whole or not at all; returns its path."""
    files, path = fsspec.url_to_fs(folder)
    files.makedirs(path, exist_ok=True)
    final = f"{path}/{name or uuid.uuid4().hex}.parquet"
    unfinished = f"{path}/.{uuid.uuid4().hex}"
    with files.open(unfinished, "wb") as file:
        pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), file, row_group_size=1, compression="zstd")
    files.mv(unfinished, final)
    return final


class EncodedWindows:
    """The encoded windows of folders of shards, by number. The order is that of the files' names.

    `sizes`: width, height and latent frames of each.
    """

    def __init__(self, folders: Sequence[str]):
        """Read the tables of contents. Raises BadInput: a folder holds none, or something else."""
        self.shards = [shard for folder in folders for shard in _shards(folder)]
        self.sizes: list[tuple[int, int, int]] = []
        counts = []
        for files, path in self.shards:
            with files.open(path) as file:
                shard = pq.ParquetFile(file)
                metadata = shard.metadata
                if "mean" not in shard.schema_arrow.names or metadata.num_row_groups != metadata.num_rows:
                    raise BadInput(f"{path} holds no encoded windows. `stableavatar encode-data` writes them.")
                rows = shard.read(columns=["width", "height", "mean_shape"]).to_pylist()
            counts.append(len(rows))
            self.sizes += [(row["width"], row["height"], row["mean_shape"][1]) for row in rows]
        self._ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict:
        """The row of a window."""
        number = bisect_right(self._ends, index)
        files, path = self.shards[number]
        first = self._ends[number - 1] if number else 0
        with files.open(path) as file:
            return pq.ParquetFile(file).read_row_group(index - first).to_pylist()[0]


def is_encoded(folder: str) -> bool:
    """Whether a folder holds encoded windows."""
    files, path = fsspec.url_to_fs(folder)
    return bool(files.glob(f"{path}/*.parquet"))


def _shards(folder: str) -> list[tuple[fsspec.AbstractFileSystem, str]]:
    files, path = fsspec.url_to_fs(folder)
    names = sorted(name for name in files.glob(f"{path}/*.parquet") if not posixpath.basename(name).startswith("."))
    if not names:
        raise BadInput(f"{folder} holds no encoded windows (*.parquet). `stableavatar encode-data` writes them.")
    return [(files, name) for name in names]
