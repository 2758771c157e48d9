"""The finished file, opened again: is it what was promised, and what is in it?"""

from statistics import fmean

from pipelines import cache, storage
from pipelines.stage import Row, Stage
from stableavatar.errors import BrokenVideo
from stableavatar.video.quality import VideoQuality, check_contract, measure_video


class Measure(Stage):
    """In: a row whose video is published. Out: the same and

    num_blank_frames, num_frozen_frames, brightness, sharpness, motion (one value per second), and the mean of each.
    A video that breaks its promises is removed: only good ones lie under the output.
    """

    name = "measure"

    def process(self, row: Row) -> Row:
        """Raises BrokenVideo."""
        try:
            with cache.fetched(row["video"], keep=False) as path:
                quality = measure_video(path)
            check_contract(quality, num_frames=row["num_frames"], width=row["width"], height=row["height"])
            check_content(quality)
        except BrokenVideo as error:
            storage.remove(row["video"])
            raise BrokenVideo(f"{row['video']} was made but removed again: {error}") from error
        return {**row, **columns(quality)}


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
