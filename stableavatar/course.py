"""The course of one video while it is made: what others are told of it, and where it can be left."""

from collections.abc import Callable

from stableavatar.checkpoint import Checkpoint
from stableavatar.sampling.state import SamplerState


class Course:
    """How far a video has come: counts its window-steps for those who wait for it, and offers it to be kept."""

    def __init__(self, on_progress: Callable[[int], None], checkpoint: Checkpoint):
        self.on_progress = on_progress
        self.checkpoint = checkpoint
        self.num_done = 0
        self.num_resumed = 0

    def begin(self, num_done: int) -> None:
        """A try begins, with that many window-steps done by others."""
        if num_done > self.num_done:  # else it begins anew, after memory ran out
            self.checkpoint.resume(num_done)
        if num_done != self.num_done:
            self.on_progress(num_done - self.num_done)
        self.num_done = self.num_resumed = num_done

    def advance(self, snapshot: Callable[[], SamplerState]) -> None:
        """One more is done."""
        self.num_done += 1
        self.on_progress(1)
        self.checkpoint.offer(self.num_done, snapshot)

    def offer(self, snapshot: Callable[[], SamplerState]) -> None:
        """Here the video can be left. Who waits for it hears that it goes on, and may say that it is to stop."""
        self.on_progress(0)
        self.checkpoint.offer(self.num_done, snapshot)
