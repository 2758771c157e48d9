"""The encoders of what steers the video: text (umT5), portrait (CLIP) and speech (wav2vec2), all from transformers.

Shapes: B batch, T text tokens, I image tokens, A audio tokens, E the encoder's own width.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    ByT5Tokenizer,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    UMT5EncoderModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from stableavatar.checkpoints.tensorfile import open_tensors
from stableavatar.errors import WeightsError
from stableavatar.model.networks import AUDIO, IMAGE, TEXT
from stableavatar.model.weights import load_network
from stableavatar.presets import Preset, PublishedWeights, RandomWeights
from stableavatar.reproducible import reproducible
from stableavatar.units import SPEECH_RATE

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CPU_THREADS = 4  # of the text encoder, the largest network


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """Prompts to text embeddings. It is far larger than the rest of the model, so it lives apart from it."""

    tokenizer: PreTrainedTokenizerBase
    network: UMT5EncoderModel
    max_tokens: int

    @classmethod
    def load(cls, preset: Preset, device: str) -> Self:
        """Load the encoder of a preset. It keeps its file's number type: the published one has 11 GB in bfloat16.

        Raises:
            WeightsError: its files are missing or damaged.
        """
        network = load_network(TEXT, preset, device, dtype=None)
        return cls(tokenizer=text_tokenizer(preset), network=network, max_tokens=preset.max_text_tokens)

    @torch.inference_mode()
    def encode(self, prompt: str) -> np.ndarray:
        """Embed one prompt: float32 [T, E], T at most `max_tokens`."""
        tokens = self.tokenizer(prompt, max_length=self.max_tokens, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.network.device)
        with reproducible(CPU_THREADS):
            embeds = embed_text(self.network, tokens.input_ids, tokens.attention_mask)[0]
        return embeds.float().cpu().numpy()


def text_tokenizer(preset: Preset) -> PreTrainedTokenizerBase:
    """The tokenizer of a preset; that of random weights is byte-level and needs no files.

    Raises:
        WeightsError: its files are missing or damaged.
    """
    weights = preset.weights_of("tokenizer")
    if isinstance(weights, RandomWeights):
        return ByT5Tokenizer()
    assert isinstance(weights, PublishedWeights)  # training leaves no tokenizer
    layout = weights.layout
    folder = layout.folder / layout.tokenizer
    if not (folder / "tokenizer.json").exists():
        raise WeightsError(f"{folder}/tokenizer.json is missing. `stableavatar download` fetches it.")
    try:
        # Not AutoTokenizer: it would build a T5 tokenizer, whose unknown token has another number than umT5's, and
        # which leaves out the file's own way of tidying up the text.
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever its parsers raise on a damaged file
        raise WeightsError(f"the tokenizer in {folder} cannot be read: {error}. Fetch it again.") from error


def embed_text(network: UMT5EncoderModel, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> list[Tensor]:
    """Text embeddings of each prompt without the padded tail, each [T, E]."""
    hidden = network(input_ids_BT, attention_mask=attention_mask_BT).last_hidden_state
    return [embeds[: int(mask.sum())] for embeds, mask in zip(hidden, attention_mask_BT, strict=True)]


def image_network(preset: Preset, device: str = "cpu", dtype: torch.dtype | None = torch.float32) -> CLIPVisionModel:
    """The image encoder of a preset."""
    return load_network(IMAGE, preset, device, dtype)


def resize_for_clip(images_BCHW: Tensor, size: int) -> Tensor:
    """Images in [-1, 1], already at the video's size, to the square that CLIP looks at: [B, 3, size, size]."""
    images = F.interpolate(images_BCHW, (size, size), mode="bicubic", align_corners=False)
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (images / 2 + 0.5 - mean) / std


def embed_image(network: CLIPVisionModel, images_BCHW: Tensor) -> Tensor:
    """CLIP tokens of images in [-1, 1]: the second to last hidden state, [B, I, E]."""
    pixels = resize_for_clip(images_BCHW.float(), network.config.image_size)
    return network(pixels.to(network.dtype), output_hidden_states=True).hidden_states[-2]


def audio_network(preset: Preset, device: str = "cpu") -> Wav2Vec2Model:
    """The audio encoder of a preset, in float32.

    Raises:
        WeightsError: its folder is missing or damaged, or holds another network.
    """
    weights = preset.weights_of(AUDIO.part)
    if not isinstance(weights, PublishedWeights):
        return load_network(AUDIO, preset, device, torch.float32)
    layout = weights.layout
    folder = layout.folder / layout.audio
    open_tensors(layout.folder / layout.audio_weights())  # its errors are clearer
    try:
        network, report = Wav2Vec2Model.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{folder} does not hold a wav2vec2 network: {error}. Fetch it again.") from error
    missing = set(report["missing_keys"]) - {"masked_spec_embed"}  # for training only, and not published
    unknown = {name for name in report["unexpected_keys"] if not name.startswith("lm_head.")}
    if missing or unknown:
        raise WeightsError(
            f"{folder} does not hold the audio encoder: missing {sorted(missing)}, unknown {sorted(unknown)}. "
            f"Fetch it again."
        )
    return network.eval().requires_grad_(False).to(device)


_normalise = Wav2Vec2FeatureExtractor(sampling_rate=SPEECH_RATE, do_normalize=True)
# A window of a sound at -23 LUFS that is fainter than this is a pause: it lies 47 dB below the speech. Someone far from
# the microphone is 20 to 40 dB below who is near, and must move the lips; the rounding of 16 bits (-98 dBFS) and the
# noise of a clean recording lie lower still. A noise between them is taken for speech: lips that move in a pause are a
# lesser fault than a mouth that stays shut.
PAUSE_RMS = 10 ** (-70 / 20)


def embed_speech(network: Wav2Vec2Model, speech: np.ndarray, least_rms: float = 0.0) -> Tensor:
    """Audio tokens of one window of 16 kHz mono speech, float32 [samples] -> [1, A, E], about 50 a second.

    Each window is brought to zero mean and unit variance by itself. One that is quieter than `least_rms` is silence:
    the faint noise of a pause would come out as loud as speech. To make it quieter would not help, for the network's
    first layer brings its own output to unit variance once more.
    """
    samples = _normalise(speech, sampling_rate=SPEECH_RATE, return_tensors="pt").input_values
    if speech.std() < least_rms:
        samples = torch.zeros_like(samples)
    return network(samples.to(device=network.device, dtype=network.dtype)).last_hidden_state
