import json
from dataclasses import replace
from pathlib import Path

from pipelines.look import Look
from stableavatar.presets import Preset, tiny


def test_a_preset_of_ones_own_keeps_what_it_says(preset: Preset) -> None:
    own = replace(preset, memory="fp8", num_steps=9)
    assert Look.of(model=own).preset() == own
    chosen = Look.of(model=own, settings={"seed": 1}, attention="native").preset()
    assert chosen == replace(own, seed=1, attention="native")
    assert Look.of(model=own).to_note() == {}


def test_what_is_noted_means_the_same_in_another_folder() -> None:
    settings = {"num_steps": "3", "lora": "b.safetensors"}
    look = Look.of(model="tiny", settings=settings, lora="a.safetensors:0.5", limit=7)
    again = Look.of(**json.loads(json.dumps(look.to_note())))
    assert again == look
    assert again.preset() == replace(tiny(), num_steps=3, lora=f"{Path.cwd()}/a.safetensors:0.5")
    assert Look.of(model="models/anna").to_note()["model"] == f"{Path.cwd()}/models/anna"
