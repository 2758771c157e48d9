import shutil
from pathlib import Path

import pytest

from stableavatar.checkpoints.layout import AUDIO
from stableavatar.errors import WeightsError
from stableavatar.presets import PublishedWeights, find_preset, published, tiny
from tests.published import GOLDEN


def make(folder: Path, *sizes: str, variants: tuple[str, ...] = ("square", "rec-vec")) -> Path:
    for size in sizes:
        (folder / f"Wan2.1-Fun-V1.1-{size}-InP").mkdir(parents=True)
        (folder / f"StableAvatar-{size}").mkdir()
        for variant in variants:
            (folder / f"StableAvatar-{size}" / f"transformer3d-{variant}.pt").touch()
    (folder / AUDIO).mkdir()
    shutil.copy(GOLDEN / "wav2vec2" / "config.json", folder / AUDIO)
    return folder


@pytest.mark.parametrize(("size", "layers"), [("1.3B", 30), ("14B", 40)])
def test_a_folder_tells_its_model(tmp_path: Path, size: str, layers: int) -> None:
    preset = find_preset(str(make(tmp_path, size)), "rec-vec")
    assert preset.name == f"stableavatar-{size.lower()}-rec-vec"
    assert preset.weights == PublishedWeights(folder=str(tmp_path), size=size, transformer="rec-vec")
    assert preset.transformer["num_layers"] == layers
    assert preset.sizes == ((512, 512), (480, 832), (832, 480))
    assert preset.audio["hidden_size"] == 24
    assert (preset.num_steps, preset.text_scale, preset.audio_scale, preset.overlap) == (50, 3.0, 5.0, 5)


def test_one_of_two_models_is_chosen_by_its_subfolder(tmp_path: Path) -> None:
    make(tmp_path, "1.3B", "14B")
    with pytest.raises(WeightsError, match=r"1.3B and 14B. Name one: .*/StableAvatar-1.3B or .*/StableAvatar-14B"):
        published(tmp_path)
    assert published(tmp_path / "StableAvatar-14B").name == "stableavatar-14b-square"


def test_a_half_filled_folder_of_the_other_model_does_not_matter(tmp_path: Path) -> None:
    make(tmp_path, "1.3B")
    (tmp_path / "StableAvatar-14B").mkdir()
    assert published(tmp_path).name == "stableavatar-1.3b-square"


def test_converted_weights_and_other_names_are_recognised(tmp_path: Path) -> None:
    make(tmp_path, "1.3B", variants=("square",))
    path = tmp_path / "StableAvatar-1.3B/transformer3d-square.pt"
    path.rename(path.with_suffix(".safetensors"))
    (tmp_path / "Wan2.1-Fun-V1.1-1.3B-InP").rename(tmp_path / "Wan2.1-Fun-1.3B-InP")
    preset = published(tmp_path)
    assert isinstance(preset.weights, PublishedWeights)
    assert preset.weights.layout.base == Path("Wan2.1-Fun-1.3B-InP")


def test_names() -> None:
    assert find_preset("tiny") == tiny()
    with pytest.raises(WeightsError, match=r"'huge'.*tiny.*download"):
        find_preset("huge")
    with pytest.raises(WeightsError, match="there is: square, rec-vec"):
        find_preset("checkpoints", "round")
    with pytest.raises(WeightsError, match=r"s3://studio/anna/model is a URI.*copy the folder to every node first"):
        find_preset("s3://studio/anna/model")


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is not a folder"):
        find_preset(str(tmp_path / "nothing"))
    (tmp_path / "photos").mkdir()
    with pytest.raises(WeightsError, match=r"looked for StableAvatar-1.3B/transformer3d-square.pt .* found photos"):
        find_preset(str(tmp_path))
    make(tmp_path, "1.3B", variants=("square",))
    with pytest.raises(WeightsError, match=r"transformer3d-rec-vec.pt is missing. Weights that are there: square"):
        find_preset(str(tmp_path), "rec-vec")
    shutil.rmtree(tmp_path / AUDIO)
    with pytest.raises(WeightsError, match=r"wav2vec2-base-960h/config.json is missing"):
        find_preset(str(tmp_path))


def test_a_training_from_the_base_model_needs_no_weights_of_its_own(tmp_path: Path) -> None:
    folder = make(tmp_path, "1.3B", variants=())
    (folder / "StableAvatar-1.3B").rmdir()
    assert find_preset(str(folder), base_only=True).name == "stableavatar-1.3b-square"
    with pytest.raises(WeightsError, match=r"transformer3d-square.pt is missing"):
        find_preset(str(folder))
