import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stableavatar.checkpoints.inspect import inspect_folder, inspect_model, verify_folder
from stableavatar.checkpoints.layout import TEXT, VAE, VOCALS
from stableavatar.checkpoints.tensorfile import open_tensors
from stableavatar.errors import WeightsError
from stableavatar.presets import tiny
from tests.published import small, small_preset, write_folder

BASE = "Wan2.1-Fun-V1.1-1.3B-InP"
SQUARE = "StableAvatar-1.3B/transformer3d-square.pt"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_folder(folder, small())
    path = folder / SQUARE  # with the checksums that torch writes
    torch.save({name: tensor.clone() for name, tensor in open_tensors(path).items()}, path)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "folder"))


def test_a_good_folder(good: Path) -> None:
    verify_folder(small_preset(good))
    verify_folder(tiny())
    report = inspect_model(small_preset(good), ("square", "rec-vec"))
    assert report.problems == ()
    by_path = {file.path: file for file in report.files}
    assert by_path[SQUARE].num_bytes == (good / SQUARE).stat().st_size
    assert by_path[SQUARE].num_tensors == 135
    assert by_path[VOCALS].num_bytes is None  # may be missing


def test_another_size_of_the_model_is_noticed(good: Path) -> None:
    problems = inspect_folder(good).problems
    assert len(problems) == 5 and all("of another shape" in problem or "missing" in problem for problem in problems)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lose_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x" * 100_000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def become_a_page(path: Path) -> None:
    path.write_bytes(b"<html>Not found</html>")


def hold_code(path: Path) -> None:
    torch.save({"weights": Path("/")}, path)


DAMAGES = [cut_short, lose_the_end, empty, become_a_page]


@pytest.mark.parametrize("name", [SQUARE, f"{BASE}/{VAE}", f"{BASE}/{TEXT}", "wav2vec2-base-960h/model.safetensors"])
@pytest.mark.parametrize("damage", [*DAMAGES, hold_code], ids=lambda damage: damage.__name__)
def test_damage_is_found_without_reading_the_file(folder: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(folder / name)
    with pytest.raises(WeightsError) as caught:
        verify_folder(small_preset(folder))
    assert str(folder / name) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("damage", [*DAMAGES, grow], ids=lambda damage: damage.__name__)
def test_damaged_safetensors(folder: Path, damage: Callable[[Path], None]) -> None:
    source = folder / SQUARE
    tensors = {name: tensor.clone() for name, tensor in open_tensors(source).items()}
    save_file(tensors, source.with_suffix(".safetensors"))
    source.unlink()
    verify_folder(small_preset(folder))
    damage(source.with_suffix(".safetensors"))
    with pytest.raises(WeightsError, match=r"square\.safetensors .*damaged or cut short"):
        verify_folder(small_preset(folder))


def test_everything_that_is_wrong_is_listed(folder: Path) -> None:
    (folder / SQUARE).unlink()
    (folder / BASE / VAE).unlink()
    shutil.rmtree(folder / BASE / "google")
    (folder / "wav2vec2-base-960h/config.json").write_text("")
    with pytest.raises(WeightsError) as caught:
        verify_folder(small_preset(folder))
    assert len(str(caught.value).splitlines()) == 5
    assert "transformer3d-square.pt is missing (transformer, square)" in str(caught.value)


def test_a_broken_tokenizer(folder: Path) -> None:
    (folder / BASE / "google/umt5-xxl/tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match="tokenizer"):
        verify_folder(small_preset(folder))


def test_a_flipped_bit_is_found_by_the_checksums(folder: Path) -> None:
    content = bytearray((folder / SQUARE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / SQUARE).write_bytes(content)
    preset = small_preset(folder)
    assert inspect_model(preset, ("square",)).problems == ()
    (problem,) = [p for p in inspect_model(preset, ("square",), checksums=True).problems if SQUARE in p]
    assert "damaged in its record" in problem


def test_hashes(folder: Path) -> None:
    report = inspect_model(small_preset(folder), ("square",), hashes=True)
    assert all(len(file.sha256) == 64 for file in report.files if file.num_bytes)
