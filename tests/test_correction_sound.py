import wave
from pathlib import Path

import av
import ffmpeg
import numpy as np
import pytest

from stableavatar.audio.decode import encode_sound
from stableavatar.audio.edges import FADE_S
from stableavatar.audio.loudness import measure_loudness
from stableavatar.correction.sound import BLOCK, correct_sound, correct_speech, open_track, put_in
from stableavatar.errors import BadInput
from stableavatar.video.writer import PieceWriter, join
from tests.sounds import lag_samples

DURATION_S = 6.0
NUM_FRAMES = 150


def sound_of(seed: int, duration_s: float, rate: int, channels: int) -> np.ndarray:
    """Bursts of filtered noise with pauses, as speech has them, float [n, channels]."""
    random = np.random.default_rng(seed)
    num_samples = round(duration_s * rate)
    noise = random.normal(0, 0.2, (num_samples, channels))
    loud = np.convolve(
        np.repeat(random.random(num_samples // 2000 + 1) > 0.4, 2000)[:num_samples], np.ones(400) / 400, "same"
    )
    smooth = np.apply_along_axis(np.convolve, 0, noise, np.ones(6) / 3, "same")
    return smooth * loud[:, None]


def write_wav(path: Path, sound: np.ndarray, rate: int) -> str:
    with wave.open(str(path), "wb") as file:
        file.setparams((sound.shape[1], 2, rate, 0, "NONE", ""))
        file.writeframes((sound * 32_767).clip(-32_768, 32_767).astype("<i2").tobytes())
    return str(path)


def write_video(folder: Path, sound: np.ndarray, rate: int, name: str = "base") -> str:
    piece, track, path = str(folder / f"{name}.piece"), str(folder / f"{name}.m4a"), str(folder / f"{name}.mp4")
    encode_sound(write_wav(folder / f"{name}.wav", sound, rate), track, duration_s=DURATION_S)
    with PieceWriter(piece, width=32, height=32, num_frames=NUM_FRAMES) as writer:
        writer.write(np.zeros((NUM_FRAMES, 32, 32, 3), np.uint8))
    join([(piece, NUM_FRAMES)], track, path)
    return path


def corrected_video(folder: Path, base: str, corrections: list[tuple[float, float, str]]) -> str:
    track, path = str(folder / "corrected.m4a"), str(folder / "corrected.mp4")
    correct_sound(base, track, corrections)
    join([(str(folder / "base.piece"), NUM_FRAMES)], track, path)
    return path


def heard(path: str) -> np.ndarray:
    """As a player decodes it: float [n, channels]."""
    with av.open(path) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].time == 0
    return np.concatenate([frame.to_ndarray().T for frame in frames])


@pytest.mark.parametrize(
    ("rate", "channels", "spans"),
    [
        (44_100, 2, [(2.0, 3.5)]),
        (48_000, 1, [(2.013, 2.4)]),
        (16_000, 1, [(1.0, 1.6), (3.9, 4.5)]),
        (48_000, 6, [(2.5, 3.0)]),
        (44_100, 1, [(0.0, 1.0), (1.1, 1.5)]),
        (44_100, 2, [(5.0, 6.0)]),
    ],
)
def test_a_corrected_sentence_is_heard_in_its_place_and_all_else_bit_for_bit_as_before(
    tmp_path: Path, rate: int, channels: int, spans: list[tuple[float, float]]
) -> None:
    base = write_video(tmp_path, sound_of(1, DURATION_S, rate, channels), rate)
    parts = [sound_of(10 + n, end - start, rate, channels) for n, (start, end) in enumerate(spans)]
    files = [write_wav(tmp_path / f"{n}.wav", part, rate) for n, part in enumerate(parts)]
    path = corrected_video(tmp_path, base, [(*span, file) for span, file in zip(spans, files, strict=True)])
    old, new = heard(base), heard(path)
    assert new.shape == old.shape
    is_old = np.ones(len(old), bool)
    for (start_s, end_s), part in zip(spans, parts, strict=True):
        start, stop = round(start_s * rate), round(end_s * rate)
        is_old[max(0, start - 13 * BLOCK) : stop + 13 * BLOCK] = False
        found = new[start:stop]
        assert lag_samples(found[:, 0], part[:, 0]) == 0
        assert np.corrcoef(found[:, 0], part[:, 0])[0, 1] > 0.95
    assert np.array_equal(new[is_old], old[is_old])
    assert is_old.mean() > (0.2 if rate == 16_000 else 0.3)
    assert open_track(path).num_packets == open_track(base).num_packets


@pytest.mark.parametrize("seed", range(4))
def test_where_old_and_new_packets_meet_no_click_is_heard(tmp_path: Path, seed: int) -> None:
    """The corrected video beside one that was encoded whole from the corrected sound: both err by about the same."""
    rate, spans = 44_100, [(1.0 + seed / 97, 1.5), (3.0, 3.2 + seed / 97)]
    sound = sound_of(seed, DURATION_S, rate, 1)
    base = write_video(tmp_path, sound, rate)
    wanted, corrections = sound.astype(np.float32), []
    for number, span in enumerate(spans):
        part = sound_of(20 + number, span[1] - span[0], rate, 1)
        corrections.append((*span, write_wav(tmp_path / f"{number}.wav", part, rate)))
        put_in(wanted, part.astype(np.float32), span, rate)
    new, whole = (
        heard(corrected_video(tmp_path, base, corrections)),
        heard(write_video(tmp_path, wanted, rate, "whole")),
    )

    def error(found: np.ndarray) -> float:
        return float(np.sqrt(np.square(found[: len(wanted)] - wanted).mean()))

    assert error(new) < 1.25 * error(whole)
    difference = np.square(new - heard(base)).reshape(-1, BLOCK).mean(axis=1) ** 0.5  # of each block
    for start_s, end_s in spans:  # the outermost blocks that differ: there packets of both kinds meet
        before, after = int(start_s * rate) // BLOCK, int(end_s * rate) // BLOCK + 1
        changed_before = [block for block in range(before - 13, before) if difference[block]]
        changed_after = [block for block in range(after, after + 13) if difference[block]]
        meeting = [*changed_before[:1], *changed_after[-1:]]
        assert max(difference[meeting], default=0) < 2 * error(whole)


def test_a_voice_alone_is_as_loud_in_stereo(tmp_path: Path) -> None:
    base = write_video(tmp_path, sound_of(1, DURATION_S, 44_100, 2), 44_100)
    part = sound_of(2, 1.0, 22_050, 1)
    new = heard(corrected_video(tmp_path, base, [(2.0, 3.0, write_wav(tmp_path / "a.wav", part, 22_050))]))
    found = new[2 * 44_100 : 3 * 44_100]
    assert np.corrcoef(found[:, 0], found[:, 1])[0, 1] > 0.99
    assert np.std(found) == pytest.approx(np.std(part), rel=0.05)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_new_sentence_is_brought_to_the_loudness_of_the_row(tmp_path: Path, channels: int) -> None:
    base = write_video(tmp_path, sound_of(1, DURATION_S, 44_100, 2), 44_100)
    part = write_wav(tmp_path / "a.wav", 0.1 * sound_of(2, 2.0, 44_100, channels), 44_100)
    track = str(tmp_path / "corrected.m4a")
    correct_sound(base, track, [(2.0, 4.0, part)], loudness=-20.0)
    found = measure_loudness(ffmpeg.input(track, ss=2.0, t=2.0).audio)
    assert found.integrated == pytest.approx(-20, abs=0.5)


def test_a_span_is_filled_up_with_silence_and_faded_at_both_ends() -> None:
    sound = np.ones((1000, 2), np.float32)
    put_in(sound, np.full((300, 2), -1, np.float32), (0.2, 0.7), 1000)
    fade = round(FADE_S * 1000)
    assert (sound[:200] == 1).all() and (sound[700:] == 1).all()
    assert (sound[200 + fade : 500 - fade] == -1).all() and (np.diff(sound[494:501, 0]) > 0).all()
    assert (sound[500 : 700 - fade] == 0).all()
    assert (np.diff(sound[199 : 200 + fade, 0]) < 0).all() and (np.diff(sound[700 - fade : 701, 0]) > 0).all()
    longer = np.ones(1000, np.float32)
    put_in(longer, np.zeros(600, np.float32), (0.5, 0.75), 1000)
    assert (longer[750:] == 1).all()


def test_speech_is_corrected_in_a_copy(tmp_path: Path) -> None:
    part = sound_of(2, 0.5, 16_000, 1)
    speech = np.zeros(32_000, np.float32)
    found = correct_speech(speech, [(1.0, 1.75, write_wav(tmp_path / "a.wav", part, 16_000))])
    assert not speech.any()
    assert not found[:16_000].any() and not found[28_000:].any()
    assert lag_samples(found[16_000:24_000], part[:, 0].astype(np.float32)) == 0


def test_sound_of_another_making_is_refused(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", sound_of(1, 1.0, 16_000, 1), 16_000)
    with pytest.raises(BadInput, match="no AAC sound"):
        open_track(path)
    with pytest.raises(BadInput, match="cannot be read"):
        open_track(__file__)
