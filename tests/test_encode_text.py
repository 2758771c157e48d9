import numpy as np

from pipelines.encode_text import EncodeText
from stableavatar.model.conditions import TextEncoder
from stableavatar.presets import Preset


class Counting:
    def __init__(self) -> None:
        self.prompts: list[str] = []

    def encode(self, prompt: str) -> np.ndarray:
        self.prompts.append(prompt)
        return np.full((2, 3), len(prompt), np.float32)


def test_each_prompt_is_encoded_once(preset: Preset) -> None:
    encoder = Counting()
    stage = EncodeText(preset, lambda preset, device: encoder)
    rows = [stage({"id": "a", "status": "ready", "error": "", "prompt": p, "negative_prompt": "no"}) for p in "xyx"]
    assert encoder.prompts == ["x", "no", "y"]
    assert rows[2]["prompt_embeds"].shape == (2, 3)


def test_the_real_encoder(preset: Preset) -> None:
    words = {"prompt": "A person.", "negative_prompt": ""}
    row = EncodeText(preset, TextEncoder.load)({"id": "a", "status": "ready", "error": "", **words})
    assert row["prompt_embeds"].shape[1] == row["negative_prompt_embeds"].shape[1] == preset.text["d_model"]
