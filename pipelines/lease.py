"""One run at a time for each output: who holds its lease may work there; a lease whose holder is dead is taken over.

`<output>/lease/<generation>.json` belongs to the run that created it, which no other can do at the same time. The
highest generation counts. Its owner rewrites it again and again with a counter that goes up; whoever wants to know
whether the owner lives looks whether the file changes, for as long as its own clock says. No clock of two machines is
ever compared. Should a run that was stopped for long wake up beside its successor, both work on the same rows for a
moment: that wastes work, but breaks nothing, since whatever is done twice has the same name and content.

Words: a lease's `holder` is the name of the run that holds it, drawn by lot.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from pipelines import storage
from pipelines.exclusive import create
from pipelines.retries import patience
from stableavatar.errors import RowError

RENEW_S = 4.0
LOOK_EVERY_S = 1.0
DEAD_AFTER_S = 16.0  # without a change; four renewals that did not come

logger = logging.getLogger(__name__)


class LeaseError(Exception):
    """This run may not work on its output."""


class LeaseHeld(LeaseError):
    """Another run works on the output. The message says which, and what to do."""


class LeaseLost(LeaseError):
    """Another run has taken the output over from this one."""


class Lease:
    """The right to work on an output. Use as a context manager; entering raises LeaseHeld or StorageError.

    Entering takes a moment where nobody holds the lease, about RENEW_S where it is refused, and DEAD_AFTER_S and a
    little more where it is taken over from a run that died. `lost` is set once another run has taken it over.
    """

    def __init__(self, output: str) -> None:
        self.output = output
        self.lost = threading.Event()
        self.holder = uuid.uuid4().hex
        self.started_at = _now()
        self.generation = self.counter = 0
        self.renewed = 0.0  # by our own clock
        self.progress = "null"  # JSON
        self._renewal = threading.Lock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew_on, daemon=True, name="lease")

    def __enter__(self) -> Self:
        while not self._acquire():
            pass
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._thread.join()
        try:
            with patience(DEAD_AFTER_S):
                if not self.lost.is_set() and self._is_ours():
                    storage.remove(lease_uri(self.output, self.generation))
        except RowError as error:  # the next run only has to wait until it counts as dead
            logger.warning("the lease could not be released: %s", error)

    def note(self, progress: Mapping[str, Any]) -> None:
        """What others shall know of the run: goes out with the next renewal. Anything that JSON can hold."""
        self.progress = json.dumps(progress)

    def check(self) -> None:
        """Raises LeaseLost if another run has taken over. To be called before anything that is not to be done twice.

        Looks at the store itself if this process was stopped so long that it counts as dead: it may just have woken up.
        """
        if not self.lost.is_set() and time.monotonic() - self.renewed > DEAD_AFTER_S - RENEW_S:
            self._renew()
        if reason := self.why_lost():
            raise LeaseLost(f"{reason}. What this run has finished is kept.")

    def why_lost(self) -> str:
        """Why this run may not go on, as far as is known without asking the store; empty if it may."""
        return f"another run has taken over {self.output}" if self.lost.is_set() else ""

    def _acquire(self) -> bool:
        """False: others were faster, and it has to be looked at again. Raises LeaseHeld."""
        seen = look(self.output)
        if seen:
            logger.info("%s: %s; looking whether it is alive", self.output, _holder(seen))
            later = await_change(self.output, seen, DEAD_AFTER_S)
            if later != seen:
                if later and later.generation == seen.generation:
                    raise LeaseHeld(_refusal(self.output, later))
                return False
            logger.warning("%s: %s; it is dead, this run goes on from there", self.output, _holder(seen))
        self.generation = seen.generation + 1 if seen else 1
        if not create(self._content(), lease_uri(self.output, self.generation)):
            return False
        self.renewed = time.monotonic()
        for generation in _generations(self.output):
            if generation < self.generation:
                storage.remove(lease_uri(self.output, generation))
        return self._is_ours()

    def _is_ours(self) -> bool:
        """Is our file the one that counts? Ours goes if there is a higher one."""
        now = look(self.output)
        if now and now.generation > self.generation:
            storage.remove(lease_uri(self.output, self.generation))
        return bool(now and now.generation == self.generation and now.said.get("holder") == self.holder)

    def _renew_on(self) -> None:
        while not self._released.wait(RENEW_S) and not self.lost.is_set():
            self._renew()

    def _renew(self) -> None:
        with self._renewal:
            try:
                with patience(RENEW_S):
                    if self._is_ours():
                        storage.write(self._content(), lease_uri(self.output, self.generation))
                        self.renewed = time.monotonic()
                    else:
                        logger.error("%s: another run has taken over", self.output)
                        self.lost.set()
            except RowError as error:  # a store that fails for all: nobody else can take over now either
                logger.warning("the lease could not be renewed, trying again: %s", error)

    def _content(self) -> bytes:
        self.counter += 1
        mine = {"holder": self.holder, "counter": self.counter, "host": socket.gethostname(), "pid": os.getpid()}
        times = {"started_at": self.started_at, "renewed_at": _now()}
        return json.dumps(mine | times | {"progress": json.loads(self.progress)}, indent=2).encode()


def lease_uri(output: str, generation: int) -> str:
    """Where the lease of one generation lies."""
    return storage.join(output, f"lease/{generation:08d}.json")


@dataclass(frozen=True, kw_only=True)
class Look:
    """The lease that counts, as it is at one moment."""

    generation: int
    content: bytes

    @property
    def said(self) -> dict[str, Any]:
        """holder, counter, host, pid, started_at, renewed_at (UTC) and progress; nothing if the file is damaged."""
        try:
            said = json.loads(self.content)
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}


def look(output: str) -> Look | None:
    """The lease of an output; None if nobody holds it. Raises StorageError."""
    while generations := _generations(output):
        content = storage.read_if_there(lease_uri(output, generations[-1]))
        if content is not None:  # else it has just been released or taken over
            return Look(generation=generations[-1], content=content)
    return None


def is_held_by(output: str, holder: str) -> bool:
    """Whether that run still holds the lease, for processes that work for it elsewhere. Raises StorageError."""
    now = look(output)
    return bool(now and now.said.get("holder") == holder)


def await_change(output: str, seen: Look | None, for_s: float) -> Look | None:
    """The lease as soon as it is no longer as `seen`; as it was if nothing changed for so many seconds."""
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < for_s:
        time.sleep(LOOK_EVERY_S)
        began = time.monotonic()
        if (now := look(output)) != seen:
            return now
        if time.monotonic() - began > RENEW_S:  # the store does not answer: nor does it to the holder
            quiet_since = time.monotonic()
    return seen


def _generations(output: str) -> list[int]:
    """All generations that are there, the one that counts last."""
    names = (name.removesuffix(".json") for name in storage.names_in(storage.join(output, "lease")))
    return sorted(int(name) for name in names if name.isdecimal())


def _holder(look: Look) -> str:
    said = look.said
    where = f"on {said.get('host', 'an unknown machine')}, process {said.get('pid', 'unknown')}"
    return f"a run {where}, started {str(said.get('started_at', 'at an unknown time'))[:19]} UTC, works there"


def _refusal(output: str, look: Look) -> str:
    return (
        f"{output}: {_holder(look)}. Wait for it to end, stop it, or give this one another output. "
        f"`stableavatar status {output}` shows how far a run of videos is."
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()
