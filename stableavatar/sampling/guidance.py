"""Guidance: some predictions under different conditions, weighted. A prediction of weight 0 is never computed.

`separate`, by text and by audio:

    v = u + audio_scale * (a - u) + text_scale * (c - a)

with u = (negative prompt, silence), a = (negative prompt, speech), c = (prompt, speech).

`native`, experimental: Audio Native Guidance, by what the model itself makes of speech and picture together:

    v = (1 + w1 + w2) * c - w1 * (no audio) - w2 * (no pair)

What is known: the StableAvatar paper (arXiv 2508.08248) proposes it in place of classifier-free guidance, in the
manner of VideoJAM's inner guidance (arXiv 2502.02492), and the authors never released it: there are no numbers to
check against, no weights to start from, and the published model was not trained with the pair dropped. What is our
reading: all three predictions have the prompt, and the negative prompt is not used. "No audio" is silence, as in u.
"No pair" hears the speech, but the adapter's audio tokens do not see the noisy latents: the cross-attention that joins
the two is given a context of zeros, which is how the model itself puts "nothing" (silence is a context of zeros too).
"""

from collections.abc import Callable
from typing import NamedTuple

from stableavatar.sampling.scales import Scale, parse_scale, scale_at


class Condition(NamedTuple):
    """One row of the guidance batch."""

    prompted: bool  # the prompt, otherwise the negative prompt
    hears: bool  # the speech, otherwise silence
    paired: bool = True  # the adapter's audio tokens see the noisy latents


NOTHING = Condition(prompted=False, hears=False)
SPEECH = Condition(prompted=False, hears=True)
EVERYTHING = Condition(prompted=True, hears=True)
NO_AUDIO = Condition(prompted=True, hears=False)
NO_PAIR = Condition(prompted=True, hears=True, paired=False)

Weights = dict[Condition, float]


def guidance_weights(text_scale: float, audio_scale: float) -> Weights:
    """Weight of each condition's prediction. The weights sum to 1; conditions of weight 0 are left out."""
    return _computed({NOTHING: 1 - audio_scale, SPEECH: audio_scale - text_scale, EVERYTHING: text_scale})


def native_weights(audio_weight: float, pair_weight: float) -> Weights:
    """The same for Audio Native Guidance: w1 and w2 of its formula. Experimental."""
    return _computed({EVERYTHING: 1 + audio_weight + pair_weight, NO_AUDIO: -audio_weight, NO_PAIR: -pair_weight})


def schedule_weights(weights: Callable[..., Weights], num_steps: int, *scales: Scale) -> tuple[Weights, ...]:
    """The weights of each step, under scales that may change from step to step.

    Raises:
        ValueError: a scale is not written as `parse_scale` reads it.
    """
    schedules = [parse_scale(scale) for scale in scales]
    return tuple(weights(*(scale_at(schedule, step) for schedule in schedules)) for step in range(num_steps))


def _computed(weights: Weights) -> Weights:
    return {condition: weight for condition, weight in weights.items() if weight != 0}
