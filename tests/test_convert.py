import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stableavatar.checkpoints.convert import convert_folder, write_safetensors
from stableavatar.checkpoints.inspect import verify_folder
from stableavatar.checkpoints.tensorfile import open_tensors
from stableavatar.errors import WeightsError
from stableavatar.model.networks import COMPONENTS
from stableavatar.model.weights import load_network, tensor_path, weights_hash
from tests.published import small, small_preset, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_folder(folder, small())
    (folder / "Kim_Vocal_2.onnx").write_bytes(b"separator")
    return folder


def test_a_converted_folder_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    convert_folder(folder, tmp_path)
    before, after = small_preset(folder), small_preset(tmp_path)
    verify_folder(after)
    assert not list(tmp_path.rglob("*.pt*"))
    for component in COMPONENTS:
        path = tensor_path(component, after)
        assert path.suffix == ".safetensors"
        ours, theirs = load_file(path), open_tensors(tensor_path(component, before))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
        first, second = (load_network(component, preset, "cpu", None).state_dict() for preset in (before, after))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert weights_hash(before) == weights_hash(after)
    assert (tmp_path / "Kim_Vocal_2.onnx").read_bytes() == b"separator"


def test_an_interrupted_conversion_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = write_safetensors, []

    def fail_at_third(path: Path, *rest: object) -> None:
        written.append(path.name)
        real(path, *rest)  # type: ignore[arg-type]
        if len(written) == 3:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr("stableavatar.checkpoints.convert.write_safetensors", fail_at_third)
    with pytest.raises(WeightsError, match="No space left"):
        convert_folder(folder, tmp_path)
    assert not list(tmp_path.rglob("*.unfinished"))
    done: list[bool] = []
    convert_folder(folder, tmp_path, lambda path, was_done: done.append(was_done))
    assert done[:3] == [True, True, False]
    verify_folder(small_preset(tmp_path))


def test_converting_in_place_keeps_the_originals(tmp_path: Path) -> None:
    write_folder(tmp_path, small())
    original = tensor_path(COMPONENTS[0], small_preset(tmp_path))
    convert_folder(tmp_path, tmp_path)
    assert original.exists()
    assert tensor_path(COMPONENTS[0], small_preset(tmp_path)).suffix == ".safetensors"
    convert_folder(tmp_path, tmp_path)


def test_a_damaged_result_is_made_again(tmp_path: Path) -> None:
    write_folder(tmp_path, small())
    convert_folder(tmp_path, tmp_path / "out")
    made = tensor_path(COMPONENTS[0], small_preset(tmp_path / "out"))
    good = made.read_bytes()
    made.write_bytes(good[:100])
    convert_folder(tmp_path, tmp_path / "out")
    assert made.read_bytes() == good


def test_safetensors_of_mixed_types(tmp_path: Path) -> None:
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "half": torch.randn(3, 5).bfloat16(),
        "turned": torch.randn(4, 6).T,
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "none": torch.zeros(0, 4),
    }
    write_safetensors(tmp_path / "file.safetensors", tensors, {})
    loaded = load_file(tmp_path / "file.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
