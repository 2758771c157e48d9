"""Files of tensors, memory-mapped: opening one reads its table of contents only.

torch's zip format (`.pt`, `.pth`, `.bin`) and safetensors. Pickles are opened with `weights_only=True`.
"""

import ctypes
import mmap
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stableavatar.errors import WeightsError

_BROKEN = (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError)


def open_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file by name, as a view of the mapped file: nothing is read until a tensor is used.

    A `.pt` may hold the tensors directly or under `state_dict`.

    Raises:
        WeightsError: the file is missing, cut short, damaged, or holds something else.
    """
    try:
        num_bytes = path.stat().st_size
        return _open_safetensors(path) if path.suffix == ".safetensors" else _open_zip(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}. {_REMEDY}") from error
    except _BROKEN as error:
        cause = str(error).strip().splitlines()
        reason = cause[0] if cause else repr(error)
        raise WeightsError(f"{path} ({num_bytes} bytes) is damaged or cut short: {reason}. {_REMEDY}") from error


_REMEDY = "Fetch it again: `stableavatar download` completes a folder and keeps what is good."


def metadata_of(path: Path) -> dict[str, str]:
    """The words that a safetensors file carries beside its tensors."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)


def _open_zip(path: Path) -> dict[str, Tensor]:
    _check_zip(path)
    content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    tensors = _state_dict(content)
    _check_storages(path, tensors)
    return tensors


def _state_dict(content: Any) -> dict[str, Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError("it holds something else than named tensors")
    return dict(content)


def _check_zip(path: Path) -> None:
    """A zip's table of contents stands at its end: a file that was cut short has none."""
    if not zipfile.is_zipfile(path):
        raise ValueError("the table of contents at the end of the file is missing (it is not in torch's zip format)")
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.header_offset + entry.file_size > archive.start_dir:
                raise ValueError(f"its record {entry.filename} does not fit into the file")


def _check_storages(path: Path, tensors: dict[str, Tensor]) -> None:
    """torch does not compare the sizes of records and tensors: a short record would show another tensor's bytes."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    with zipfile.ZipFile(path) as archive:
        recorded = sum(entry.file_size for entry in archive.infolist() if entry.filename.split("/")[-2:-1] == ["data"])
    if sum(storages.values()) > recorded:
        raise ValueError(f"its tensors need {sum(storages.values())} bytes but {recorded} are there")


def damaged_record(path: Path) -> str | None:
    """Read a zip file whole and compare its checksums: the first record that is damaged, or None."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def releaser(path: Path) -> Callable[[Tensor], None]:
    """A function that gives back the memory which the pages of an open file's tensor take, once it has been copied.

    The pages are read again if they are used again. It leaves alone whatever is not a view of the file.
    """
    ranges = _mapped_ranges(path)
    if not ranges:
        return lambda tensor: None
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def release(tensor: Tensor) -> None:
        first, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if any(start <= first and end <= stop for start, stop in ranges):
            first -= first % mmap.PAGESIZE
            # The mapping is private and nobody writes to it, so the pages hold nothing that the file does not.
            libc.madvise(first, end - first, mmap.MADV_DONTNEED)

    return release


def _mapped_ranges(path: Path) -> list[tuple[int, int]]:
    """Addresses at which this process has mapped a file. Unknown, so none, where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    bounds = [line.split()[0].split("-") for line in lines if line.endswith(f" {os.path.realpath(path)}")]
    return [(int(start, 16), int(stop, 16)) for start, stop in bounds]
