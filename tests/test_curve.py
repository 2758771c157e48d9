import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipelines import storage
from pipelines.curve import Curve
from pipelines.lines import read_lines
from stableavatar.errors import StorageError
from stableavatar.training.config import TrainingConfig
from tests.training import curve_of, small_config


def config_at(output: str) -> TrainingConfig:
    return small_config(output=output, num_steps=10, log_every=2)


def fill(curve: Curve, first: int, last: int) -> None:
    for step in range(first, last):
        curve.add(step, {"loss": float(step)})


def test_a_line_is_the_mean_of_its_steps(base: str) -> None:
    with Curve(config_at(base), 0) as curve:
        fill(curve, 1, 5)
        curve.add_validation(4, {"held_out_loss": 7.0})
    assert curve_of(base) == [{"step": 2, "loss": 1.5}, {"step": 4, "loss": 3.5}]
    assert read_lines(f"{base}/validation.jsonl") == [{"step": 4, "held_out_loss": 7.0}]


def test_after_a_kill_every_step_is_there_once_as_if_nothing_had_happened(base: str) -> None:
    with Curve(config_at(base), 0) as whole:
        fill(whole, 1, 11)
    expected = curve_of(base)
    storage.remove(f"{base}/metrics.jsonl")

    with Curve(config_at(base), 0) as first:
        fill(first, 1, 6)
        pending = first.pending  # as a checkpoint after step 5 notes it
        fill(first, 6, 9)  # lost
    with Curve(config_at(base), 5, pending) as second:
        fill(second, 6, 11)
    assert curve_of(base) == expected


def test_tensorboard_forgets_what_was_lost(tmp_path: Path) -> None:
    with Curve(config_at(str(tmp_path)), 0) as first:
        fill(first, 1, 9)
    with Curve(config_at(str(tmp_path)), 4) as second:
        second.add(5, {"loss": 100.0})
        second.add(6, {"loss": 100.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(2, 1.5), (4, 3.5), (6, 100.0)]


def test_tensorboard_forgets_what_was_lost_before_the_first_checkpoint(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        with Curve(config_at(str(tmp_path)), 0) as curve:
            curve.add(1, {"loss": value})
            curve.add(2, {"loss": value})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(2, 2.0)]


def test_a_run_whose_output_was_taken_over_writes_no_more(base: str) -> None:
    ours = [True]
    with Curve(config_at(base), 0, is_ours=lambda: ours[0]) as curve:
        fill(curve, 1, 3)
        curve.write()
        before = {name: storage.read(f"{base}/{name}") for name in storage.names_under(base)}
        ours[0] = False
        fill(curve, 3, 7)
        curve.add_validation(6, {"held_out_loss": 7.0})
        curve.write()
    assert {name: storage.read(f"{base}/{name}") for name in storage.names_under(base)} == before
    assert curve_of(base) == [{"step": 2, "loss": 1.5}]


def test_a_curve_that_cannot_be_written_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("no space left")

    with Curve(config_at(str(tmp_path)), 0) as curve, monkeypatch.context() as patch:
        patch.setattr("pipelines.curve.write_lines", refuse)
        fill(curve, 1, 3)
        assert "step 2: the curve could not be written: no space left" in caplog.text
        with pytest.raises(StorageError):
            curve.write()  # as before a checkpoint
    assert curve_of(str(tmp_path)) == [{"step": 2, "loss": 1.5}]


def test_events_come_to_a_store_elsewhere(bucket: str) -> None:
    with Curve(config_at(f"{bucket}/out"), 0) as curve:
        fill(curve, 1, 3)
    assert [name[:10] for name in storage.names_in(f"{bucket}/out/tensorboard")] == ["events.out"]


def test_without_a_way_to_weights_and_biases_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("no way out")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, __spec__=object()))
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    with Curve(config_at(str(tmp_path)), 0) as curve:
        fill(curve, 1, 3)
    assert "the run cannot be shown in W&B" in caplog.text
    assert curve_of(str(tmp_path)) == [{"step": 2, "loss": 1.5}]


def test_weights_and_biases_is_told_if_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict[str, Any]] = []
    logged: list[tuple[dict, int]] = []
    run = SimpleNamespace(log=lambda values, step: logged.append((values, step)), finish=lambda: None)

    def init(**words: Any) -> SimpleNamespace:
        begun.append(words)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, __spec__=object()))
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Curve(config_at(str(tmp_path)), 0) as curve:
        fill(curve, 1, 3)
    assert begun[0]["resume"] == "allow" and begun[0]["config"]["seed"] == 42
    assert logged == [({"loss": 1.5}, 2)]
