"""Prompts to embeddings, in an actor of its own: the text encoder never shares memory with the generator."""

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np

from pipelines.stage import Row, Stage
from stableavatar.presets import Preset

REMEMBERED_PROMPTS = 256  # at 8 MB for 512 tokens of 4096 numbers, 2 GB


class Encoder(Protocol):
    """What this stage needs of a text encoder."""

    def encode(self, prompt: str) -> np.ndarray:
        """Embed one prompt: float32 [T, D]."""


class EncodeText(Stage):
    """In: prompt, negative_prompt. Out: prompt_embeds, negative_prompt_embeds (float32 [T, D]).

    Each distinct prompt is encoded once.
    """

    name = "encode_text"

    def __init__(self, preset: Preset, load_encoder: Callable[[Preset, str], Encoder]) -> None:
        """`load_encoder(preset, device)` gives the text encoder."""
        self.encode = lru_cache(maxsize=REMEMBERED_PROMPTS)(load_encoder(preset, "cpu").encode)

    def process(self, row: Row) -> Row:
        """Both prompts, encoded or remembered."""
        embeds = {"prompt_embeds": self.encode(row["prompt"])}
        return {**row, **embeds, "negative_prompt_embeds": self.encode(row["negative_prompt"])}


def load_encoder(preset: Preset, device: str) -> Encoder:
    """The model's text encoder, where it is to work: its code loads for seconds, which no other process waits for."""
    from stableavatar.model.conditions import TextEncoder

    return TextEncoder.load(preset, device)
