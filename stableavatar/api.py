"""One video by one call: the code that the actors of a cluster run, in one process."""

import os
import tempfile
from functools import cached_property
from typing import Any

import torch

from stableavatar.audio.decode import decode_speech, encode_sound, measure_sound
from stableavatar.audio.span import Span
from stableavatar.avatar import Avatar
from stableavatar.errors import BadInput
from stableavatar.model.conditions import TextEncoder
from stableavatar.model.lora import parse_loras
from stableavatar.presets import Preset
from stableavatar.request import VideoReport, VideoRequest
from stableavatar.settings import CHOICES, check_settings, sampling_arguments, with_defaults
from stableavatar.units import FPS, frames_in
from stableavatar.video.portrait import check_portrait, choose_size, load_portrait
from stableavatar.video.quality import check_contract, measure_video


class StableAvatar:
    """A loaded model. The text encoder, the largest network, waits in host memory and is loaded when first needed."""

    def __init__(self, preset: Preset, *, device: str | None = None) -> None:
        self.preset = preset
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.avatar = Avatar.load(preset, self.device)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """The text encoder."""
        return TextEncoder.load(self.preset, "cpu")

    def generate(
        self,
        portrait: str,
        audio: str,
        output: str,
        *,
        width: int | None = None,
        height: int | None = None,
        start_s: float = 0.0,
        end_s: float | None = None,
        audio_stream: str | int = "",
        pad_before_s: float = 0.0,
        pad_after_s: float = 0.0,
        **choices: Any,
    ) -> VideoReport:
        """Make one talking video.

        Args:
            portrait: picture file.
            audio: sound file, or a video whose sound is used.
            output: the mp4 to write; it appears when it is complete.
            width: pixels, together with `height` one of the preset's sizes; by default chosen from the portrait.
            height: pixels.
            start_s: where to start in the sound.
            end_s: where to stop; by default its end.
            audio_stream: which sound of a file that has several: its number, from 0, or its language.
            pad_before_s: seconds of silence before the sound.
            pad_after_s: seconds of silence after it.
            choices: `prompt`, `seed`, `num_steps`, ...: see `stableavatar.settings.CHOICES`.

        Raises:
            TypeError: there is no such choice.
            BadInput: a file or a value cannot be used.
            OutOfMemory, BrokenVideo: as `Avatar.generate`.
        """
        unknown = choices.keys() - set(CHOICES)
        if unknown:
            raise TypeError(f"generate() has no {', '.join(sorted(unknown))}; there is: {', '.join(CHOICES)}")
        settings = with_defaults({**choices, "width": width, "height": height}, self.preset)
        check_settings(settings, self.preset)
        size = (width, height) if width and height else choose_size(check_portrait(portrait), self.preset.sizes)
        silence = {"pad_before_s": pad_before_s, "pad_after_s": pad_after_s}
        span = Span(start_s=start_s, end_s=end_s, stream=str(audio_stream), **silence)
        num_frames = frames_in(measure_sound(audio, span).duration_s)
        if num_frames == 0:
            raise BadInput(f"{audio} is shorter than one video frame ({1 / FPS} s). Give a longer sound or span.")
        with tempfile.TemporaryDirectory(prefix=".stableavatar-", dir=os.path.dirname(output) or ".") as folder:
            sound, video = os.path.join(folder, "sound.m4a"), os.path.join(folder, "video.mp4")
            encode_sound(audio, sound, span, duration_s=num_frames / FPS, loudness=settings["loudness"])
            request = VideoRequest(
                portrait_HWC=load_portrait(portrait, *size),
                speech=decode_speech(audio, span),
                sound_path=sound,
                num_frames=num_frames,
                width=size[0],
                height=size[1],
                prompt_embeds=self.text_encoder.encode(settings["prompt"]),
                negative_prompt_embeds=self.text_encoder.encode(settings["negative_prompt"]),
                loras=tuple((self.avatar.read_lora(path), weight) for path, weight in parse_loras(settings["lora"])),
                **sampling_arguments(settings),
            )
            report = self.avatar.generate(request, video)
            check_contract(measure_video(video), num_frames=num_frames, width=size[0], height=size[1])
            os.replace(video, output)
        return report
