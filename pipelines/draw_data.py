"""A data set of drawn talking heads: one Ray task a clip."""

import os
from dataclasses import dataclass

from pipelines import storage
from pipelines.stage import Row
from pipelines.workers import Pool, cluster, flow
from stableavatar.errors import BadInput, RowError


@dataclass(frozen=True, kw_only=True)
class DrawnData:
    """Which clips: those of `num_clips` seeds from `first_seed` on. `size`: width and height in pixels."""

    num_clips: int
    first_seed: int = 0
    split: str = "train"
    size: tuple[int, int] = (96, 96)
    num_frames: int = 81


@dataclass(frozen=True, kw_only=True)
class DrawnReport:
    """What came of it: the path of the list of clips, how many were asked for, and why some could not be made."""

    list_path: str
    num_clips: int
    failures: tuple[str, ...]


def draw_data(output: str, data: DrawnData, num_workers: int) -> DrawnReport:
    """Draws the clips that are not there yet, `num_workers` at a time, and lists all that are there.

    Raises BadInput for what no clip can be, or a folder that is none or holds another split.
    """
    from stableavatar.drawn.clips import check_clip, check_root, clip_folders, write_list

    if "://" in output:
        raise BadInput(f"{output} is not a local folder. Give a folder on a disk that all nodes share.")
    check_clip(data.split, data.size, data.num_frames)
    root = storage.absolute(output)
    check_root(root, data.split)
    folders = clip_folders(root, data.num_clips, data.first_seed, data.split, data.size, data.num_frames)
    rows: list[Row] = [
        {"folder": folder, "seed": seed, "split": data.split, "size": data.size, "num_frames": data.num_frames}
        for seed, folder in enumerate(folders, start=data.first_seed)
    ]
    missing = [row for row in rows if not os.path.isdir(row["folder"])]
    drawn = _drawn(missing, num_workers) if missing else []
    failures = [row["error"] for row in drawn if row["error"]]
    lost = len(missing) - len(drawn)
    if lost:
        failures.append(f"{lost} clips were lost with their workers. Run the same command again.")
    return DrawnReport(list_path=write_list(root, data.size), num_clips=data.num_clips, failures=tuple(failures))


def _drawn(rows: list[Row], num_workers: int) -> list[Row]:
    with cluster():
        return list(flow(rows, [Pool(stage=draw_row, size=num_workers, num_cpus=1)]))


def draw_row(row: Row) -> Row:
    """In: folder, seed, split, size, num_frames. Out: folder, error, which is empty when the clip is there."""
    from stableavatar.drawn.clips import write_clip

    try:
        write_clip(row["folder"], row["seed"], row["split"], tuple(row["size"]), row["num_frames"])
    except (RowError, OSError) as error:
        return {"folder": row["folder"], "error": f"{row['folder']}: {error}"}
    return {"folder": row["folder"], "error": ""}
