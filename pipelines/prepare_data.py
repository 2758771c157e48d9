"""Raw videos to the training layout: a row for each video through Ray, and a report of all that came of them."""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from manifests.redact import redacted
from pipelines import cache, storage
from pipelines.lease import Lease
from pipelines.lines import read_lines, write_lines
from pipelines.media_files import find
from pipelines.stage import Row, explain
from pipelines.workers import ROW_ATTEMPTS, Capacity, Pool, cluster, flow
from stableavatar.errors import BadInput, Quarantined, RowError
from stableavatar.preprocess.dataset import KEPT, MADE, ONES, SKIPPED, UNFINISHED, Rules, prepare_video
from stableavatar.preprocess.landmarks import load_landmarks
from stableavatar.preprocess.layout import clip_name, write_lists
from stableavatar.preprocess.masks import Landmarks

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mxf", ".m4v", ".flv", ".wmv")
REPORT = "report.jsonl"
SAVE_EVERY_S = 30.0  # the report, while videos are being prepared
CPUS = 2  # logical ones that a video keeps busy: it is decoded, encoded and written at the same time

Line = dict[str, Any]  # of the report: what came of a clip, or of a whole video
LOST: list[Line] = []  # stands for the lines of a video until they come

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is made. `landmarks`: the file of MediaPipe's model, seen by every node; None: masks are all ones."""

    rules: Rules = field(default_factory=Rules)
    landmarks: str | None = None


class PrepareVideo:
    """In: a row with `video`, a path or URI, and `before`, the lines of an earlier report about it, as JSON.

    Out: the row with `lines`, what came of it, as JSON. A video that cannot be used is a line, not an exception.
    """

    def __init__(self, root: str, options: Options) -> None:
        self.root = root
        self.options = options

    @cached_property
    def landmarks(self) -> Landmarks | None:
        """What finds faces, loaded once for each actor."""
        return load_landmarks(self.options.landmarks) if self.options.landmarks else None

    @cached_property
    def masks(self) -> str:
        """A word for what finds faces, from the content of its model."""
        return cache.sha256_of(self.options.landmarks)[:16] if self.options.landmarks else ONES

    def __call__(self, row: Row) -> Row:
        """The row after its video is prepared."""
        started = time.perf_counter()
        lines = self.lines(row["video"], json.loads(row["before"]))
        counts = ", ".join(f"{number} {status}" for status, number in count(lines).items() if number)
        logger.info("%s prepare-data %.2f s %s", redacted(row["video"]), time.perf_counter() - started, counts)
        return {**row, "lines": json.dumps(lines)}

    def lines(self, video: str, before: list[Line]) -> list[Line]:
        """What came of a video. If an earlier run was told the same, and its clips are there, it is not looked at."""
        about: Line = {"video": redacted(video), "video_sha256": None}
        try:
            with cache.fetched(video, keep=False) as path:
                about["video_sha256"] = cache.sha256_of(path)
                about |= {"masks": self.masks, **asdict(self.options.rules)}
                if still_holds(before, about):
                    return [{**line, "status": KEPT} if line["status"] == MADE else line for line in before]
                sha256, rules = about["video_sha256"], self.options.rules
                outcomes = prepare_video(path, sha256, self.root, rules, landmarks=self.landmarks, masks=self.masks)
            return [{**about, **asdict(outcome), "reason": redacted(outcome.reason)} for outcome in outcomes]
        except RowError as error:
            return [skipped(about, error.kind, str(error))]
        except Exception as error:  # whatever one strange video brings, the others go on; the trace is in the log
            logger.exception("%s: unexpected error", redacted(video))
            return [skipped(about, *explain(error))]


def prepare_data(references: Sequence[str], output: str, options: Options) -> list[Line]:
    """Make the clips of all videos that are not there yet, the lists of clips, and the report. Gives its lines.

    The report keeps what it said of other videos. Raises BadInput, StorageError, WeightsError or LeaseHeld before any
    work starts if it cannot be done.
    """
    root = storage.local_path(storage.absolute(output))
    if root is None:
        raise BadInput(f"{redacted(output)}: training reads clips from a disk. Give a folder that all nodes see.")
    videos = [file.uri for file in find(references, VIDEOS, "videos")[0]]
    if options.landmarks:
        load_landmarks(options.landmarks)  # a file that is no model ends the command here, not each video
    storage.check_writable(root)
    with Lease(root) as lease, cluster() as capacity:
        shutil.rmtree(os.path.join(root, UNFINISHED), ignore_errors=True)  # of a run that was killed
        report = read_report(root)
        before = {redacted(video): without_unseen(report.get(redacted(video), [])) for video in videos}
        todo = [{"video": video, "before": json.dumps(before[redacted(video)])} for video in videos]
        new = dict.fromkeys(map(redacted, videos), LOST)
        saved_at = time.monotonic()
        for row in flow(todo, _pools(root, options, capacity, len(todo))):
            video = redacted(row["video"])
            new[video] = with_clips(json.loads(row["lines"]), before[video])
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                write_report(root, report | {video: lines for video, lines in new.items() if lines is not LOST})
                saved_at = time.monotonic()
        lease.check()
        new = {
            video: with_clips(lost(video), before[video]) if lines is LOST else lines for video, lines in new.items()
        }
        write_report(root, report := report | new)
        write_lists(root, valid_clips(report))
        shutil.rmtree(os.path.join(root, UNFINISHED), ignore_errors=True)
    return [line for lines in new.values() for line in lines]


def skipped(about: Line, kind: str, reason: str) -> Line:
    """The line of a video of which nothing can be used."""
    return {**about, "status": SKIPPED, "error_kind": kind, "reason": redacted(reason), "start_s": None}


def lost(video: str) -> list[Line]:
    """The lines of a video that never came back."""
    reason = f"{video} killed {ROW_ATTEMPTS} processes that worked on it. Look at it with another program."
    return [skipped({"video": video, "video_sha256": None}, Quarantined.kind, reason)]


def with_clips(lines: Sequence[Line], before: Sequence[Line]) -> list[Line]:
    """The lines of a video. If nobody could look at it, with its clips of `before`, so that they stay in the lists."""
    if without_unseen(lines):
        return [*lines]
    return [*lines, *({**line, "status": KEPT} for line in before if line["status"] in (MADE, KEPT))]


def without_unseen(lines: Iterable[Line]) -> list[Line]:
    """The lines without those of a video that could not be looked at: a store failed, or what worked on it died."""
    return [line for line in lines if line["status"] != SKIPPED or _is_final(line)]


def still_holds(before: Sequence[Line], about: Line) -> bool:
    """Whether the lines of an earlier report are what would come of the same video now."""
    same = all(about.items() <= line.items() for line in before)
    final = all(os.path.isdir(line["folder"]) if line.get("folder") else _is_final(line) for line in before)
    return bool(before) and same and final


def _is_final(line: Line) -> bool:
    return line["error_kind"] == BadInput.kind


def count(lines: Iterable[Line]) -> dict[str, int]:
    """How many lines have each status."""
    states = [line["status"] for line in lines]
    return {status: states.count(status) for status in (MADE, KEPT, SKIPPED)}


def read_report(root: str) -> dict[str, list[Line]]:
    """The lines of the report, by their video."""
    report: dict[str, list[Line]] = {}
    for line in read_lines(storage.join(root, REPORT)):
        report.setdefault(line["video"], []).append(line)
    return report


def write_report(root: str, report: Mapping[str, list[Line]]) -> None:
    """Write the report, whole or not at all."""
    write_lines((line for video in sorted(report) for line in report[video]), storage.join(root, REPORT))


def valid_clips(report: Mapping[str, list[Line]]) -> set[str]:
    """The names of the clips that the report calls made or kept."""
    lines = (line for lines in report.values() for line in lines)
    return {clip_name(line["folder"]) for line in lines if line["status"] in (MADE, KEPT)}


def _pools(root: str, options: Options, capacity: Capacity, num_videos: int) -> list[Pool]:
    size = max(1, min(num_videos, capacity.num_cpus // CPUS))
    return [Pool(stage=PrepareVideo, args=(root, options), size=size, num_cpus=min(CPUS, capacity.num_cpus))]
