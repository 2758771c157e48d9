"""What happens in a clip: who is seen, what is said, and how head and mouth move."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stableavatar.drawn.draw import Pose
from stableavatar.drawn.espeak import Phoneme, Voice, speak
from stableavatar.drawn.faces import Identity, describe, draw_identity
from stableavatar.drawn.sentences import LANGUAGES, SPLITS, draw_sentence
from stableavatar.drawn.visemes import mouth_curve
from stableavatar.units import FPS, SAMPLES_PER_FRAME, SPEECH_RATE

# espeak's variants of a voice; nobody who is held out speaks in training.
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {"woman": ("f1", "f2", "f3", "linda"), "man": ("m1", "m2", "m3", "m4", "john")},
    "held-out": {"woman": ("f4", "Annie"), "man": ("m7", "Mike")},
}
PEAK = 0.7  # of the sound
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.15, 0.5
BLINK_S = 0.2
MAX_SWAY, MAX_ROLL_DEGREES = 0.02, 3.0


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What is said in a clip: float32 [num_frames * 640], 16 kHz mono, and when."""

    samples: np.ndarray
    phonemes: tuple[Phoneme, ...]
    text: str
    voice: Voice


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Everything about a clip before it is drawn. `mouth`: opening and width, float32 [num_frames, 2]."""

    identity: Identity
    speech: Speech
    mouth: np.ndarray
    poses: tuple[Pose, ...]
    prompt: str


def plan_clip(seed: int, split: str, num_frames: int) -> Clip:
    """What a seed asks for. The same seed of another split is another clip."""
    rng = np.random.default_rng([SPLITS.index(split), seed])
    identity = draw_identity(rng)
    speech = _draw_speech(rng, identity.kind, split, num_frames)
    mouth = mouth_curve(speech.phonemes, num_frames)
    poses = _poses(rng, mouth)
    return Clip(identity=identity, speech=speech, mouth=mouth, poses=poses, prompt=describe(identity, rng))


def _draw_speech(rng: np.random.Generator, kind: str, split: str, num_frames: int) -> Speech:
    """Sentences one after the other, with pauses, until the clip is full; the last is cut."""
    language = str(rng.choice(LANGUAGES))
    voice = Voice(
        language=language,
        variant=str(rng.choice(VARIANTS[split][kind])),
        rate_wpm=int(rng.integers(115, 156)),
        pitch=int(rng.integers(35, 66)),
    )
    num_samples = num_frames * SAMPLES_PER_FRAME
    starts_at_once = rng.random() < 0.6
    at = 0 if starts_at_once else _pause(rng)
    samples, phonemes, texts = np.zeros(num_samples, np.float32), list[Phoneme](), list[str]()
    while at < num_samples:
        texts.append(draw_sentence(rng, language, split))
        spoken = speak(texts[-1], voice)
        piece = spoken.samples[: num_samples - at]
        samples[at : at + len(piece)] = piece
        phonemes += _moved(spoken.phonemes, at / SPEECH_RATE, num_samples / SPEECH_RATE)
        at += len(spoken.samples) + _pause(rng)
    samples *= PEAK / max(float(np.abs(samples).max()), 1e-6)
    return Speech(samples=samples, phonemes=tuple(phonemes), text=" ".join(texts), voice=voice)


def _pause(rng: np.random.Generator) -> int:
    return round(rng.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S) * SPEECH_RATE)


def _moved(phonemes: tuple[Phoneme, ...], by_s: float, end_s: float) -> Iterator[Phoneme]:
    """The phonemes later by `by_s`, but those that begin past the clip's end."""
    for phoneme in phonemes:
        if phoneme.start_s + by_s < end_s:
            yield Phoneme(name=phoneme.name, start_s=phoneme.start_s + by_s, end_s=phoneme.end_s + by_s)


def _poses(rng: np.random.Generator, mouth: np.ndarray) -> tuple[Pose, ...]:
    times_s = np.arange(len(mouth)) / FPS
    dx, dy, roll = (_sway(rng, times_s) for _ in range(3))
    blink = _blinks(rng, times_s)
    return tuple(
        Pose(
            mouth_opening=float(mouth[n, 0]),
            mouth_width=float(mouth[n, 1]),
            blink=float(blink[n]),
            dx=float(MAX_SWAY * dx[n]),
            dy=float(MAX_SWAY * dy[n]),
            roll_degrees=float(MAX_ROLL_DEGREES * roll[n]),
        )
        for n in range(len(mouth))
    )


def _sway(rng: np.random.Generator, times_s: np.ndarray) -> np.ndarray:
    """Between -1 and 1, slow: periods of 3 to 6 s."""
    periods_s, phases = rng.uniform(3, 6, 2), rng.uniform(0, 2 * np.pi, 2)
    waves = np.sin(2 * np.pi * times_s[:, None] / periods_s + phases)
    return waves @ np.array([0.6, 0.4])


def _blinks(rng: np.random.Generator, times_s: np.ndarray) -> np.ndarray:
    """How far the eyes are closed, 0 to 1: shut for a moment every 2 to 5 s."""
    closed = np.zeros(len(times_s))
    at_s = rng.uniform(0.5, 4)
    while at_s < times_s[-1] + BLINK_S:
        closed = np.maximum(closed, 1 - np.abs(times_s - at_s) / (BLINK_S / 2))
        at_s += rng.uniform(2, 5)
    return np.minimum(1.0, closed * 1.5)
