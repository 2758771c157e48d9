"""The file of a vocal separator (an MDX-Net as ONNX), and audio-separator made to run it without any network.

audio-separator looks its models up in lists that it fetches. Here it finds lists of our own, which say of one file what
it must know; and the ffmpeg it asks for is the one of imageio-ffmpeg.
"""

import hashlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import imageio_ffmpeg

from stableavatar.checkpoints.layout import VOCALS
from stableavatar.errors import WeightsError
from stableavatar.presets import Preset, PublishedWeights

VERSION = 1  # raise it when the same sound and file begin to give other vocals
HOP = 1024  # samples between the columns of a spectrogram; the same for every MDX-Net
PARAMETERS = "mdx_model_data.json"  # beside a file that is not the published one, as UVR writes it
_TAIL_BYTES = 10_240_000  # of a file, from its end, whose md5 is its name in such lists
_VOCALS_STEM = "Vocals"
_LISTS = (  # audio-separator reads them all
    *("vr_download", "mdx_download", "mdx_download_vip", "demucs_download"),
    *("mdx23c_download", "mdx23c_download_vip", "roformer_download"),
)
_FOLDER_VARIABLE = "AUDIO_SEPARATOR_MODEL_DIR"  # would take the place of the folder with our lists
_NAME = "vocals.onnx"  # under which audio-separator finds the file

# Of Kim_Vocal_2.onnx, as its authors publish it: the name of the file in the lists, and what they say of it.
PUBLISHED_BYTES = 66_759_214
PUBLISHED: dict[str, dict[str, Any]] = {
    "970b3f9492014d18fefeedfe4773cb42": {
        "compensate": 1.009,
        "mdx_dim_f_set": 3072,
        "mdx_dim_t_set": 8,
        "mdx_n_fft_scale_set": 7680,
        "primary_stem": _VOCALS_STEM,
    }
}
_FETCH = f"`stableavatar download 1.3b` fetches {VOCALS}."


@dataclass(frozen=True, kw_only=True)
class SeparatorFile:
    """An MDX-Net in a file, checked. `parameters`: what lists say of it; `id`: hash of all that changes its vocals."""

    path: str
    name: str  # the md5 that lists know it by
    parameters: Mapping[str, Any]
    id: str


def find_separator(preset: Preset, chosen: str | None) -> str:
    """The path of the separator's file, whether or not it is there: the chosen one, or the one of the preset's folder.

    Empty if there is neither.
    """
    if chosen:
        return os.path.abspath(os.path.expanduser(chosen))
    weights = preset.weights_of("vocals")
    return str(weights.layout.folder / VOCALS) if isinstance(weights, PublishedWeights) else ""


def read_separator(path: str) -> SeparatorFile:
    """Look at a file and what is known of it. It is read once for each process, as long as it does not change.

    Raises WeightsError: no file named, missing, damaged, or one of which too little is known.
    """
    if not path:
        raise WeightsError(f"this model has no vocal separator. Name its file with --separator. {_FETCH}")
    try:
        found = os.stat(path)
        listed = Path(path).with_name(PARAMETERS)
        listed_at = listed.stat().st_mtime_ns if listed.exists() else 0
        return _read(path, (found.st_size, found.st_mtime_ns, listed_at))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path}, the vocal separator, is missing. {_FETCH} Or name one with --separator."
        ) from error
    except OSError as error:
        raise WeightsError(f"{path}, the vocal separator, cannot be read ({error.strerror}). {_FETCH}") from error


@lru_cache(maxsize=8)
def _read(path: str, version: tuple[int, ...]) -> SeparatorFile:
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(max(0, version[0] - _TAIL_BYTES))
        name = hashlib.md5(file.read()).hexdigest()
    parameters = _parameters(path, name, version[0])
    _check_graph(path, parameters)
    identity = json.dumps([VERSION, sha256, parameters], sort_keys=True)
    id = hashlib.sha256(identity.encode()).hexdigest()
    return SeparatorFile(path=path, name=name, parameters=parameters, id=id)


def _parameters(path: str, name: str, num_bytes: int) -> Mapping[str, Any]:
    listed = Path(path).with_name(PARAMETERS)
    try:
        known = {**PUBLISHED, **(json.loads(listed.read_text()) if listed.exists() else {})}
        parameters = known.get(name)
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{listed} cannot be read as JSON: {error}. Fetch it again.") from error
    if parameters is None:
        size = f"; the published {VOCALS} has {PUBLISHED_BYTES:,} bytes, this file {num_bytes:,}"
        raise WeightsError(
            f"{path} is no vocal separator that is known (md5 {name}{size}). It may be damaged: fetch it again. "
            f"{_FETCH} Of another MDX-Net, put its {PARAMETERS} (from UVR) beside it."
        )
    (wanted,) = PUBLISHED.values()
    if missing := [word for word in wanted if not isinstance(parameters, dict) or word not in parameters]:
        raise WeightsError(f"{listed} does not say {', '.join(missing)} of {path} (md5 {name}). Add it.")
    if parameters["primary_stem"] != _VOCALS_STEM:
        raise WeightsError(
            f"{path} gives {parameters['primary_stem']!r}, not {_VOCALS_STEM!r}. Name another one with --separator. "
            f"{_FETCH}"
        )
    _check_sizes(listed, parameters)
    return {word: parameters[word] for word in wanted}


def _check_sizes(listed: Path, parameters: Mapping[str, Any]) -> None:
    """Raises WeightsError for sizes that no spectrogram has."""
    words = ("mdx_n_fft_scale_set", "mdx_dim_f_set", "mdx_dim_t_set")
    n_fft, dim_f, dim_t = (parameters[word] for word in words)
    are_whole = all(isinstance(size, int) for size in (n_fft, dim_f, dim_t))
    if not (are_whole and HOP < n_fft <= 16 * HOP and 0 < dim_f <= n_fft // 2 + 1 and 6 <= dim_t <= 12):
        given = ", ".join(f"{word} {parameters[word]!r}" for word in words)
        raise WeightsError(f"{listed} gives sizes that cannot be: {given}. Correct it.")


def _check_graph(path: str, parameters: Mapping[str, Any]) -> None:
    """Raises WeightsError unless the file holds a network that takes spectrograms of these sizes."""
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf has no error of its own for a damaged file
        raise WeightsError(f"{path} is not an ONNX file that can be read. Fetch it again. {_FETCH}") from error
    sizes = {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graph.input}
    wanted = [4, parameters["mdx_dim_f_set"], 2 ** parameters["mdx_dim_t_set"]]
    found = sizes.get("input", [])[1:]
    if len(found) != len(wanted) or any(size and size != other for size, other in zip(found, wanted, strict=True)):
        raise WeightsError(
            f"{path} takes {sizes}, not spectrograms [batch, {', '.join(map(str, wanted))}] named `input`. "
            f"Name an MDX-Net with --separator, and see that its {PARAMETERS} is right. {_FETCH}"
        )


def load_mdx(file: SeparatorFile) -> Any:
    """audio-separator's MDX-Net with this file loaded; on the GPU if this process has one and ONNX Runtime can use it.

    Raises WeightsError if ONNX Runtime does not take the file.
    """
    with tempfile.TemporaryDirectory() as folder, _surroundings(folder), warnings.catch_warnings():
        _write_lists(file, folder)
        from audio_separator.separator import Separator

        parameters = {"hop_length": HOP, "segment_size": 2 ** file.parameters["mdx_dim_t_set"], "overlap": 0.25}
        try:
            separator = Separator(
                log_level=logging.WARNING,
                model_file_dir=folder,
                output_dir=folder,
                mdx_params={**parameters, "batch_size": 1, "enable_denoise": False},
            )
            separator.load_model(_NAME)
        except Exception as error:  # ONNX Runtime's own errors share no base
            raise WeightsError(f"{file.path} cannot be loaded: {str(error).splitlines()[0]}. {_FETCH}") from error
    # The library asks torch for spectrograms in a way that torch warns of, once.
    warnings.filterwarnings("ignore", message="stft with return_complex=False")
    mdx = separator.model_instance
    assert mdx is not None
    mdx.initialize_model_settings()
    return mdx


def _write_lists(file: SeparatorFile, folder: str) -> None:
    os.symlink(os.path.abspath(file.path), os.path.join(folder, _NAME))
    lists: dict[str, dict[str, str]] = {f"{kind}_list": {} for kind in _LISTS}
    lists["mdx_download_list"] = {"MDX-Net Model: vocals": _NAME}
    contents = {"download_checks": lists, "vr_model_data": {}, "mdx_model_data": {file.name: dict(file.parameters)}}
    for name, content in contents.items():
        Path(folder, f"{name}.json").write_text(json.dumps(content))


@contextmanager
def _surroundings(folder: str) -> Iterator[None]:
    """What audio-separator wants to see while it starts: an `ffmpeg`, and a package that it imports but never uses.

    onnx2torch turns networks into torch's, for other lengths than they were made for; it asks for torchvision.
    """
    programs = os.path.join(folder, "programs")
    os.mkdir(programs)
    os.symlink(imageio_ffmpeg.get_ffmpeg_exe(), os.path.join(programs, "ffmpeg"))
    before = {name: os.environ.get(name) for name in ("PATH", _FOLDER_VARIABLE)}
    is_there = "onnx2torch" in sys.modules
    os.environ["PATH"] = f"{programs}{os.pathsep}{before['PATH'] or ''}"
    os.environ.pop(_FOLDER_VARIABLE, None)
    sys.modules.setdefault("onnx2torch", ModuleType("onnx2torch"))
    try:
        yield
    finally:
        if not is_there:
            del sys.modules["onnx2torch"]
        os.environ.pop("PATH", None)
        os.environ.update({name: value for name, value in before.items() if value is not None})
