"""The finished file, opened again: is it what was promised, and what is in it?"""

import logging
from statistics import fmean

from av.error import FFmpegError

from pipelines import cache, storage
from pipelines.retries import patience
from pipelines.stage import Row, Stage
from stableavatar.errors import BrokenVideo, RowError
from stableavatar.video.quality import VideoQuality, check_contract, measure_video
from stableavatar.video.sheet import ContactSheet

SHEET_PATIENCE_S = 30.0  # with the store

logger = logging.getLogger(__name__)


class Measure(Stage):
    """In: a row whose video is made. Out: the same and

    num_blank_frames, num_frozen_frames, brightness, sharpness, motion (one value per second), and the mean of each.
    The video moves to its place when it is what was promised: only good ones are ever seen there. A few of its frames
    become a small picture for the report.
    """

    name = "measure"

    def process(self, row: Row) -> Row:
        """Raises BrokenVideo."""
        sheet = ContactSheet(row["num_frames"])
        # Where this was interrupted after the move, the video is measured again in its place.
        uri = row["staged"] if storage.exists(row["staged"]) else row["video"]
        try:
            with cache.fetched(uri, keep=False) as path:
                quality = measure_video(path, sheet.see)
            check_contract(quality, num_frames=row["num_frames"], width=row["width"], height=row["height"])
            check_content(quality)
        except BrokenVideo as error:
            storage.remove(uri)
            raise BrokenVideo(f"{row['video']} was made but removed again: {error}") from error
        if uri != row["video"]:
            storage.move(uri, row["video"])
        write_sheet(sheet, row)
        return {**row, **columns(quality)}


def write_sheet(sheet: ContactSheet, row: Row) -> None:
    """Write the row's contact sheet. Without one the report shows no picture, and the video is as good."""
    try:
        with patience(SHEET_PATIENCE_S):
            storage.write(sheet.jpeg(), row["sheet"])
    except (RowError, OSError, ValueError, FFmpegError) as error:
        logger.warning("%s: no contact sheet: %s", row["id"], error)


def check_content(quality: VideoQuality) -> None:
    """Raises BrokenVideo if every frame is blank."""
    if quality.num_blank_frames == quality.num_frames:
        raise BrokenVideo("every frame is blank")


def columns(quality: VideoQuality) -> Row:
    """What of the measurement goes to the result table."""
    counts = {"num_blank_frames": quality.num_blank_frames, "num_frozen_frames": quality.num_frozen_frames}
    series = {name: getattr(quality, name) for name in ("brightness", "sharpness", "motion")}
    means = {f"{name}_mean": fmean(values) for name, values in series.items()}
    return {**counts, **series, **means}
