"""Where a video that is being made can be kept, so that whoever makes it again goes on where it stood.

The avatar knows this protocol only; where the files go is the business of whoever calls it.
"""

from collections.abc import Callable
from typing import Protocol


class Snapshot(Protocol):
    """Where the making of a video stands, held in host memory. It no longer changes."""

    def write(self, path: str) -> None:
        """Write it to a new file. May run in another thread while the avatar goes on."""


class Checkpoint(Protocol):
    """What is kept of one video. All calls come from the thread that makes the video."""

    def state(self) -> str | None:
        """Path of the newest snapshot's file, which stays as it is until this returns; None: there is none.

        Asked when a video is begun, and again when it is begun anew after memory ran out.
        """

    def resume(self, num_done: int) -> None:
        """Called with the window-steps that an earlier attempt has done, if this one goes on from there."""

    def offer(self, num_done: int, snapshot: Callable[[], Snapshot]) -> None:
        """Called after every window and every decoded latent frame, where the video can be left and taken up again.

        Args:
            num_done: window-steps that are done. Offers with the same number have the same snapshot: while a video is
                decoded, that of its finished latents.
            snapshot: makes one, to be called before this returns, if at all: it copies from the device to the host,
                and that is all that the avatar need wait for.

        An error raised here ends the video at this point; the avatar leaves nothing behind and passes it on.
        """

    def segment(self, index: int) -> str | None:
        """Path of a finished piece of the picture from an earlier attempt; it must stay until the video is made."""

    def keep_segment(self, index: int, path: str) -> None:
        """Called with a finished piece of the picture, which stays at `path` until the video is made.

        A piece may be given again, if the earlier one was not of this video.
        """


class NoCheckpoint:
    """Keeps nothing."""

    def state(self) -> str | None:
        """Never one."""
        return None

    def resume(self, num_done: int) -> None:
        """Does nothing."""

    def offer(self, num_done: int, snapshot: Callable[[], Snapshot]) -> None:
        """Does nothing."""

    def segment(self, index: int) -> str | None:
        """Never one."""
        return None

    def keep_segment(self, index: int, path: str) -> None:
        """Does nothing."""
