"""Clips in the published layout: found, and read window by window.

`<root>/{square,rec,vec}/{speech,singing,dancing}/<id>/` holds `sub_clip.mp4`, `audio.wav`, and `frame_N.png` in
`images/`, `face_masks/` and `lip_masks/`; `video_square_path.txt`, `video_rec_path.txt` and `video_vec_path.txt` in
the root list the clips. Tar files of such clips do as well (see `places`). A `prompt.txt` in a clip takes the place of
its category's prompt.

Shapes: V video frames, H W height and width in pixels.
"""

import hashlib
import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import fsspec
import numpy as np
import soundfile
from PIL import Image

from stableavatar.errors import BadInput, StorageError
from stableavatar.training.places import clips_in_tar, join, name_of, open_store, plain, tar_files
from stableavatar.units import SAMPLES_PER_FRAME

LISTS = ("video_square_path.txt", "video_rec_path.txt", "video_vec_path.txt")
PROMPTS = {
    "speech": "A person is talking",
    "singing": "A person is singing",
    "dancing": "A person is dancing and singing",
}
MASKS = ("face_masks", "lip_masks")
PREPARE = "`stableavatar prepare-data` makes it right"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip that can be trained on."""

    folder: str  # path or URI
    width: int  # pixels
    height: int
    num_frames: int
    prompt: str
    missing_masks: str = "skip"  # "ones": a mask that is not there covers everything
    recording: str = ""  # hash of its film and sound: the same wherever it lies, and whatever its masks are
    gain: float = 1.0  # that brings its sound to the loudness at which the model hears all speech
    content: str = ""  # hash of these, and of the sizes of its images and masks in bytes

    @property
    def id(self) -> str:
        """Its folder's name."""
        return name_of(self.folder)

    @property
    def stamp(self) -> str:
        """Hash of everything that its windows depend on. Where it lies is not among it: a root may be moved."""
        words = [self.content, self.num_frames, self.width, self.height, self.prompt, self.missing_masks]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipWindow:
    """Consecutive frames of a clip with their sound, and the clip's first frame."""

    frames_VHWC: np.ndarray  # uint8 RGB
    reference_HWC: np.ndarray  # uint8 RGB: the first frame of the clip
    speech: np.ndarray  # float32, 16 kHz mono: the same span, at its own loudness
    gain: float = 1.0  # of the clip
    masks_VHW: dict[str, np.ndarray] = field(default_factory=dict)  # of MASKS, uint8 0 .. 255
    prompt: str = ""


def find_clips(roots: Sequence[str]) -> list[str]:
    """The clip folders of roots of the layout or of tar files, or of text files that list them; sorted by their names.

    However a root or a line is written, a clip has one name: local ones are named from the root of the disk.

    Raises:
        BadInput: a root holds no list, or one that is not UTF-8.
    """
    folders: set[str] = set()
    for root in map(plain, roots):
        tars, lists = tar_files(root), _lists(root)
        if not tars and not lists:
            raise BadInput(
                f"{root} holds none of {', '.join(LISTS)}, and no tar files. Give a root of the layout; {PREPARE}."
            )
        for tar in tars:
            folders.update(clips_in_tar(tar))
        for listed in lists:
            base = posixpath.dirname(listed)
            lines = map(str.strip, read_text(listed).splitlines())
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


def read_window(clip: Clip, start: int, num_frames: int) -> ClipWindow:
    """Read consecutive frames of a clip, from the frame `start` on.

    Raises:
        BadInput: a file is missing or damaged, or of another size than the first.
    """
    return ClipWindow(
        frames_VHWC=read_frames(clip, start, num_frames),
        reference_HWC=read_frames(clip, 0, 1)[0],
        speech=read_sound(clip, start * SAMPLES_PER_FRAME, num_frames * SAMPLES_PER_FRAME),
        gain=clip.gain,
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
    with _still_there(clip), opened_sound(join(clip.folder, "audio.wav")) as sound:
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
    pictures = [read_image(join(clip.folder, f"{name}/frame_{number}.png")).convert(mode) for number in numbers]
    if wrong := next((picture.size for picture in pictures if picture.size != (clip.width, clip.height)), None):
        raise BadInput(f"{clip.folder}/{name}: a picture of {wrong}, others have {(clip.width, clip.height)}.")
    return np.stack([np.asarray(picture) for picture in pictures])


def read_image(path: str) -> Image.Image:
    """A picture, decoded. Raises FileNotFoundError; BadInput if it is none."""
    data = read_file(path)
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path} is no picture: {error}; {PREPARE}.") from error
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


def read_text(path: str) -> str:
    """The same as text. Raises FileNotFoundError, StorageError; BadInput if it is not UTF-8."""
    try:
        return read_file(path).decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8: {error}. Save it with that encoding.") from error


@contextmanager
def opened_sound(path: str) -> Iterator[soundfile.SoundFile]:
    """A sound file, to be read from. Raises FileNotFoundError; BadInput if it cannot be read to its end."""
    data = read_file(path)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            yield sound
    except soundfile.SoundFileError as error:
        raise BadInput(f"{path} is no sound: {error}; {PREPARE}.") from error
