"""How videos are sampled, apart from the scales and counts of the single video."""

from collections.abc import Collection
from dataclasses import dataclass

from stableavatar.sampling.plan import PLANS
from stableavatar.sampling.scales import Scale, parse_scale
from stableavatar.sampling.schedulers import SCHEDULERS
from stableavatar.sampling.windows import RAMPS

GUIDANCES = ("separate", "native")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Choices by name.

    Raises:
        ValueError: there is no such choice, or a scale cannot be read.
    """

    mode: str = "aligned"  # or `reference`: with the faults of the published code, for comparison
    blend: str = "uniform"  # or `log`: how a window fades into the one before
    scheduler: str = "euler"  # or `unipc`, `dpm++`
    window_latents: int | None = None  # None: the preset's
    guidance: str = "separate"  # by text and audio; or `native`, experimental: see guidance.py
    native_audio: Scale = (
        4.0  # w1 of native guidance: the strength of an audio scale of 5; may be a schedule, see scales.py
    )
    native_pair: Scale = 3.0  # w2, as VideoJAM has it

    def __post_init__(self) -> None:
        _check("mode", self.mode, PLANS)
        _check("blend", self.blend, RAMPS)
        _check("scheduler", self.scheduler, SCHEDULERS)
        _check("guidance", self.guidance, GUIDANCES)
        for scale in (self.native_audio, self.native_pair):
            parse_scale(scale)


def _check(name: str, word: str, choices: Collection[str]) -> None:
    if word not in choices:
        raise ValueError(f"there is no {name} {word!r}; there is: {', '.join(choices)}")
