"""Clips in the published layout: found, checked, and read window by window.

`<root>/{square,rec,vec}/{speech,singing,dancing}/<id>/` holds `sub_clip.mp4`, `audio.wav`, and `frame_N.png` in
`images/`, `face_masks/` and `lip_masks/`; `video_square_path.txt`, `video_rec_path.txt` and `video_vec_path.txt` in
the root list the clips. Tar files of such clips do as well (see `places`). A `prompt.txt` in a clip takes the place of
its category's prompt.

Shapes: V video frames, H W height and width in pixels.
"""

import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import av
import fsspec
import numpy as np
import soundfile
from PIL import Image

from stableavatar.errors import BadInput, StorageError
from stableavatar.training.places import clips_in_tar, join, name_of, open_store, parent_name, plain, tar_files
from stableavatar.units import FPS, SAMPLES_PER_FRAME, SPEECH_RATE

LISTS = ("video_square_path.txt", "video_rec_path.txt", "video_vec_path.txt")
PROMPTS = {
    "speech": "A person is talking",
    "singing": "A person is singing",
    "dancing": "A person is dancing and singing",
}
MASKS = ("face_masks", "lip_masks")
_FPS_TOLERANCE = 0.01
_LOST_FRAMES = 2  # at the end of a film, where who took the images from it may have counted otherwise
_PREPARE = "`stableavatar prepare-data` makes it right"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip that can be trained on."""

    folder: str  # path or URI
    width: int  # pixels
    height: int
    num_frames: int
    prompt: str
    missing_masks: str = "skip"  # "ones": a mask that is not there covers everything

    @property
    def id(self) -> str:
        """Its folder's name."""
        return name_of(self.folder)


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipWindow:
    """Consecutive frames of a clip with their sound, and the clip's first frame."""

    frames_VHWC: np.ndarray  # uint8 RGB
    reference_HWC: np.ndarray  # uint8 RGB: the first frame of the clip
    speech: np.ndarray  # float32, 16 kHz mono: the same span
    masks_VHW: dict[str, np.ndarray] = field(default_factory=dict)  # of MASKS, uint8 0 .. 255
    prompt: str = ""


def find_clips(roots: Sequence[str]) -> list[str]:
    """The clip folders of roots of the layout or of tar files, or of text files that list them; sorted by their names.

    However a root or a line is written, a clip has one name: local ones are named from the root of the disk.

    Raises:
        BadInput: a root holds no list.
    """
    folders: set[str] = set()
    for root in map(plain, roots):
        tars, lists = tar_files(root), _lists(root)
        if not tars and not lists:
            raise BadInput(
                f"{root} holds none of {', '.join(LISTS)}, and no tar files. Give a root of the layout; {_PREPARE}."
            )
        for tar in tars:
            folders.update(clips_in_tar(tar))
        for listed in lists:
            base = posixpath.dirname(listed)
            lines = map(str.strip, read_file(listed).decode().splitlines())
            folders.update(_under(base, line) for line in lines if line)
    return sorted(folders)


def _lists(root: str) -> list[str]:
    if root.endswith((".txt", ".tar")):
        return [root] if root.endswith(".txt") else []
    files, path = fsspec.url_to_fs(root)
    return [f"{root}/{name}" for name in LISTS if files.exists(f"{path.rstrip('/')}/{name}")]


def _under(base: str, name: str) -> str:
    is_whole = name.startswith("/") or "://" in name
    return plain(name if is_whole else f"{base}/{posixpath.normpath(name)}")


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
    there = _count(files, f"{path}/images")
    if there < num_frames:
        raise BadInput(f"{folder}: {there} frames in images/, but a window takes {num_frames}. Leave out short clips.")
    for name in MASKS if missing_masks == "skip" else ():
        if _count(files, f"{path}/{name}") < there:
            raise BadInput(f"{folder}: {name}/ has fewer masks than images/ has frames; {_PREPARE}.")
    _check_film(folder, there)
    _check_sound(folder, there)
    width, height = _read_image(join(folder, "images/frame_0.png")).size
    return Clip(
        folder=folder,
        width=width,
        height=height,
        num_frames=there,
        prompt=_prompt(files, folder, path),
        missing_masks=missing_masks,
    )


def read_window(clip: Clip, start: int, num_frames: int) -> ClipWindow:
    """Read consecutive frames of a clip, from the frame `start` on.

    Raises:
        BadInput: a file is missing or damaged, or of another size than the first.
    """
    return ClipWindow(
        frames_VHWC=read_frames(clip, start, num_frames),
        reference_HWC=read_frames(clip, 0, 1)[0],
        speech=read_sound(clip, start * SAMPLES_PER_FRAME, num_frames * SAMPLES_PER_FRAME),
        masks_VHW={name: read_masks(clip, name, start, num_frames) for name in MASKS},
        prompt=clip.prompt,
    )


def read_frames(clip: Clip, start: int, num_frames: int) -> np.ndarray:
    """Frames alone, uint8 RGB [V, H, W, 3]. Raises as `read_window`."""
    with _still_there(clip):
        return _stack(clip, "images", range(start, start + num_frames), "RGB")


def read_masks(clip: Clip, name: str, start: int, num_frames: int) -> np.ndarray:
    """One of MASKS alone, uint8 [V, H, W]; 255 everywhere if the clip was allowed to have none. Raises as above."""
    with _still_there(clip):
        try:
            return _stack(clip, name, range(start, start + num_frames), "L")
        except FileNotFoundError:
            if clip.missing_masks != "ones":
                raise
            return np.full((num_frames, clip.height, clip.width), 255, np.uint8)


@contextmanager
def _still_there(clip: Clip) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BadInput(f"{clip.folder}: a file has gone since the clip was looked at: {error}") from error


def read_sound(clip: Clip, first: int, num_samples: int) -> np.ndarray:
    """Samples of a clip's sound, float32 [num_samples]; silence where it has ended. Raises as above."""
    with _still_there(clip), _opened_sound(join(clip.folder, "audio.wav")) as sound:
        sound.seek(min(first, sound.frames))
        samples = sound.read(num_samples, dtype="float32")
    return np.pad(samples, (0, num_samples - len(samples)))


def read_truth(clip: Clip) -> dict[str, Any]:
    """What is known of a drawn clip: the phonemes that are said, and more. Raises BadInput: it is not one."""
    path = join(clip.folder, "truth.json")
    try:
        truth = json.loads(read_file(path))
    except FileNotFoundError as error:
        raise BadInput(f"{path} is missing. `stableavatar draw-data` makes clips that have one.") from error
    except ValueError as error:
        raise BadInput(f"{path} is no JSON: {error}. `stableavatar draw-data` makes it.") from error
    if not isinstance(truth, dict) or "phonemes" not in truth:
        raise BadInput(f"{path} does not tell the phonemes that are said. `stableavatar draw-data` makes it.")
    return truth


def _stack(clip: Clip, name: str, numbers: Iterable[int], mode: str) -> np.ndarray:
    pictures = [_read_image(join(clip.folder, f"{name}/frame_{number}.png")).convert(mode) for number in numbers]
    if wrong := next((picture.size for picture in pictures if picture.size != (clip.width, clip.height)), None):
        raise BadInput(f"{clip.folder}/{name}: a picture of {wrong}, others have {(clip.width, clip.height)}.")
    return np.stack([np.asarray(picture) for picture in pictures])


def _read_image(path: str) -> Image.Image:
    data = read_file(path)
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path} is no picture: {error}; {_PREPARE}.") from error
    return picture


def read_file(path: str) -> bytes:
    """The content of a clip's file. Raises FileNotFoundError, StorageError."""
    try:
        files, inside = open_store(path)
        with files.open(inside, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise
    except KeyError as error:  # a tar that does not hold it
        raise FileNotFoundError(path) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error


def _count(files: fsspec.AbstractFileSystem, path: str) -> int:
    """Number of frames 0, 1, 2, ... that lie in a folder without a gap."""
    try:
        names = {posixpath.basename(name) for name in files.ls(path, detail=False)}
    except FileNotFoundError:
        return 0
    return next(number for number in range(len(names) + 1) if f"frame_{number}.png" not in names)


def _check_film(folder: str, num_images: int) -> None:
    path = join(folder, "sub_clip.mp4")
    try:
        with av.open(io.BytesIO(read_file(path))) as film:
            stream = film.streams.video[0]
            fps = float(stream.average_rate or stream.frames / (stream.duration * stream.time_base))  # type: ignore[operator]
            num_frames = stream.frames  # 0: the file does not say
    except FileNotFoundError as error:
        raise BadInput(f"{path} is missing; {_PREPARE}.") from error
    except (av.FFmpegError, IndexError, TypeError, ZeroDivisionError) as error:
        raise BadInput(f"{path} is no video: {error}; {_PREPARE}.") from error
    if abs(fps - FPS) > _FPS_TOLERANCE:
        raise BadInput(f"{path} has {fps:.3f} frames per second, not {FPS}; {_PREPARE}.")
    if num_images < num_frames - _LOST_FRAMES:
        raise BadInput(
            f"{path} has {num_frames} frames, but images/ has {num_images} without a gap: some are missing, or they "
            f"were taken at another rate; {_PREPARE}."
        )


def _check_sound(folder: str, num_frames: int) -> None:
    path = join(folder, "audio.wav")
    try:
        with _opened_sound(path) as sound:
            rate, channels, num_samples = sound.samplerate, sound.channels, sound.frames
            samples = sound.read(dtype="float32")
    except FileNotFoundError as error:
        raise BadInput(f"{path} is missing: a clip without sound teaches nothing; {_PREPARE}.") from error
    if (rate, channels) != (SPEECH_RATE, 1):
        raise BadInput(f"{path} has {rate} Hz and {channels} channels, not 16000 Hz mono; {_PREPARE}.")
    if num_samples < (num_frames - 1) * SAMPLES_PER_FRAME:
        seconds = num_samples / SPEECH_RATE
        raise BadInput(f"{path} ends after {seconds:.2f} s, its {num_frames} frames after {num_frames / FPS:.2f} s.")
    if not samples.any():
        raise BadInput(f"{path} is silence, which teaches nothing. Leave out clips in which nobody is heard.")


@contextmanager
def _opened_sound(path: str) -> Iterator[soundfile.SoundFile]:
    """Raises FileNotFoundError; BadInput if it cannot be read to its end."""
    data = read_file(path)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            yield sound
    except soundfile.SoundFileError as error:
        raise BadInput(f"{path} is no sound: {error}; {_PREPARE}.") from error


def _prompt(files: fsspec.AbstractFileSystem, folder: str, path: str) -> str:
    if files.exists(f"{path}/prompt.txt"):
        return read_file(join(folder, "prompt.txt")).decode().strip()
    category = parent_name(folder)
    if category not in PROMPTS:
        raise BadInput(f"{folder} lies in {category}/, which is none of {', '.join(PROMPTS)}, and has no prompt.txt.")
    return PROMPTS[category]
