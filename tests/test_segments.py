import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from stableavatar import segments
from stableavatar.audio.decode import encode_sound
from stableavatar.checkpoint import NoCheckpoint
from stableavatar.errors import BrokenVideo
from stableavatar.model.vae import warm_up_latents
from stableavatar.model.weights import random_network
from stableavatar.presets import tiny
from stableavatar.segments import Segment, origin_of, plan_segments, to_pixels, write_video
from stableavatar.units import latents_for
from stableavatar.video.quality import check_contract, measure_video
from tests.media import write_tone

NUM_FRAMES = 46  # 13 latent frames: segments of 5, 5 and 3
SIZE = 32


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    return random_network(lambda: AutoencoderKLWan(**tiny().vae), 0)


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_LATENTS", 5)


@dataclass
class Shelf(NoCheckpoint):
    """Keeps segments in a folder."""

    folder: Path
    kept: list[int] = field(default_factory=list)

    def segment(self, index: int) -> str | None:
        path = self.folder / str(index)
        return str(path) if path.exists() else None

    def keep_segment(self, index: int, path: str) -> None:
        self.kept.append(index)
        (self.folder / str(index)).write_bytes(Path(path).read_bytes())


@pytest.fixture
def write(vae: AutoencoderKLWan, tmp_path: Path) -> Callable[..., bytes]:
    """Writes the video of seeded latents; gives its bytes."""
    write_tone(tmp_path / "a.wav", duration_s=NUM_FRAMES / 25)
    encode_sound(str(tmp_path / "a.wav"), str(tmp_path / "a.m4a"), duration_s=NUM_FRAMES / 25)
    (tmp_path / "work").mkdir()
    (tmp_path / "shelf").mkdir()

    def write(
        shelf: NoCheckpoint | None = None, on_latent: Callable[[], None] = lambda: None, seed: int = 0, num: int = 13
    ) -> bytes:
        path = tmp_path / "work" / "video.mp4"
        write_video(
            vae,
            torch.randn(1, 16, num, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(seed)),
            str(path),
            width=SIZE,
            height=SIZE,
            num_frames=NUM_FRAMES,
            sound_path=str(tmp_path / "a.m4a"),
            checkpoint=shelf or NoCheckpoint(),
            on_latent=on_latent,
        )
        return path.read_bytes()

    return write


@pytest.mark.parametrize("num_frames", [1, 16, 17, 18, 21, 22, 37, 38, 100])
def test_segments_cover_latents_and_frames(num_frames: int) -> None:
    num_latents = latents_for(num_frames)
    plan = plan_segments(num_latents, num_frames)
    assert [latent for part in plan for latent in range(part.start, part.stop)] == list(range(num_latents))
    assert sum(part.num_frames for part in plan) == num_frames
    assert all(part.num_frames == 20 - 3 * (part.index == 0) for part in plan[:-1])
    assert plan[-1].num_frames >= 1


def test_the_last_segment_holds_what_was_not_made() -> None:
    assert plan_segments(5, 20)[-1] == Segment(index=0, start=0, stop=5, num_frames=20)


def test_every_latent_frame_is_decoded_once(write: Callable[..., bytes], tmp_path: Path) -> None:
    calls: list[int] = []
    write(on_latent=lambda: calls.append(1), num=20)  # the last seven latent frames are not needed
    assert len(calls) == 13
    path = tmp_path / "work" / "video.mp4"
    check_contract(measure_video(str(path)), num_frames=NUM_FRAMES, width=SIZE, height=SIZE)
    assert list(path.parent.iterdir()) == [path]  # nothing is left beside it


def test_only_segments_that_are_followed_by_another_are_kept(write: Callable[..., bytes], tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    write(shelf)
    assert shelf.kept == [0, 1]


def test_one_segment_is_not_kept(write: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_LATENTS", 375)
    shelf = Shelf(tmp_path / "shelf")
    write(shelf)
    assert shelf.kept == []


@pytest.mark.parametrize("lost", [[], [0], [1], [0, 1]])
def test_a_video_with_kept_segments_has_the_same_bytes(
    write: Callable[..., bytes], tmp_path: Path, lost: list[int]
) -> None:
    expected = write(Shelf(tmp_path / "shelf"))
    for index in lost:
        (tmp_path / "shelf" / str(index)).unlink()
    calls: list[int] = []
    shelf = Shelf(tmp_path / "shelf")
    assert write(shelf, lambda: calls.append(1)) == expected
    assert shelf.kept == lost
    assert len(calls) == 3 + 5 * len(lost)


def test_segments_that_are_damaged_or_of_other_latents_are_made_again(
    write: Callable[..., bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = write()
    write(Shelf(tmp_path / "shelf"), seed=1)
    (tmp_path / "shelf" / "1").write_bytes(b"")
    shelf = Shelf(tmp_path / "shelf")
    with caplog.at_level(logging.WARNING):
        assert write(shelf) == expected
    assert shelf.kept == [0, 1]
    assert len(caplog.records) == 2


def test_an_error_after_any_latent_frame_leaves_nothing(write: Callable[..., bytes], tmp_path: Path) -> None:
    expected, shelf = write(), Shelf(tmp_path / "shelf")
    (tmp_path / "work" / "video.mp4").unlink()
    for last in (1, 6, 8):  # the second attempt leaves a segment to the third
        calls: list[int] = []

        def stop(calls: list[int] = calls, last: int = last) -> None:
            calls.append(1)
            if len(calls) == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write(shelf, stop)
        assert list((tmp_path / "work").iterdir()) == []
    assert write(shelf) == expected


def test_a_segment_comes_from_all_latents_that_reach_into_it(vae: AutoencoderKLWan) -> None:
    reach = warm_up_latents(vae)
    latents = torch.randn(1, 16, reach + 8, 2, 2, generator=torch.Generator().manual_seed(0))
    segment = Segment(index=1, start=reach + 2, stop=reach + 5, num_frames=12)
    origin = origin_of(vae, latents, segment)
    for index in range(latents.shape[2]):
        other = latents.clone()
        other[:, 3, index] += 1
        assert (origin_of(vae, other, segment) != origin) == (2 <= index < reach + 5)
    assert origin_of(vae, latents, replace(segment, num_frames=11)) != origin


def test_broken_numbers_are_no_video() -> None:
    frames = torch.zeros(1, 3, 4, 8, 8)
    assert (to_pixels(frames) == 128).all()
    frames[0, 0, 2, 3, 3] = float("nan")
    with pytest.raises(BrokenVideo, match="not finite"):
        to_pixels(frames)
