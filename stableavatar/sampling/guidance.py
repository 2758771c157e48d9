"""Guidance by text and by audio: three predictions, weighted.

    v = u + audio_scale * (a - u) + text_scale * (c - a)

with u = (negative prompt, silence), a = (negative prompt, speech), c = (prompt, speech). Written as weights of the
three, so that a prediction with weight 0 is never computed.
"""

from typing import NamedTuple


class Condition(NamedTuple):
    """One row of the guidance batch."""

    prompted: bool  # the prompt, otherwise the negative prompt
    hears: bool  # the speech, otherwise silence


NOTHING = Condition(prompted=False, hears=False)
SPEECH = Condition(prompted=False, hears=True)
EVERYTHING = Condition(prompted=True, hears=True)


def guidance_weights(text_scale: float, audio_scale: float) -> dict[Condition, float]:
    """Weight of each condition's prediction. The weights sum to 1; conditions of weight 0 are left out."""
    weights = {
        NOTHING: 1 - audio_scale,
        SPEECH: audio_scale - text_scale,
        EVERYTHING: text_scale,
    }
    return {condition: weight for condition, weight in weights.items() if weight != 0}
