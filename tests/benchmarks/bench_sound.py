"""How exactly sound is found in time, in every kind of file, and what extracting a long one needs.

python -m tests.benchmarks.bench_sound
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from stableavatar.audio.decode import decode_speech, encode_sound, measure_sound
from stableavatar.units import SPEECH_RATE
from tests.media import write_tone
from tests.sounds import CASES, SECONDS, Case, lag_s, signal, write_sound

LENGTHS_S = (600, 3 * 3600)


def row_of(case: Case, folder: Path) -> str:
    """A line of the table: offsets and error of length in ms."""
    path, track = write_sound(case, folder), str(folder / "track.m4a")
    expected = signal(SPEECH_RATE)
    duration_s = measure_sound(path).duration_s
    encode_sound(path, track, duration_s=duration_s)
    lags = [1000 * (lag_s(decode_speech(p), expected) - case.begins_s) for p in (path, track)]
    length_ms = 1000 * (duration_s - SECONDS - case.begins_s)
    return (
        f"| {case.name} | {case.codec} | {case.rate} | {case.layout} | {case.begins_s:g} "
        f"| {lags[0]:+.3f} | {lags[1]:+.3f} | {length_ms:+.1f} |"
    )


def peak_of(command: list[str]) -> tuple[float, float]:
    """Peak memory of a command and all its children together, MiB, looked at 20 times a second; and its seconds."""
    started, process = time.monotonic(), psutil.Popen(command)
    peak = 0
    while process.poll() is None:
        members = [process]
        try:
            members += process.children(recursive=True)
            peak = max(peak, sum(member.memory_info().rss for member in members))
        except psutil.NoSuchProcess:
            pass
        threading.Event().wait(0.05)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak / 2**20, time.monotonic() - started


def main() -> None:
    """Print both tables."""
    print("| file | codec | rate | speakers | begins at s | speech off by ms | track off by ms | length off by ms |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            print(row_of(case, Path(folder)), flush=True)
    print("\n| extract-audio of | peak memory MiB | seconds |\n|---|---|---|")
    for length_s in LENGTHS_S:
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder, "long.wav"), Path(folder, "out.wav")
            write_tone(source, duration_s=length_s, sample_rate=44_100)
            command = [sys.executable, "-m", "pipelines.cli", "extract-audio", str(source), str(out)]
            peak, seconds = peak_of(command)
            assert os.path.getsize(out) == 44 + 2 * SPEECH_RATE * length_s
            print(f"| {length_s / 60:g} min | {peak:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
