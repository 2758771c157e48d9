"""Models that training leaves: a folder with a description and the weights of some parts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stableavatar.checkpoints.inspect import verify_folder
from stableavatar.errors import WeightsError
from stableavatar.model.conditions import TextEncoder, audio_network
from stableavatar.model.networks import AUDIO, TRANSFORMER, VAE
from stableavatar.model.weights import Component, encoders_hash, load_network, random_network, weights_hash
from stableavatar.presets import (
    MODEL_FILE,
    Preset,
    PublishedWeights,
    find_preset,
    mini,
    save_model_file,
    saved,
    tiny,
)


def save(folder: Path, *components: Component, seed: int = 5, preset: Preset | None = None) -> Preset:
    """`tiny` with some parts drawn from another seed, saved and found again."""
    preset = preset or tiny()
    folder.mkdir(exist_ok=True)
    for component in components:
        network = random_network(lambda component=component: component.build(preset), seed)  # type: ignore[misc]
        save_file(dict(network.state_dict()), folder / f"{component.part}.safetensors")
    save_model_file(preset, folder, {component.part: f"{component.part}.safetensors" for component in components})
    return saved(folder)


def test_a_saved_part_is_loaded_and_the_others_are_those_of_its_base(tmp_path: Path) -> None:
    preset = save(tmp_path, VAE)
    loaded = load_network(VAE, preset, "cpu", torch.float32).state_dict()
    drawn = random_network(lambda: VAE.build(preset), 5).state_dict()
    assert all(torch.equal(loaded[name], drawn[name]) for name in drawn)
    theirs, ours = (load_network(TRANSFORMER, p, "cpu", None).state_dict() for p in (tiny(), preset))
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_the_audio_encoder_can_be_a_saved_part(tmp_path: Path) -> None:
    preset = save(tmp_path, AUDIO)
    ours, theirs = (audio_network(p).state_dict() for p in (preset, tiny()))
    assert not torch.equal(
        ours["encoder.layer_norm.weight"] + ours["feature_projection.projection.bias"],
        theirs["encoder.layer_norm.weight"] + theirs["feature_projection.projection.bias"],
    )
    verify_folder(preset)


def test_its_values_are_those_that_were_saved(tmp_path: Path) -> None:
    preset = save(
        tmp_path, VAE, preset=replace(tiny(), name="mine", num_steps=7, sizes=((64, 96),), text_schedule="1,2")
    )
    assert (preset.name, preset.num_steps, preset.sizes, preset.text_schedule) == ("mine", 7, ((64, 96),), "1,2")
    assert find_preset(str(tmp_path)) == preset
    assert TextEncoder.load(preset, "cpu").encode("a face").shape[1] == 32


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    one, same, other = (save(tmp_path / name, VAE, seed=seed) for name, seed in (("one", 1), ("same", 1), ("other", 2)))
    assert weights_hash(one) == weights_hash(same) != weights_hash(other)
    assert weights_hash(one) != weights_hash(tiny())
    assert encoders_hash(one) == encoders_hash(same) != encoders_hash(other)
    assert encoders_hash(save(tmp_path / "trained", TRANSFORMER)) == encoders_hash(tiny()) != encoders_hash(one)


def test_a_saved_model_remembers_its_published_base(tmp_path: Path) -> None:
    base = PublishedWeights(folder="/models", size="14B", transformer="rec-vec")
    preset = save(tmp_path, TRANSFORMER, preset=replace(tiny(), weights=base))
    assert preset.weights_of("vae") == base
    assert preset.weights_of("transformer") == tmp_path / "transformer.safetensors"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": {}, "base": {"kind": "none"}}'])
def test_a_damaged_description_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / MODEL_FILE).write_text(content)
    with pytest.raises(WeightsError, match=r"model.json does not describe a trained model"):
        find_preset(str(tmp_path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    save(tmp_path, VAE)
    (tmp_path / "vae.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model.json names .*vae.safetensors, which is not there"):
        saved(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    preset = save(tmp_path, VAE)
    (tmp_path / "transformer.safetensors").write_bytes((tmp_path / "vae.safetensors").read_bytes())
    save_model_file(preset, tmp_path, {"transformer": "transformer.safetensors"})
    with pytest.raises(WeightsError, match="does not hold the transformer of this model"):
        verify_folder(saved(tmp_path))


def test_the_small_model_has_weights_of_at_most_25_mb() -> None:
    weights = mini().weights
    verify_folder(mini())
    sizes = [Path(path).stat().st_size for path in weights.files.values()]  # type: ignore[union-attr]
    assert sum(sizes) < 25e6
