from pathlib import Path

import pytest

from stableavatar.errors import BadInput
from stableavatar.training.config import TrainingConfig, as_values, read_config
from stableavatar.training.presets import TRAINING_PRESETS

MINIMUM = "model: tiny\ndata: {clips: [a]}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_values_are_typed_and_the_rest_is_as_published(tmp_path: Path) -> None:
    text = MINIMUM + "optimiser: {lr: 1e-4, betas: [0.9, 0.95]}\nlora: {rank: 8}\nworkers: {num_workers: 3}"
    config = read_config(written(tmp_path, text), {})
    assert (config.name, config.data.clips, config.optimiser.lr) == ("mine", ("a",), 1e-4)
    assert config.optimiser.betas == (0.9, 0.95) and config.workers.num_workers == 3
    assert config.lora is not None and (config.lora.rank, config.lora.alpha) == (8, 64.0)
    # spec: AdamW, decay 3e-2, eps 1e-10, warm-up 100, norm 0.05 from 5 times over 1000 steps, up to 10 times harder
    used = config.optimiser
    assert (used.weight_decay, used.eps, used.warmup_steps) == (3e-2, 1e-10, 100)
    assert (used.max_norm, used.start_ratio, used.start_steps, used.max_harder) == (0.05, 5.0, 1000, 10.0)
    assert (config.loss.whole, config.loss.face, config.loss.lip, config.loss.motion) == (0.4, 0.1, 0.5, 0.25)
    assert (config.augment.silence, config.augment.clip_level, config.shift) == (0.1, 0.3, 5.0)
    assert (config.checkpoint_every, config.validation.every, config.batch_size) == (2000, 500, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "model is missing"),
        ("model: tiny", "nothing to train on: give data.clips"),
        (MINIMUM + "steps: 3", "unknown key steps"),
        (MINIMUM + "optimiser: {rate: 1}", "unknown key optimiser.rate"),
        (MINIMUM + "num_steps: many", "num_steps is 'many', which is no int"),
        (MINIMUM + "num_steps: true", "num_steps is True"),
        (MINIMUM + "num_steps: 0", "num_steps is 0"),
        (MINIMUM + "keep_checkpoints: -1", "keep_checkpoints is -1; it must be at least 1"),
        (MINIMUM + "augment: {silence: 10}", "augment.silence is 10.0; it is a share"),
        (MINIMUM + "optimiser: {betas: [0.9]}", "optimiser.betas"),
        (MINIMUM + "workers: {sharding: zero2}", "workers.sharding is 'zero2'; there is: ddp, fsdp"),
        (MINIMUM + "workers: 4", "workers is 4; it must hold keys"),
        (MINIMUM + "preset: 2b", "there is no preset '2b'; there is: 1.3b-square"),
        (MINIMUM + "task: vae\nvae: {windowz: [[1, 32]]}", "unknown key vae.windowz; there is: windows"),
        (MINIMUM + "task: vae\nvae: {windows: [[2, 32]]}", "vae.windows is ((2, 32),); it must hold pairs of frames"),
        (MINIMUM + "task: vae\nvae: {windows: []}", "vae.windows is ()"),
        (MINIMUM + "task: audio\naudio: {noise: loud}", "audio.noise is 'loud', which is no float"),
        (MINIMUM + "task: audio\nstart: base", "`start: base` is for task: avatar alone"),
        (MINIMUM + "task: vae\nlora: {rank: 4}", "`lora` is for task: avatar alone"),
        (MINIMUM + "task: vae\nworkers: {sharding: fsdp}", "`workers.sharding: fsdp` is for task: avatar alone"),
        ("- a list", "is not a list of"),
        ("{", "cannot be read as YAML"),
    ],
)
def test_what_no_run_understands_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadInput) as error:
        read_config(path, TRAINING_PRESETS)
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_preset_is_changed_key_by_key(tmp_path: Path) -> None:
    config = read_config(
        written(tmp_path, "preset: 14b-lora\ndata: {clips: [a]}\nworkers: {num_workers: 64}"), TRAINING_PRESETS
    )
    assert config.workers.sharding == "fsdp" and config.workers.num_workers == 64
    assert config.optimiser.lr == 1e-4 and config.lora is not None and config.start == "weights"
    assert config.data.sizes == ((512, 512), (832, 480), (480, 832)) and config.data.clips == ("a",)


@pytest.mark.parametrize("name", TRAINING_PRESETS)
def test_every_preset_is_a_run(tmp_path: Path, name: str) -> None:
    config = read_config(written(tmp_path, f"preset: {name}\ndata: {{clips: [a]}}"), TRAINING_PRESETS)
    assert (config.lora is not None) == name.endswith("lora")
    assert (config.start == "base") != name.endswith("lora")
    assert (config.weights == "rec-vec") == ("rec-vec" in name)  # those that were trained on the run's sizes


def test_a_run_is_written_down_and_built_again(tmp_path: Path) -> None:
    import yaml

    config = TrainingConfig(name="mine", model="tiny", data=read_config(written(tmp_path, MINIMUM), {}).data)
    again = written(tmp_path, yaml.safe_dump(_plain(as_values(config))))
    assert read_config(again, {}) == config


@pytest.mark.parametrize(
    ("text", "lr"),
    [
        ("", 2e-5),
        ("lora: {rank: 8}", 1e-4),
        ("lora: {}", 1e-4),
        ("lora: null", 2e-5),
        ("lora: {}\noptimiser: {lr: 3}", 3),
    ],
)
def test_a_lora_learns_as_published_unless_the_file_says_otherwise(tmp_path: Path, text: str, lr: float) -> None:
    assert read_config(written(tmp_path, MINIMUM + text), {}).optimiser.lr == lr


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
