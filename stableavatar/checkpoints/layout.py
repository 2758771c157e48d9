"""Where the parts of the model lie in a folder of published weights.

The folder is laid out as the authors publish it: `StableAvatar-1.3B/` beside the base model `Wan2.1-Fun-V1.1-1.3B-InP/`
and `wav2vec2-base-960h/`; 14B alike. Every tensor file may have been converted to safetensors beside or in place of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stableavatar.errors import WeightsError

SIZES = ("1.3B", "14B")
VARIANTS = ("square", "rec-vec")  # trained on square, and on wide and tall videos; both make all sizes

VAE = "Wan2.1_VAE.pth"
TEXT = "models_t5_umt5-xxl-enc-bf16.pth"
TRUNK = "diffusion_pytorch_model.safetensors"  # the base model's own transformer, which only trainings begin with
IMAGE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
TOKENIZER = "google/umt5-xxl"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model")
VOCALS = "Kim_Vocal_2.onnx"
AUDIO_CONFIGS = ("config.json", "preprocessor_config.json")
AUDIO_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # one of them, the first is preferred


def avatar_folder(size: str) -> str:
    """Name of the folder of StableAvatar's own weights."""
    return f"StableAvatar-{size}"


def base_folder(size: str) -> str:
    """Name of the folder of the base model's parts."""
    return f"Wan2.1-Fun-V1.1-{size}-InP"


def transformer_file(variant: str) -> str:
    """Name of the transformer's file."""
    return f"transformer3d-{variant}.pt"


AUDIO = "wav2vec2-base-960h"


def with_safetensors(path: Path) -> tuple[Path, Path]:
    """The files that may hold the same tensors, the preferred one first."""
    return path.with_suffix(".safetensors"), path


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The places of one model's files. All paths are relative to `folder`, whether or not they exist."""

    folder: Path
    size: str  # one of SIZES

    @property
    def base(self) -> Path:
        """The base model's folder, under the name it has here."""
        return _named_like(self.folder, base_folder(self.size), f"Wan2.1-Fun*{self.size}*")

    @property
    def audio(self) -> Path:
        """The audio encoder's folder, under the name it has here."""
        return _named_like(self.folder, AUDIO, "wav2vec2-base*")

    @property
    def tokenizer(self) -> Path:
        """The text tokenizer's folder."""
        return self.base / TOKENIZER

    def tensors(self, part: str, variant: str) -> Path:
        """File of the tensors of `part` ("transformer", "vae", "text" or "image"): safetensors where there is one."""
        published = {
            "transformer": Path(avatar_folder(self.size)) / transformer_file(variant),
            "vae": self.base / VAE,
            "text": self.base / TEXT,
            "image": self.base / IMAGE,
        }[part]
        return self._first(with_safetensors(published))

    def audio_weights(self) -> Path:
        """File of the audio encoder's tensors."""
        return self._first([self.audio / name for name in AUDIO_WEIGHTS])

    def tokenizer_files(self) -> list[Path]:
        """The tokenizer's files that are here."""
        paths = [self.tokenizer / name for name in TOKENIZER_FILES]
        return [path for path in paths if (self.folder / path).exists()]

    def variants(self) -> tuple[str, ...]:
        """The transformer weights that are here."""
        return tuple(v for v in VARIANTS if (self.folder / self.tensors("transformer", v)).exists())

    def _first(self, paths: list[Path] | tuple[Path, ...]) -> Path:
        """The first path that exists; if none does, the one that the authors publish."""
        return next((path for path in paths if (self.folder / path).exists()), paths[-1])


def _named_like(folder: Path, name: str, pattern: str) -> Path:
    """The subfolder of that name, otherwise the first one that looks like it."""
    if (folder / name).is_dir():
        return Path(name)
    return next((Path(path.name) for path in sorted(folder.glob(pattern)) if path.is_dir()), Path(name))


def recognise(folder: str | Path) -> Layout:
    """Find out which model a folder holds.

    `folder` may also be the subfolder `StableAvatar-1.3B` or `StableAvatar-14B`, to choose from a folder of both.

    Raises:
        WeightsError: there is no such folder, or no model or more than one in it.
    """
    folder = Path(folder).expanduser().absolute()
    for size in SIZES:
        if folder.name == avatar_folder(size):
            return Layout(folder=folder.parent, size=size)
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder. `stableavatar download 1.3b` fetches the weights into one.")
    found = list(_sizes_in(folder))
    if len(found) > 1:
        choices = " or ".join(str(folder / avatar_folder(size)) for size in found)
        raise WeightsError(f"{folder} holds the models {' and '.join(found)}. Name one: {choices}.")
    if not found:
        looked_for = " or ".join(f"{avatar_folder(size)}/{transformer_file('square')}" for size in SIZES)
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
        raise WeightsError(
            f"{folder} holds no model: looked for {looked_for} (or rec-vec, or .safetensors) and found {there}. "
            f"Give the folder that holds {avatar_folder(SIZES[0])}/ and {base_folder(SIZES[0])}/."
        )
    return Layout(folder=folder, size=found[0])


def _sizes_in(folder: Path) -> Iterator[str]:
    """Sizes whose own weights are there; without any, sizes whose folders are there."""
    complete = [size for size in SIZES if Layout(folder=folder, size=size).variants()]
    yield from complete or [size for size in SIZES if any((folder / name).is_dir() for name in _folders_of(size))]


def _folders_of(size: str) -> tuple[str, str]:
    return avatar_folder(size), base_folder(size)
