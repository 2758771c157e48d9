"""How loud a sound is (ITU-R BS.1770), measured by ffmpeg while it passes; and by how much to change it."""

import logging
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stableavatar.ffmpeg import run

SILENCE_LUFS = -70.0  # what is not louder does not count, by the standard
MAX_PEAK_DB = -1.0  # dBTP that no change of loudness may pass
_LAST_BYTES = 4096  # of the meter's words, several times what it says of one moment

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Loudness:
    """`integrated`: LUFS of the whole sound, -70 for silence and for less than 0.4 s. `true_peak`: 1 is 0 dBTP."""

    integrated: float
    true_peak: float = 0.0


@contextmanager
def metered(sound: Any, *, peak: bool = False) -> Iterator[tuple[Any, Callable[[], Loudness]]]:
    """The ffmpeg-python stream `sound` with a meter in it, and what that shows when all has passed."""
    with tempfile.TemporaryDirectory(prefix="stableavatar-") as folder:
        path = os.path.join(folder, "loudness")
        words = {} if peak else {"key": "lavfi.r128.I"}
        metering = sound.filter("ebur128", metadata=1, framelog="quiet", peak="true" if peak else "none")
        yield metering.filter("ametadata", mode="print", file=path, **words), lambda: _shown(path)


def measure_loudness(sound: Any) -> Loudness:
    """The loudness of an ffmpeg-python stream, and its true peak. Memory does not grow. Raises FfmpegError."""
    # The meter looks every tenth of a second; silence lets it see the last one.
    with metered(sound.filter("apad", pad_dur=0.1), peak=True) as (passing, shown):
        run(passing.output("-", format="null").global_args("-cpuflags", "0"))
        return shown()


def gain_to(target: float, found: Loudness, name: str = "sound") -> float:
    """The factor that brings a sound to `target` LUFS, smaller where its true peak would pass -1 dBTP.

    Silence stays. `name` is for the log, which tells when the target is not reached.
    """
    if found.integrated <= SILENCE_LUFS:
        return 1.0
    gain_db = target - found.integrated
    room_db = MAX_PEAK_DB - 20 * math.log10(max(found.true_peak, 1e-6))
    if gain_db > room_db:
        logger.warning(
            "%s gets %.1f LUFS instead of %.1f: louder its peaks would pass %g dBTP",
            *(name, found.integrated + room_db, target, MAX_PEAK_DB),
        )
    return 10 ** (min(gain_db, room_db) / 20)


def _shown(path: str) -> Loudness:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _LAST_BYTES))
        last = dict(re.findall(r"lavfi\.r128\.(I|true_peak)=(\S+)", file.read().decode()))
    integrated = float(last.get("I", SILENCE_LUFS))
    return Loudness(
        integrated=integrated if math.isfinite(integrated) else SILENCE_LUFS,
        true_peak=float(last.get("true_peak", 0.0)),
    )
