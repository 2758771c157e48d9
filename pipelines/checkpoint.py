"""What is kept of a video while it is made, in the output's store: any node can go on with it after a kill.

`<output>/checkpoints/<stem>/` holds attempts.json, the sampler's newest state, finished segments and, at the end, the
video that is still to be measured. All of it goes away when the row is done.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError

from pipelines import storage
from pipelines.threads import helpers
from stableavatar.checkpoint import Snapshot
from stableavatar.errors import Quarantined, RowError

ATTEMPTS, STATE, VIDEO = "attempts.json", "state.safetensors", "video.mp4"  # names in the folder
EVERY_S = 120.0  # between two saves
MAX_SHARE = 0.005  # of the work that saving may hold up
MAX_DEATHS = 3  # one after the other, with nothing saved in between

logger = logging.getLogger(__name__)


class Unfinished(Exception):
    """The run is to stop: the row was saved where it is."""


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """How often work on a row began, and how it went. `gpu_s`: seconds on a generator before this attempt."""

    run: str = ""  # the run that worked on it last
    begun: int = 0
    deaths: int = 0  # of the process that worked on it, with nothing saved in between
    is_open: bool = False  # begun and not ended in order
    position: int | None = None  # of the newest state that was saved, in window-steps
    gpu_s: float = 0.0
    report: dict[str, Any] | None = None  # of the video, once it is made

    def begin(self, run: str) -> Self:
        """One more. A process that died with its whole run is not the row's fault."""
        died = self.is_open and self.run == run
        return replace(self, run=run, begun=self.begun + 1, deaths=self.deaths + died, is_open=True)


class StoreCheckpoint:
    """The checkpoint of one video, as `Avatar.generate` takes it. Saves travel while the generator goes on."""

    def __init__(
        self,
        uri: str,
        folder: str,
        *,
        every_s: float = EVERY_S,
        is_stopping: Callable[[], bool] = lambda: False,
        on_resume: Callable[[int], None] = lambda num_done: None,
        on_save: Callable[[], None] = lambda: None,
    ) -> None:
        """`uri`: where it is kept. `folder`: local, for files on their way. `is_stopping`: is the run to stop?

        `on_resume` is called with the window-steps that an earlier attempt has done, if this one goes on from there;
        `on_save` is called in another thread whenever a state is in the store.
        """
        self.uri = uri
        self.folder = folder
        self.every_s = every_s
        self.is_stopping = is_stopping
        self.resume = on_resume
        self.on_save = on_save
        self.names = frozenset(storage.names_in(uri))
        self.attempts = self._read_attempts()
        self.report = self.attempts.report
        self._began = self._saved_at = time.monotonic()
        # A row that has died is saved as soon as it can be: whether it comes further tells whether it is what kills.
        self._pause_s = 0.0 if self.attempts.is_open or self.attempts.deaths else every_s
        self._thread = helpers(1)  # one after the other
        self._saving: Future[None] | None = None

    @contextmanager
    def attempt(
        self, run: str, *, attempts: int = 1, gpu_s: float = 0.0, fatal: tuple[type[Exception], ...] = ()
    ) -> Iterator[None]:
        """Inside, the row is worked on. The end is noted with `report`, unless the process dies, as of `fatal` errors.

        `attempts`, `gpu_s`: what the result table knows, this attempt counted. Raises Quarantined if this row has
        killed too many processes.
        """
        begun = self.attempts.begin(run)
        self.attempts = replace(begun, begun=max(begun.begun, attempts), gpu_s=max(begun.gpu_s, gpu_s))
        if self.attempts.deaths >= MAX_DEATHS:
            self._note(deaths=0, is_open=False, begun=self.attempts.begun - 1)  # and it counts anew when it is retried
            raise Quarantined(
                f"it killed the process that worked on it {MAX_DEATHS} times, each time at the same place. "
                "See the log; `stableavatar retry` tries it again."
            )
        self._note()
        try:
            yield
        except fatal:
            raise
        except Exception:
            self._end()
            raise
        self._end()

    def _end(self) -> None:
        self._thread.shutdown(wait=True)
        with self._harmless(ATTEMPTS):
            self._note(is_open=False, report=self.report)

    @property
    def gpu_s(self) -> float:
        """Seconds on a generator so far, over all attempts."""
        return self.attempts.gpu_s + time.monotonic() - self._began

    def state(self) -> str | None:
        """The newest state, fetched; None if there is none. Also of this attempt: memory may have run out in it."""
        self._wait()
        return self._fetched(STATE)

    def segment(self, index: int) -> str | None:
        """A finished segment of an earlier attempt, fetched; None if there is none."""
        return self._fetched(segment_name(index))

    def keep_segment(self, index: int, path: str) -> None:
        """A segment is finished: publish it. `path` stays until the attempt ends."""
        self._thread.submit(self._publish, path, segment_name(index))

    def offer(self, num_done: int, snapshot: Callable[[], Snapshot]) -> None:
        """Save if it is time. Raises Unfinished, with everything saved, if the run is to stop."""
        if self.is_stopping():
            self._wait()  # so that there is never more than one snapshot in memory
            self._save(num_done, snapshot())
            raise Unfinished
        is_idle = self._saving is None or self._saving.done()
        is_new = num_done != self.attempts.position
        if is_idle and is_new and time.monotonic() - self._saved_at >= self._pause_s:
            started = time.monotonic()
            taken = snapshot()
            self._saved_at = time.monotonic()
            self._pause_s = max(self.every_s, (self._saved_at - started) / MAX_SHARE)
            self._saving = self._thread.submit(self._save, num_done, taken)

    def _save(self, num_done: int, snapshot: Snapshot) -> None:
        if num_done == self.attempts.position:
            return
        path = os.path.join(self.folder, STATE)
        with self._harmless(STATE):
            snapshot.write(path)
        self._publish(path, STATE, position=num_done)
        if self.attempts.position == num_done:
            self.on_save()
        Path(path).unlink(missing_ok=True)

    def _wait(self) -> None:
        """Until nothing is on its way any more."""
        self._thread.submit(lambda: None).result()

    def _publish(self, path: str, name: str, **saved: Any) -> None:
        with self._harmless(name):
            storage.publish(path, storage.join(self.uri, name))
            self.names |= {name}
            self._note(deaths=0, **saved)

    @contextmanager
    def _harmless(self, name: str) -> Iterator[None]:
        """A save that fails costs nothing but some of the way back after a kill: the video goes on."""
        try:
            yield
        except (OSError, RowError, SafetensorError):
            logger.warning("%s: %s could not be saved, the next one may", self.uri, name, exc_info=True)

    def _fetched(self, name: str) -> str | None:
        if name not in self.names:
            return None
        path = os.path.join(self.folder, f"saved-{name}")
        storage.fetch(storage.join(self.uri, name), path)
        return path

    def _read_attempts(self) -> Attempts:
        if ATTEMPTS not in self.names:
            return Attempts()
        try:
            return Attempts(**json.loads(storage.read(storage.join(self.uri, ATTEMPTS))))
        except (TypeError, ValueError):  # of another version of this program: only the counts begin anew
            logger.warning("%s: %s cannot be read", self.uri, ATTEMPTS, exc_info=True)
            return Attempts()

    def _note(self, **changed: Any) -> None:
        self.attempts = replace(self.attempts, **changed)
        noted = replace(self.attempts, gpu_s=self.gpu_s)
        storage.write(json.dumps(asdict(noted)).encode(), storage.join(self.uri, ATTEMPTS))


def folder_uri(output: str, stem: str) -> str:
    """Where the checkpoint of a row lies."""
    return storage.join(output, f"checkpoints/{stem}")


def forget(output: str, stem: str, *, always: bool) -> None:
    """Remove the checkpoint of a row that is done; unless `always`, only one without anything to go on from."""
    uri = folder_uri(output, stem)
    names = storage.names_in(uri)
    if names and (always or names == [ATTEMPTS]):
        storage.remove_folder(uri)


def segment_name(index: int) -> str:
    """Name of a finished segment of the video."""
    return f"segment-{index:05d}.mp4"
