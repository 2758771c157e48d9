"""What one video may ask for: the values of its manifest row or of a call, over those of the preset."""

from collections.abc import Mapping
from typing import Any

from stableavatar.choices import CHOICES
from stableavatar.errors import BadInput
from stableavatar.model.lora import parse_loras
from stableavatar.presets import Preset
from stableavatar.sampling.scales import parse_scale
from stableavatar.sampling.settings import Sampling

LEAST = {"seed": 0, "num_steps": 1, "overlap": 0, "window_latents": 2}
LOUDNESS = (-70.0, -5.0)  # LUFS


def with_defaults(values: Mapping[str, Any], preset: Preset) -> dict[str, Any]:
    """The values, with the preset's where there is none."""
    defaults = {name: getattr(preset, name) for name in CHOICES if values.get(name) is None}
    return {**values, **defaults}


def check_settings(values: Mapping[str, Any], preset: Preset) -> None:
    """Look whether complete settings fit the preset and each other.

    Raises:
        BadInput: they do not; the message says what to choose instead.
    """
    size = (values["width"], values["height"])
    if size != (None, None) and size not in preset.sizes:
        sizes = ", ".join(f"{width}x{height}" for width, height in preset.sizes)
        raise BadInput(
            f"size {size[0]}x{size[1]} is not one that `{preset.name}` can make. Use one of {sizes}, "
            "or leave width and height empty."
        )
    for name, least in LEAST.items():
        if not isinstance(values[name], int) or values[name] < least:
            raise BadInput(f"{name} is {values[name]!r}. Give a whole number from {least}.")
    if values["overlap"] >= values["window_latents"]:
        raise BadInput(
            f"overlap is {values['overlap']} latent frames, but a window has {values['window_latents']}. "
            f"Use at most {values['window_latents'] - 1}."
        )
    loudness = values["loudness"]
    if loudness is not None and not (isinstance(loudness, int | float) and LOUDNESS[0] <= loudness <= LOUDNESS[1]):
        raise BadInput(f"loudness is {loudness!r}. Give LUFS from {LOUDNESS[0]:g} to {LOUDNESS[1]:g}, such as -16.")
    try:
        sampling_arguments(values)
        parse_loras(values["lora"])
    except ValueError as error:
        raise BadInput(f"{error}.") from error


def sampling_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a `VideoRequest` that say how it is sampled, from complete settings.

    Raises:
        ValueError: there is no such choice, or a schedule cannot be read.
    """
    scales = {f"{kind}_scale": values[f"{kind}_schedule"] or values[f"{kind}_scale"] for kind in ("text", "audio")}
    for scale in scales.values():
        parse_scale(scale)
    names = ("mode", "blend", "scheduler", "guidance", "window_latents")
    same = {name: values[name] for name in ("seed", "num_steps", "overlap")}
    return {**same, **scales, "sampling": Sampling(**{name: values[name] for name in names})}
