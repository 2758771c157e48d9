"""Whole runs, by the command, on a cluster of their own or of the tests."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
import torch
import yaml

from pipelines import storage, train_checkpoint
from pipelines.cli import main
from pipelines.lease import Lease, lease_uri
from pipelines.lines import read_lines
from pipelines.terminal import BAD_CONFIG
from pipelines.train import Clock, TrainingFailed, train, train_on_worker
from pipelines.train_data import SKIPPED, Found, batches
from pipelines.train_run import claim
from stableavatar.checkpoints.tensorfile import open_tensors
from stableavatar.drawn.clips import write_data_set
from stableavatar.errors import BadInput
from stableavatar.model.weights import weights_hash
from stableavatar.presets import find_preset
from stableavatar.reproducible import reproducible
from stableavatar.training.config import Data, Optimiser, TrainingConfig, Validation, Workers, read_config
from stableavatar.training.order import ALONE
from stableavatar.training.trainer import Trainer
from tests.conftest import EXAMPLE
from tests.training import curve_of, small_config, write_encoded

TIMEOUT_S = 250
NUM_STEPS = 40


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("encoded"))
    write_encoded(folder, 7)
    return folder


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("held-out"))
    write_encoded(folder, 7, first_seed=100)
    return folder


def write_run(path: Path, encoded: str, **words: Any) -> str:
    """A run of two workers on encoded windows, as a file."""
    values = {
        "model": "tiny",
        "start": "nothing",
        "train": "all",
        "num_steps": NUM_STEPS,
        "data": {"encoded": [encoded], "num_latents": 3},
        "optimiser": {"lr": 1e-3, "warmup_steps": 2, "eps": 1e-8, "ema_decay": 0.9},
        "workers": {"use_gpu": False, "num_workers": 2, "precision": "fp32", "gradient_checkpointing": False},
        "checkpoint_every": 5,
        "log_every": 3,
        "save_as": "fp32",
    }
    path.write_text(yaml.safe_dump(values | words))
    return str(path)


def start(config: str) -> subprocess.Popen:
    """The command in a process of its own, on the cluster of the tests."""
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
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


def workers() -> list[psutil.Process]:
    """The training workers of the tests' cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def quiet(ray_cluster: None, encoded: str, held_out: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run has left that nobody disturbed, and that made videos at its last step."""
    folder = tmp_path_factory.mktemp("quiet")
    row = {**EXAMPLE, "end_s": 0.4}
    bad = row | {"portrait": "missing.png", "id": "bad"}
    manifest = folder / "look.jsonl"
    manifest.write_text(json.dumps(row | {"id": "good"}) + "\n" + json.dumps(bad) + "\n")
    file = write_run(
        folder / "quiet.yaml",
        encoded,
        output=str(folder / "out"),
        data={"encoded": [encoded], "held_out": [held_out], "num_latents": 3},
        validation={"every": NUM_STEPS, "manifest": str(manifest), "num_steps": 1},
    )
    config = read_config(file, {})
    report = train(config)
    assert (report.model, report.step, report.first_step) == (f"{folder}/out/model", NUM_STEPS, 0)
    before = (folder / "out/model/model.json").stat().st_mtime_ns
    again = train(config)  # nothing is to do
    assert again.first_step == again.step == NUM_STEPS
    assert (folder / "out/model/model.json").stat().st_mtime_ns == before
    return folder / "out"


@pytest.mark.slow
def test_whatever_is_killed_the_curve_goes_on_as_if_nothing_had_happened(
    quiet: Path, encoded: str, bucket: str, tmp_path: Path, quick_lease: None
) -> None:
    disturbed = f"{bucket}/disturbed"
    config = write_run(tmp_path / "disturbed.yaml", encoded, output=disturbed)
    driver = start(config)
    try:
        wait_until(lambda: step_of(disturbed) >= 5, driver)
        workers()[-1].kill()
        at_kill = step_of(disturbed)
        wait_until(lambda: step_of(disturbed) >= at_kill + 5, driver)
    finally:
        driver.kill()
        driver.wait()
    killed_at = step_of(disturbed)
    assert killed_at < NUM_STEPS
    assert train(read_config(config, {})).first_step >= killed_at

    assert curve_of(disturbed) == curve_of(str(quiet))
    model = storage.read(f"{disturbed}/model/transformer.safetensors")
    assert model == (quiet / "model/transformer.safetensors").read_bytes()
    assert storage.names_in(f"{disturbed}/checkpoints") == ["step-00000035.json", "step-00000040.json"]
    assert len(storage.folders_in(f"{disturbed}/checkpoints")) == 2


@pytest.mark.slow
def test_a_trained_model_is_a_model(quiet: Path) -> None:
    assert [line["step"] for line in curve_of(str(quiet))] == [*range(3, NUM_STEPS, 3), NUM_STEPS]
    preset = find_preset(f"{quiet}/model")
    assert preset.sizes == find_preset("tiny").sizes
    assert weights_hash(preset) != weights_hash(find_preset("tiny"))
    tensors = open_tensors(quiet / "model/transformer.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.slow
def test_videos_are_made_during_training(quiet: Path) -> None:
    folder = quiet / f"validation/step-{NUM_STEPS:08d}"
    assert (folder / "good.mp4").stat().st_size > 1000
    lines = read_lines(str(folder / "metrics.jsonl"))
    assert lines[0]["sharpness_mean"] > 0 and "missing.png" in lines[1]["error"]
    (line,) = read_lines(str(quiet / "validation.jsonl"))
    assert line["held_out_loss"] > 0 and line["video_sharpness_mean"] == lines[0]["sharpness_mean"]


@pytest.mark.slow
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
    write_data_set(str(tmp_path / "held"), 2, first_seed=7, size=(64, 64), num_frames=9)
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

    shards = str(tmp_path / "shards")
    file = tmp_path / "shards.yaml"
    file.write_text(yaml.safe_dump({"model": "tiny", "data": {"clips": [root], "num_latents": 3, "sizes": [[64, 64]]}}))
    assert main(["encode-data", str(file), "--output", shards]) == 2
    encoded = small_config(data=Data(encoded=(shards,), num_latents=3))
    assert plain_curve(encoded) == curve_of(f"{tmp_path}/clips")


def plain_curve(config: TrainingConfig) -> list[dict[str, float]]:
    """The curve of a run of one worker, trained right here."""
    with reproducible(config.workers.cpus_per_worker):
        trainer = Trainer(config)
        with closing(batches(config, (), 0, config.num_steps, ALONE)) as feed:
            steps = range(1, config.num_steps + 1)
            return [{"step": step, **trainer.train_step([next(feed)])} for step in steps]


@pytest.mark.parametrize("rate", [1e-3, 1e30])
def test_a_run_whose_output_was_taken_over_leaves_it_alone(
    tmp_path: Path, encoded: str, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, optimiser = Data(encoded=(encoded,), num_latents=3), Optimiser(lr=rate, warmup_steps=0)
    config = small_config(output=str(tmp_path), data=data, optimiser=optimiser, num_steps=9, log_every=1)
    alone = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: alone)
    monkeypatch.setattr(ray, "get", lambda given: given)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    step = Trainer.train_step

    def taken_over(trainer: Trainer, samples: Any) -> dict[str, float]:
        storage.write(b'{"holder": "another"}', lease_uri(config.output, 7))
        return step(trainer, samples)

    monkeypatch.setattr(Trainer, "train_step", taken_over)
    with Lease(config.output) as run:
        claim(config, [])
        train_on_worker({"config": config, "found": Found(shards=("a",)), "holder": run.holder})
        storage.remove(lease_uri(config.output, 7))
    left = {name.split("/")[0] for name in storage.names_under(config.output)}
    assert left == {"training.json", "tensorboard", "checkpoints"} - ({"checkpoints"} if rate > 1 else set())
    assert train_checkpoint.newest(config.output) is None
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"gradient_norm" not in events.read_bytes()


def test_checkpoints_come_after_so_many_steps_or_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("pipelines.train.time.monotonic", lambda: now[0])
    clock = Clock(small_config(num_steps=40, checkpoint_every=13, checkpoint_minutes=2.0, log_every=5))
    saved = []
    for step in range(1, 41):
        now[0] += 13.0  # two minutes are over after ten steps; that is asked for at every fifth
        if clock.is_time(step):
            saved.append(step)
    assert saved == [10, 13, 25, 26, 39, 40]
    steps_alone = Clock(small_config(num_steps=50, checkpoint_every=20))
    assert [step for step in range(1, 51) if steps_alone.is_time(step)] == [20, 40, 50]


def test_a_file_that_no_run_understands_is_refused_with_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", write_run(tmp_path / "mine.yaml", "encoded", num_stepz=3)]) == BAD_CONFIG
    assert "unknown key num_stepz" in capsys.readouterr().err


def test_a_model_in_a_store_is_to_be_copied_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", write_run(tmp_path / "m.yaml", "encoded", model="s3://studio/model", output="out")]) == 1
    assert "s3://studio/model is a URI" in capsys.readouterr().err


def test_more_workers_than_the_cluster_holds_are_refused(ray_cluster: None, encoded: str, tmp_path: Path) -> None:
    from pipelines.workers import ClusterError

    config = small_config(output=str(tmp_path), data=Data(encoded=(encoded,), num_latents=3))
    with pytest.raises(ClusterError, match="this run needs 99"):
        train(small_config(output=str(tmp_path), data=config.data, workers=Workers(use_gpu=False, num_workers=99)))
    with pytest.raises(BadInput, match="output is missing"):
        train(small_config())
