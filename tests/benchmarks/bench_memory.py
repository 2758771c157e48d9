"""Peak memory of a short and a long video with `tiny`, each in a process of its own.

python -m tests.benchmarks.bench_memory
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from stableavatar.audio.decode import decode_speech, encode_sound
from stableavatar.avatar import Avatar
from stableavatar.model.conditions import TextEncoder
from stableavatar.presets import tiny
from stableavatar.request import VideoRequest
from stableavatar.units import frames_in, latents_for
from tests.media import write_tone

STEPS = 1
# Give freed memory back at once: what glibc happens to keep differs by a tenth from run to run.
STEADY_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def render(duration_s: float, size: int) -> None:
    """Make one video of a tone, and print this process' peak memory in bytes."""
    preset = tiny()
    prompt = TextEncoder.load(preset, "cpu").encode(preset.prompt)
    with tempfile.TemporaryDirectory() as folder:
        source, sound = Path(folder, "tone.wav"), Path(folder, "tone.m4a")
        write_tone(source, duration_s=duration_s)
        encode_sound(str(source), str(sound), duration_s=duration_s)
        request = VideoRequest(
            portrait_HWC=np.zeros((size, size, 3), np.uint8),
            speech=decode_speech(str(source)),
            sound_path=str(sound),
            num_frames=frames_in(duration_s),
            width=size,
            height=size,
            seed=0,
            num_steps=STEPS,
            text_scale=preset.text_scale,
            audio_scale=preset.audio_scale,
            overlap=preset.overlap,
            prompt_embeds=prompt,
            negative_prompt_embeds=prompt,
        )
        Avatar.load(preset, "cpu").generate(request, str(Path(folder, "video.mp4")))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def peak_of(duration_s: float, size: int) -> int:
    """Peak memory in bytes of a new process that makes a video of `duration_s` seconds."""
    command = [sys.executable, "-m", __spec__.name, "--render", str(duration_s), "--size", str(size)]
    environment = {**os.environ, **STEADY_ALLOCATOR}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def main() -> None:
    """Measure both lengths side by side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, nargs=2, default=(10.0, 100.0), metavar=("SHORT", "LONG"))
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--render", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.render:
        render(args.render, args.size)
        return
    short, long = (peak_of(seconds, args.size) for seconds in args.seconds)
    print(f"{args.seconds[0]:g} s: {short / 2**20:.0f} MiB  {args.seconds[1]:g} s: {long / 2**20:.0f} MiB")
    latents = latents_for(frames_in(args.seconds[1])) - latents_for(frames_in(args.seconds[0]))
    print(f"ratio {long / short:.3f}, {(long - short) / latents / 1024:.2f} KiB for each latent frame more")


if __name__ == "__main__":
    main()
