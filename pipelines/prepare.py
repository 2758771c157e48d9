"""Portrait and sound of a row, ready for the model."""

import json
import os
import pickle
import time
from pathlib import Path

from pipelines import inputs, scratch
from pipelines.correct import corrected_sound, corrected_speech
from pipelines.inputs import check_unchanged
from pipelines.stage import Row, Stage
from stableavatar.audio.decode import decode_speech, encode_sound
from stableavatar.limits import Limits
from stableavatar.subtitles import read_subtitles
from stableavatar.tracks import SUBTITLES
from stableavatar.units import FPS
from stableavatar.video.portrait import load_portrait


class Prepare(Stage):
    """In: a checked row. Out: the same and

    portrait_HWC (uint8 [height, width, 3]), speech (float32 [n], 16 kHz; of a row with `separate_vocals` it is made
    later), sound (bytes of the video's sound track, made from the original sound), track_files (packed: a list of the
    bytes of each of `tracks`), started_at (seconds since 1970).
    """

    name = "prepare"

    def __init__(self, limits: Limits = Limits()) -> None:
        self.limits = limits

    def process(self, row: Row) -> Row:
        """Raises BadInput if a file has changed since it was checked, StorageError if a store refuses."""
        return {
            "started_at": time.time(),
            **row,
            **self._portrait(row),
            **self._sound(row),
            "track_files": self._tracks(row),
        }

    def _portrait(self, row: Row) -> Row:
        uri = inputs.locate(row["portrait"], row["manifest"], self.limits)
        with inputs.fetched(uri, self.limits) as path:
            check_unchanged(path, uri, row["portrait_sha256"])
            return {"portrait_HWC": load_portrait(path, row["width"], row["height"], self.limits)}

    def _sound(self, row: Row) -> Row:
        uri = inputs.locate(row["audio"], row["manifest"], self.limits)
        with inputs.fetched(uri, self.limits) as path, scratch.folder() as folder:
            check_unchanged(path, uri, row["audio_sha256"])
            span = inputs.span_of(row)
            sound_path = os.path.join(folder, "sound.m4a")
            if row.get("correction"):
                corrected_sound(row, sound_path, self.limits)
            else:
                encode_sound(path, sound_path, span, duration_s=row["num_frames"] / FPS, loudness=row["loudness"])
            sound = {"sound": Path(sound_path).read_bytes()}
            if row["separate_vocals"]:
                return sound
            return {**sound, "speech": corrected_speech(row, decode_speech(path, span), self.limits)}

    def _tracks(self, row: Row) -> bytes:
        """Further sounds and subtitles, all of the video's length. The row's loudness is theirs, its span is not."""
        duration_s, loudness = row["num_frames"] / FPS, row["loudness"]
        return pickle.dumps([self._track(track, duration_s, loudness) for track in json.loads(row["tracks"])])

    def _track(self, track: Row, duration_s: float, loudness: float | None) -> bytes:
        with inputs.fetched(track["uri"], self.limits) as path, scratch.folder() as folder:
            check_unchanged(path, track["uri"], track["sha256"])
            if track["kind"] == SUBTITLES:
                return read_subtitles(path, duration_s=duration_s)
            sound_path = os.path.join(folder, "track.m4a")
            encode_sound(path, sound_path, duration_s=duration_s, loudness=loudness)
            return Path(sound_path).read_bytes()
