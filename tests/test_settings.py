from dataclasses import replace
from typing import Any

import pytest

from stableavatar.errors import BadInput
from stableavatar.presets import tiny
from stableavatar.settings import CHOICES, check_settings, sampling_arguments, with_defaults

SIZE = {"width": 128, "height": 128}


def complete(**values: Any) -> dict[str, Any]:
    return with_defaults({**SIZE, **values}, tiny())


def test_what_is_not_chosen_is_the_presets() -> None:
    assert complete(seed=0, prompt=None)["seed"] == 0
    assert complete(seed=0, prompt=None)["prompt"] == tiny().prompt
    assert {name: getattr(tiny(), name) for name in CHOICES} == {name: complete()[name] for name in CHOICES}
    check_settings(complete(), tiny())
    check_settings({**complete(), "width": None, "height": None}, tiny())


def test_choices_reach_the_sampler() -> None:
    arguments = sampling_arguments(complete(text_schedule="5x3,1", mode="reference", scheduler="unipc", blend="log"))
    assert (arguments["text_scale"], arguments["audio_scale"]) == ("5x3,1", 5.0)
    sampling = arguments["sampling"]
    assert (sampling.mode, sampling.scheduler, sampling.blend, sampling.window_latents) == (
        "reference",
        "unipc",
        "log",
        21,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 99}, "Use one of 128x128, 96x160, 160x96"),
        ({"overlap": 21}, "at most 20"),
        ({"overlap": -1}, "overlap is -1. Give a whole number from 0"),
        ({"num_steps": 0}, "num_steps is 0. Give a whole number from 1"),
        ({"seed": "x"}, "seed is 'x'. Give a whole number"),
        ({"window_latents": 5}, "overlap is 5 latent frames, but a window has 5"),
        ({"mode": "fast"}, "no mode 'fast'; there is: aligned, reference"),
        ({"scheduler": "ddim"}, "there is: euler, unipc"),
        ({"blend": "x"}, "there is: uniform, log"),
        ({"guidance": "x"}, "there is: separate, native"),
        ({"text_schedule": "5x"}, "5x"),
        ({"lora": "a.safetensors:heavy"}, "no weight"),
    ],
)
def test_settings_that_do_not_fit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_settings(complete(**values), tiny())


def test_sizes_are_the_presets() -> None:
    check_settings({**complete(), "width": 64, "height": 64}, replace(tiny(), sizes=((64, 64),)))
