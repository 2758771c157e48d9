"""Speech of which every phoneme's time is known: espeak-ng, the library that espeakng-loader carries."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from typing import Any

import espeakng_loader
import numpy as np
from scipy.signal import resample_poly

from stableavatar.errors import BadInput
from stableavatar.units import SPEECH_RATE

# Of espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2  # samples go to the callback, all of them before espeak_Synth returns
_OPTIONS = 0x0001 | 0x0002 | 0x8000  # phonemes are reported, by their IPA names; a failure does not end the process
_BUFFER_MS = 500
_END_OF_LIST, _PHONEME = 0, 7  # kinds of event
_RATE, _PITCH = 1, 3  # parameters
_UTF8 = 1


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Who speaks. `language` and `variant` are espeak's names (`de`, `f2`), `pitch` 0 to 100."""

    language: str
    variant: str = ""
    rate_wpm: int = 160
    pitch: int = 50


@dataclass(frozen=True, kw_only=True)
class Phoneme:
    """A phoneme by its IPA name, with stress marks as espeak sets them; "" is a pause."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """A sentence: `samples` float32 [n], 16 kHz mono, and its phonemes in order, without gaps between them."""

    samples: np.ndarray
    phonemes: tuple[Phoneme, ...]

    @property
    def duration_s(self) -> float:
        """How long the sound is."""
        return len(self.samples) / SPEECH_RATE


class _Name(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position_ms", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _Name),
    )  # fmt: skip


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))

_STOPS = "pbtdkgɡ"
_SILENT = 0.04  # of the loudest sample: some voices have an echo
_LONGEST_CLOSURE_S = 0.06

# espeak keeps one voice and one callback for the whole process.
_lock = threading.Lock()


def speak(text: str, voice: Voice) -> Spoken:
    """Says one text. The same text and voice give the same samples. Threads wait for each other.

    Raises BadInput: no such voice, or nothing that could be said.
    """
    with _lock, _library() as (library, rate):
        _choose(library, voice)
        samples, events = _synthesise(library, text)
    if not any(name for _, name in events):
        raise BadInput(f"espeak says nothing for {text!r} ({voice.language}). Give it words of that language.")
    bounds = [sample for sample, _ in events] + [len(samples)]
    for number, (_, name) in enumerate(events[1:], start=1):
        if name.strip("ˈˌ").startswith(tuple(_STOPS)):
            bounds[number] -= _silence_before(samples, bounds[number - 1], bounds[number], rate)
    phonemes = tuple(
        Phoneme(name=name, start_s=start / rate, end_s=end / rate)
        for (_, name), start, end in zip(events, bounds, bounds[1:], strict=False)
        if end > start
    )
    return Spoken(samples=_at_speech_rate(samples, rate), phonemes=phonemes)


def _silence_before(samples: np.ndarray, start: int, end: int, rate: int) -> int:
    """How many samples before `end` are silent: espeak counts a stop's closure to what precedes its burst."""
    start = max(start, end - round(_LONGEST_CLOSURE_S * rate))
    loud = np.flatnonzero(np.abs(samples[start:end].astype(int)) > _SILENT * np.abs(samples.astype(int)).max())
    return end - start - (int(loud[-1]) + 1 if len(loud) else 0)


@contextmanager
def _library() -> Iterator[tuple[Any, int]]:
    """The library, ready to speak, and its samples per second.

    It is loaded anew each time (8 ms): what it said before would change the samples, and it forgets that in no other
    way.
    """
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        rate = library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, espeakng_loader.get_data_path().encode(), _OPTIONS)
        if rate <= 0:
            raise RuntimeError(f"espeak-ng does not start with the data in {espeakng_loader.get_data_path()}")
        yield library, rate
        library.espeak_Terminate()
    finally:
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))


def _choose(library: Any, voice: Voice) -> None:
    name = f"{voice.language}+{voice.variant}" if voice.variant else voice.language
    if library.espeak_SetVoiceByName(name.encode()):
        raise BadInput(f"espeak has no voice {name!r}. Take one of `espeak-ng --voices`.")
    library.espeak_SetParameter(_RATE, voice.rate_wpm, 0)
    library.espeak_SetParameter(_PITCH, voice.pitch, 0)


def _synthesise(library: Any, text: str) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """int16 samples [n] at espeak's rate, and for each phoneme the sample where it begins and its name."""
    pieces: list[np.ndarray] = []
    phonemes: list[tuple[int, str]] = []

    def take(samples: Any, num_samples: int, events: Any) -> int:
        if samples and num_samples > 0:
            pieces.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        number = 0
        while events[number].type != _END_OF_LIST:
            if events[number].type == _PHONEME:
                phonemes.append((events[number].sample, _name(events[number].id.string)))
            number += 1
        return 0

    callback = _Callback(take)
    library.espeak_SetSynthCallback(callback)
    data = text.encode() + b"\0"
    library.espeak_Synth(data, len(data), 0, 1, 0, _UTF8, None, None)
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16), phonemes


def _name(string: bytes) -> str:
    """The IPA name; "" for a pause, also for the one where a foreign word makes espeak change its language: "(en)"."""
    name = string.decode(errors="ignore")
    return "" if name.startswith("(") else name


def _at_speech_rate(samples: np.ndarray, rate: int) -> np.ndarray:
    common = gcd(SPEECH_RATE, rate)
    return resample_poly(samples / 32768.0, SPEECH_RATE // common, rate // common).astype(np.float32)
