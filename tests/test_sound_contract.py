"""Sound stays where it is, in every kind of file, and over an hour."""

from pathlib import Path

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from stableavatar.audio.decode import decode_speech, encode_sound, measure_sound
from stableavatar.audio.span import Span
from stableavatar.units import FPS, SPEECH_RATE
from stableavatar.video.quality import check_contract, measure_video
from stableavatar.video.writer import PieceWriter, join
from tests.sounds import CASES, SECONDS, Case, lag_s, signal, write_samples, write_sound


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_speech_and_sound_track_lie_where_the_sound_lies(case: Case, tmp_path: Path) -> None:
    path, track, expected = write_sound(case, tmp_path), str(tmp_path / "track.m4a"), signal(SPEECH_RATE)
    duration_s = measure_sound(path).duration_s
    encode_sound(path, track, duration_s=duration_s)
    for found in (decode_speech(path), decode_speech(track)):
        assert 1000 * abs(lag_s(found, expected) - case.begins_s) <= case.most_ms
    assert duration_s - SECONDS - case.begins_s == pytest.approx(0, abs=case.most_length_ms / 1000)


def test_a_gap_stays_a_gap(tmp_path: Path) -> None:
    """64 ms are missing in the middle, as when a recorder lost packets."""
    whole, path = write_samples(tmp_path / "a.wav", signal(48_000), 48_000), str(tmp_path / "gap.mkv")
    stream = (
        ffmpeg.input(whole)
        .filter("asetnsamples", 1024, 0)
        .output(path, acodec="pcm_s16le", loglevel="error", **{"bsf:a": "noise=drop='between(n,70,72)'"})
    )
    stream.run(cmd=imageio_ffmpeg.get_ffmpeg_exe())
    found, expected = decode_speech(path), signal(SPEECH_RATE)
    missing_s = 3 * 1024 / 48_000
    assert abs(len(found) - len(expected)) <= 16  # Matroska counts in ms
    assert lag_s(found[-16_000:], expected[-16_000:]) == pytest.approx(0, abs=1e-3)
    assert (np.abs(found) < 1e-4).sum() > 0.8 * missing_s * SPEECH_RATE


@pytest.mark.parametrize("end_s", [2.0, 3.0])
def test_speech_and_sound_track_are_cut_and_padded_alike(tmp_path: Path, end_s: float) -> None:
    path, track = write_samples(tmp_path / "a.wav", signal(48_000), 48_000), str(tmp_path / "a.m4a")
    span = Span(start_s=1.0, end_s=end_s, pad_before_s=0.5, pad_after_s=0.25)
    duration_s = measure_sound(path, span).duration_s
    assert duration_s == end_s - 1 + 0.75
    encode_sound(path, track, span, duration_s=duration_s)
    speech, heard = decode_speech(path, span), decode_speech(track)
    assert len(speech) == len(heard) == duration_s * SPEECH_RATE
    assert lag_s(heard, speech) == pytest.approx(0, abs=1e-4)
    expected = signal(SPEECH_RATE)[SPEECH_RATE : round(end_s * SPEECH_RATE)]
    assert lag_s(speech, expected) == pytest.approx(0.5, abs=1e-4)
    for found in (speech, heard):
        quiet = np.abs(np.concatenate([found[:7_800], found[-3_800:]]))
        assert quiet.max() < 0.002


def test_a_cut_does_not_click(tmp_path: Path) -> None:
    """A constant at full scale, cut: the step is spread over the fade."""
    path = write_samples(tmp_path / "a.wav", np.full(3 * 48_000, 0.5, np.float32), 48_000)
    speech = decode_speech(path, Span(start_s=1.0, end_s=2.0))
    assert np.abs(np.diff(speech, prepend=0, append=0)).max() < 2.5 * speech.max() / (0.005 * SPEECH_RATE)


@pytest.mark.slow
def test_an_hour_stays_in_sync_to_the_end(tmp_path: Path) -> None:
    """A sound of an hour with a sign at 0, 30 and 59 minutes, through encoding and joining to the mp4's own sound."""
    rate, sign, minutes = 44_100, signal(44_100), (0, 30, 59)
    samples = np.zeros(3600 * rate, np.float32)
    for minute in minutes:
        samples[minute * 60 * rate :][: len(sign)] = sign
    source, track, video = tmp_path / "a.mp3", str(tmp_path / "a.m4a"), str(tmp_path / "a.mp4")
    write_samples(source, samples, rate)
    num_frames = round(measure_sound(str(source)).duration_s * FPS)
    assert num_frames == 3600 * FPS
    encode_sound(str(source), track, duration_s=num_frames / FPS)
    pieces = []
    for number in range(6):
        pieces.append((str(tmp_path / f"{number}.mp4"), num_frames // 6))
        with PieceWriter(pieces[-1][0], width=32, height=32, num_frames=num_frames // 6) as writer:
            for start in range(0, num_frames // 6, 1000):
                counted = np.arange(start, start + 1000, dtype=np.uint32)[:, None, None, None] * 37 % 251
                writer.write(np.broadcast_to(counted.astype(np.uint8), (1000, 32, 32, 3)))
    join(pieces, track, video)
    check_contract(measure_video(video), num_frames=num_frames, width=32, height=32)
    with av.open(video) as container:
        assert container.streams.video[0].frames == num_frames
    for minute in minutes:
        heard = decode_speech(video, Span(start_s=minute * 60, end_s=minute * 60 + SECONDS))
        assert lag_s(heard, signal(SPEECH_RATE)) == pytest.approx(0, abs=1e-3)
