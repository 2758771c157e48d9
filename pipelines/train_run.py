"""Which run an output folder belongs to: a run goes on only where everything that decides its curve is the same."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines import storage
from stableavatar.errors import BadInput
from stableavatar.training.config import TrainingConfig, as_values

FILE = "training.json"
# What may change from one start of a run to the next: it decides how fast the run is, how long, and what it shows.
FREE = frozenset(
    (
        *("name", "output", "checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "log_every", "save_as"),
        *("data.num_loaders", "data.loader_gpus", "data.held_out"),
        *("validation.every", "validation.manifest", "validation.num_steps"),
        *("workers.num_workers", "workers.use_gpu", "workers.cpus_per_worker", "workers.sharding"),
        *("workers.gradient_checkpointing", "workers.max_failures"),
    )
)


def claim(config: TrainingConfig, samples: list[Any]) -> None:
    """Note down what the run is; or see that the run that is there is the same.

    `samples`: what it is trained on, in order, as anything that JSON can hold.

    Raises:
        BadInput: another run is there. The message names what differs.
        StorageError: the store refuses.
    """
    uri = storage.join(config.output, FILE)
    mine = _plain(as_values(config))
    mine["samples"] = hashlib.sha256(json.dumps(samples, sort_keys=True).encode()).hexdigest()[:16]
    before = storage.read_if_there(uri)
    if before is not None and (differing := differences(json.loads(before), mine)):
        raise BadInput(
            f"{config.output} holds another run: {'; '.join(differing)}. Give another `output`, or put that right."
        )
    storage.write(json.dumps(mine, indent=1).encode(), uri)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of two runs decides their curves and differs, as `key was ..., is ...`."""
    old, new = dict(_flat(before)), dict(_flat(now))
    found = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key) or key in FREE or (key == "num_steps" and _may_go_on(old, new)):
            continue
        if key == "samples":
            found.append("the clips in its data are others than before")
        else:
            found.append(f"{key} was {old.get(key)!r}, is {new.get(key)!r}")
    return found


def _may_go_on(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """More steps are more of the same, unless the learning rate falls towards the last one."""
    return new["num_steps"] > old["num_steps"] and new["optimiser.schedule"] == "constant"


def _plain(values: Any) -> Any:
    return json.loads(json.dumps(values))


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value
