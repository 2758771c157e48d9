import pytest

from stableavatar.units import SAMPLES_PER_FRAME, frames_in, frames_of, latents_for


@pytest.mark.parametrize(
    ("duration_s", "frames"), [(0.0, 0), (0.019, 0), (0.04, 1), (1.0, 25), (3.24, 81), (3600.0, 90_000)]
)
def test_frames_in_a_sound(duration_s: float, frames: int) -> None:
    assert frames_in(duration_s) == frames


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (2, 2), (5, 2), (6, 3), (80, 21), (81, 21), (82, 22)])
def test_latents_cover_the_frames(frames: int, latents: int) -> None:
    assert latents_for(frames) == latents
    assert frames_of(latents) >= frames > frames_of(latents) - 4


def test_a_frame_of_speech() -> None:
    assert SAMPLES_PER_FRAME == 640
