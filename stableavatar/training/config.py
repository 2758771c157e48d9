"""What a training run is: everything that decides its loss curve, and where its results go.

A run is described by a YAML file whose keys are the fields here; `preset` names one of `stableavatar.training.presets`
to start from.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stableavatar.errors import BadInput

TASKS = ("avatar", "vae", "audio")
STARTS = ("weights", "base", "nothing")
LORA_LR = 1e-4  # what is published for it


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is trained on."""

    clips: tuple[str, ...] = ()  # roots of the published layout, lists of clip folders, or folders of shards; or URIs
    encoded: tuple[str, ...] = ()  # folders of Parquet that `stableavatar encode-data` has written, in place of `clips`
    num_latents: int = 21  # latent frames of a window; 21 are 81 video frames
    sizes: tuple[tuple[int, int], ...] = ()  # (width, height) of the buckets; none: the model's, and of `encoded` all
    num_loaders: int = 2  # Ray actors that read and encode clips for each worker
    loader_gpus: float = 0.1  # part of a GPU that each of them takes where workers use GPUs; the worker takes the rest
    missing_masks: str = "skip"  # a clip without masks is left out; "ones": its masks cover everything
    held_out: tuple[str, ...] = ()  # clips or encoded folders that are never trained on: the loss on them is shown


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How errors are weighted: shares of the steps, and the part of the motion term."""

    whole: float = 0.4  # of the steps: 1 + face + lip
    face: float = 0.1  # of the steps: face only
    lip: float = 0.5  # of the steps: lip only
    motion: float = 0.25  # part of the error of the differences between neighbours
    motion_axis: str = "frames"  # "reference": along channels, as the published code
    normalise: bool = False  # divide by the mean weight, so that a small mask does not make a small step


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is hidden from the model, as shares of the samples or steps."""

    silence: float = 0.1  # of the samples: no audio
    silence_as: str = "context"  # what sampling takes for silence; "reference": zeros before the adapter
    clip_level: float = 0.3  # of the steps: every frame attends to the whole window's audio


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """AdamW, its schedule and its clipping."""

    lr: float = 2e-5  # of a file with `lora`: LORA_LR
    weight_decay: float = 3e-2
    eps: float = 1e-10
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 100
    schedule: str = "constant"  # or "cosine": falls to a hundredth at the last step
    max_norm: float = 0.05  # of the gradient
    start_ratio: float = 5.0  # the limit starts this many times higher
    start_steps: int = 1000  # and falls linearly for this long; after that a jump is clipped harder
    jump_ratio: float = 5.0  # a norm above this many limits is a jump
    max_harder: float = 10.0
    ema_decay: float = 0.0  # of the average of the weights that is saved; 0: none


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters on the trunk's linear layers; the vocal tensors are trained in full beside them."""

    rank: int = 128
    alpha: float = 64.0


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who computes."""

    num_workers: int = 1
    use_gpu: bool = True
    cpus_per_worker: int = 1
    sharding: str = "ddp"  # or "fsdp": parameters, gradients and optimizer state split over the workers
    precision: str = "bf16"  # of the arithmetic; parameters are float32. Or "fp32"
    gradient_checkpointing: bool = True
    max_failures: int = 8  # of workers, in one run


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Videos that are made during training, with their metrics."""

    every: int = 500  # steps; 0: never
    manifest: str = ""  # rows to render
    num_steps: int = 0  # of the sampler; 0: the preset's


@dataclass(frozen=True, kw_only=True)
class VaeOptions:
    """Of `task: vae`: the crops that it learns from, and how its errors are weighted."""

    # (frames, 4n + 1 of them; pixels of a crop's side). Each batch is of one: large and short, or small and long.
    windows: tuple[tuple[int, int], ...] = ((1, 96), (5, 64), (9, 48), (17, 48))
    first_windows: tuple[tuple[int, int], ...] = ((1, 96),)  # pictures alone are learned much sooner
    num_first: int = 0  # batches that are of `first_windows`
    kl: float = 1e-6  # weight of the Kullback-Leibler term
    lip: float = 4.0  # of the lips' pixels, above that of all others
    squares: float = 2.0  # of the squared error
    edges: float = 0.5  # of that of the differences between neighbours

    def __post_init__(self) -> None:
        for name, windows in (("windows", self.windows), ("first_windows", self.first_windows)):
            if not windows or any(num_frames % 4 != 1 or size < 1 for num_frames, size in windows):
                raise BadInput(f"vae.{name} is {windows}; it must hold pairs of frames (1, 5, 9, ...) and pixels")


@dataclass(frozen=True, kw_only=True)
class AudioOptions:
    """Of `task: audio`: how long the sound is that is heard at once, and what is done to it."""

    num_frames: int = 81  # video frames of a window
    noise: float = 0.5  # share of the samples with noise
    speed: float = 0.15  # a sample is played up to so much faster or slower: its voice is another one then
    tone: float = 0.6  # and so much darker or brighter


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A whole run."""

    name: str
    task: str = "avatar"
    model: str  # preset or folder: the sizes, the frozen networks, and weights to start from
    weights: str = "square"  # which of a published folder's transformers
    start: str = "weights"  # those of `model`; "base": plain Wan of its folder; "nothing": drawn from the seed
    train: str = "published"  # which tensors: "published" (blocks and adapter) or "all"
    output: str = ""  # folder or URI of the run: checkpoints, curves, videos, and in the end the model

    num_steps: int = 20_000
    batch_size: int = 1  # samples of a worker
    accumulate: int = 1  # batches of a worker before each step of the optimizer
    seed: int = 42
    shift: float = 5.0  # of the flow-matching schedule

    data: Data = field(default_factory=Data)
    loss: Loss = field(default_factory=Loss)
    augment: Augment = field(default_factory=Augment)
    optimiser: Optimiser = field(default_factory=Optimiser)
    lora: LoraSettings | None = None
    workers: Workers = field(default_factory=Workers)
    validation: Validation = field(default_factory=Validation)

    checkpoint_every: int = 2000  # steps
    checkpoint_minutes: float = 0.0  # also after so many minutes; 0: by steps alone
    keep_checkpoints: int = 2
    save_as: str = "bf16"  # number type of the model's file
    log_every: int = 10

    vae: VaeOptions = field(default_factory=VaeOptions)  # where that is the task
    audio: AudioOptions = field(default_factory=AudioOptions)  # the same

    def __post_init__(self) -> None:
        for name, value, known in (
            ("task", self.task, TASKS),
            ("start", self.start, STARTS),
            ("train", self.train, ("published", "all")),
            ("workers.sharding", self.workers.sharding, ("ddp", "fsdp")),
            ("workers.precision", self.workers.precision, ("bf16", "fp32")),
            ("save_as", self.save_as, ("bf16", "fp16", "fp32")),
            ("loss.motion_axis", self.loss.motion_axis, ("frames", "reference")),
            ("augment.silence_as", self.augment.silence_as, ("context", "reference")),
            ("optimiser.schedule", self.optimiser.schedule, ("constant", "cosine")),
        ):
            if value not in known:
                raise BadInput(f"{name} is {value!r}; there is: {', '.join(known)}")
        for name in ("num_steps", "batch_size", "accumulate", "checkpoint_every", "keep_checkpoints", "log_every"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("silence", "clip_level"):
            if not 0 <= (share := getattr(self.augment, name)) <= 1:
                raise BadInput(f"augment.{name} is {share}; it is a share, from 0 to 1")
        if self.task != "avatar":
            self._require_small()
        if not (self.data.clips or self.data.encoded):
            raise BadInput("nothing to train on: give data.clips or data.encoded")

    def _require_small(self) -> None:
        """What only the transformer can have."""
        for name, wrong in (
            ("start: base", self.start == "base"),
            ("lora", self.lora is not None),
            ("workers.sharding: fsdp", self.workers.sharding == "fsdp"),
        ):
            if wrong:
                raise BadInput(f"`{name}` is for task: avatar alone, and the task is {self.task!r}: leave it out")


def read_config(path: str | Path, presets: Mapping[str, Mapping[str, Any]]) -> TrainingConfig:
    """Read the YAML file of a run.

    Args:
        path: the file.
        presets: values to start from, by the name that the file may give as `preset`.

    Raises:
        BadInput: the file is missing, or says what no run understands. The message names the file and the key.
    """
    try:
        values = yaml.safe_load(Path(path).read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path} is not a list of `key: value`")
    preset = values.pop("preset", None)
    if preset is not None and preset not in presets:
        raise BadInput(f"{path}: there is no preset {preset!r}; there is: {', '.join(presets)}")
    merged = _merged(presets[preset] if preset else {}, {"name": Path(path).stem} | values)
    if merged.get("lora") is not None:
        merged = _merged({"optimiser": {"lr": LORA_LR}}, merged)
    try:
        return _build(TrainingConfig, merged, "")
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(under)
    for key, value in over.items():
        inner = both.get(key)
        both[key] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return both


def _build(cls: Any, values: Any, where: str) -> Any:
    """A dataclass from the values of a YAML file, every key and type checked."""
    if not isinstance(values, Mapping):
        raise BadInput(f"{where.rstrip('.')} is {values!r}; it must hold keys: {', '.join(typing.get_type_hints(cls))}")
    kinds = typing.get_type_hints(cls)
    if unknown := sorted(values.keys() - kinds.keys()):
        raise BadInput(f"unknown key {where}{unknown[0]}; there is: {', '.join(kinds)}")
    given = {key: _value(kinds[key], value, where + key) for key, value in values.items()}
    needed = [item.name for item in dataclasses.fields(cls) if _is_required(item)]
    if missing := [name for name in needed if name not in given]:
        raise BadInput(f"{where}{missing[0]} is missing")
    return cls(**given)


def _is_required(item: dataclasses.Field) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _value(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is types.UnionType:  # something or None
        return None if value is None else _value(typing.get_args(kind)[0], value, where)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where + ".")
    if origin is tuple:
        inner = typing.get_args(kind)
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list | tuple) and (inner[-1] is Ellipsis or len(values) == len(inner)):
            return tuple(_value(inner[0], item, f"{where}[{index}]") for index, item in enumerate(values))
    elif kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML takes 1e-4 for a word
        except ValueError:
            pass
    elif origin is not None or (isinstance(value, kind) and (kind is bool) == isinstance(value, bool)):
        return dict(value) if isinstance(value, Mapping) else value
    raise BadInput(f"{where} is {value!r}, which is no {getattr(kind, '__name__', kind)}")


def as_values(config: TrainingConfig) -> dict[str, Any]:
    """The run as plain values, to be written down beside its results."""
    return dataclasses.asdict(config)
