"""Who is drawn: everything about a face and its picture, made from a seed.

Only the inner mouth is saturated dark red: everything else keeps `max(green, blue) / red` above `PALEST_RED`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Colour = tuple[int, int, int]

INNER_MOUTH: Colour = (110, 8, 28)
PALEST_RED = 0.6  # of everything but the inner mouth, which has 0.25
HAIR_STYLES = ("bald", "cropped", "side parting", "fringe", "curly", "bob", "long", "bun", "quiff")
_WOMEN = ("side parting", "fringe", "curly", "bob", "long", "bun")
_MEN = ("bald", "cropped", "side parting", "fringe", "curly", "quiff", "long")
BACKGROUNDS = ("plain", "gradient", "stripes", "circles", "window")

_SKINS: tuple[Colour, ...] = (
    (250, 224, 204), (244, 208, 182), (233, 188, 156), (216, 164, 128), (192, 138, 103),
    (162, 111, 80), (130, 88, 64), (102, 70, 53), (82, 57, 46),
)  # fmt: skip
_HAIRS: dict[str, Colour] = {
    "black": (28, 25, 27), "dark brown": (62, 42, 32), "brown": (101, 68, 45), "light brown": (142, 101, 66),
    "blonde": (219, 183, 114), "ginger": (190, 122, 70), "grey": (150, 150, 154), "white": (226, 224, 220),
}  # fmt: skip
_EYES: tuple[Colour, ...] = ((74, 50, 36), (98, 70, 44), (70, 110, 150), (84, 128, 92), (110, 120, 126), (50, 40, 36))
_LIPS: tuple[Colour, ...] = ((208, 132, 130), (196, 122, 118), (184, 118, 104), (160, 102, 92))
_CLOTHES: tuple[Colour, ...] = (
    (38, 54, 92), (52, 92, 140), (60, 110, 96), (96, 130, 84), (70, 70, 78), (226, 226, 222), (200, 178, 140),
    (110, 90, 140), (28, 30, 34), (212, 176, 60), (120, 164, 190), (84, 100, 60),
)  # fmt: skip
_BACKS: tuple[Colour, ...] = (
    (188, 208, 222), (210, 216, 204), (222, 212, 196), (160, 186, 180), (120, 146, 172), (198, 196, 210),
    (232, 226, 190), (92, 112, 120), (146, 166, 134), (176, 182, 188), (64, 78, 104), (214, 200, 214),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One face. Lengths are fractions of the picture's smaller side, colours are sRGB."""

    kind: str  # "woman" or "man"
    skin: Colour
    hair_name: str
    hair: Colour
    hair_style: str
    eye: Colour
    eye_size: float
    eye_distance: float
    brow: float  # thickness
    nose_length: float
    nose_width: float
    has_glasses: bool
    has_beard: bool
    lips: Colour
    lip_thickness: float
    face_width: float  # half of it
    face_height: float  # half of it
    jaw: float  # 0 round to 1 angular
    ear: float
    clothes: Colour
    collar: str  # "round", "v" or "shirt"
    background: str
    backs: tuple[Colour, Colour]
    scale: float
    place: tuple[float, float]  # of the head, from the middle


def draw_identity(rng: np.random.Generator) -> Identity:
    """A face by chance."""
    kind = _one(rng, ("woman", "man"))
    skin = _skin(rng)
    hair_name = _one(rng, tuple(_HAIRS))
    backs = rng.permutation(len(_BACKS))[:2]
    return Identity(
        kind=kind,
        skin=skin,
        hair_name=hair_name,
        hair=_jitter(rng, _HAIRS[hair_name], 6),
        hair_style=_one(rng, _WOMEN if kind == "woman" else _MEN),
        eye=_one(rng, _EYES),
        eye_size=rng.uniform(0.045, 0.058),
        eye_distance=rng.uniform(0.115, 0.135),
        brow=rng.uniform(0.010, 0.016) if kind == "woman" else rng.uniform(0.015, 0.024),
        nose_length=rng.uniform(0.085, 0.105),
        nose_width=rng.uniform(0.030, 0.050),
        has_glasses=bool(rng.random() < 1 / 3),
        has_beard=bool(kind == "man" and rng.random() < 0.35),
        lips=mix(skin, _one(rng, _LIPS), rng.uniform(0.55, 0.8)),
        lip_thickness=rng.uniform(0.024, 0.034) if kind == "woman" else rng.uniform(0.018, 0.026),
        face_width=rng.uniform(0.265, 0.305),
        face_height=rng.uniform(0.355, 0.385),
        jaw=rng.uniform(0.0, 0.5) if kind == "woman" else rng.uniform(0.3, 1.0),
        ear=rng.uniform(0.045, 0.06),
        clothes=_jitter(rng, _one(rng, _CLOTHES), 8),
        collar=_one(rng, ("round", "v", "shirt")),
        background=_one(rng, BACKGROUNDS),
        backs=(_BACKS[backs[0]], _BACKS[backs[1]]),
        scale=rng.uniform(0.96, 1.05),
        place=(rng.uniform(-0.025, 0.025), rng.uniform(-0.02, 0.01)),
    )


def describe(identity: Identity, rng: np.random.Generator) -> str:
    """A sentence about the picture, one of several that fit."""
    hair = "no hair" if identity.hair_style == "bald" else f"{_style_word(identity)}{identity.hair_name} hair"
    extras = ["glasses"] * identity.has_glasses + ["a beard"] * identity.has_beard
    looks = ", ".join([hair, *extras[:-1]]) + (f" and {extras[-1]}" if extras else "")
    patterns = (
        "A {kind} with {looks} is talking to the camera.",
        "A drawn {kind} with {looks} is speaking.",
        "A {kind} with {looks} talks, facing the viewer.",
        "Portrait of a {kind} with {looks}, who is talking.",
        "A cartoon of a {kind} with {looks} who speaks to the camera.",
    )
    return _one(rng, patterns).format(kind=identity.kind, looks=looks)


def mix(one: Colour, other: Colour, amount: float) -> Colour:
    """`one` at amount 0, `other` at 1."""
    red, green, blue = (round(a + (b - a) * amount) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _style_word(identity: Identity) -> str:
    return {"long": "long ", "curly": "curly ", "cropped": "short "}.get(identity.hair_style, "")


def _skin(rng: np.random.Generator) -> Colour:
    place = rng.uniform(0, len(_SKINS) - 1)
    number = min(int(place), len(_SKINS) - 2)
    return mix(_SKINS[number], _SKINS[number + 1], place - number)


def _jitter(rng: np.random.Generator, colour: Colour, by: int) -> Colour:
    """A little lighter or darker; the hue stays."""
    shift = int(rng.integers(-by, by + 1))
    red, green, blue = (min(255, max(0, value + shift)) for value in colour)
    return red, green, blue


def _one(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]
