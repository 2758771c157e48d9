"""Clips of drawn talking heads in the published layout of training data, with the truth about each beside it.

Everything in a clip follows from its split and its seed.
"""

import json
import os
import shutil
import tempfile
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from stableavatar.audio.decode import write_aac
from stableavatar.drawn.draw import draw
from stableavatar.drawn.scene import Clip, plan_clip
from stableavatar.drawn.sentences import SPLITS
from stableavatar.errors import BadInput
from stableavatar.units import SPEECH_RATE
from stableavatar.video.writer import PieceWriter, join

CRF = 8  # far finer than a film to be watched: this one is measured
UNFINISHED = ".unfinished-"  # in the name of a folder that is being written
FOLDERS = ("images", "face_masks", "lip_masks")
SMALLEST = 32  # pixels a side, in which a mouth can be seen
SHAPES = {"square": "video_square_path.txt", "rec": "video_rec_path.txt", "vec": "video_vec_path.txt"}


def write_clip(
    folder: str, seed: int, split: str = "train", size: tuple[int, int] = (96, 96), num_frames: int = 81
) -> None:
    """Writes one clip's folder; if it is there already, nothing is done. `size`: width and height, even pixels.

    It is written beside under another name first, so that a folder that is there is complete. Raises BadInput.
    """
    if os.path.isdir(folder):
        return
    check_clip(split, size, num_frames)
    clip = plan_clip(seed, split, num_frames)
    with _becoming(folder) as unfinished:
        for name in FOLDERS:
            os.mkdir(os.path.join(unfinished, name))
        _write_files(unfinished, clip, size)
        _write_truth(unfinished, clip, seed, split)


@contextmanager
def _becoming(folder: str) -> Iterator[str]:
    """A new folder beside `folder`, which takes that name at the end; if something fails it goes away."""
    parent, name = os.path.split(os.path.abspath(folder))
    os.makedirs(parent, exist_ok=True)
    unfinished = tempfile.mkdtemp(prefix=f"{name}{UNFINISHED}", dir=parent)
    try:
        yield unfinished
        os.chmod(unfinished, 0o755)  # of mkdtemp's only its owner sees anything
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_clip(split: str, size: tuple[int, int], num_frames: int) -> None:
    """Raises BadInput if there can be no such clip."""
    if split not in SPLITS:
        raise BadInput(f"there is no split {split!r}. Take one of {', '.join(SPLITS)}.")
    if min(size) < SMALLEST or any(side % 2 for side in size):
        raise BadInput(f"clips cannot be {size[0]}x{size[1]} pixels. Give even sides of at least {SMALLEST}.")
    if num_frames < 1:
        raise BadInput(f"a clip cannot have {num_frames} frames. Give at least 1.")


def write_data_set(
    root: str,
    num_clips: int,
    first_seed: int = 0,
    split: str = "train",
    size: tuple[int, int] = (96, 96),
    num_frames: int = 81,
) -> list[str]:
    """Writes the clips of `num_clips` seeds and the list of their folders, which it also gives. Safe to run twice."""
    check_root(root, split)
    folders = clip_folders(root, num_clips, first_seed, split, size, num_frames)
    for number, folder in enumerate(folders):
        write_clip(folder, first_seed + number, split, size, num_frames)
    write_list(root, size)
    return folders


def check_root(root: str, split: str) -> None:
    """Raises BadInput if clips of another split lie under the root: its lists would name both to a training."""
    for other in set(SPLITS) - {split}:
        if found := next(Path(root).glob(f"*/speech/{other}_*"), None):
            raise BadInput(
                f"{root} holds clips of the split {other!r}, such as {found.name}. Give those of {split!r} another "
                "folder: whoever trains on a folder trains on all clips in it."
            )


def clip_folders(
    root: str, num_clips: int, first_seed: int, split: str, size: tuple[int, int], num_frames: int
) -> list[str]:
    """Where the clips of these seeds belong. What makes another clip of the same seed makes another name."""
    kind = f"{split}_{size[0]}x{size[1]}_{num_frames}"
    ids = (f"{kind}_{seed:06d}" for seed in range(first_seed, first_seed + num_clips))
    return [os.path.join(os.path.abspath(root), shape_of(size), "speech", id) for id in ids]


def write_list(root: str, size: tuple[int, int]) -> str:
    """Lists all finished clips of this shape, as they lie under the root; gives the path of the list."""
    shape = shape_of(size)
    speech = os.path.join(root, shape, "speech")
    os.makedirs(speech, exist_ok=True)
    names = sorted(entry.name for entry in os.scandir(speech) if entry.is_dir() and UNFINISHED not in entry.name)
    path = os.path.join(os.path.abspath(root), SHAPES[shape])
    with open(f"{path}.unfinished", "w") as file:
        file.writelines(f"{shape}/speech/{name}\n" for name in names)
    os.replace(f"{path}.unfinished", path)
    return path


def shape_of(size: tuple[int, int]) -> str:
    """The published name of a shape: "square", "rec" (wide) or "vec" (tall)."""
    width, height = size
    return "square" if width == height else "rec" if width > height else "vec"


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
