"""Convert a folder of published weights to safetensors, once: same names, same numbers, same places."""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from stableavatar.checkpoints import layout
from stableavatar.checkpoints.hashes import SOURCE, HashBook
from stableavatar.checkpoints.layout import Layout, recognise
from stableavatar.checkpoints.tensorfile import Pages, metadata_of, open_tensors
from stableavatar.errors import WeightsError

_DTYPES = {  # as safetensors writes them
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK = 1 << 26  # bytes written at a time


def convert_folder(
    folder: str | Path, out: str | Path, on_file: Callable[[Path, bool], None] = lambda path, done_before: None
) -> None:
    """Write the files of a folder to `out`, tensors as safetensors and everything else as it is.

    A file appears when it is complete; those that are there already are left alone, so a conversion that was
    interrupted goes on where it stopped. Memory does not grow with the files.

    Args:
        folder: laid out as the authors publish it.
        out: may be `folder` itself: the safetensors then lie beside the originals and are preferred.
        on_file: told of each file, relative to `out`, and whether it was there before.

    Raises:
        WeightsError: the folder holds no model, or a file cannot be read or written.
    """
    found, out = recognise(folder), Path(out).expanduser().absolute()
    book = HashBook(found.folder)
    for path in files_of(found):
        is_pickle = path.suffix in (".pt", ".pth", ".bin")
        target = out / (safetensors_name(path) if is_pickle else path)
        source = book.sha256(path) if is_pickle else ""
        is_done = target.exists() and (not is_pickle or _source_of(target) == source)
        try:
            if not is_done:
                target.parent.mkdir(parents=True, exist_ok=True)
                _appear(target, found.folder / path, source)
        except OSError as error:
            raise WeightsError(
                f"{target} cannot be written: {error.strerror}. Check the disk and try again."
            ) from error
        on_file(target.relative_to(out), is_done)


def files_of(found: Layout) -> Iterator[Path]:
    """The files of a model that are in its folder."""
    parts = [("transformer", variant) for variant in layout.VARIANTS]
    parts += [(part, layout.VARIANTS[0]) for part in ("vae", "text", "image")]
    paths = [found.tensors(part, variant) for part, variant in parts]
    paths += [found.audio_weights(), *(found.audio / name for name in layout.AUDIO_CONFIGS), found.base / "config.json"]
    paths += [*found.tokenizer_files(), Path(layout.VOCALS)]
    yield from (path for path in paths if (found.folder / path).exists())


def safetensors_name(path: Path) -> Path:
    """The name of a file once it is converted."""
    return path.with_name(layout.AUDIO_WEIGHTS[0]) if path.suffix == ".bin" else path.with_suffix(".safetensors")


def _source_of(target: Path) -> str:
    """The hash of the file that `target` was made from; nothing if it cannot be read, so that it is made again."""
    try:
        return metadata_of(target).get(SOURCE, "")
    except (SafetensorError, OSError):
        return ""


def _appear(target: Path, path: Path, source: str) -> None:
    """Make `target` of `path` under another name first, so that it is never there by half."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        if source:
            write_safetensors(unfinished, open_tensors(path), {SOURCE: source, "format": "pt"}, Pages(path).release)
        else:
            _link(path, unfinished)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _link(path: Path, target: Path) -> None:
    """A hard link costs nothing; other disks get a copy."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copy2(path, target)


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    copied: Callable[[Tensor], None] = lambda tensor: None,
) -> None:
    """Write tensors one by one (the library's own writer holds them all in memory).

    Layout: the header's length (8 bytes, little endian), the header (JSON, filled up with spaces to a multiple of 8),
    the numbers. Source: https://huggingface.co/docs/safetensors. `copied` is told of each tensor that is written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    # Wide types first, as the library does, so that each tensor is aligned to its type.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in order:
        tensor, start, end = tensors[name], end, end + tensors[name].nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    words = json.dumps(header, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(words)) + words)
        for name in order:
            numbers = tensors[name].contiguous().view(-1).view(torch.uint8)
            for part in numbers.split(_CHUNK):
                file.write(part.numpy())
            copied(tensors[name])
        file.flush()
        os.fsync(file.fileno())
