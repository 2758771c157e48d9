from pathlib import Path

import pytest
import torch
from torch import Tensor

from stableavatar.model.dit import FloatTimesteps, StableAvatarTransformer
from stableavatar.model.weights import random_network
from stableavatar.presets import tiny


@pytest.fixture(scope="module")
def transformer() -> StableAvatarTransformer:
    return random_network(lambda: StableAvatarTransformer(**tiny().transformer), 0)


def inputs(batch: int, num_latents: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(
        hidden_states=torch.randn(1, 36, num_latents, 4, 6).expand(batch, -1, -1, -1, -1),
        timestep=torch.full((batch,), 500.0),
        text_BTE=torch.randn(1, 7, 32).expand(batch, -1, -1),
        image_BIE=torch.randn(1, 17, 40).expand(batch, -1, -1),
    )


AUDIO = torch.randn(1, 33, 24, generator=torch.Generator().manual_seed(2))


def test_silence_is_a_context_of_zeros(transformer: StableAvatarTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortcut for silent rows equals attending to an adapter output of zeros."""
    quiet = transformer(**inputs(1), audio_GAE=None, audio_index=[None])
    monkeypatch.setattr(transformer.vocal_projector, "forward", lambda audio, latents, *_: torch.zeros(1, 5, 9, 48))
    zeros = transformer(**inputs(1), audio_GAE=AUDIO, audio_index=[0])
    torch.testing.assert_close(quiet, zeros, atol=1e-5, rtol=1e-4)


def test_rows_of_a_batch_are_independent(transformer: StableAvatarTransformer) -> None:
    quiet = transformer(**inputs(1), audio_GAE=None, audio_index=[None])
    loud = transformer(**inputs(1), audio_GAE=AUDIO, audio_index=[0])
    assert not torch.allclose(quiet, loud)
    both = transformer(**inputs(3), audio_GAE=AUDIO, audio_index=[None, 0, 0])
    torch.testing.assert_close(both, torch.cat([quiet, loud, loud]), atol=1e-5, rtol=1e-4)


def test_a_frames_queries_hear_their_own_slice(transformer: StableAvatarTransformer) -> None:
    """In one layer, the last sound reaches the early latent frames by no way at all."""
    one_layer = random_network(lambda: StableAvatarTransformer(**{**tiny().transformer, "num_layers": 1}), 0)
    changed = AUDIO.clone()
    changed[:, -1] += 5
    early, late = (one_layer(**inputs(1), audio_GAE=audio, audio_index=[0]) for audio in (AUDIO, changed))
    difference = (early - late).abs().amax((0, 1, 3, 4))
    assert difference[-1] > 1e-4
    assert difference[0] < 1e-6


def test_clip_level_hears_everything(transformer: StableAvatarTransformer) -> None:
    frame = transformer(**inputs(1), audio_GAE=AUDIO, audio_index=[0])
    clip = transformer(**inputs(1), audio_GAE=AUDIO, audio_index=[0], clip_level=True)
    assert frame.shape == clip.shape == (1, 16, 5, 4, 6)
    assert not torch.allclose(frame, clip)


def test_audio_without_its_pair_does_not_see_the_latents(transformer: StableAvatarTransformer) -> None:
    adapter = transformer.vocal_projector
    seen: list[Tensor] = []
    hook = adapter.register_forward_hook(lambda _, __, output: seen.append(output))
    audio = dict(audio_GAE=AUDIO.expand(2, -1, -1), audio_index=[0, 1], pairing_G=torch.tensor([1, 0]))
    first = transformer(**inputs(2), **audio)
    other = transformer(**{**inputs(2), "hidden_states": inputs(2)["hidden_states"].flip(-1)}, **audio)
    hook.remove()
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first, other)
    paired = transformer(**inputs(1), audio_GAE=AUDIO, audio_index=[0])
    torch.testing.assert_close(first[:1], paired, atol=1e-5, rtol=1e-4)


def test_time_embedding_is_exact() -> None:
    angle = 999.9 * 10_000 ** (-torch.arange(16, dtype=torch.float64) / 16)
    ours = FloatTimesteps(32)(torch.tensor([999.9], dtype=torch.float64))
    torch.testing.assert_close(ours[0].double(), torch.cat([angle.cos(), angle.sin()]), atol=1e-6, rtol=0)


def test_config_survives_a_round_trip(transformer: StableAvatarTransformer, tmp_path: Path) -> None:
    transformer.save_pretrained(tmp_path)
    loaded = StableAvatarTransformer.from_pretrained(tmp_path)
    arguments = dict(**inputs(1), audio_GAE=AUDIO, audio_index=[0])
    torch.testing.assert_close(loaded(**arguments), transformer(**arguments), rtol=0, atol=0)


def test_an_unheard_row_is_silence() -> None:
    network = random_network(lambda: StableAvatarTransformer(**tiny().transformer), 0)
    generator = torch.Generator().manual_seed(0)
    latents, text, image, audio = (
        torch.randn(2, *shape, generator=generator) for shape in ((36, 5, 4, 4), (6, 32), (17, 40), (33, 24))
    )
    given = latents, torch.tensor([300.0, 700.0]), text, image
    left_out = network(*given, audio[:1], [0, None])
    unheard = network(*given, audio, [0, 1], hearing_G=torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(unheard, left_out)
    assert not torch.allclose(unheard[1], network(*given, audio, [0, 1])[1], atol=1e-4)
