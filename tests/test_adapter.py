from itertools import pairwise

import torch

from stableavatar.model.adapter import AudioProjection, VocalProjector, cut_slices, slice_ranges


def test_slices_have_one_length_and_follow_the_frames() -> None:
    ranges = slice_ranges(161, 81)
    assert len(ranges) == 21
    assert len({last - first for first, last in ranges}) == 1
    centres = [(first + last) / 2 for first, last in ranges[1:]]
    steps = {round(later - earlier) for earlier, later in pairwise(centres)}
    assert steps <= {7, 8, 9}  # four frames of about two tokens


def test_a_single_frame_has_a_slice() -> None:
    assert len(slice_ranges(2, 1)) == 1


def test_zeros_stand_behind_the_valid_tokens() -> None:
    tokens = torch.arange(1, 34, dtype=torch.float32).view(1, 33, 1)
    slices = cut_slices(tokens, 17)[0, :, :, 0]
    first, last = slice_ranges(33, 17)[0]
    num_valid = last + 4 + 1
    assert slices[0, :num_valid].tolist() == list(range(1, num_valid + 1))
    assert not slices[0, num_valid:].any()
    assert slices.shape == (5, last - first + 9)
    num_beyond = slice_ranges(33, 17)[-1][1] + 4 - 32
    assert not slices[-1, -num_beyond:].any() and slices[-1, -num_beyond - 1] == 33


def test_large_models_project_in_two_stages() -> None:
    projection = AudioProjection((6, 8, 16))
    assert projection(torch.randn(1, 5, 6)).shape == (1, 5, 16)
    assert [name for name, _ in projection.named_parameters() if name.endswith("0.weight")] == [
        "stages.0.0.weight",
        "stages.1.0.weight",
    ]


def test_context_depends_on_audio_latents_and_time() -> None:
    torch.manual_seed(0)
    adapter = VocalProjector((6, 16), num_heads=4, num_layers=2).eval()
    audio, latents = torch.randn(1, 33, 6), torch.randn(1, 5, 12, 16)
    time, modulation = torch.randn(1, 16), torch.randn(1, 6, 16)
    context = adapter(audio, latents, time, modulation, 17)
    assert context.shape == (1, 5, len(range(*slice_ranges(33, 17)[0])) + 9, 16)
    for changed in [
        adapter(audio + torch.randn_like(audio), latents, time, modulation, 17),
        adapter(audio, latents + torch.randn_like(latents), time, modulation, 17),
        adapter(audio, latents, time + 1, modulation, 17),
        adapter(audio, latents, time, modulation + 1, 17),
    ]:
        assert not torch.allclose(context, changed)


def test_a_frame_sees_only_its_own_latents() -> None:
    torch.manual_seed(0)
    adapter = VocalProjector((6, 16), num_heads=4, num_layers=1).eval()
    audio, latents = torch.randn(1, 33, 6), torch.randn(1, 5, 12, 16)
    time, modulation = torch.randn(1, 16), torch.randn(1, 6, 16)
    other = latents.clone()
    other[:, 2] += 1
    difference = (
        (adapter(audio, latents, time, modulation, 17) - adapter(audio, other, time, modulation, 17))
        .abs()
        .amax((0, 2, 3))
    )
    assert difference[2] > 1e-4
    assert difference[[0, 1, 3, 4]].max() < 1e-5
