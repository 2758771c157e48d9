from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from stableavatar.audio.decode import decode_speech, measure_sound
from stableavatar.audio.source import open_source
from stableavatar.audio.span import Span
from stableavatar.errors import BadInput


@pytest.fixture(scope="module", params=["mkv", "mp4"])
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A film with three sounds: 300 Hz in English, 600 Hz in German (stereo, shorter), 900 Hz in no known language."""
    path = tmp_path_factory.mktemp("film") / f"film.{request.param}"
    tones = [ffmpeg.input(f"sine=frequency={hz}:duration={2 - (hz == 600)}", format="lavfi") for hz in (300, 600, 900)]
    picture = ffmpeg.input("testsrc=duration=2:size=64x64:rate=25", format="lavfi")
    ffmpeg.output(
        picture, *tones, str(path), loglevel="error", acodec="aac",
        **{"metadata:s:a:0": "language=eng", "metadata:s:a:1": "language=ger", "ac:a:1": 2},
    ).run(cmd=imageio_ffmpeg.get_ffmpeg_exe())  # fmt: skip
    return str(path)


def pitch_hz(speech: np.ndarray) -> float:
    return float(np.fft.rfftfreq(len(speech), 1 / 16_000)[np.abs(np.fft.rfft(speech)).argmax()])


@pytest.mark.parametrize(
    ("stream", "hertz"),
    [("", 300), ("0", 300), ("1", 600), ("2", 900), ("de", 600), ("de-AT", 600), ("deu", 600), ("EN", 300)],
)
def test_a_stream_is_named_by_number_or_language(film: str, stream: str, hertz: int) -> None:
    assert pitch_hz(decode_speech(film, Span(stream=stream))) == pytest.approx(hertz, abs=2)
    assert measure_sound(film, Span(stream=stream)).channels == (2 if hertz == 600 else 1)


@pytest.mark.parametrize("stream", ["3", "fr", "klingon", "-1"])
def test_a_stream_that_is_not_there_is_refused_with_a_list(film: str, stream: str) -> None:
    with pytest.raises(BadInput, match=r"0: eng, aac, 1 channels; 1: (deu|ger), aac, 2 channels; 2: .* Name one by"):
        open_source(film, stream)


@pytest.mark.parametrize("codec", ["aac", "flac", "libopus", "libmp3lame"])
@pytest.mark.parametrize("late_s", [0.0, 1.5])
@pytest.mark.parametrize("number", [0, 1])
def test_sounds_of_one_file_share_its_time_line(tmp_path: Path, codec: str, late_s: float, number: int) -> None:
    """Two sounds; the one that is asked for starts later than the other, or both start at once."""
    offsets = [0.0, 0.0]
    offsets[number] = late_s
    tones = [
        ffmpeg.input(f"sine=frequency=600:sample_rate=48000:duration={3 - offset}", format="lavfi", itsoffset=offset)
        for offset in offsets
    ]
    path = str(tmp_path / "two.mka")
    ffmpeg.output(*tones, path, loglevel="error", acodec=codec).run(cmd=imageio_ffmpeg.get_ffmpeg_exe())
    speech = decode_speech(path, Span(stream=str(number)))
    onset_s = int(np.argmax(np.abs(speech) > 0.01)) / 16_000
    assert onset_s == pytest.approx(late_s, abs=0.03)
    assert len(speech) / 16_000 == pytest.approx(3, abs=0.06)


@pytest.mark.parametrize("tag", ["twelve seconds", "1:00:00:08", "::", "00:00:nan", "²:0:0"])
def test_a_strange_duration_is_no_duration(tmp_path: Path, tag: str) -> None:
    path = tmp_path / "a.mka"
    tone = ffmpeg.input("sine=duration=1", format="lavfi")
    ffmpeg.output(tone, str(path), loglevel="error", acodec="flac").run(cmd=imageio_ffmpeg.get_ffmpeg_exe())
    data = path.read_bytes()
    end = data.rindex(b"DURATION") + len("DURATION")
    size, encoded = 18, tag.encode()  # the tag is text of 18 bytes, ended early by a zero
    start = data.index(b"00:00:0", end)
    path.write_bytes(data[:start] + encoded.ljust(size, b"\0") + data[start + size :])
    assert measure_sound(str(path)).duration_s == pytest.approx(1, abs=0.01)
