import socket
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from stableavatar.audio import decode
from stableavatar.audio.decode import decode_speech, encode_sound, measure_sound
from stableavatar.audio.span import Span
from stableavatar.errors import BadInput
from stableavatar.limits import Limits
from stableavatar.model.conditions import PAUSE_RMS
from stableavatar.units import SPEECH_RATE
from tests.bad_inputs import film_of_another_file
from tests.sounds import lag_samples, signal, write_samples

RATE = 44_100
SECONDS = 3.0
BEEP_S = 1.25  # from here to 1.5 s the sound is loud


def sound(channels: int = 2) -> np.ndarray:
    """Quiet noise, int16 [n, channels], with one loud beep."""
    noise = np.random.default_rng(0).normal(0, 300, (round(SECONDS * RATE), channels))
    t = np.arange(round(0.25 * RATE)) / RATE
    start = round(BEEP_S * RATE)
    noise[start : start + len(t)] += 12_000 * np.sin(2 * np.pi * 440 * t)[:, None]
    return noise.astype(np.int16)


def write_wav(path: Path, samples: np.ndarray) -> str:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return str(path)


def convert(*inputs: object, to: Path, **options: object) -> str:
    stream = ffmpeg.output(*inputs, str(to), loglevel="error", **options)
    stream.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), overwrite_output=True)
    return str(to)


def onset_s(speech: np.ndarray) -> float:
    return int(np.argmax(np.abs(speech) > 0.15)) / SPEECH_RATE


@pytest.fixture
def wav(tmp_path: Path) -> str:
    return write_wav(tmp_path / "speech.wav", sound())


def test_a_wav_is_measured_to_the_sample(wav: str) -> None:
    info = measure_sound(wav)
    assert (info.duration_s, info.sample_rate, info.channels, info.codec) == (SECONDS, RATE, 2, "pcm_s16le")
    speech = decode_speech(wav)
    assert speech.dtype == np.float32 and abs(len(speech) - SECONDS * SPEECH_RATE) <= 2
    assert onset_s(speech) == pytest.approx(BEEP_S, abs=0.001)
    assert np.abs(speech).max() < 0.5


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.ogg", "a.opus", "a.flac", "a.mkv", "a.aiff"])
def test_every_format_keeps_its_place_in_time(wav: str, tmp_path: Path, name: str) -> None:
    path = convert(ffmpeg.input(wav), to=tmp_path / name)
    speech, duration_s = decode_speech(path), measure_sound(path).duration_s
    assert duration_s == pytest.approx(SECONDS, abs=0.03)
    assert abs(len(speech) - round(duration_s * SPEECH_RATE)) <= 2
    assert abs(lag_samples(speech, decode_speech(wav))) <= 8  # half a millisecond


def test_resampling_keeps_what_fits_and_lets_nothing_fold_back(tmp_path: Path) -> None:
    t = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 7_000 * t) + np.sin(2 * np.pi * 10_000 * t)
    path = write_wav(tmp_path / "tones.wav", (8_000 * tone[:, None]).astype(np.int16))
    spectrum = np.abs(np.fft.rfft(decode_speech(path)[2000:14000] * np.hanning(12000)))
    hertz = np.fft.rfftfreq(12000, 1 / SPEECH_RATE)
    assert hertz[spectrum.argmax()] == pytest.approx(7_000, abs=2)
    assert spectrum[np.abs(hertz - 6_000) < 100].max() < spectrum.max() * 1e-4  # 10 kHz would fold to 6 kHz


def test_a_span_is_cut_to_the_sample(wav: str) -> None:
    whole, span = decode_speech(wav), decode_speech(wav, Span(start_s=1.0, end_s=2.5))
    assert measure_sound(wav, Span(start_s=1.0, end_s=2.5)).duration_s == 1.5
    assert len(span) == 24_000
    inner, same = span[100:-100], whole[16_100:39_900]
    np.testing.assert_allclose(inner / inner.std(), same / same.std(), atol=1e-2)  # each has a level of its own


def test_an_end_past_the_end_is_clipped(wav: str) -> None:
    assert measure_sound(wav, Span(start_s=2.0, end_s=99.0)).duration_s == 1.0


@pytest.mark.parametrize("start_s", [SECONDS, 10.0])
def test_a_start_past_the_end_is_refused(wav: str, start_s: float) -> None:
    for read in (measure_sound, decode_speech):
        with pytest.raises(BadInput, match=r"speech\.wav has no sound from start_s = .* Lower start_s"):
            read(wav, Span(start_s=start_s))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_sound_that_starts_after_its_video_is_preceded_by_silence(wav: str, tmp_path: Path, suffix: str) -> None:
    picture = ffmpeg.input("testsrc=duration=4:size=64x64:rate=25", format="lavfi")
    path = convert(picture, ffmpeg.input(wav, itsoffset=0.5), to=tmp_path / f"late.{suffix}")
    speech = decode_speech(path)
    assert onset_s(speech) == pytest.approx(0.5 + BEEP_S, abs=0.03 if suffix == "ts" else 0.002)
    assert np.abs(speech[: round(0.47 * SPEECH_RATE)]).max() < 1e-3
    assert abs(len(speech) - round(measure_sound(path).duration_s * SPEECH_RATE)) <= 2


def test_an_edit_list_may_let_a_sound_start_later(wav: str, tmp_path: Path) -> None:
    late = ffmpeg.input(wav, itsoffset=0.5)
    whole = convert(late, to=tmp_path / "late.m4a")
    assert onset_s(decode_speech(whole)) == pytest.approx(0.5 + BEEP_S, abs=0.002)
    live = convert(late, to=tmp_path / "live.mp4", movflags="frag_keyframe+empty_moov+default_base_moof+frag_discont")
    assert onset_s(decode_speech(live)) == pytest.approx(BEEP_S, abs=0.03)
    assert onset_s(decode_speech(convert(late, to=tmp_path / "late.mka"))) == pytest.approx(BEEP_S, abs=0.03)


def test_a_cover_picture_is_not_a_video(wav: str, tmp_path: Path) -> None:
    convert(ffmpeg.input("color=red:size=64x64", format="lavfi"), to=tmp_path / "cover.jpg", **{"frames:v": 1})
    cover = ffmpeg.input(str(tmp_path / "cover.jpg"))
    path = convert(
        ffmpeg.input(wav), cover, to=tmp_path / "song.mp3",
        **{"c:v": "copy", "disposition:v": "attached_pic"},
    )  # fmt: skip
    assert onset_s(decode_speech(path)) == pytest.approx(BEEP_S, abs=0.002)


def test_a_length_the_header_does_not_know_is_measured(wav: str, tmp_path: Path) -> None:
    data = bytearray(Path(wav).read_bytes())
    data[40:44] = b"\xff\xff\xff\xff"  # as written to a pipe
    (tmp_path / "piped.wav").write_bytes(data)
    assert measure_sound(str(tmp_path / "piped.wav")).duration_s == SECONDS


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.m4a", "a.mka"])
def test_a_broken_off_file_is_refused(wav: str, tmp_path: Path, name: str) -> None:
    whole = Path(convert(ffmpeg.input(wav), to=tmp_path / name, movflags="+faststart"))
    broken = tmp_path / f"broken_{name}"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for read in (measure_sound, decode_speech):
        with pytest.raises(BadInput, match=r"broken_a\..* breaks off at 1\.\d+ s; .* 3.\d+ s long"):
            read(str(broken))
    assert measure_sound(str(broken), Span(end_s=0.5)).duration_s == 0.5  # what is asked for is there


def beside(path: Path) -> str:
    """A good sound that a playlist can name."""
    return write_wav(path.with_suffix(".wav"), sound())


def bad_files() -> dict[str, Callable[[Path], object]]:
    return {
        "empty.wav": lambda path: path.write_bytes(b""),
        "text.wav": lambda path: path.write_text("hello world\n" * 500),
        "noise.mp3": lambda path: path.write_bytes(np.random.default_rng(0).bytes(100_000)),
        "header.wav": lambda path: path.write_bytes(Path(write_wav(path, sound())).read_bytes()[:30]),
        "no_samples.wav": lambda path: write_wav(path, np.zeros((0, 1), np.int16)),
        "folder.wav": lambda path: path.mkdir(),
        "missing.wav": lambda path: None,
        "image.png": lambda path: convert(
            ffmpeg.input("testsrc=size=64x64", format="lavfi"), to=path, **{"frames:v": 1}
        ),
        "silent_film.mp4": lambda path: convert(ffmpeg.input("testsrc=duration=1:size=64x64", format="lavfi"), to=path),
        "playlist.m3u8": lambda path: path.write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\n{beside(path)}\n#EXT-X-ENDLIST\n"
        ),
        "concat.txt": lambda path: path.write_text(f"ffconcat version 1.0\nfile '{beside(path)}'\n"),
        "many_channels.wav": lambda path: write_wav(path, sound(channels=16)),
    }


@pytest.mark.parametrize("name", bad_files())
def test_what_is_no_sound_is_refused_with_file_and_remedy(tmp_path: Path, name: str) -> None:
    bad_files()[name](tmp_path / name)
    for read in (measure_sound, decode_speech):
        with pytest.raises(BadInput, match=rf"{name}.* (Give|Correct|Mix) "):
            read(str(tmp_path / name))


def test_not_numbers_are_refused(tmp_path: Path) -> None:
    samples = np.zeros(RATE, np.float32)
    samples[RATE // 2] = np.nan
    (tmp_path / "raw").write_bytes(samples.tobytes())
    raw = ffmpeg.input(str(tmp_path / "raw"), format="f32le", ar=RATE, ac=1)
    path = convert(raw, to=tmp_path / "nan.wav", acodec="pcm_f32le")
    for read in (measure_sound, decode_speech):
        with pytest.raises(BadInput, match="NaN"):
            read(path)
    with pytest.raises(BadInput, match=r"nan\.wav"):
        encode_sound(path, str(tmp_path / "nan.m4a"), duration_s=1.0)


def test_any_file_name_is_only_a_file_name(wav: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-y.wav", "concat:a.wav", "%03d é\n.wav"):
        Path(name).write_bytes(Path(wav).read_bytes())
        assert measure_sound(name).duration_s == SECONDS
        assert len(decode_speech(name)) == SECONDS * SPEECH_RATE


@pytest.mark.parametrize("duration_s", [0.04, 1.0, 4.0])  # one frame, cut, padded
def test_the_sound_track_has_the_length_asked_for(wav: str, tmp_path: Path, duration_s: float) -> None:
    track = str(tmp_path / "track.m4a")
    encode_sound(wav, track, duration_s=duration_s)
    info = measure_sound(track)
    assert (info.sample_rate, info.channels, info.codec) == (RATE, 2, "aac")
    assert info.duration_s == pytest.approx(duration_s, abs=1 / RATE)


def test_the_sound_track_is_the_original_in_the_same_place(wav: str, tmp_path: Path) -> None:
    track = str(tmp_path / "track.m4a")
    encode_sound(wav, track, Span(start_s=0.5), duration_s=2.0)
    expected, found = decode_speech(wav, Span(start_s=0.5, end_s=2.5)), decode_speech(track)
    assert lag_samples(found, expected) == 0
    assert np.corrcoef(found, expected)[0, 1] > 0.98


@pytest.mark.parametrize("layout", ["mono", "2.1", "5.1", "6.1", "7.1"])
def test_every_channel_is_kept(tmp_path: Path, layout: str) -> None:
    noise = ffmpeg.input("anoisesrc=duration=0.5:sample_rate=48000:seed=1", format="lavfi")
    path = convert(noise.filter("aformat", channel_layouts=layout), to=tmp_path / "a.wav")
    encode_sound(path, str(tmp_path / "a.m4a"), duration_s=0.5)
    assert measure_sound(str(tmp_path / "a.m4a")).channels == measure_sound(path).channels
    assert np.abs(decode_speech(path)).max() <= 1.0


def test_the_same_sound_gives_the_same_bytes(wav: str, tmp_path: Path) -> None:
    for name in ("one.m4a", "two.m4a"):
        encode_sound(wav, str(tmp_path / name), duration_s=2.0)
    assert (tmp_path / "one.m4a").read_bytes() == (tmp_path / "two.m4a").read_bytes()


def test_decoding_stops_where_the_limit_is_passed(wav: str) -> None:
    with pytest.raises(BadInput, match=r"speech\.wav is longer than the limit of 2 s\. Name a span with end_s"):
        measure_sound(wav, limits=Limits(max_sound_s=2))
    assert measure_sound(wav, Span(end_s=2.0), limits=Limits(max_sound_s=2)).duration_s == 2.0
    assert measure_sound(wav, limits=Limits(max_sound_s=SECONDS)).duration_s == SECONDS
    with pytest.raises(BadInput, match="begins after the limit of 2 s"):
        measure_sound(wav, Span(start_s=2.5), limits=Limits(max_sound_s=2))


def test_a_long_sound_costs_no_more_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = convert(ffmpeg.input("anullsrc=r=8000:cl=mono:d=300", format="lavfi"), to=tmp_path / "long.flac")
    num_bytes, whole_read = 0, decode.read

    def counting(stream: object) -> Iterator[bytes]:
        nonlocal num_bytes
        for chunk in whole_read(stream):
            num_bytes += len(chunk)
            yield chunk

    monkeypatch.setattr(decode, "read", counting)
    with pytest.raises(BadInput, match="longer than the limit"):
        measure_sound(path, limits=Limits(max_sound_s=10))
    assert num_bytes < 11 * 8000 * 4


PLAYLISTS = {
    "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXTINF:9,\n{file}\n#EXT-X-ENDLIST\n",
    "a.ffconcat": "ffconcat version 1.0\nfile '{url}'\nfile '{file}'\n",
    "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n",
    "a.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{url}</BaseURL></MPD>',
}


@pytest.mark.parametrize("suffix", ["", ".wav", ".mp4"])
@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_reaches_neither_the_network_nor_other_files(
    wav: str, tmp_path: Path, name: str, suffix: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        text = PLAYLISTS[name].format(url=f"http://127.0.0.1:{port}/a.ts", port=port, file=wav)
        (tmp_path / (name + suffix)).write_text(text)
        for listen in (measure_sound, decode_speech):
            with pytest.raises(BadInput, match="not sound that can be decoded"):
                listen(str(tmp_path / (name + suffix)))
        with pytest.raises(TimeoutError):
            server.accept()


def test_without_our_lists_a_playlist_would_be_followed(wav: str, tmp_path: Path) -> None:
    (tmp_path / "a.ffconcat").write_text(f"ffconcat version 1.0\nfile '{wav}'\n")
    with av.open(str(tmp_path / "a.ffconcat"), options={"safe": "0"}) as container:
        assert next(container.decode(audio=0)).sample_rate == RATE


def test_attachments_and_subtitles_are_passed_over(wav: str, tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\n<img src=http://127.0.0.1:9/>\n")
    attached = {"attach": str(tmp_path / "run.sh"), "metadata:s:t": "mimetype=application/x-sh"}
    path = convert(ffmpeg.input(wav), ffmpeg.input(str(tmp_path / "a.srt")), to=tmp_path / "a.mkv", **attached)
    assert measure_sound(path).duration_s == pytest.approx(SECONDS, abs=0.03)


def test_a_codec_that_nobody_needs_is_refused(wav: str, tmp_path: Path) -> None:
    path = convert(ffmpeg.input(wav), to=tmp_path / "a.wav", acodec="g723_1", ac=1, ar=8000, audio_bitrate=6300)
    with pytest.raises(BadInput, match=r"a\.wav holds g723_1 sound, which is not read"):
        measure_sound(path)


def test_a_film_does_not_bring_in_another_file(tmp_path: Path) -> None:
    path = str(tmp_path / film_of_another_file(tmp_path)["audio"])
    options = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(path, options=options) as container:  # the file is what it is meant to be
        assert next(container.decode(audio=0)).to_ndarray()[0, 0] == 0x2211
    with pytest.raises(BadInput, match="holds no sound"):
        measure_sound(path)


def rms_db(speech: np.ndarray) -> float:
    return 20 * float(np.log10(speech.std()))


def test_a_click_does_not_keep_quiet_speech_quiet(tmp_path: Path) -> None:
    quiet = signal(SPEECH_RATE)
    quiet *= 10 ** (-44 / 20) / quiet.std()
    quiet[24_000:24_030] = 1.0
    speech = decode_speech(write_samples(tmp_path / "a.wav", quiet, SPEECH_RATE))
    assert rms_db(speech[:16_000]) > 20 * np.log10(PAUSE_RMS) + 20
    assert np.abs(speech).max() <= 1.0


@pytest.mark.parametrize("pad_s", [0.0, 2.0])
def test_the_shortest_clips_are_brought_to_the_same_level(tmp_path: Path, pad_s: float) -> None:
    word = signal(SPEECH_RATE)[:4800]
    path = write_samples(tmp_path / "a.wav", word * 10 ** (-50 / 20) / word.std(), SPEECH_RATE)
    speech = decode_speech(path, Span(pad_before_s=pad_s, pad_after_s=pad_s))
    pad = round(pad_s * SPEECH_RATE)
    assert rms_db(speech[pad : len(speech) - pad]) == pytest.approx(-23, abs=1)


def test_a_short_silence_stays_silent(tmp_path: Path) -> None:
    hiss = 10 ** (-75 / 20) * np.random.default_rng(0).standard_normal(4800).astype(np.float32)
    assert rms_db(decode_speech(write_samples(tmp_path / "a.wav", hiss, SPEECH_RATE))) < 20 * np.log10(PAUSE_RMS)
    assert not decode_speech(write_samples(tmp_path / "b.wav", 0 * hiss, SPEECH_RATE)).any()


@pytest.mark.parametrize(("layout", "num_channels"), [("cube", 8), ("3.1.2", 6), ("FL+FR+TC", 3)])
def test_speakers_that_aac_does_not_carry_are_refused(tmp_path: Path, layout: str, num_channels: int) -> None:
    (tmp_path / "raw").write_bytes(np.zeros((RATE, num_channels), np.float32).tobytes())
    raw = ffmpeg.input(str(tmp_path / "raw"), format="f32le", ar=RATE, ch_layout=layout)
    path = convert(raw, to=tmp_path / "a.wav")
    with pytest.raises(BadInput, match=r"a\.wav has the speakers .*, which AAC cannot carry\. Mix it down to 7\.1"):
        measure_sound(path)


def test_a_mix_for_two_ears_is_stereo(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(np.zeros((RATE, 2), np.float32).tobytes())
    raw = ffmpeg.input(str(tmp_path / "raw"), format="f32le", ar=RATE, ch_layout="downmix")
    path = convert(raw, to=tmp_path / "a.wav")
    encode_sound(path, str(tmp_path / "a.m4a"), duration_s=1.0)
    assert measure_sound(str(tmp_path / "a.m4a")).channels == 2
