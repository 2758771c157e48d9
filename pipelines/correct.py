"""What the stages do for a row that corrects a finished video: its files looked at, and its sounds corrected."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from pipelines import cache, inputs
from pipelines.stage import Row
from stableavatar.audio.decode import measure_sound
from stableavatar.correction.plan import Correction, plan_correction
from stableavatar.correction.sound import NewSentence, correct_sound, correct_speech, open_track
from stableavatar.correction.words import Sentence, parse_segments
from stableavatar.errors import BadInput
from stableavatar.limits import Limits
from stableavatar.tracks import SOUND, SUBTITLES, language_of, row_tracks
from stableavatar.units import FPS
from stableavatar.video.film import Carried, carried, open_film


def check_correction(row: Row, limits: Limits) -> Row:
    """Columns of a row whose sound and size are known:

    correction (JSON: old video and new sentences with their places and hashes; empty if it corrects nothing), and
    num_windows, if it does. Raises BadInput, StorageError.
    """
    if not row["segments"]:
        return {"correction": ""}
    sentences = _sentences(row)
    found = {"video": _video(row, limits), "sentences": [_sentence(sentence, row, limits) for sentence in sentences]}
    spans_s = [(sentence.start_s, sentence.end_s) for sentence in sentences]
    plan = plan_correction(spans_s, row["num_frames"], row["window_latents"], row["overlap"], row["blend"])
    return {"correction": json.dumps(found), "num_windows": len(plan.plan.windows)}


def identity_of(row: Row) -> Row:
    """What of a correction changes the video; nothing for a row that corrects nothing."""
    if not row.get("correction"):
        return {}
    found = json.loads(row["correction"])
    sentences = [(part["start_s"], part["end_s"], part["sha256"]) for part in found["sentences"]]
    return {"base_video_sha256": found["video"]["sha256"], "segments": sentences}


def corrected_speech(row: Row, speech: np.ndarray, limits: Limits) -> np.ndarray:
    """What drives the lips, with the row's new sentences, if it has any. Raises BadInput if a file has changed."""
    if not row.get("correction"):
        return speech
    with _new_sentences(row, limits) as sentences:
        return correct_speech(speech, sentences)


def corrected_sound(row: Row, path: str, limits: Limits) -> None:
    """Write the m4a of a row that corrects. Raises BadInput if a file has changed, StorageError if it cannot."""
    video = json.loads(row["correction"])["video"]
    with _new_sentences(row, limits) as sentences, _unchanged(video, limits) as video_path:
        correct_sound(video_path, path, sentences, loudness=row["loudness"])


@contextmanager
def correction_of(row: Row) -> Iterator[Correction | None]:
    """What the avatar is told; the old video stays on this machine until the end. Raises BadInput, StorageError."""
    if not row.get("correction"):
        yield None
        return
    found = json.loads(row["correction"])
    spans_s = tuple((part["start_s"], part["end_s"]) for part in found["sentences"])
    with cache.fetched(found["video"]["uri"]) as path:
        inputs.check_unchanged(path, **found["video"])
        yield Correction(video_path=path, spans_s=spans_s)


def _sentences(row: Row) -> tuple[Sentence, ...]:
    try:
        sentences = parse_segments(row["segments"])
    except ValueError as error:
        raise BadInput(f"{error}.") from error
    length_s = row["num_frames"] / FPS
    if sentences[-1].end_s > length_s + 1 / FPS:
        raise BadInput(
            f"segments reach to {sentences[-1].end_s:g} s, but the video lasts {length_s:g} s. Lower end_s; its times "
            "are seconds of the video."
        )
    if row["mode"] != "aligned":
        raise BadInput(f"a video is not corrected in mode `{row['mode']}`. Leave mode empty, or leave out segments.")
    return sentences


def _video(row: Row, limits: Limits) -> Row:
    """Where the old video lies, and its hash. Raises BadInput if the row cannot have made it."""
    uri = inputs.locate(row["base_video"], row["manifest"], limits)
    with inputs.fetched(uri, limits) as path:
        # The size comes first: else a frame of any size that a file names would be encoded.
        film, _ = open_film(path, (row["width"], row["height"])), open_track(path)
        if film.num_frames != row["num_frames"]:
            raise BadInput(
                f"{uri} has {film.num_frames} frames, but this row's video has {row['num_frames']}. Give the row all "
                "else (audio, start_s, end_s, width, height, ...) as it was when that video was made."
            )
        _check_tracks(uri, carried(path), row)
        return {"uri": uri, "sha256": cache.sha256_of(path)}


def _check_tracks(uri: str, old: Carried, row: Row) -> None:
    """Raises BadInput if the old video has something beside its picture and sound that this one would be without."""
    given = Counter(kind for kind, _, _ in row_tracks(row))
    for column, what, found, wanted in (
        ("language", f"sound in `{old.language}`", int(bool(old.language)), int(bool(language_of(row)))),
        ("audio_tracks", f"{old.num_sounds} further sounds", old.num_sounds, given[SOUND]),
        ("subtitles", f"{old.num_subtitles} subtitles", old.num_subtitles, given[SUBTITLES]),
    ):
        if found > wanted:
            raise BadInput(
                f"{uri} has {what}, of which this row names fewer: give it the column {column} as that video's row "
                "had it."
            )


def _sentence(sentence: Sentence, row: Row, limits: Limits) -> Row:
    uri = inputs.locate(sentence.audio, row["manifest"], limits)
    with inputs.fetched(uri, limits) as path:
        duration_s, place_s = measure_sound(path, limits=limits).duration_s, sentence.end_s - sentence.start_s
        if duration_s > place_s + 1 / FPS:
            raise BadInput(
                f"{uri} lasts {duration_s:.2f} s, but its segment from {sentence.start_s:g} s to {sentence.end_s:g} s "
                f"only {place_s:.2f} s. Shorten the sound, or widen the segment into a pause."
            )
        place = {"start_s": sentence.start_s, "end_s": sentence.end_s}
        return {"uri": uri, **place, "sha256": cache.sha256_of(path)}


@contextmanager
def _new_sentences(row: Row, limits: Limits) -> Iterator[list[NewSentence]]:
    with ExitStack() as stack:
        yield [
            (part["start_s"], part["end_s"], stack.enter_context(_unchanged(part, limits)))
            for part in json.loads(row["correction"])["sentences"]
        ]


@contextmanager
def _unchanged(part: Row, limits: Limits) -> Iterator[str]:
    with inputs.fetched(part["uri"], limits) as path:
        inputs.check_unchanged(path, part["uri"], part["sha256"])
        yield path
