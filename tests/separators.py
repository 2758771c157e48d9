"""Separators that tests make for themselves: an MDX-Net of one multiplication, which lets some frequencies pass."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

N_FFT, DIM_F, DIM_T = 2048, 1025, 6  # small: a chunk is 1.5 s
HERTZ_PER_BIN = 44_100 / N_FFT


@dataclass(frozen=True, kw_only=True)
class Dims:
    """The sizes of a network: FFT, frequencies that it takes, and as a power of two the columns of a spectrogram."""

    n_fft: int = N_FFT
    dim_f: int = DIM_F
    dim_t: int = DIM_T


_SMALL = Dims()


def write_separator(
    path: Path, gains: Sequence[float] | np.ndarray, *, nonlinear: bool = False, dims: Dims = _SMALL
) -> str:
    """Write an ONNX of MDX-Net's shape that multiplies each frequency by its gain, and what UVR would know of it.

    `nonlinear`: it also multiplies by the chunk's loudness, as no true mask would.
    """
    mask = np.zeros(dims.dim_f, np.float32)
    mask[: len(gains)] = gains
    shape = [None, 4, dims.dim_f, 2**dims.dim_t]
    nodes = [helper.make_node("Mul", ["input", "mask"], ["output"])]
    if nonlinear:
        nodes = [
            helper.make_node("Mul", ["input", "mask"], ["masked"]),
            helper.make_node("Abs", ["input"], ["level"]),
            helper.make_node("ReduceMean", ["level"], ["mean"], keepdims=1),
            helper.make_node("Mul", ["masked", "mean"], ["output"]),
        ]
    graph = helper.make_graph(
        nodes,
        "mask",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(mask.reshape(1, 1, -1, 1), "mask")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, str(path))
    describe(path, dims)
    return str(path)


def describe(path: Path, dims: Dims = _SMALL, **words: object) -> None:
    """Write beside a separator what UVR would know of it."""
    parameters = {
        "compensate": 1.0,
        "mdx_dim_f_set": dims.dim_f,
        "mdx_dim_t_set": dims.dim_t,
        "mdx_n_fft_scale_set": dims.n_fft,
        "primary_stem": "Vocals",
    }
    name = hashlib.md5(path.read_bytes()[-10_240_000:]).hexdigest()
    path.with_name("mdx_model_data.json").write_text(json.dumps({name: {**parameters, **words}}))


def band(low_hz: float, high_hz: float) -> np.ndarray:
    """Gains that let only the frequencies from `low_hz` to `high_hz` pass."""
    hertz = np.arange(DIM_F) * HERTZ_PER_BIN
    return ((hertz >= low_hz) & (hertz <= high_hz)).astype(np.float32)
