"""Files of tensors, memory-mapped: opening one reads its table of contents only.

torch's zip format (`.pt`, `.pth`, `.bin`) and safetensors. Pickles are opened with `weights_only=True`.
"""

import ctypes
import mmap
import os
import pickle
import zipfile
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


class Pages:
    """The memory that an open file's tensors take. Whatever is not a view of the file is left alone."""

    def __init__(self, path: Path) -> None:
        self._ranges = _mapped_ranges(path)
        self._libc = ctypes.CDLL(None)
        self._libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def fetch(self, tensor: Tensor) -> None:
        """Read a tensor ahead in one go; page by page takes twice as long."""
        self._advise(tensor, mmap.MADV_WILLNEED)

    def release(self, tensor: Tensor) -> None:
        """Give back a tensor's memory, once it has been copied. It is read again if it is used again."""
        # The mapping is private and nobody writes to it, so the pages hold nothing that the file does not.
        self._advise(tensor, mmap.MADV_DONTNEED)

    def _advise(self, tensor: Tensor, advice: int) -> None:
        first, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if any(start <= first and end <= stop for start, stop in self._ranges):
            first -= first % mmap.PAGESIZE
            self._libc.madvise(first, end - first, advice)


def _mapped_ranges(path: Path) -> list[tuple[int, int]]:
    """Addresses at which this process has mapped a file. Unknown, so none, where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    bounds = [line.split()[0].split("-") for line in lines if line.endswith(f" {os.path.realpath(path)}")]
    return [(int(start, 16), int(stop, 16)) for start, stop in bounds]
