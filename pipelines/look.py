"""How the videos of a run look where its rows say nothing: a model, and the values that stand in for its own."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from pipelines import storage
from pipelines.values import absolute_loras, one_of, parse_argument, typed_settings
from stableavatar.checkpoints.layout import VARIANTS
from stableavatar.choices import BACKENDS, MODES
from stableavatar.presets import PRESETS, Preset, find_preset

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Look:
    """Those of the arguments of `pipelines.render`, which says what each of them is."""

    model: str | Preset = "tiny"
    weights: str = VARIANTS[0]
    settings: Mapping[str, Any] = field(default_factory=dict)
    lora: str = ""
    memory: str = AUTO
    attention: str = AUTO

    @classmethod
    def of(cls, **arguments: Any) -> Self:
        """From arguments of `render`, checked, with files named from the root. Further ones are passed over.

        Raises BadInput for a value that is none.
        """
        look = cls(**{field.name: arguments[field.name] for field in fields(cls) if field.name in arguments})
        for name, value, known in (("memory", look.memory, MODES), ("attention", look.attention, BACKENDS)):
            if value != AUTO:
                parse_argument(name, one_of(known), value)
        lora = absolute_loras(look.lora) if look.lora else ""  # which loads torch
        return replace(look, settings=typed_settings(look.settings or {}), lora=lora)

    def preset(self) -> Preset:
        """The preset of the run. A folder of weights is looked at before anything else happens.

        Raises WeightsError if there is no such model or its files are damaged.
        """
        from stableavatar.checkpoints.inspect import verify_folder  # which loads torch

        preset = self.model if isinstance(self.model, Preset) else find_preset(self.model, self.weights)
        verify_folder(preset)
        chosen = dict(self.settings)
        chosen |= {name: value for name in ("memory", "attention") if (value := getattr(self, name)) != AUTO}
        return replace(preset, **chosen | ({"lora": self.lora} if self.lora else {}))

    def to_note(self) -> dict[str, Any]:
        """The same as JSON can hold it, to be used again from another folder. {} if the preset is somebody's own."""
        if isinstance(self.model, Preset):
            return {}
        return asdict(self) | {"model": self.model if self.model in PRESETS else storage.absolute(self.model)}
