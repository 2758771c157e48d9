from dataclasses import fields, replace

import numpy as np

from stableavatar.drawn import faces
from stableavatar.drawn.faces import BACKGROUNDS, HAIR_STYLES, INNER_MOUTH, Identity, describe, draw_identity

MANY = [draw_identity(np.random.default_rng(seed)) for seed in range(300)]


def test_a_seed_gives_its_face() -> None:
    assert draw_identity(np.random.default_rng(7)) == MANY[7]
    assert len(set(MANY)) == len(MANY)


def test_nothing_but_the_inner_mouth_is_saturated_red() -> None:
    names = [field.name for field in fields(Identity) if field.type in (faces.Colour, "Colour")]
    assert len(names) == 5
    for identity in MANY:
        for red, green, blue in [*(getattr(identity, name) for name in names), *identity.backs]:
            assert red < 40 or max(green, blue) / red > faces.PALEST_RED
    assert max(INNER_MOUTH[1:]) / INNER_MOUTH[0] < 0.3


def test_people_differ() -> None:
    assert {identity.hair_style for identity in MANY} == set(HAIR_STYLES)
    assert {identity.background for identity in MANY} == set(BACKGROUNDS)
    assert {identity.kind for identity in MANY} == {"woman", "man"}
    skins = np.array([sum(identity.skin) for identity in MANY])
    assert skins.min() < 220
    assert skins.max() > 640
    assert 0.25 < np.mean([identity.has_glasses for identity in MANY]) < 0.42
    assert not any(identity.has_beard for identity in MANY if identity.kind == "woman")


def test_the_description_tells_what_is_seen() -> None:
    rng = np.random.default_rng(0)
    identity = replace(MANY[0], kind="woman", hair_style="long", hair_name="brown", has_glasses=True, has_beard=False)
    texts = {describe(identity, rng) for _ in range(50)}
    assert len(texts) >= 4
    assert all("woman with long brown hair and glasses" in text for text in texts)
    bald = replace(identity, kind="man", hair_style="bald", has_glasses=True, has_beard=True)
    assert "man with no hair, glasses and a beard" in describe(bald, rng)
