"""Encoded windows in Parquet: written once, then read in any order. One row is one row group, so that one sample is
one request.

A tensor is a column of bytes in float16, its shape in the column beside it. A file says which networks have encoded it.
"""

import posixpath
import uuid
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from stableavatar.errors import BadInput
from stableavatar.training.encode import Sample

ENCODERS = b"stableavatar.encoders"  # in a file's metadata: `encoding_hash` of what has encoded it
NUM_READERS = 8  # tables of contents that are read at once: each takes a store some round trips
TENSORS = ("mean", "logvar", "portrait", "image", "text", "audio", "face", "lip")
SCHEMA = pa.schema(
    [
        ("clip", pa.string()),  # its folder when it was encoded
        ("recording", pa.string()),  # `Clip.recording`
        ("start", pa.int64()),  # first frame of the window
        ("width", pa.int64()),  # pixels
        ("height", pa.int64()),
        *((name, pa.binary()) for name in TENSORS),
        *((f"{name}_shape", pa.list_(pa.int64())) for name in TENSORS),
    ]
)


def as_row(sample: Sample, *, clip: str, recording: str = "", start: int, width: int, height: int) -> dict:
    """An encoded window as a row of `SCHEMA`."""
    row: dict = dict(clip=clip, recording=recording, start=start, width=width, height=height)
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


def write_shard(folder: str, rows: Sequence[dict], name: str, encoders: str) -> None:
    """Write rows as one file, whole or not at all. `encoders`: hash of the networks that have encoded them."""
    files, path = fsspec.url_to_fs(folder)
    files.makedirs(path, exist_ok=True)
    schema = SCHEMA.with_metadata({ENCODERS: encoders})
    unfinished = f"{path}/.{uuid.uuid4().hex}"
    with files.open(unfinished, "wb") as file:
        pq.write_table(pa.Table.from_pylist(list(rows), schema), file, row_group_size=1, compression="zstd")
    files.mv(unfinished, f"{path}/{name}.parquet")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of encoded windows."""

    files: fsspec.AbstractFileSystem
    path: str
    encoders: str  # empty: it does not say
    clips: tuple[str, ...]  # of each window: the folder of its clip
    recordings: tuple[str, ...]  # of each window
    sizes: tuple[tuple[int, int, int], ...]  # width, height and latent frames

    @property
    def name(self) -> str:
        """As it was given to `write_shard`."""
        return posixpath.basename(self.path).removesuffix(".parquet")

    def shows(self, clips: Collection[str], recordings: Collection[str]) -> bool:
        """Whether there is a window of one of these."""
        return any(clip in clips for clip in self.clips) or any(one in recordings for one in self.recordings)


class EncodedWindows:
    """The encoded windows of folders of shards, by number. The order is that of the files' names.

    `sizes`: width, height and latent frames of each.
    """

    def __init__(self, folders: Sequence[str], wanted: Collection[tuple[int, int]] = ()):
        """Read the tables of contents. `wanted`: widths and heights, others are left out; none: all are wanted.

        Raises:
            BadInput: a folder holds no windows, or something else.
        """
        places = [place for folder in folders for place in _shards(folder)]
        with ThreadPoolExecutor(NUM_READERS) as pool:
            self.shards = list(pool.map(lambda place: _read_contents(*place), places))
        self._rows = [
            (shard, number)
            for shard in self.shards
            for number, size in enumerate(shard.sizes)
            if not wanted or size[:2] in wanted
        ]
        self.sizes = [shard.sizes[number] for shard, number in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict:
        """The row of a window."""
        shard, number = self._rows[index]
        with shard.files.open(shard.path) as file:
            return pq.ParquetFile(file).read_row_group(number).to_pylist()[0]

    @property
    def clips(self) -> set[str]:
        """The folders of the clips that they are of."""
        return {clip for shard in self.shards for clip in shard.clips}

    @property
    def recordings(self) -> set[str]:
        """The recordings that they are of, as far as the files say."""
        return {recording for shard in self.shards for recording in shard.recordings if recording}

    def require_encoders(self, encoders: str) -> None:
        """Raises BadInput if other networks than those of this hash have encoded any of them."""
        for shard in self.shards:
            if shard.encoders != encoders:
                others = "other networks than this run's encoded it, or for another augment.silence_as"
                found = others if shard.encoders else "it says not what encoded it"
                raise BadInput(
                    f"{shard.path} cannot be trained on: {found}. Encode again into another folder (`stableavatar "
                    "encode-data`), or give the model whose VAE, text, image and audio encoder were used."
                )

    def refuse(self, clips: set[str], recordings: set[str]) -> None:
        """Raises BadInput if there is a window of one of these clips, which are held out. They may have been moved."""
        if refused := [shard.path for shard in self.shards if shard.shows(clips, recordings)]:
            raise BadInput(
                f"{_counted(refused)}: windows of clips that data.held_out names, so they cannot be trained on. Delete "
                "these files, or encode again into another folder: `stableavatar encode-data` leaves such clips out."
            )

    def refuse_others(self, names: set[str], clips: set[str], recordings: set[str]) -> None:
        """Raises BadInput if files that are not among `names` hold windows of these clips, as they were or are.

        `names`: those that the clips' files have as they are to be encoded now.
        """
        others = [shard for shard in self.shards if shard.name not in names and shard.shows(clips, recordings)]
        if others:
            raise BadInput(
                f"{_counted([shard.path for shard in others])}: windows of the same clips, encoded when their content, "
                "prompt or masks, data.missing_masks, data.num_latents, seed or --windows-per-clip were others. A "
                "training would take both. Encode into another folder, or delete these files first."
            )


def _counted(paths: Sequence[str]) -> str:
    return f"{paths[0]} and {len(paths) - 1} more files" if paths[1:] else paths[0]


def is_encoded(folder: str) -> bool:
    """Whether a folder holds encoded windows."""
    files, path = fsspec.url_to_fs(folder)
    return bool(files.glob(f"{path}/*.parquet"))


def _shards(folder: str) -> list[tuple[fsspec.AbstractFileSystem, str]]:
    files, path = fsspec.url_to_fs(folder)
    names = sorted(files.glob(f"{path}/*.parquet"))
    if not names:
        raise BadInput(f"{folder} holds no encoded windows (*.parquet). `stableavatar encode-data` writes them.")
    return [(files, name) for name in names]


def _read_contents(files: fsspec.AbstractFileSystem, path: str) -> Shard:
    with files.open(path) as file:
        shard = pq.ParquetFile(file)
        metadata = shard.metadata
        if "mean" not in shard.schema_arrow.names or metadata.num_row_groups != metadata.num_rows:
            raise BadInput(f"{path} holds no encoded windows. `stableavatar encode-data` writes them.")
        rows = shard.read(columns=["clip", "recording", "width", "height", "mean_shape"]).to_pylist()
    return Shard(
        files=files,
        path=path,
        encoders=(metadata.metadata or {}).get(ENCODERS, b"").decode(),
        clips=tuple(row["clip"] for row in rows),
        recordings=tuple(row.get("recording", "") for row in rows),  # files of earlier times have none
        sizes=tuple((row["width"], row["height"], row["mean_shape"][1]) for row in rows),
    )
