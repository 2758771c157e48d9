"""Presets: everything that is the same for all videos of a run. A preset is a function that returns a complete one."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stableavatar.checkpoints.layout import VARIANTS, Layout, recognise
from stableavatar.errors import WeightsError


@dataclass(frozen=True, kw_only=True)
class RandomWeights:
    """Weights drawn from a seed: right in shape, meaningless in content."""

    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """Weights in a folder laid out as the authors publish it."""

    folder: str  # absolute
    size: str  # "1.3B" or "14B": the name that the files carry
    transformer: str = "square"  # which of the transformer's weights: one of `layout.VARIANTS`

    @property
    def layout(self) -> Layout:
        """Where the files lie."""
        return Layout(folder=Path(self.folder), size=self.size)


@dataclass(frozen=True, kw_only=True)
class SavedWeights:
    """Weights in files of our own, under the networks' own names, as training leaves them.

    A part without a file has the weights of `base`.
    """

    files: Mapping[str, str]  # part of the model -> absolute path
    base: RandomWeights | PublishedWeights = RandomWeights()


Weights = RandomWeights | PublishedWeights | SavedWeights


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model and the values its rows fall back on.

    `transformer`, `vae`, `text`, `image` and `audio` are the keyword arguments of the networks' own configurations.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]  # (width, height) in pixels the model was made for

    transformer: Mapping[str, Any] = field(repr=False)
    vae: Mapping[str, Any] = field(repr=False)
    text: Mapping[str, Any] = field(repr=False)
    image: Mapping[str, Any] = field(repr=False)
    audio: Mapping[str, Any] = field(repr=False)
    max_text_tokens: int = 512
    weights: Weights

    window_latents: int = 21  # 81 video frames
    overlap: int = 5  # latent frames that neighbouring windows share
    num_steps: int = 50
    shift: float = 5.0  # of the flow-matching schedule
    text_scale: float = 3.0
    audio_scale: float = 5.0
    text_schedule: str = ""  # scales that change from step to step, see `sampling.scales`; they take the scale's place
    audio_schedule: str = ""
    mode: str = "aligned"  # how videos are sampled, see `sampling.settings.Sampling`
    blend: str = "uniform"
    scheduler: str = "euler"
    guidance: str = "separate"
    lora: str = ""  # files with weights, see `model.lora.parse_loras`
    loudness: float | None = None  # LUFS of the sound track; None: as it is
    seed: int = 42
    prompt: str = "A person is talking to the camera."
    negative_prompt: str = "blurry, distorted, static, worst quality"

    memory: str = "auto"  # where the networks live while they work, see `model.memory`
    attention: str = "auto"  # kernel, see `model.attention`

    def weights_of(self, part: str) -> RandomWeights | PublishedWeights | Path:
        """Where the weights of one part of the model come from; the path of a file of our own."""
        if not isinstance(self.weights, SavedWeights):
            return self.weights
        return Path(self.weights.files[part]) if part in self.weights.files else self.weights.base


def tiny() -> Preset:
    """The true architecture with small sizes and seeded random weights: every part of the path, in seconds, on a CPU.

    Its pictures are noise.
    """
    width, text_width, image_width, audio_width = 48, 32, 40, 24
    return Preset(
        name="tiny",
        sizes=((128, 128), (96, 160), (160, 96)),
        transformer=dict(
            num_attention_heads=4,
            attention_head_dim=width // 4,
            num_layers=2,
            ffn_dim=96,
            freq_dim=32,
            text_dim=text_width,
            image_dim=image_width,
            audio_dims=(audio_width, width),
        ),
        vae=dict(base_dim=4, num_res_blocks=1),
        text=dict(
            vocab_size=384,
            d_model=text_width,
            d_kv=8,
            d_ff=48,
            num_heads=4,
            num_layers=2,
            feed_forward_proj="gated-gelu",
        ),
        image=dict(
            hidden_size=image_width,
            intermediate_size=80,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
            hidden_act="gelu",
        ),
        audio=dict(
            hidden_size=audio_width,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            conv_dim=(16,) * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
        ),
        max_text_tokens=64,
        weights=RandomWeights(seed=0),
        num_steps=2,
    )


MINI = Path(__file__).parent / "mini"  # the folder of its weights, and of how they were made


def mini() -> Preset:
    """The small model that comes with the code: drawn heads of 96x96 pixels that speak, on a CPU.

    Trained from nothing by `stableavatar train`, on what `stableavatar draw-data` draws: `mini/README.md` has the
    commands, the seeds and the curves.
    """
    return saved(MINI)


PRESETS: dict[str, Callable[[], Preset]] = {"mini": mini, "tiny": tiny}

# The transformers of the two published sizes. Everything that is not named here is the same for both.
_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "1.3B": dict(num_attention_heads=12, num_layers=30, ffn_dim=8960, audio_dims=(768, 1536)),
    "14B": dict(num_attention_heads=40, num_layers=40, ffn_dim=13_824, audio_dims=(768, 2048, 5120)),
}


def published(folder: str | Path, transformer: str = "square", *, base_only: bool = False) -> Preset:
    """The published model in a folder, 1.3B or 14B by what lies there.

    Args:
        folder: the folder, or its subfolder `StableAvatar-14B` to choose from a folder of both sizes.
        transformer: "square" or "rec-vec", the videos that the weights were trained on. Both make all three sizes.
        base_only: StableAvatar's own weights need not be there, as for a training that begins without them.

    Raises:
        WeightsError: the folder holds no model, more than one, or not these weights.
    """
    layout = recognise(folder)
    if not base_only and transformer not in layout.variants():
        raise WeightsError(
            f"{layout.folder / layout.tensors('transformer', transformer)} is missing. Weights that are there: "
            f"{', '.join(layout.variants()) or 'none'}. Choose with --weights, or fetch the file."
        )
    weights = PublishedWeights(folder=str(layout.folder), size=layout.size, transformer=transformer)
    return published_sizes(weights, audio=_audio_sizes(layout))


def published_sizes(weights: PublishedWeights, audio: Mapping[str, Any]) -> Preset:
    """The preset of a published size. `audio` is the configuration of the audio encoder."""
    return Preset(
        name=f"stableavatar-{weights.size.lower()}-{weights.transformer}",
        sizes=((512, 512), (480, 832), (832, 480)),
        transformer=_TRANSFORMERS[weights.size],
        vae={},  # diffusers' defaults are the published sizes
        text=dict(
            vocab_size=256_384,
            d_model=4096,
            d_kv=64,
            d_ff=10_240,
            num_heads=64,
            num_layers=24,
            feed_forward_proj="gated-gelu",
        ),
        image=dict(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
            hidden_act="gelu",
        ),
        audio=audio,
        weights=weights,
    )


def _audio_sizes(layout: Layout) -> dict[str, Any]:
    path = layout.folder / layout.audio / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing. `stableavatar download` fetches it.") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}. Fetch it again.") from error


MODEL_FILE = "model.json"  # says what lies in a folder of saved weights
_WEIGHTS_KINDS = {"random": RandomWeights, "published": PublishedWeights}


def is_saved(folder: str | Path) -> bool:
    """Whether a folder holds a model that training has left."""
    return (Path(folder).expanduser() / MODEL_FILE).is_file()


def saved(folder: str | Path) -> Preset:
    """The model in a folder that training has left (see `save_model_file`).

    Raises:
        WeightsError: its description is missing or damaged, or a file that it names is not there.
    """
    folder = Path(folder).expanduser().absolute()
    path = folder / MODEL_FILE
    try:
        values = json.loads(path.read_text())
        files = {part: str(folder / name) for part, name in values.pop("files").items()}
        base = values.pop("base")
        lora = str(folder / values["lora"]) if values["lora"] else ""
        weights = SavedWeights(files=files, base=_WEIGHTS_KINDS[base.pop("kind")](**base))
        preset = Preset(**values | {"sizes": tuple(map(tuple, values["sizes"])), "weights": weights, "lora": lora})
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing: {folder} holds no trained model.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} does not describe a trained model: {error!r}. Copy the folder again.") from error
    if missing := [name for name in (*files.values(), *filter(None, [lora])) if not os.path.exists(name)]:
        raise WeightsError(f"{path} names {', '.join(missing)}, which is not there. Copy the whole folder.")
    return preset


def save_model_file(preset: Preset, folder: Path, files: Mapping[str, str]) -> None:
    """Describe a model in `folder`, so that `saved` finds it.

    Args:
        preset: its sizes and values, `lora` as the name of a file in the folder; of its weights only those that every
            part without a file falls back on.
        folder: where the files lie.
        files: name of the file of each part.
    """
    weights = preset.weights.base if isinstance(preset.weights, SavedWeights) else preset.weights
    kind = next(name for name, cls in _WEIGHTS_KINDS.items() if isinstance(weights, cls))
    values = {item.name: getattr(preset, item.name) for item in fields(preset) if item.name != "weights"}
    described = values | {"files": dict(files), "base": {"kind": kind, **asdict(weights)}}
    (folder / MODEL_FILE).write_text(json.dumps(described, indent=1) + "\n")


def find_preset(model: str, transformer: str = "square", *, base_only: bool = False) -> Preset:
    """The preset of that name, or of the folder of published or saved weights at that path.

    `base_only`: see `published`.

    Raises:
        WeightsError: there is neither, or the folder cannot be used.
    """
    if model in PRESETS:
        return PRESETS[model]()
    if "://" in model:
        raise WeightsError(f"{model} is a URI, and weights are read from a disk: copy the folder to every node first.")
    if transformer not in VARIANTS:
        raise WeightsError(f"there are no weights {transformer!r}; there is: {', '.join(VARIANTS)}.")
    if is_saved(model):
        return saved(model)
    if os.path.exists(os.path.expanduser(model)) or os.sep in model:
        return published(model, transformer, base_only=base_only)
    raise WeightsError(
        f"there is no model {model!r}: neither a preset ({', '.join(PRESETS)}) nor a folder of published weights. "
        f"`stableavatar download 1.3b` makes such a folder."
    )
