"""Clips of drawn talking heads in the published layout of training data, with the truth about each beside it.

Everything in a clip follows from its split and its seed.
"""

import json
import os
import shutil
import wave
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from stableavatar.audio.decode import write_aac
from stableavatar.drawn.draw import Pose, draw
from stableavatar.drawn.espeak import Phoneme, Voice, speak
from stableavatar.drawn.faces import Identity, describe, draw_identity
from stableavatar.drawn.sentences import LANGUAGES, SPLITS, draw_sentence
from stableavatar.drawn.visemes import mouth_curve
from stableavatar.errors import BadInput
from stableavatar.units import FPS, SAMPLES_PER_FRAME, SPEECH_RATE
from stableavatar.video.writer import PieceWriter, join

VARIANTS = {
    "train": {"woman": ("f1", "f2", "f3", "linda"), "man": ("m1", "m2", "m3", "m4", "john")},
    "held-out": {"woman": ("f4", "Annie"), "man": ("m7", "Mike")},
}
PEAK = 0.7  # of the sound
CRF = 8  # far finer than a film to be watched: this one is measured
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.15, 0.5
BLINK_S = 0.2
MAX_SWAY, MAX_ROLL_DEGREES = 0.02, 3.0
SHAPES = {"square": "video_square_path.txt", "rec": "video_rec_path.txt", "vec": "video_vec_path.txt"}


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
    """What a seed asks for. The two splits share no seed. Raises BadInput for a split that is none."""
    if split not in SPLITS:
        raise BadInput(f"there is no split {split!r}. Take one of {', '.join(SPLITS)}.")
    rng = np.random.default_rng([SPLITS.index(split), seed])
    identity = draw_identity(rng)
    speech = _draw_speech(rng, identity.kind, split, num_frames)
    mouth = mouth_curve(speech.phonemes, num_frames)
    poses = _poses(rng, mouth)
    return Clip(identity=identity, speech=speech, mouth=mouth, poses=poses, prompt=describe(identity, rng))


def write_clip(
    folder: str, seed: int, split: str = "train", size: tuple[int, int] = (96, 96), num_frames: int = 81
) -> None:
    """Writes one clip's folder; if it is there already, nothing is done. `size`: width and height, even pixels.

    It is written beside under another name first, so that a folder that is there is complete. Raises BadInput.
    """
    if os.path.isdir(folder):
        return
    _check(size, num_frames)
    unfinished = f"{folder}.unfinished-{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in ("images", "face_masks", "lip_masks"):
        os.makedirs(os.path.join(unfinished, name))
    clip = plan_clip(seed, split, num_frames)
    _write_files(unfinished, clip, size)
    _write_truth(unfinished, clip, seed, split)
    os.rename(unfinished, folder)


def write_data_set(
    root: str,
    num_clips: int,
    first_seed: int = 0,
    split: str = "train",
    size: tuple[int, int] = (96, 96),
    num_frames: int = 81,
) -> list[str]:
    """Writes the clips of `num_clips` seeds and the list of their folders, which it also gives. Safe to run twice."""
    folders = clip_folders(root, num_clips, first_seed, split, size)
    for number, folder in enumerate(folders):
        write_clip(folder, first_seed + number, split, size, num_frames)
    write_list(root, size)
    return folders


def clip_folders(root: str, num_clips: int, first_seed: int, split: str, size: tuple[int, int]) -> list[str]:
    """Where the clips of these seeds belong."""
    ids = (f"{split}_{seed:06d}" for seed in range(first_seed, first_seed + num_clips))
    return [os.path.join(os.path.abspath(root), shape_of(size), "speech", id) for id in ids]


def write_list(root: str, size: tuple[int, int]) -> str:
    """Lists all finished clips of this shape under the root; gives the path of the list."""
    shape = shape_of(size)
    speech = os.path.join(os.path.abspath(root), shape, "speech")
    names = sorted(name for name in os.listdir(speech) if ".unfinished-" not in name)
    path = os.path.join(root, SHAPES[shape])
    with open(f"{path}.unfinished", "w") as file:
        file.writelines(os.path.join(speech, name) + "\n" for name in names)
    os.replace(f"{path}.unfinished", path)
    return path


def shape_of(size: tuple[int, int]) -> str:
    """ "square", "rec" (wide) or "vec" (tall)."""
    width, height = size
    return "square" if width == height else "rec" if width > height else "vec"


def _check(size: tuple[int, int], num_frames: int) -> None:
    if min(size) < 32 or any(side % 2 for side in size):
        raise BadInput(f"clips cannot be {size[0]}x{size[1]} pixels. Give even sides of at least 32.")
    if num_frames < 1:
        raise BadInput(f"a clip cannot have {num_frames} frames. Give at least 1.")


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
    """The phonemes later by `by_s`. Those past the clip's end stay where the last frame still moves towards them."""
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


def _write_files(folder: str, clip: Clip, size: tuple[int, int]) -> None:
    """Pictures, masks, sound and video."""
    width, height = size
    picture = os.path.join(folder, "picture.mp4")
    with PieceWriter(picture, width=width, height=height, num_frames=len(clip.poses), crf=CRF) as video:
        for number, pose in enumerate(clip.poses):
            drawn = draw(clip.identity, pose, size)
            video.write(drawn.image_HWC[None])
            _save(folder, "images", number, drawn.image_HWC)
            _save(folder, "face_masks", number, drawn.face_mask_HW.astype(np.uint8) * 255)
            _save(folder, "lip_masks", number, drawn.lip_mask_HW.astype(np.uint8) * 255)
    _write_wave(os.path.join(folder, "audio.wav"), clip.speech.samples)
    sound = os.path.join(folder, "sound.m4a")
    write_aac([clip.speech.samples[:, None]], sound, rate=SPEECH_RATE, layout="mono")
    join([(picture, len(clip.poses))], sound, os.path.join(folder, "sub_clip.mp4"))
    for path in (picture, sound):
        os.remove(path)


def _save(folder: str, kind: str, number: int, image: np.ndarray) -> None:
    Image.fromarray(image).save(os.path.join(folder, kind, f"frame_{number}.png"), compress_level=1)


def _write_wave(path: str, samples: np.ndarray) -> None:
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SPEECH_RATE)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())


def _write_truth(folder: str, clip: Clip, seed: int, split: str) -> None:
    truth = {
        "seed": seed,
        "split": split,
        "text": clip.speech.text,
        "voice": asdict(clip.speech.voice),
        "identity": asdict(clip.identity),
        "phonemes": [[p.name, round(p.start_s, 4), round(p.end_s, 4)] for p in clip.speech.phonemes],
        "mouth_opening": [round(float(value), 4) for value in clip.mouth[:, 0]],
        "mouth_width": [round(float(value), 4) for value in clip.mouth[:, 1]],
    }
    with open(os.path.join(folder, "truth.json"), "w") as file:
        json.dump(truth, file, ensure_ascii=False, indent=1)
    with open(os.path.join(folder, "prompt.txt"), "w") as file:
        file.write(clip.prompt + "\n")
