from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from stableavatar.audio.separator import read_separator
from stableavatar.audio.vocals import _LOW_PASS, DOWN, UP, VOCALS_RATE, Sound, VocalSeparator, vocals_of
from tests.separators import band, write_separator

SECONDS = 40.0
VOICE_HZ, MUSIC_HZ = 1000, 5000


def tone(hertz: float, seconds: float = SECONDS, rate: int = VOCALS_RATE, level: float = 0.3) -> np.ndarray:
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def write(path: Path, left: np.ndarray, right: np.ndarray | None = None, rate: int = VOCALS_RATE) -> str:
    channels = [left] if right is None else [left, right]
    soundfile.write(str(path), np.stack(channels, axis=1), rate, subtype="FLOAT")
    return str(path)


def decibels(error: np.ndarray, reference: np.ndarray) -> float:
    return 20 * float(np.log10(np.abs(error).max() / np.abs(reference).max()))


def inner(samples: np.ndarray) -> np.ndarray:
    """Without half a second at both ends: where a tone begins, it is no tone."""
    return samples[VOCALS_RATE // 2 : -VOCALS_RATE // 2]


@pytest.fixture(scope="module")
def separator(tmp_path_factory: pytest.TempPathFactory) -> VocalSeparator:
    path = tmp_path_factory.mktemp("separator") / "band.onnx"
    return VocalSeparator(read_separator(write_separator(path, band(300, 2000))))


@pytest.fixture
def strange(tmp_path: Path) -> VocalSeparator:
    """A network whose gain depends on what else is in the chunk: where its chunks lie can be heard."""
    path = write_separator(tmp_path / "strange.onnx", band(300, 2000), nonlinear=True)
    return VocalSeparator(read_separator(path))


@pytest.fixture
def song(tmp_path: Path) -> str:
    """Noise whose level wanders, for 75 s: two blocks and a half."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.1, (75 * VOCALS_RATE, 2)) * (1 + np.sin(np.arange(75 * VOCALS_RATE) / 60_000))[:, None]
    return write(tmp_path / "song.wav", noise[:, 0], noise[:, 1])


def whole(separator: VocalSeparator, path: str) -> np.ndarray:
    with vocals_of(separator, path) as vocals:
        return np.concatenate(list(vocals.whole()))


def blocks(separator: VocalSeparator, path: str, numbers: Iterator[int] | range) -> list[np.ndarray]:
    with vocals_of(separator, path) as vocals:
        return [vocals.block(number) for number in numbers]


@pytest.mark.parametrize("level", [1.4, 0.3, 0.001])
def test_the_voice_stays_as_it_is_and_the_rest_goes(separator: VocalSeparator, tmp_path: Path, level: float) -> None:
    voice, music = tone(VOICE_HZ, level=level), tone(MUSIC_HZ, level=level)
    found = whole(separator, write(tmp_path / "mix.wav", voice + music, voice - music))
    assert found.shape == (len(voice), 2)
    for channel in found.T:
        assert decibels(inner(channel - voice), voice) < -80  # level and phase
    assert decibels(inner(found[:, 0] - found[:, 1]), voice) < -80  # the music had opposite signs


def test_a_mono_sound_keeps_its_level(separator: VocalSeparator, tmp_path: Path) -> None:
    voice = tone(VOICE_HZ, 5)
    assert decibels(inner(whole(separator, write(tmp_path / "mono.wav", voice))[:, 1] - voice), voice) < -80


def test_another_rate_keeps_the_time(separator: VocalSeparator, tmp_path: Path) -> None:
    found = whole(separator, write(tmp_path / "48.wav", tone(VOICE_HZ, 5, 48_000), rate=48_000))
    assert abs(len(found) - 5 * VOCALS_RATE) <= 1
    assert decibels(inner(found[:, 0] - tone(VOICE_HZ, 5)), tone(VOICE_HZ, 5)) < -80


def test_blocks_are_the_voice_at_16_khz(separator: VocalSeparator, tmp_path: Path) -> None:
    path = write(tmp_path / "mix.wav", tone(VOICE_HZ) + tone(MUSIC_HZ))
    found = blocks(separator, path, range(3))
    assert [len(block) / 16_000 for block in found] == [separator.block_s, SECONDS - separator.block_s, 0]
    speech, expected = np.concatenate(found), tone(VOICE_HZ, rate=16_000)
    assert decibels((speech - expected)[8000:-8000], expected) < -80


def test_a_block_is_the_same_by_itself(strange: VocalSeparator, song: str) -> None:
    together = blocks(strange, song, range(3))
    for number, block in enumerate(together):
        assert np.array_equal(blocks(strange, song, range(number, number + 1))[0], block)
    backwards = blocks(strange, song, iter([2, 0, 1]))
    assert np.array_equal(np.concatenate([*backwards[1:], backwards[0]]), np.concatenate(together))


def test_blocks_are_as_the_whole_in_one_piece(strange: VocalSeparator, song: str) -> None:
    """The library's own loop over the whole sound, with chunks at the same places, says what one piece is."""
    mix = soundfile.read(song, dtype="float32")[0].T
    strange._mdx.overlap = 1 - (strange.step + 0.5) / strange.chunk
    lead = strange.overlap + DOWN - strange._mdx.trim  # by which our first chunk begins earlier than the library's
    one_piece = strange._mdx.demix(np.pad(mix, ((0, 0), (lead, 0))))[:, lead:].T
    found = whole(strange, song)
    assert found.shape == one_piece.shape
    heard = slice(-VOCALS_RATE)  # in its last chunk the library fades differently
    assert decibels(found[heard] - one_piece[heard], one_piece) < -100
    speech = np.concatenate(blocks(strange, song, range(3)))
    expected = resample_poly(found.mean(axis=1), UP, DOWN, window=_LOW_PASS)
    assert len(speech) == len(expected)
    assert decibels((speech - expected)[200:-200], expected) < -100


def test_level_does_not_jump_between_blocks(separator: VocalSeparator, tmp_path: Path) -> None:
    """A loud sound in one block alone changes nothing in the other."""
    voice = tone(VOICE_HZ, 70, level=0.05)
    loud = voice.copy()
    loud[: VOCALS_RATE * 10] += tone(MUSIC_HZ, 10, level=0.9)
    quiet, other = (blocks(separator, write(tmp_path / "a.wav", sound), range(2)) for sound in (voice, loud))
    assert np.array_equal(quiet[1], other[1])
    rms = [float(np.sqrt(np.mean(np.square(block[-16_000:])))) for block in other]
    assert rms == pytest.approx([0.05 / np.sqrt(2)] * 2, rel=1e-3)


def test_silence_costs_nothing(separator: VocalSeparator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separator._mdx, "run_model", None)
    found = whole(separator, write(tmp_path / "silence.wav", np.zeros(3 * VOCALS_RATE)))
    assert len(found) == 3 * VOCALS_RATE and not found.any()


def test_each_chunk_is_separated_once(separator: VocalSeparator, song: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Mock(side_effect=separator._mdx.run_model)
    monkeypatch.setattr(separator._mdx, "run_model", run)
    blocks(separator, song, range(2))
    assert run.call_count == 2 * separator.num_steps + 1


def test_sound_is_read_forwards_and_back(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 400_000).astype(np.float32)
    path = write(tmp_path / "a.wav", samples)
    sound = Sound(path)
    padded = np.pad(samples, 1000)
    for start, stop in [
        (-500, -100),
        (-10, 30_000),
        (20_000, 300_000),
        (399_000, 400_500),
        (5, 10),
        (400_100, 401_000),
    ]:
        assert np.array_equal(sound.read(start, stop), np.stack([padded[start + 1000 : stop + 1000]] * 2, axis=1))
    assert sound.num_samples == 400_000
    sound.close()


def test_blocks_meet_without_a_gap(separator: VocalSeparator) -> None:
    ends = [round(number * separator.block_s * 16_000) for number in range(400)]
    assert {b - a for a, b in pairwise(ends)} == {separator.block * UP // DOWN}
