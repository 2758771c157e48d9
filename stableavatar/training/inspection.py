"""Looking at a clip before it is trained on: whether it can be, and what there is to be known of it."""

import hashlib
import io
import json
import posixpath

import av
import fsspec
import numpy as np

from stableavatar.audio.decode import speech_gain
from stableavatar.errors import BadInput
from stableavatar.training.clips import MASKS, PREPARE, PROMPTS, Clip, opened_sound, read_file, read_image, read_text
from stableavatar.training.places import FILM, join, open_store, parent_name
from stableavatar.units import FPS, SAMPLES_PER_FRAME, SPEECH_RATE

_FPS_TOLERANCE = 0.01
_LONGER_S = 1.0  # that a sound may be than its film
_LOST_FRAMES = 2  # at the end of a film, where who took the images from it may have counted otherwise


def inspect_clip(folder: str, num_frames: int, *, missing_masks: str = "skip") -> Clip:
    """Look whether a clip can be trained on in windows of `num_frames`.

    Args:
        folder: path or URI of the clip.
        num_frames: of a window.
        missing_masks: "skip", or "ones" for masks that cover everything.

    Raises:
        BadInput: it cannot. The message says what is wrong.
        StorageError: its store does not answer.
    """
    files, path = open_store(folder)
    pictures = {name: _sizes(files, f"{path}/{name}") for name in ("images", *MASKS)}
    there = _count(pictures["images"])
    if there < num_frames:
        raise BadInput(f"{folder}: {there} frames in images/, but a window takes {num_frames}. Leave out short clips.")
    for name in MASKS if missing_masks == "skip" else ():
        if _count(pictures[name]) < there:
            raise BadInput(f"{folder}: {name}/ has fewer masks than images/ has frames; {PREPARE}.")
    film, speech = _check_film(folder, there), _check_sound(folder, there)
    recording = _hash_of(film, speech)
    width, height = read_image(join(folder, "images/frame_0.png")).size
    return Clip(
        folder=folder,
        width=width,
        height=height,
        num_frames=there,
        prompt=_prompt(files, folder, path),
        missing_masks=missing_masks,
        gain=speech_gain(speech),
        recording=recording,
        # Pictures are not read for this, there are thousands: others have other sizes.
        content=hashlib.sha256(json.dumps([recording, pictures], sort_keys=True).encode()).hexdigest()[:32],
    )


def recording_of(folder: str) -> str:
    """`Clip.recording` of a clip of which something else may be wrong. Empty if its film or sound cannot be read."""
    try:
        film = read_file(join(folder, FILM))
        with opened_sound(join(folder, "audio.wav")) as sound:
            return _hash_of(film, sound.read(dtype="float32"))
    except (FileNotFoundError, BadInput):
        return ""


def _hash_of(film: bytes, speech: np.ndarray) -> str:
    known = hashlib.sha256(film).digest() + hashlib.sha256(speech.tobytes()).digest()
    return hashlib.sha256(known).hexdigest()[:32]


def _sizes(files: fsspec.AbstractFileSystem, path: str) -> dict[str, int]:
    """The files in a folder with their sizes in bytes; none if it is not there."""
    try:
        return {posixpath.basename(entry["name"]): entry["size"] for entry in files.ls(path, detail=True)}
    except FileNotFoundError:
        return {}


def _count(names: dict[str, int]) -> int:
    """Number of frames 0, 1, 2, ... that are there without a gap."""
    return next(number for number in range(len(names) + 1) if f"frame_{number}.png" not in names)


def _check_film(folder: str, num_images: int) -> bytes:
    """The file of the film, if it is as it should be."""
    path = join(folder, FILM)
    try:
        data = read_file(path)
        with av.open(io.BytesIO(data)) as film:
            stream = film.streams.video[0]
            fps = float(stream.average_rate or stream.frames / (stream.duration * stream.time_base))  # type: ignore[operator]
            num_frames = stream.frames  # 0: the file does not say
    except FileNotFoundError as error:
        raise BadInput(f"{path} is missing; {PREPARE}.") from error
    except (av.FFmpegError, IndexError, TypeError, ZeroDivisionError) as error:
        raise BadInput(f"{path} is no video: {error}; {PREPARE}.") from error
    if abs(fps - FPS) > _FPS_TOLERANCE:
        raise BadInput(f"{path} has {fps:.3f} frames per second, not {FPS}; {PREPARE}.")
    if num_images < num_frames - _LOST_FRAMES:
        raise BadInput(
            f"{path} has {num_frames} frames, but images/ has {num_images} without a gap: some are missing, or they "
            f"were taken at another rate; {PREPARE}."
        )
    return data


def _check_sound(folder: str, num_frames: int) -> np.ndarray:
    """The samples, if they are as they should be."""
    path = join(folder, "audio.wav")
    try:
        with opened_sound(path) as sound:
            rate, channels, num_samples = sound.samplerate, sound.channels, sound.frames
            samples = sound.read(dtype="float32")
    except FileNotFoundError as error:
        raise BadInput(f"{path} is missing: a clip without sound teaches nothing; {PREPARE}.") from error
    if (rate, channels) != (SPEECH_RATE, 1):
        raise BadInput(f"{path} has {rate} Hz and {channels} channels, not 16000 Hz mono; {PREPARE}.")
    if num_samples < (num_frames - 1) * SAMPLES_PER_FRAME:
        seconds = num_samples / SPEECH_RATE
        raise BadInput(f"{path} ends after {seconds:.2f} s, its {num_frames} frames after {num_frames / FPS:.2f} s.")
    if num_samples > num_frames * SAMPLES_PER_FRAME + _LONGER_S * SPEECH_RATE:
        raise BadInput(
            f"{path} lasts {num_samples / SPEECH_RATE:.2f} s, and its {num_frames} frames {num_frames / FPS:.2f} s: it "
            f"is not the sound of this film, or was not cut with it; {PREPARE}."
        )
    if not samples.any():
        raise BadInput(f"{path} is silence, which teaches nothing. Leave out clips in which nobody is heard.")
    if not np.isfinite(samples).all():
        raise BadInput(f"{path} holds samples that are not numbers (NaN or infinite); {PREPARE}.")
    return samples


def _prompt(files: fsspec.AbstractFileSystem, folder: str, path: str) -> str:
    if files.exists(f"{path}/prompt.txt"):
        own = join(folder, "prompt.txt")
        if prompt := read_text(own).strip():
            return prompt
        raise BadInput(f"{own} is empty. Write what is seen, or delete it: then its category's prompt stands in.")
    category = parent_name(folder)
    if category not in PROMPTS:
        raise BadInput(f"{folder} lies in {category}/, which is none of {', '.join(PROMPTS)}, and has no prompt.txt.")
    return PROMPTS[category]
