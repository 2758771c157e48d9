import itertools

import pytest
import torch

from stableavatar.correction.plan import CorrectionPlan, plan_correction
from stableavatar.units import frames_of, latents_for


def plan(*spans_s: tuple[float, float], num_frames: int = 1001, window: int = 21, overlap: int = 5) -> CorrectionPlan:
    return plan_correction(spans_s, num_frames, window, overlap)


def test_a_sentence_is_covered_by_its_latents_with_a_seam_on_both_sides() -> None:
    found = plan((12.0, 14.0))  # frames 300 .. 349: latent 75 ends with frame 300, latent 88 begins with frame 349
    (region,) = found.regions
    assert region.cores == ((75, 89),)
    assert (region.first, region.last) == (70, 94)
    assert (region.start, region.stop) == (70, 94)  # longer than a window
    assert found.frames(region) == (277, 373)
    weights = found.latent_weights()
    assert weights.tolist() == pytest.approx(
        [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, *[1] * 14, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    )


def test_a_short_sentence_takes_a_whole_window_with_known_latents_around_it() -> None:
    found = plan((20.0, 20.4), overlap=2)
    (region,) = found.regions
    assert region.stop - region.start == 21
    assert region.start < region.first < region.last < region.stop
    weights = found.latent_weights()
    assert (weights > 0).nonzero().flatten().tolist() == [n - region.start for n in range(region.first, region.last)]
    assert len(found.plan.windows) == 1


@pytest.mark.parametrize(
    ("span_s", "num_frames"),
    list(
        itertools.product(
            [(0.0, 0.04), (0.0, 40.04), (0.28, 0.32), (3.0, 3.1), (39.9, 40.04), (39.0, 39.5)], [998, 1001]
        )
    ),
)
@pytest.mark.parametrize("overlap", [0, 1, 5])
def test_every_frame_of_a_sentence_is_new_and_seams_only_rise_and_fall(
    span_s: tuple[float, float], num_frames: int, overlap: int
) -> None:
    found = plan(span_s, num_frames=num_frames, overlap=overlap)
    (region,) = found.regions
    assert 0 <= region.start <= region.first < region.last <= region.stop <= found.num_latents
    first, stop = found.frames(region)
    weights = found.frame_weights(region)
    assert len(weights) == stop - first
    asked = range(round(span_s[0] * 25), min(round(span_s[1] * 25), num_frames))
    assert all(weights[n - first] == 1 for n in asked)
    slopes = [slope for slope in weights.diff().sign().unique_consecutive().tolist() if slope]
    assert slopes in ([1, -1], [1], [-1], [])
    assert (weights > 0).all()
    latents = found.latent_weights()
    assert (latents[: region.first - region.start] == 0).all()
    assert (latents[latents_for(num_frames) - region.start :] == 1).all()


def test_windows_are_driven_by_the_speech_of_their_own_frames() -> None:
    found = plan((2.0, 3.0), (20.0, 30.0))
    one, other = found.regions
    assert other.start > one.stop
    local = [latent for region in found.regions for latent in range(region.start, region.stop)]
    assert found.plan.num_latents == len(local) == len(found.latent_weights())
    for window, speech in zip(found.plan.windows, found.plan.speech, strict=True):
        latents = local[window.span]
        assert latents == list(range(latents[0], latents[0] + 21))  # no window reaches over two regions
        assert speech.start == latents[0] * 4 * 640
        assert speech.stop - speech.start == frames_of(21) * 640
    starts = [window for window in found.plan.windows if window.num_shared == 0]
    assert [local[window.start] for window in starts] == [one.start, other.start]
    assert {place for window in found.plan.windows for place in range(window.span.start, window.span.stop)} == set(
        range(len(local))
    )


def test_sentences_that_share_a_window_are_made_together_and_what_lies_between_stays() -> None:
    found = plan((10.0, 10.2), (11.6, 11.8), overlap=2)
    (region,) = found.regions
    assert len(region.cores) == 2
    weights = found.latent_weights()
    assert (weights[region.cores[0][1] + 2 - region.start : region.cores[1][0] - 2 - region.start] == 0).all()
    assert len(plan((10.0, 10.2), (15.0, 15.2), overlap=2).regions) == 2


def test_a_video_shorter_than_a_window_is_one_region() -> None:
    found = plan((0.4, 0.6), num_frames=30)
    (region,) = found.regions
    assert (region.start, region.stop) == (0, 21)
    assert torch.equal(found.latent_weights()[9:], torch.ones(12))


def test_between_far_sentences_of_one_region_nothing_changes() -> None:
    found = plan((1.0, 1.2), (9.0, 9.4), num_frames=250, window=60, overlap=2)
    (region,) = found.regions
    assert found.changed(region) == [(17, 41), (217, 245)]  # 8 frames of seam beside frames 25 .. 32, 225 .. 236
    (joined,) = plan((1.0, 1.2), (1.5, 1.6), num_frames=250, window=60, overlap=2).regions
    assert found.changed(joined) == [(17, 49)]
