"""The rows that a training looks at: known before it begins, and rendered as their manifest says."""

import json
from pathlib import Path
from typing import Any

import pytest

from manifests.schema import ManifestError
from pipelines.lines import read_lines
from pipelines.validate import check_validation, render_validation
from stableavatar.errors import BadInput
from stableavatar.training.config import TrainingConfig, Validation
from stableavatar.training.trainer import Trainer
from tests.conftest import EXAMPLE
from tests.training import small_config

ROW = {**EXAMPLE, "end_s": 0.4}


def looking_at(folder: Path, *rows: dict[str, Any]) -> TrainingConfig:
    manifest = folder / "look.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return small_config(validation=Validation(manifest=str(manifest), num_steps=1))


def test_a_manifest_that_cannot_be_used_is_told_before_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_validation(small_config())  # there is none
    with pytest.raises(BadInput, match=r"none\.jsonl"):
        check_validation(small_config(validation=Validation(manifest=f"{tmp_path}/none.jsonl")))
    with pytest.raises(ManifestError):
        check_validation(looking_at(tmp_path, {"portrait": "a.png"}))
    bad = [ROW | {"separate_vocals": True, "id": "song"}, ROW | {"num_steps": -1, "id": "steps"}]
    with pytest.raises(BadInput, match=r"no row can be made.*separate_vocals is for `stableavatar render` alone"):
        check_validation(looking_at(tmp_path, *bad))
    check_validation(looking_at(tmp_path, *bad, ROW))
    assert "row 2 of" in caplog.text and "num_steps" in caplog.text


def test_a_lora_lies_where_the_manifest_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Avatar:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def generate(self, *_: object, **words: Any) -> None:
            told.append(words["lora"])
            raise BadInput("enough")

    monkeypatch.setattr("stableavatar.api.StableAvatar", Avatar)
    Trainer(small_config()).export(tmp_path / "model", None)
    (tmp_path / "anna.safetensors").write_bytes(b"a LoRA")
    config = looking_at(
        tmp_path, ROW | {"lora": "anna.safetensors:0.5", "id": "anna"}, ROW | {"lora": "none.safetensors"}
    )
    assert render_validation(str(tmp_path / "model"), config, "cpu", str(tmp_path / "out")) == {}
    assert told == [f"{tmp_path}/anna.safetensors:0.5"]
    errors = [line["error"] for line in read_lines(f"{tmp_path}/out/metrics.jsonl")]
    assert errors[0] == "enough" and f"{tmp_path}/none.safetensors" in errors[1]
