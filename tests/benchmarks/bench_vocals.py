"""What vocal separation does with speech over a chord, and the memory and time it takes for long sounds.

python -m tests.benchmarks.bench_vocals

No trained separator lies in this repository. The one here is an oracle: from the clean speech and the chord, which a
real one never sees, it knows the best constant gain of each frequency (a Wiener filter), and its graph only multiplies
by that. So the SDR shows that the way there and back keeps the voice, not how well a trained network finds it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import soundfile
from scipy.signal import resample_poly, stft

from pipelines import scratch
from pipelines.separate import kept_blocks, separate_file
from stableavatar.audio.decode import decode_speech
from stableavatar.audio.separator import HOP, PUBLISHED, read_separator
from stableavatar.audio.vocals import DOWN, UP, VOCALS_RATE, VocalSeparator, vocals_of
from tests.conftest import EXAMPLES
from tests.separators import Dims, write_separator

MIX, CLEAN = EXAMPLES / "speech_en_over_music.flac", EXAMPLES / "speech_en.flac"
(_SIZES,) = PUBLISHED.values()
REAL = Dims(n_fft=_SIZES["mdx_n_fft_scale_set"], dim_f=_SIZES["mdx_dim_f_set"], dim_t=_SIZES["mdx_dim_t_set"])
SMALL = Dims(n_fft=2048, dim_f=1025, dim_t=8)  # the published chunks, but quick


def sdr(found: np.ndarray, clean: np.ndarray) -> float:
    """Decibels of the clean voice, at its level in `found`, over all else."""
    voice = clean * (found @ clean) / (clean @ clean)
    rest = found - voice
    return 10 * float(np.log10((voice @ voice) / (rest @ rest)))


def oracle(mix: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """The best constant gain of each frequency, from both stems: mono at 44.1 kHz, at the level of the mix."""
    voice = clean * (mix @ clean) / (clean @ clean)
    powers = [
        np.mean(np.abs(stft(stem, nperseg=REAL.n_fft, noverlap=REAL.n_fft - HOP)[2]) ** 2, axis=1)
        for stem in (voice, mix - voice)
    ]
    return (powers[0] / (powers[0] + powers[1]))[: REAL.dim_f]


def quality(folder: Path) -> None:
    """Print the SDR before and after."""
    mix = soundfile.read(MIX)[0].mean(axis=1)
    clean = resample_poly(soundfile.read(CLEAN)[0], 147, 160)[: len(mix)]
    mix = mix[: len(clean)]
    separator = VocalSeparator(read_separator(write_separator(folder / "oracle.onnx", oracle(mix, clean), dims=REAL)))
    with vocals_of(separator, str(MIX)) as vocals:
        voice = np.concatenate(list(vocals.whole())).mean(axis=1)[: len(clean)]
    with vocals_of(separator, str(MIX)) as vocals:
        speech = vocals.block(0)
    clean_16 = resample_poly(clean, UP, DOWN)[: len(speech)]
    print("| speech over a chord, oracle gains | SDR before, dB | SDR after, dB |")
    print("|---|---|---|")
    print(f"| 44.1 kHz | {sdr(mix, clean):.1f} | {sdr(voice, clean):.1f} |")
    before = decode_speech(str(MIX))[: len(clean_16)]
    print(f"| as the model hears it, 16 kHz | {sdr(before, clean_16):.1f} | {sdr(speech, clean_16):.1f} |")


def measure(kind: str, source: str, separator: str) -> None:
    """Separate a whole sound, and print what it took as JSON."""
    started, num_blocks = time.perf_counter(), 0
    if kind == "file":
        separate_file(source, f"{source}.voice.wav", separator)
    else:
        loaded = VocalSeparator(read_separator(separator))
        with vocals_of(loaded, source) as vocals:
            for block in kept_blocks(vocals, source, range(10_000)):
                if not len(block):
                    break
                num_blocks += 1
    print(json.dumps([num_blocks, time.perf_counter() - started, peak_mib()]))


def peak_mib() -> float:
    """Peak memory of this program. What getrusage tells would begin with the memory of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def costs(folder: Path, minutes: list[float]) -> None:
    """Print time and peak memory of sounds of these lengths, each in a process of its own.

    They are noise in the first of every ten minutes and silent otherwise: silence is read and written, but the network
    is not asked about it, which is most of the time and none of the memory.
    """
    separator = write_separator(folder / "small" / "mask.onnx", np.ones(SMALL.dim_f), dims=SMALL)
    print("\n| sound | what | blocks | seconds | peak MiB |")
    print("|---|---|---|---|---|")
    for length in minutes:
        source = f"{folder}/{length:g}.flac"
        noise = ffmpeg.input(f"anoisesrc=d={length * 60}:r={VOCALS_RATE}:a=0.1:seed=1", format="lavfi")
        noise = noise.filter("volume", 0, enable="gte(mod(t,600),60)")
        noise.output(source, loglevel="error").run(cmd=imageio_ffmpeg.get_ffmpeg_exe())
        for kind, what in (("blocks", "blocks into the cache"), ("file", "separate-vocals")):
            command = [sys.executable, "-m", __spec__.name, "--measure", kind, source, separator]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            num_blocks, seconds, peak = json.loads(found.splitlines()[-1])
            print(f"| {length:g} min | {what} | {num_blocks or ''} | {seconds:.0f} | {peak:.0f} |", flush=True)


def main() -> None:
    """Quality, then costs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, nargs="*", default=[10.0, 180.0])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(*args.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ[scratch.VARIABLE] = f"{folder}/scratch"
        quality(Path(folder))
        costs(Path(folder), args.minutes)


if __name__ == "__main__":
    main()
