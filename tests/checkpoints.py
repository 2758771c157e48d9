"""Checkpoints whose snapshots are words."""

from pathlib import Path
from typing import Any

from pipelines.checkpoint import StoreCheckpoint


class Words:
    """A snapshot that is a word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def write(self, path: str) -> None:
        Path(path).write_text(self.word)


def checkpoint_at(uri: str, folder: str, **options: Any) -> StoreCheckpoint:
    """One that saves whenever it may."""
    return StoreCheckpoint(uri, folder, **{"every_s": 0.0, **options})
