"""From one raw video to its clips in the training layout. Safe to run twice: what is finished stays."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

from stableavatar.errors import BadInput, RowError
from stableavatar.preprocess.clip import Clip, read_about, write_clip
from stableavatar.preprocess.footage import Footage, open_footage
from stableavatar.preprocess.layout import choose_bucket, clip_folder, clip_id
from stableavatar.preprocess.masks import Landmarks
from stableavatar.preprocess.reel import Reel
from stableavatar.preprocess.rules import Rules
from stableavatar.preprocess.shots import Shot, find_shots, split
from stableavatar.units import FPS

MADE, KEPT, SKIPPED = "made", "kept", "skipped"
ONES = "ones"  # masks that are drawn by nothing
UNFINISHED = ".unfinished"  # folder under the root: clips that are being made


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a part of a video: a clip in `folder` that was made or kept, or the reason why there is none."""

    status: str
    start_s: float  # seconds from the medium's zero
    num_frames: int
    bucket: str
    folder: str = ""
    num_faces: int | None = None  # frames of a clip that was made that show one; None: nobody looked
    error_kind: str = ""
    reason: str = ""


def prepare_video(
    path: str, video_sha256: str, root: str, rules: Rules, *, landmarks: Landmarks | None = None, masks: str = ONES
) -> list[Outcome]:
    """Make the clips of a video that are not there yet, under `root`. Memory does not grow with its length.

    Args:
        path: the video.
        video_sha256: of its content.
        root: folder of the training data, absolute.
        rules: what becomes a clip.
        landmarks: finds faces; None: masks are all ones.
        masks: a word for what finds them. A clip whose masks are of another is made anew, unless they would become
            all ones.

    Raises:
        BadInput: nothing of the video can be used.
    """
    footage = open_footage(path)
    bucket = choose_bucket(footage.width, footage.height)
    shots = list(split(find_shots(footage, rules.scene_threshold), rules.max_frames))
    if not shots:
        raise BadInput(f"{path} has no moment with both picture and sound. Give a video with sound.")
    good = [
        Clip(video_sha256=video_sha256, shot=shot, bucket=bucket, masks=masks)
        for shot in shots
        if shot.num_frames >= rules.min_frames
    ]
    short = [shot for shot in shots if shot.num_frames < rules.min_frames]
    outcomes = [_too_short(shot, bucket.name, rules.min_frames) for shot in short]
    outcomes += _make(footage, good, root, rules.category, landmarks)
    return sorted(outcomes, key=lambda outcome: outcome.start_s)


def _make(
    footage: Footage, clips: list[Clip], root: str, category: str, landmarks: Landmarks | None
) -> Iterator[Outcome]:
    """What comes of each clip: first of those that are there already."""
    todo: list[tuple[Clip, str]] = []
    for clip in clips:
        place = clip_folder(root, clip.bucket, category, _id(clip))
        if _is_finished(place, clip.masks):
            yield _outcome(KEPT, clip, place)
        else:
            todo.append((clip, place))
    if not todo:
        return
    first, last = todo[0][0], todo[-1][0]
    with Reel(footage, first.bucket, first.shot.first, last.shot.stop) as reel:
        for clip, place in todo:
            yield _make_clip(clip, reel, root, place, landmarks)


def _make_clip(clip: Clip, reel: Reel, root: str, place: str, landmarks: Landmarks | None) -> Outcome:
    os.makedirs(os.path.join(root, UNFINISHED), exist_ok=True)
    folder = tempfile.mkdtemp(dir=os.path.join(root, UNFINISHED), prefix=f"{os.path.basename(place)}-")
    os.chmod(folder, 0o755)  # mkdtemp lets nobody else read
    try:
        num_faces = write_clip(clip, reel, folder, landmarks)
        _put(folder, place)
    except RowError as error:
        stays = f" The clip without such masks stays in {place}." if os.path.exists(place) else ""
        failed = _outcome(SKIPPED, clip, "")
        return replace(failed, error_kind=error.kind, reason=f"{_when(clip.shot)}: {error}{stays}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return replace(_outcome(MADE, clip, place), num_faces=num_faces if landmarks else None)


def _put(folder: str, place: str) -> None:
    """Move a finished clip to its place, whole. One that was there goes."""
    os.makedirs(os.path.dirname(place), exist_ok=True)
    old = f"{folder}.old"
    if os.path.exists(place):
        os.rename(place, old)
    try:
        os.rename(folder, place)
    except OSError:
        if not os.path.exists(place):  # else the same video under another name was faster
            raise
    shutil.rmtree(old, ignore_errors=True)


def _is_finished(place: str, masks: str) -> bool:
    about = read_about(place)
    return about is not None and masks in (about["masks"], ONES)


def _id(clip: Clip) -> str:
    return clip_id(clip.video_sha256, clip.shot.first, clip.shot.num_frames)


def _outcome(status: str, clip: Clip, place: str) -> Outcome:
    start_s, num_frames = clip.shot.first / FPS, clip.shot.num_frames
    return Outcome(status=status, start_s=start_s, num_frames=num_frames, bucket=clip.bucket.name, folder=place)


def _too_short(shot: Shot, bucket: str, min_frames: int) -> Outcome:
    return Outcome(
        status=SKIPPED,
        start_s=shot.first / FPS,
        num_frames=shot.num_frames,
        bucket=bucket,
        error_kind=BadInput.kind,
        reason=f"{_when(shot)}: a shot of {shot.num_frames} frames is too short; a clip has at least {min_frames}.",
    )


def _when(shot: Shot) -> str:
    return f"{shot.first / FPS:.2f} to {shot.stop / FPS:.2f} s"
