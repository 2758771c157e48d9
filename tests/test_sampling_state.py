import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stableavatar.sampling.state import SamplerState, to_host


def make_state() -> SamplerState:
    random = torch.Generator().manual_seed(0)
    return SamplerState(
        step=3,
        num_windows=1,
        latents_BCFHW=torch.randn(1, 16, 9, 4, 4, generator=random),
        total_BCFHW=torch.randn(1, 16, 5, 4, 4, generator=random),
        scheduler={"_step_index": 3, "model_outputs": [None, torch.randn(1, 16, 9, 4, 4, generator=random)], "x": 0.1},
    )


def test_a_state_comes_back_from_its_file(tmp_path: Path) -> None:
    state, path = make_state(), tmp_path / "state"
    state.write(str(path))
    found = SamplerState.read(str(path))
    path.write_bytes(b"")  # the file is no longer needed
    assert (found.step, found.num_windows) == (3, 1)
    assert found.total_BCFHW is not None and state.total_BCFHW is not None
    assert torch.equal(found.latents_BCFHW, state.latents_BCFHW)
    assert torch.equal(found.total_BCFHW, state.total_BCFHW)
    assert (found.scheduler["_step_index"], found.scheduler["x"]) == (3, 0.1)
    assert found.scheduler["model_outputs"][0] is None
    assert torch.equal(found.scheduler["model_outputs"][1], state.scheduler["model_outputs"][1])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def replace_by(words: dict[str, Any] | None) -> Any:
    metadata = None if words is None else {"state": json.dumps(words)}
    return lambda path: save_file({"0": torch.zeros(3)}, path, metadata=metadata)


@pytest.mark.parametrize(
    "harm",
    [
        cut,
        flip_a_bit,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"something else entirely"),
        replace_by(None),
        replace_by({}),
        replace_by({"format": "stableavatar sampler state 2"}),
        replace_by({"format": "stableavatar sampler state 1", "checksums": {"0": 1}, "content": {}}),
    ],
)
def test_what_is_damaged_or_something_else_is_refused(tmp_path: Path, harm: Any) -> None:
    path = tmp_path / "state"
    make_state().write(str(path))
    harm(path)
    with pytest.raises(ValueError, match="no sampler state that can be used"):
        SamplerState.read(str(path))


def test_a_copy_for_the_host_no_longer_changes() -> None:
    latents = torch.arange(24.0).view(1, 2, 3, 2, 2)
    copy, part = to_host(latents), to_host(latents, 2)
    expected = latents.clone()
    latents.zero_()
    assert torch.equal(copy, expected)
    assert torch.equal(part, expected[:, :, :2]) and part.is_contiguous()
