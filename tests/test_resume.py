"""A video that is interrupted and made again is the one that was never interrupted."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from stableavatar import segments
from stableavatar.avatar import Avatar
from stableavatar.checkpoint import Snapshot
from stableavatar.request import VideoReport, VideoRequest
from stableavatar.sampling.settings import Sampling
from tests.small import PRESET, Exhausted, small_request

INTERVAL = 2  # window-steps or latent frames between two snapshots
STEPS, WINDOWS, LATENTS = 3, 3, 11
WORK = STEPS * WINDOWS + LATENTS  # places where a video can be left


class LeftError(Exception):
    """Stops a video."""


def leave() -> None:
    raise LeftError


@dataclass
class Kept:
    """A checkpoint in a folder; at the place `stop_at` it stops the video."""

    folder: Path
    stop_at: int = 0
    stop: Callable[[], None] = leave
    interval: int = INTERVAL
    num_offers: int = 0
    num_done: int = 0
    saved: int = 0
    resumed: list[int] = field(default_factory=list)

    def resume(self, num_done: int) -> None:
        self.resumed.append(num_done)

    def state(self) -> str | None:
        path = self.folder / "state"
        return str(path) if path.exists() else None

    def offer(self, num_done: int, snapshot: Callable[[], Snapshot]) -> None:
        self.num_offers, self.num_done = self.num_offers + 1, num_done
        if self.num_offers % self.interval == 0 and num_done != self.saved:
            snapshot().write(str(self.folder / "new"))
            os.replace(self.folder / "new", self.folder / "state")
            self.saved = num_done
        if self.num_offers == self.stop_at:
            self.stop()

    def segment(self, index: int) -> str | None:
        path = self.folder / f"{index}.mp4"
        return str(path) if path.exists() else None

    def keep_segment(self, index: int, path: str) -> None:
        os.link(path, self.folder / f"{index}.mp4")


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_LATENTS", 4)


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return Avatar.load(PRESET, "cpu")


@pytest.fixture(scope="module")
def request_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VideoRequest]:
    request = replace(small_request(tmp_path_factory.mktemp("sound"), 41), num_steps=STEPS)
    return lambda scheduler: replace(request, sampling=Sampling(scheduler=scheduler))


@pytest.fixture(scope="module")
def whole(
    avatar: Avatar, request_with: Callable[[str], VideoRequest], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], bytes]:
    """The bytes of the video that nobody interrupts."""

    @cache
    def make(scheduler: str) -> bytes:
        path = tmp_path_factory.mktemp("whole") / "video.mp4"
        avatar.generate(request_with(scheduler), str(path))
        return path.read_bytes()

    return make


@pytest.fixture
def again(avatar: Avatar, tmp_path: Path) -> Callable[..., tuple[bytes, list[int], VideoReport]]:
    """Makes a video in a folder that must hold nothing else; gives its bytes, its progress and the report."""
    folder = tmp_path / "work"
    folder.mkdir()

    def make(request: VideoRequest, kept: Kept, by: Avatar = avatar) -> tuple[bytes, list[int], VideoReport]:
        done: list[int] = []
        try:
            report = by.generate(request, str(folder / "video.mp4"), on_progress=done.append, checkpoint=kept)
            return (folder / "video.mp4").read_bytes(), [number for number in done if number], report
        finally:
            assert [path.name for path in folder.iterdir() if path.name != "video.mp4"] == []

    return make


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("scheduler", ["euler", "unipc", "dpm++"])
def test_a_video_left_at_any_point_is_taken_up_there(
    request_with: Callable[[str], VideoRequest],
    whole: Callable[[str], bytes],
    again: Callable[..., tuple[bytes, list[int], VideoReport]],
    tmp_path: Path,
    scheduler: str,
    share: float,
) -> None:
    request, stop_at = request_with(scheduler), round(share * WORK)
    with pytest.raises(LeftError):
        again(request, left := Kept(tmp_path, stop_at=stop_at))
    assert not (tmp_path / "work" / "video.mp4").exists()
    found, done, report = again(request, taken_up := Kept(tmp_path))
    assert found == whole(scheduler)
    assert report.num_steps_resumed == done[0] == left.saved
    assert (left.resumed, taken_up.resumed) == ([], [left.saved])
    assert sum(done) == STEPS * WINDOWS
    assert left.num_done - left.saved < INTERVAL  # so little is done twice
    num_kept = 4 * max(0, (stop_at - STEPS * WINDOWS - 1) // 4)  # latent frames in segments
    assert taken_up.num_offers == STEPS * WINDOWS - left.saved + LATENTS - num_kept


def test_a_video_that_is_left_again_and_again_is_made_in_the_end(
    request_with: Callable[[str], VideoRequest],
    whole: Callable[[str], bytes],
    again: Callable[..., tuple[bytes, list[int], VideoReport]],
    tmp_path: Path,
) -> None:
    num_left = 0
    while True:
        try:
            found, _, report = again(request_with("euler"), Kept(tmp_path, stop_at=5, interval=1))
            break
        except LeftError:
            num_left += 1
    assert num_left == 4
    assert found == whole("euler")
    assert report.num_steps_resumed == STEPS * WINDOWS


SCRIPT = """
import os, sys
from dataclasses import replace
from pathlib import Path
from stableavatar import segments
from stableavatar.avatar import Avatar
from tests.small import PRESET, small_request
from tests.test_resume import Kept, STEPS
segments.SEGMENT_LATENTS = 4
folder, stop_at = Path(sys.argv[1]), int(sys.argv[2])
request = replace(small_request(folder, 41), num_steps=STEPS)
kept = Kept(folder, stop_at=stop_at, stop=lambda: os._exit(9))
Avatar.load(PRESET, "cpu").generate(request, str(folder / "video.mp4"), checkpoint=kept)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [5, 17])
def test_another_process_goes_on_where_one_has_died(
    whole: Callable[[str], bytes],
    again: Callable[..., tuple[bytes, list[int], VideoReport]],
    request_with: Callable[[str], VideoRequest],
    tmp_path: Path,
    stop_at: int,
) -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), str(stop_at)], timeout=300)
    assert run.returncode == 9
    found, done, _ = again(request_with("euler"), Kept(tmp_path))
    assert found == whole("euler")
    assert done[0] >= min(stop_at, STEPS * WINDOWS) - INTERVAL


def damage(path: Path, _: VideoRequest) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def take_from_a_shorter_video(path: Path, request: VideoRequest) -> None:
    path.unlink()
    speech = request.speech[: 20 * 640]
    shorter = replace(small_request(path.parent, 20), num_steps=STEPS, speech=speech)
    with pytest.raises(LeftError):
        Avatar.load(PRESET, "cpu").generate(
            shorter, str(path.parent / "b.mp4"), checkpoint=Kept(path.parent, stop_at=2)
        )


def take_from_another_scheduler(path: Path, request: VideoRequest) -> None:
    path.unlink()
    other = replace(request, sampling=Sampling(scheduler="dpm++"))
    with pytest.raises(LeftError):
        Avatar.load(PRESET, "cpu").generate(other, str(path.parent / "b.mp4"), checkpoint=Kept(path.parent, stop_at=2))


@pytest.mark.parametrize("harm", [damage, take_from_a_shorter_video, take_from_another_scheduler])
def test_a_state_that_cannot_be_used_is_told_and_the_video_starts_over(
    request_with: Callable[[str], VideoRequest],
    whole: Callable[[str], bytes],
    again: Callable[..., tuple[bytes, list[int], VideoReport]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path, VideoRequest], None],
) -> None:
    request = request_with("euler")
    with pytest.raises(LeftError):
        again(request, Kept(tmp_path, stop_at=4))
    harm(tmp_path / "state", request)
    with caplog.at_level(logging.WARNING):
        found, done, report = again(request, Kept(tmp_path))
    assert "starts over" in caplog.text
    assert found == whole("euler")
    assert (done, report.num_steps_resumed) == ([1] * STEPS * WINDOWS, 0)


def test_a_video_goes_on_after_memory_ran_out(
    request_with: Callable[[str], VideoRequest],
    whole: Callable[[str], bytes],
    again: Callable[..., tuple[bytes, list[int], VideoReport]],
    tmp_path: Path,
) -> None:
    avatar = Avatar.load(PRESET, "cpu")
    trap = Exhausted(avatar.transformer, passes=[6])
    found, done, report = again(request_with("euler"), Kept(tmp_path), avatar)
    trap.hook.remove()
    assert done == [1, 1, 1, 1, 1, -1, 1, 1, 1, 1, 1]
    assert (report.num_tries, report.num_steps_resumed) == (2, 4)
    assert avatar.memory.mode == "model_offload"
    assert found == whole("euler")


def test_a_video_goes_on_after_memory_ran_out_while_it_was_decoded(
    request_with: Callable[[str], VideoRequest],
    whole: Callable[[str], bytes],
    again: Callable[..., tuple[bytes, list[int], VideoReport]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    avatar, calls = Avatar.load(PRESET, "cpu"), list[int]()

    def to_pixels(frames: torch.Tensor) -> np.ndarray:
        calls.append(1)
        if len(calls) == 6:
            raise torch.OutOfMemoryError("tried to allocate")
        return original(frames)

    original = segments.to_pixels
    monkeypatch.setattr(segments, "to_pixels", to_pixels)
    found, done, report = again(request_with("euler"), Kept(tmp_path), avatar)
    assert done == [1] * STEPS * WINDOWS
    assert (report.num_tries, report.num_steps_resumed) == (2, STEPS * WINDOWS)
    assert len(calls) == 6 + LATENTS - 4  # a segment was finished before
    assert found == whole("euler")
