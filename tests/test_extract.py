import wave
from pathlib import Path

import numpy as np
import pytest

from pipelines import storage
from pipelines.cli import main
from pipelines.extract import extract_audio
from stableavatar.audio.span import Span
from stableavatar.errors import BadInput
from stableavatar.units import SPEECH_RATE
from tests.sounds import CASES, lag_s, signal, write_samples, write_sound


def read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, SPEECH_RATE)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32_768


def test_the_sound_of_a_film_has_the_films_zero_and_its_own_level(tmp_path: Path) -> None:
    late = next(case for case in CASES if case.name == "late.mp4")
    path, out = write_sound(late, tmp_path), tmp_path / "out.wav"
    assert main(["extract-audio", path, str(out)]) == 0
    found = read_wav(out)
    assert lag_s(found, signal(SPEECH_RATE)) == pytest.approx(0.5, abs=1e-3)
    assert found[SPEECH_RATE:-SPEECH_RATE].std() == pytest.approx(signal(SPEECH_RATE).std() / 2, rel=0.05)


def test_a_span_of_a_stream(tmp_path: Path) -> None:
    path, out = write_samples(tmp_path / "a.wav", signal(48_000), 48_000), tmp_path / "out.wav"
    assert main(["extract-audio", path, str(out), "--start-s", "1", "--end-s", "2.5", "--audio-stream", "0"]) == 0
    found = read_wav(out)
    assert len(found) == 1.5 * SPEECH_RATE
    assert lag_s(found, signal(SPEECH_RATE)[SPEECH_RATE:]) == pytest.approx(0, abs=1e-4)
    assert main(["extract-audio", path, str(out), "--audio-stream", "1", "--force"]) == 1
    assert len(read_wav(out)) == len(found)


def test_a_file_that_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    path, out = write_samples(tmp_path / "a.wav", signal(48_000), 48_000), tmp_path / "out.wav"
    out.write_text("precious")
    with pytest.raises(BadInput, match=r"out\.wav is there already.*--force"):
        extract_audio(path, str(out))
    assert out.read_text() == "precious"
    extract_audio(path, str(out), force=True)
    assert len(read_wav(out)) == 3 * SPEECH_RATE


def test_what_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(BadInput, match=r"a\.wav"):
        extract_audio(str(tmp_path / "a.wav"), str(tmp_path / "out.wav"))
    path = write_samples(tmp_path / "b.wav", signal(48_000), 48_000)
    with pytest.raises(BadInput, match="Lower start_s"):
        extract_audio(path, str(tmp_path / "out.wav"), Span(start_s=5))
    assert not (tmp_path / "out.wav").exists()


def test_from_store_to_store(base: str, tmp_path: Path) -> None:
    path = write_samples(tmp_path / "a.wav", signal(48_000), 48_000)
    storage.publish(path, f"{base}/in/a.wav")
    extract_audio(f"{base}/in/a.wav", f"{base}/made/out.wav")
    storage.fetch(f"{base}/made/out.wav", str(tmp_path / "out.wav"))
    assert len(read_wav(tmp_path / "out.wav")) == 3 * SPEECH_RATE
