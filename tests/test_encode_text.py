from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.encode_text import EncodeText
from stableavatar.model.conditions import TextEncoder
from stableavatar.presets import Preset

MakeRow = Callable[..., dict[str, Any]]


class Counting:
    def __init__(self) -> None:
        self.prompts: list[str] = []

    def encode(self, prompt: str) -> np.ndarray:
        self.prompts.append(prompt)
        return np.full((2, 3), len(prompt), np.float32)


def test_each_prompt_is_encoded_once(preset: Preset, make_row: MakeRow) -> None:
    encoder = Counting()
    stage = EncodeText(preset, lambda preset, device: encoder)
    rows = [stage(make_row(prompt=p, negative_prompt="no")) for p in "xyx"]
    assert encoder.prompts == ["x", "no", "y"]
    assert rows[2]["prompt_embeds"].shape == (2, 3)


def test_the_real_encoder(preset: Preset, make_row: MakeRow) -> None:
    row = EncodeText(preset, TextEncoder.load)(make_row(prompt="A person.", negative_prompt=""))
    assert row["prompt_embeds"].shape[1] == row["negative_prompt_embeds"].shape[1] == preset.text["d_model"]
