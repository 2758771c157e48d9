"""Checkpoints of a training run in any store: whole or not at all, the newest one found again after any kill.

`<output>/checkpoints/step-00000500.json` is written when everything in the folder that it names has arrived. That
folder has a name of its own for each attempt, so that a worker that was taken for dead spoils nothing.
"""

import json
import logging
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import scratch, storage
from pipelines.lease import LeaseLost, is_held_by
from stableavatar.training.spread import agreed, wait_for_all
from stableavatar.training.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A complete checkpoint."""

    uri: str  # of its folder
    step: int  # that it was made after
    notes: Mapping[str, Any] = field(default_factory=dict)  # what its maker noted with it


def folder_uri(output: str) -> str:
    """Where the checkpoints of a run lie."""
    return storage.join(output, "checkpoints")


def newest(output: str) -> Saved | None:
    """The newest complete checkpoint of a run, if there is one. Raises StorageError."""
    names = _markers(output)
    return _read(output, names[-1]) if names else None


def save(trainer: Trainer, output: str, notes: Mapping[str, Any], keep: int, holder: str) -> None:
    """Write a checkpoint; when it is complete, all but the newest `keep` go. All workers call it together.

    `holder`: of the output's lease, for whom they work.

    Raises:
        LeaseLost: another run works on the output now, and has checkpoints of its own. All workers meet it together.
        StorageError: the store refuses.
    """
    stem = f"step-{trainer.step:08d}"
    name = agreed(f"{stem}-{uuid.uuid4().hex[:8]}")
    with _arriving_at(storage.join(folder_uri(output), name)) as folder:
        trainer.save(folder)
    wait_for_all()
    require_lease(output, holder)
    if trainer.place.rank == 0:
        marker = {"folder": name, "step": trainer.step, "notes": notes}
        storage.write(json.dumps(marker).encode(), storage.join(folder_uri(output), f"{stem}.json"))
        for old in _markers(output)[:-keep]:
            storage.remove(storage.join(folder_uri(output), old))
        clean_up(output)


def require_lease(output: str, holder: str) -> None:
    """Raises LeaseLost if another run works on the output now. All workers call it, and meet it, together."""
    if not agreed(is_held_by(output, holder)):
        raise LeaseLost(f"another run has taken over {output}. What this run has finished is kept.")


def clean_up(output: str) -> None:
    """Remove what killed runs have left half-written, and what is no longer wanted."""
    wanted = {_read(output, name).uri for name in _markers(output)}
    for name in storage.folders_in(folder_uri(output)):
        uri = storage.join(folder_uri(output), name)
        if name.startswith("step-") and uri not in wanted:
            storage.remove_folder(uri)


def _markers(output: str) -> list[str]:
    return [name for name in storage.names_in(folder_uri(output)) if name.endswith(".json") and name[0] != "."]


def _read(output: str, name: str) -> Saved:
    marker = json.loads(storage.read(storage.join(folder_uri(output), name)))
    return Saved(uri=storage.join(folder_uri(output), marker["folder"]), step=marker["step"], notes=marker["notes"])


@contextmanager
def _arriving_at(uri: str) -> Generator[Path]:
    """A folder on this machine whose files are at `uri` in the end."""
    local = storage.local_path(uri)
    if local is not None:
        Path(local).mkdir(parents=True, exist_ok=True)
        yield Path(local)
        return
    with scratch.folder() as folder:
        yield Path(folder)
        storage.publish_folder(folder, uri)
