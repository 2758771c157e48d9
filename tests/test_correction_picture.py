from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stableavatar.avatar import Avatar
from stableavatar.checkpoint import NoCheckpoint, Snapshot
from stableavatar.correction.picture import recall
from stableavatar.correction.plan import Correction, plan_correction
from stableavatar.errors import BadInput
from stableavatar.model.vae import encode_video
from stableavatar.request import VideoRequest
from stableavatar.sampling.settings import Sampling
from stableavatar.segments import as_video
from stableavatar.video.film import Film, open_film, read_frames
from stableavatar.video.quality import check_contract, measure_video
from tests.small import PRESET, small_request
from tests.videos import frame_hashes

NUM_FRAMES = 218  # 56 latent frames, the last of them not full
SPAN_S = (4.4, 4.8)  # frames 110 .. 119
CORE = (109, 121)  # frames of the latents that cover them
SEAM = 8  # video frames


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return Avatar.load(PRESET, "cpu")


@pytest.fixture(scope="module")
def base(avatar: Avatar, tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoRequest, Film]:
    """A request and its finished video."""
    folder = tmp_path_factory.mktemp("base")
    request = small_request(folder, NUM_FRAMES)
    avatar.generate(request, str(folder / "base.mp4"))
    return request, open_film(str(folder / "base.mp4"))


def corrected(request: VideoRequest, film: Film, *spans_s: tuple[float, float]) -> VideoRequest:
    """The request with other speech in these spans."""
    speech = request.speech.copy()
    for start_s, end_s in spans_s:
        samples = slice(round(start_s * 16_000), round(end_s * 16_000))
        speech[samples] = np.sin(np.arange(samples.stop - samples.start) / 9)
    return replace(request, speech=speech, correction=Correction(video_path=film.path, spans_s=spans_s))


def pictures(film: Film, first: int = 0, stop: int | None = None) -> np.ndarray:
    return np.stack(list(read_frames(film, first, stop or film.num_frames))).astype(int)


def motion(frames_VHWC: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(frames_VHWC, axis=0)).mean(axis=(1, 2, 3))


def test_only_what_lies_between_the_key_frames_around_a_sentence_changes(
    avatar: Avatar, base: tuple[VideoRequest, Film], tmp_path: Path
) -> None:
    request, film = base
    path = tmp_path / "new.mp4"
    report = avatar.generate(corrected(request, film, SPAN_S), str(path))
    check_contract(measure_video(str(path)), num_frames=NUM_FRAMES, width=96, height=160)
    assert report.num_windows == 2  # 7 latent frames in windows of 5
    old, new = frame_hashes(Path(film.path)), frame_hashes(path)
    first, stop = film.cut_around(CORE[0] - SEAM, CORE[1] + SEAM)
    assert 0 < first < stop < NUM_FRAMES
    same = [n for n in range(NUM_FRAMES) if old[n] == new[n]]
    assert set(same) >= {*range(first), *range(stop, NUM_FRAMES)}
    assert not set(same) & set(range(*CORE))
    error = np.abs(pictures(open_film(str(path))) - pictures(film)).mean(axis=(1, 2, 3))
    is_new = np.zeros(NUM_FRAMES, bool)
    is_new[CORE[0] - SEAM : CORE[1] + SEAM] = True
    assert error[CORE[0] : CORE[1]].min() > 3 * error[~is_new].max()  # what is encoded twice loses little
    assert list(tmp_path.iterdir()) == [path]


def test_the_picture_does_not_jump_at_a_seam(avatar: Avatar, base: tuple[VideoRequest, Film], tmp_path: Path) -> None:
    request, film = base
    avatar.generate(corrected(request, film, SPAN_S), str(tmp_path / "new.mp4"))
    moved = motion(pictures(open_film(str(tmp_path / "new.mp4")), CORE[0] - SEAM - 2, CORE[1] + SEAM + 2))
    inner = slice(SEAM + 2, -SEAM - 2)  # between frames of the core
    seams = np.delete(moved, np.arange(len(moved))[inner])
    assert seams.max() < 1.5 * max(moved[inner].max(), motion(pictures(film)).max())


@pytest.mark.parametrize(
    "spans_s",
    [
        [(0.0, 0.3)],
        [(8.5, 8.72)],
        pytest.param([(0.0, 8.72)], marks=pytest.mark.slow),
        pytest.param([(1.0, 1.2), (2.0, 2.1), (7.0, 7.5)], marks=pytest.mark.slow),
    ],
)
def test_any_place_can_be_corrected(
    avatar: Avatar, base: tuple[VideoRequest, Film], tmp_path: Path, spans_s: list[tuple[float, float]]
) -> None:
    request, film = base
    path = str(tmp_path / "new.mp4")
    avatar.generate(corrected(request, film, *spans_s), path)
    check_contract(measure_video(path), num_frames=NUM_FRAMES, width=96, height=160)
    old, new = frame_hashes(Path(film.path)), frame_hashes(Path(path))
    for start_s, end_s in spans_s:
        assert all(old[n] != new[n] for n in range(round(start_s * 25), round(end_s * 25)))


def test_between_two_sentences_in_one_window_the_old_packets_stay(
    avatar: Avatar, base: tuple[VideoRequest, Film], tmp_path: Path
) -> None:
    request, film = base
    wanted = replace(corrected(request, film, (0.5, 0.6), (3.5, 3.6)), sampling=Sampling(window_latents=25))
    avatar.generate(wanted, str(tmp_path / "new.mp4"))
    old, new = frame_hashes(Path(film.path)), frame_hashes(tmp_path / "new.mp4")
    first, stop = film.cut_around(5, 25)[1], film.cut_around(77, 101)[0]
    assert 0 < first < stop - 9
    assert old[first:stop] == new[first:stop]
    assert all(old[n] != new[n] for n in (*range(13, 15), *range(88, 90)))


def test_latents_of_the_old_video_are_those_of_encoding_it_whole(
    avatar: Avatar, base: tuple[VideoRequest, Film]
) -> None:
    _, film = base
    plan = plan_correction([SPAN_S, (8.6, 8.72)], NUM_FRAMES, 5, 2)
    noise = torch.randn(1, 16, plan.num_latents, 20, 12, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = recall(avatar.vae, film.path, plan, noise)
        frames = pictures(film)
        held = np.concatenate([frames, np.repeat(frames[-1:], 3, axis=0)])
        whole = encode_video(avatar.vae, as_video(held))
    expected = torch.cat([whole[:, :, region.start : region.stop] for region in plan.regions], dim=2)
    torch.testing.assert_close(found.known.latents_BCFHW, expected, atol=1e-4, rtol=0)
    noises = [noise[:, :, region.start : region.stop] for region in plan.regions]
    assert torch.equal(found.known.noise_BCFHW, torch.cat(noises, dim=2))
    for region, context in zip(plan.regions, found.contexts, strict=True):
        before = whole[:, :, region.first - context.shape[2] : region.first]
        torch.testing.assert_close(context, before, atol=1e-4, rtol=0)


@dataclass
class Stopping(NoCheckpoint):
    """Keeps every state, and stops at one of the offers."""

    path: str
    stop_at: int = 0
    offers: list[int] = field(default_factory=list)

    def state(self) -> str | None:
        return self.path if Path(self.path).exists() else None

    def offer(self, num_done: int, snapshot: Callable[[], Snapshot]) -> None:
        self.offers.append(num_done)
        Path(self.path).unlink(missing_ok=True)
        snapshot().write(self.path)
        if len(self.offers) == self.stop_at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("scheduler", ["euler", *(pytest.param(s, marks=pytest.mark.slow) for s in ("unipc", "dpm++"))])
def test_a_correction_that_is_stopped_goes_on_to_the_same_bytes(avatar: Avatar, tmp_path: Path, scheduler: str) -> None:
    request, path = small_request(tmp_path, 40), tmp_path / "new.mp4"
    avatar.generate(request, str(tmp_path / "base.mp4"))
    film = open_film(str(tmp_path / "base.mp4"))
    wanted = replace(corrected(request, film, (0.5, 0.7)), num_steps=3, sampling=Sampling(scheduler=scheduler))
    avatar.generate(wanted, str(path))
    expected = path.read_bytes()
    path.unlink()
    for stop_at in (3, 8):  # within a step, and while the video is decoded
        with pytest.raises(KeyboardInterrupt):
            avatar.generate(wanted, str(path), checkpoint=Stopping(str(tmp_path / "state"), stop_at))
        assert not path.exists()
    last = Stopping(str(tmp_path / "state"))
    avatar.generate(wanted, str(path), checkpoint=last)
    assert path.read_bytes() == expected
    assert set(last.offers) == {6}  # all window-steps were found done


def test_a_video_that_is_none_is_refused(avatar: Avatar, base: tuple[VideoRequest, Film], tmp_path: Path) -> None:
    request, film = base
    (tmp_path / "other.mp4").write_bytes(b"")
    wrong = corrected(request, replace(film, path=str(tmp_path / "other.mp4")), SPAN_S)
    with pytest.raises(BadInput, match=r"other\.mp4"):
        avatar.generate(wrong, str(tmp_path / "new.mp4"))
