"""The published layout of training data: which folders there are, and what lies in the folder of a clip.

<root>/{square,rec,vec}/{speech,singing,dancing}/<id>/   see `clip`
<root>/video_{square,rec,vec}_path.txt                   the folders of the clips, one in a line, from the root on
"""

import hashlib
import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

CATEGORIES = ("speech", "singing", "dancing")
ABOUT = "clip.json"  # in a clip's folder: what was made of which part of which video; no part of the published layout
MIN_FRAMES = 81  # what training takes of a clip at a time


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A size in which training takes clips. `width`, `height`: pixels."""

    name: str
    width: int
    height: int


BUCKETS = (
    Bucket(name="square", width=512, height=512),
    Bucket(name="rec", width=832, height=480),
    Bucket(name="vec", width=480, height=832),
)


def choose_bucket(width: float, height: float) -> Bucket:
    """The bucket whose shape is nearest to that of a picture of `width` x `height`."""
    return min(BUCKETS, key=lambda bucket: abs(math.log(bucket.width / bucket.height) - math.log(width / height)))


def clip_id(video_sha256: str, first_frame: int, num_frames: int) -> str:
    """The name of a clip: which video, and which part of it. 16 hex digits."""
    return hashlib.sha256(f"{video_sha256}\n{first_frame}\n{num_frames}".encode()).hexdigest()[:16]


def clip_folder(root: str, bucket: Bucket, category: str, id: str) -> str:
    """Where a finished clip lies."""
    return os.path.join(root, bucket.name, category, id)


def list_path(root: str, bucket: Bucket) -> str:
    """The file that lists the clips of a bucket."""
    return os.path.join(root, f"video_{bucket.name}_path.txt")


def clip_name(folder: str) -> str:
    """How the lists name a finished clip: from its root on, wherever that lies."""
    return "/".join(Path(folder).parts[-3:])


def write_lists(root: str, valid: Collection[str]) -> None:
    """List the clips that lie under `root`, from there: a list for each bucket, empty if it has none.

    `valid`: names of clips. Others that `write_clip` made are left over, of other rules or of videos that cannot be
    used any more. What came from elsewhere is listed.
    """
    for bucket in BUCKETS:
        folders = (path for name in CATEGORIES for path in Path(root, bucket.name, name).glob("*/"))
        named = {path.relative_to(root).as_posix(): path for path in folders if not path.name.startswith(".")}
        lines = sorted(name for name, path in named.items() if name in valid or not (path / ABOUT).exists())
        path = list_path(root, bucket)
        Path(f"{path}.part").write_text("".join(f"{line}\n" for line in lines))
        os.replace(f"{path}.part", path)
