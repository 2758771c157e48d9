"""Whole runs, by the command, on a cluster of their own or of the tests."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from pipelines import storage, train_checkpoint
from pipelines.cli import BAD_CONFIG, main
from pipelines.curve import read_lines
from pipelines.train import TrainingFailed, train
from pipelines.train_data import SKIPPED
from stableavatar.checkpoints.tensorfile import open_tensors
from stableavatar.drawn.clips import write_data_set
from stableavatar.errors import BadInput
from stableavatar.model.weights import weights_hash
from stableavatar.presets import find_preset
from stableavatar.training.config import Data, Optimiser, Validation, Workers
from tests.conftest import EXAMPLES
from tests.training import curve_of, small_config, write_encoded

TIMEOUT_S = 500


def write_run(path: Path, **words: Any) -> str:
    """A run of two workers on encoded windows, as a file."""
    values = {
        "model": "tiny",
        "start": "nothing",
        "train": "all",
        "num_steps": 60,
        "data": {"encoded": [str(path.parent / "encoded")], "num_latents": 3},
        "optimiser": {"lr": 1e-3, "warmup_steps": 2, "eps": 1e-8, "ema_decay": 0.9},
        "workers": {"use_gpu": False, "num_workers": 2, "precision": "fp32", "gradient_checkpointing": False},
        "checkpoint_every": 5,
        "log_every": 3,
        "save_as": "fp32",
    }
    path.write_text(yaml.safe_dump(values | words))
    return str(path)


def start(config: str) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen([sys.executable, "-m", "pipelines.cli", "train", config], env=environment)


def wait_until(happened: Callable[[], bool], driver: subprocess.Popen) -> None:
    began = time.monotonic()
    while not happened():
        assert driver.poll() is None, "the run ended too early to be disturbed"
        assert time.monotonic() - began < TIMEOUT_S
        time.sleep(0.1)


def step_of(output: str) -> int:
    found = train_checkpoint.newest(output)
    return found.step if found else 0


def workers_of(driver: subprocess.Popen) -> list[psutil.Process]:
    found = psutil.Process(driver.pid).children(recursive=True)
    return [process for process in found if "RayTrainWorker" in " ".join(process.cmdline())]


@pytest.mark.slow
@pytest.mark.timeout(3 * TIMEOUT_S)
def test_whatever_is_killed_the_curve_goes_on_as_if_nothing_had_happened(
    ray_alone: None, bucket: str, tmp_path: Path
) -> None:
    write_encoded(str(tmp_path / "encoded"), 7)
    quiet, disturbed = f"{tmp_path}/quiet", f"{bucket}/disturbed"
    assert start(write_run(tmp_path / "quiet.yaml", output=quiet)).wait() == 0
    config = write_run(tmp_path / "disturbed.yaml", output=disturbed)

    driver = start(config)
    wait_until(lambda: step_of(disturbed) >= 10, driver)
    workers_of(driver)[-1].kill()
    at_kill = step_of(disturbed)
    wait_until(lambda: step_of(disturbed) >= at_kill + 10, driver)
    driver.kill()
    driver.wait()
    before = step_of(disturbed)
    assert before < 60
    assert start(config).wait() == 0

    assert curve_of(disturbed) == curve_of(quiet)
    assert [line["step"] for line in curve_of(quiet)] == list(range(3, 61, 3))
    model = storage.read(f"{disturbed}/model/transformer.safetensors")
    assert model == Path(quiet, "model/transformer.safetensors").read_bytes()
    kept = storage.names_in(f"{disturbed}/checkpoints")
    assert kept == ["step-00000055.json", "step-00000060.json"]
    assert len(storage.folders_in(f"{disturbed}/checkpoints")) == 2

    before_again = storage.info(f"{disturbed}/model/model.json").version
    assert start(config).wait() == 0  # nothing to do
    assert storage.info(f"{disturbed}/model/model.json").version == before_again


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("encoded"))
    write_encoded(folder, 5)
    return folder


def test_a_trained_model_is_a_model(ray_cluster: None, encoded: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    config = small_config(output=out, data=Data(encoded=(encoded,), num_latents=3), log_every=1)
    report = train(config)
    assert (report.model, report.step, report.first_step) == (f"{out}/model", 4, 0)
    assert [line["step"] for line in curve_of(out)] == [1, 2, 3, 4]
    preset = find_preset(f"{out}/model")
    assert preset.sizes == find_preset("tiny").sizes
    assert weights_hash(preset) != weights_hash(find_preset("tiny"))
    tensors = open_tensors(Path(out, "model/transformer.safetensors"))
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    again = train(config)
    assert again.first_step == again.step == 4


def test_a_run_whose_loss_is_not_finite_says_so_soon(ray_cluster: None, tmp_path: Path, encoded: str) -> None:
    config = small_config(
        output=str(tmp_path / "out"),
        num_steps=50,
        data=Data(encoded=(encoded,), num_latents=3),
        optimiser=Optimiser(lr=1e30, warmup_steps=0),
    )
    with pytest.raises(TrainingFailed, match="the loss is not finite"):
        train(config)


@pytest.mark.slow
def test_bad_clips_are_left_out_and_encoded_ones_give_the_same_curve(ray_cluster: None, tmp_path: Path) -> None:
    root = str(tmp_path / "drawn")
    folders = write_data_set(root, 4, size=(64, 64), num_frames=9)
    folders += write_data_set(root, 1, size=(96, 64), num_frames=9)
    (Path(folders[2]) / "lip_masks/frame_3.png").unlink()
    held = write_data_set(str(tmp_path / "held"), 2, first_seed=7, size=(64, 64), num_frames=9)
    data = {"clips": (root,), "num_latents": 3, "sizes": ((64, 64),), "num_loaders": 1}
    from_clips = small_config(
        output=str(tmp_path / "clips"),
        log_every=1,
        validation=Validation(every=2),
        data=Data(**data, held_out=(str(tmp_path / "held"),)),  # type: ignore[arg-type]
    )
    skipped = train(from_clips).skipped
    assert {clip.folder for clip in skipped} == {folders[2], folders[4]}
    reasons = {line["clip"]: line["reason"] for line in read_lines(f"{tmp_path}/clips/{SKIPPED}")}
    assert "lip_masks/ has fewer masks" in reasons[folders[2]]
    assert "96x64 pixels, which is none of 64x64 (data.sizes)" in reasons[folders[4]]
    lines = read_lines(f"{tmp_path}/clips/validation.jsonl")
    assert [line["step"] for line in lines] == [2, 4] and lines[0]["held_out_loss"] > 0
    assert len(held) == 2

    shards = str(tmp_path / "shards")
    file = tmp_path / "shards.yaml"
    file.write_text(yaml.safe_dump({"model": "tiny", "data": {"clips": [root], "num_latents": 3, "sizes": [[64, 64]]}}))
    assert main(["encode-data", str(file), "--output", shards]) == 2
    encoded = small_config(output=str(tmp_path / "encoded"), log_every=1, data=Data(encoded=(shards,), num_latents=3))
    train(encoded)
    assert curve_of(f"{tmp_path}/encoded") == curve_of(f"{tmp_path}/clips")


@pytest.mark.slow
def test_videos_are_made_during_training(ray_cluster: None, encoded: str, tmp_path: Path) -> None:
    row = {"portrait": f"{EXAMPLES}/portrait_nasa.jpg", "audio": f"{EXAMPLES}/speech_es_short.flac", "end_s": 0.4}
    bad = row | {"portrait": "missing.png", "id": "bad"}
    manifest = tmp_path / "look.jsonl"
    manifest.write_text(json.dumps(row | {"id": "good"}) + "\n" + json.dumps(bad) + "\n")
    out = tmp_path / "out"
    config = small_config(
        output=str(out),
        num_steps=2,
        data=Data(encoded=(encoded,), num_latents=3, held_out=(encoded,)),
        validation=Validation(every=2, manifest=str(manifest), num_steps=1),
    )
    train(config)
    assert (out / "validation/step-00000002/good.mp4").stat().st_size > 1000
    lines = read_lines(str(out / "validation/step-00000002/metrics.jsonl"))
    assert lines[0]["sharpness_mean"] > 0 and "missing.png" in lines[1]["error"]
    (line,) = read_lines(str(out / "validation.jsonl"))
    assert line["held_out_loss"] > 0 and line["video_sharpness_mean"] == lines[0]["sharpness_mean"]


def test_a_file_that_no_run_understands_is_refused_with_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", write_run(tmp_path / "mine.yaml", num_stepz=3)]) == BAD_CONFIG
    assert "unknown key num_stepz" in capsys.readouterr().err


def test_more_workers_than_the_cluster_holds_are_refused(ray_cluster: None, encoded: str, tmp_path: Path) -> None:
    from pipelines.workers import ClusterError

    config = small_config(output=str(tmp_path), data=Data(encoded=(encoded,), num_latents=3))
    with pytest.raises(ClusterError, match="this run needs 99"):
        train(small_config(output=str(tmp_path), data=config.data, workers=Workers(use_gpu=False, num_workers=99)))
    with pytest.raises(BadInput, match="output is missing"):
        train(small_config())
