"""Which run an output folder belongs to: a run goes on only where everything that decides its curve is the same."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines import storage
from stableavatar.errors import BadInput
from stableavatar.training.config import TASKS, TrainingConfig, as_values

FILE = "training.json"
# What may change from one start of a run to the next: it decides how fast the run is, how long, and what it shows.
FREE = frozenset(
    (
        *("name", "output", "checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "log_every", "save_as"),
        *("data.num_loaders", "data.loader_gpus", "data.held_out"),
        *("optimiser.lr", "optimiser.max_norm"),  # to be lowered where the loss has become infinite
        *("validation.every", "validation.manifest", "validation.num_steps"),
        # With batch_size these make `samples of a step`, which stays. Batches are of one size each: theirs stays, too.
        *("workers.num_workers", "accumulate"),
        *("workers.use_gpu", "workers.cpus_per_worker", "workers.sharding"),
        *("workers.gradient_checkpointing", "workers.max_failures"),
    )
)

# What is not said by the configuration but found where it points to, and how a difference is told.
SEEN_LATER = {
    "samples": "the clips in its data are others than before",
    "start weights": "the weights that it began with are others now",
    "encoders": "the frozen networks of its model are others than before",
}


def claim(config: TrainingConfig, samples: list[Any], *, start: str = "", encoders: str = "") -> None:
    """Note down what the run is; or see that the run that is there is the same.

    Args:
        config: the run.
        samples: what it is trained on, in order, as anything that JSON can hold.
        start: hash of what it begins with.
        encoders: hash of the frozen networks.

    Raises:
        BadInput: another run is there. The message names what differs.
        StorageError: the store refuses.
    """
    names = hashlib.sha256(json.dumps(samples, sort_keys=True).encode()).hexdigest()[:16]
    mine = _described(config) | {"samples": names, "start weights": start, "encoders": encoders}
    _require_same(config.output, mine)
    storage.write(json.dumps(mine, indent=1).encode(), storage.join(config.output, FILE))


def look_first(config: TrainingConfig) -> None:
    """See that no other run is in the output before anything is written there, as far as its data need not be known.

    Raises:
        BadInput: another run is there. The message names what differs.
    """
    _require_same(config.output, _described(config))


def _described(config: TrainingConfig) -> dict[str, Any]:
    """The run as JSON has it, without the options of other tasks: they decide nothing."""
    values: dict[str, Any] = json.loads(json.dumps(as_values(config)))
    return {name: value for name, value in values.items() if name not in TASKS or name == config.task}


def _require_same(output: str, mine: Mapping[str, Any]) -> None:
    before = storage.read_if_there(storage.join(output, FILE))
    if before is not None and (differing := differences(json.loads(before), mine)):
        raise BadInput(f"{output} holds another run: {'; '.join(differing)}. Give another `output`, or put that right.")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of two runs decides their curves and differs, as `key was ..., is ...`."""
    old, new = ({**dict(_flat(run)), "samples of a step": _samples_of_a_step(run)} for run in (before, now))
    found = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key) or key in FREE or (key == "num_steps" and _may_go_on(old, new)):
            continue
        if key in SEEN_LATER:
            if key in new:
                found.append(SEEN_LATER[key])
        else:
            found.append(f"{key} was {old.get(key)!r}, is {new.get(key)!r}")
    return found


def _may_go_on(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """More steps are more of the same, unless the learning rate falls towards the last one."""
    return new["num_steps"] > old["num_steps"] and new["optimiser.schedule"] == "constant"


def _samples_of_a_step(run: Mapping[str, Any]) -> int:
    """Of all workers. How they share them changes nothing: what is drawn goes by a sample's place in the step."""
    return run["workers"]["num_workers"] * run["batch_size"] * run["accumulate"]


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value
