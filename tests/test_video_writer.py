import os
import re
import subprocess
import wave
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest

from stableavatar.audio.decode import encode_sound
from stableavatar.errors import BrokenVideo, StorageError
from stableavatar.subtitles import read_subtitles
from stableavatar.tracks import SOUND, SUBTITLES, Track
from stableavatar.units import FPS
from stableavatar.video.quality import check_contract, measure_video
from stableavatar.video.writer import PieceWriter, is_piece, join
from tests.media import video_writer, write_tone
from tests.sounds import lag_samples
from tests.videos import frame_hashes

SIZE = 64  # pixels a side
RATE = 48_000


def write_sound(folder: Path, num_frames: int, rate: int = RATE) -> tuple[np.ndarray, str]:
    """Noise in bursts, float [n]: aligns with itself in one place only. And the path of its track for the writer."""
    num_samples = round(num_frames / FPS * rate)
    random = np.random.default_rng(1)
    sound = random.normal(0, 0.1, num_samples) * (random.random(num_samples // 400 + 1) > 0.5).repeat(400)[:num_samples]
    sound = np.convolve(sound, np.ones(8) / 3, "same")
    with wave.open(str(folder / "sound.wav"), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((sound * 32_767).clip(-32_768, 32_767).astype(np.int16).tobytes())
    encode_sound(str(folder / "sound.wav"), str(folder / "sound.m4a"), duration_s=num_frames / FPS)
    return sound, str(folder / "sound.m4a")


def write_video(
    path: Path, num_frames: int, colour: tuple[int, int, int] | None = None, rate: int = RATE
) -> np.ndarray:
    """A video of noise or of one colour, given in pieces of four and with a few frames too many. Its sound."""
    sound, track = write_sound(path.parent, num_frames, rate)
    random = np.random.default_rng(2)
    with video_writer(str(path), width=SIZE, height=SIZE, num_frames=num_frames, sound_path=track) as writer:
        for _ in range(num_frames // 4 + 1):
            frames_VHWC = random.integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
            writer.write(np.full_like(frames_VHWC, colour) if colour else frames_VHWC)
    return sound


def decode_with_pyav(path: Path) -> np.ndarray:
    """The sound on the time line of the file: silence stands where it starts late."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].time is not None and frames[0].time >= 0
    silence = np.zeros(round(frames[0].time * RATE), np.float32)
    return np.concatenate([silence, *(frame.to_ndarray()[0] for frame in frames)])


def decode_with_ffmpeg(path: Path) -> np.ndarray:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-copyts", "-i", str(path), "-vn"]
    command += ["-af", "aresample=async=1:first_pts=0", "-f", "f32le", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.float32)


@pytest.mark.parametrize("num_frames", [1, 2, 5, 81, 102])
@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_the_contract_is_kept_for_every_length(tmp_path: Path, num_frames: int, rate: int) -> None:
    write_video(tmp_path / "a.mp4", num_frames, rate=rate)
    quality = measure_video(str(tmp_path / "a.mp4"))
    check_contract(quality, num_frames=num_frames, width=SIZE, height=SIZE)
    assert quality.duration_s == num_frames / FPS
    assert quality.sound_duration_s == pytest.approx(num_frames / FPS, abs=0.001)


def test_frames_lie_exactly_on_the_clock(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 30)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert [frame.time for frame in container.decode(video=0)] == [n / FPS for n in range(30)]


@pytest.mark.parametrize("decode", [decode_with_pyav, decode_with_ffmpeg])
def test_sound_is_in_sync_to_less_than_a_millisecond(tmp_path: Path, decode: object) -> None:
    sound = write_video(tmp_path / "a.mp4", 50)
    found = decode(tmp_path / "a.mp4")  # type: ignore[operator]
    assert abs(lag_samples(found, sound)) < RATE // 1000
    assert np.corrcoef(found[: len(sound)], sound[: len(found)])[0, 1] > 0.95


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (200, 120, 90)])
def test_colours_come_back(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    write_video(tmp_path / "a.mp4", 3, colour)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        frame = next(container.decode(video=0))
    assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - colour).max() <= 2


def test_the_same_frames_give_the_same_bytes_without_date_or_version(tmp_path: Path) -> None:
    for name in ("one.mp4", "two.mp4"):
        write_video(tmp_path / name, 30)
    data = (tmp_path / "one.mp4").read_bytes()
    assert data == (tmp_path / "two.mp4").read_bytes()
    assert not re.search(rb"x264 - core|Lav[cf]\d", data)
    assert data[data.index(b"mvhd") + 8 :][:8] == bytes(8)  # created and modified: never


def test_too_few_frames_leave_no_file(tmp_path: Path) -> None:
    _, track = write_sound(tmp_path, 5)
    with (
        pytest.raises(BrokenVideo, match="only 2 of 5 frames"),
        video_writer(str(tmp_path / "a.mp4"), width=SIZE, height=SIZE, num_frames=5, sound_path=track) as writer,
    ):
        writer.write(np.zeros((2, SIZE, SIZE, 3), np.uint8))
    assert not (tmp_path / "a.mp4").exists()


def test_an_error_in_the_block_leaves_no_file_no_process_and_no_pipe(tmp_path: Path) -> None:
    _, track = write_sound(tmp_path, 200)
    open_files = len(os.listdir("/proc/self/fd"))
    with (  # noqa: PT012
        pytest.raises(RuntimeError, match="no more"),
        video_writer(str(tmp_path / "a.mp4"), width=SIZE, height=SIZE, num_frames=200, sound_path=track) as writer,
    ):
        writer.write(np.zeros((100, SIZE, SIZE, 3), np.uint8))
        raise RuntimeError("no more")
    assert not (tmp_path / "a.mp4").exists()
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert ffmpeg_children() == []


def ffmpeg_children() -> list[str]:
    """Processes that we started and that still run or were never waited for."""
    mine = f"PPid:\t{os.getpid()}\n"
    states = [path.read_text() for path in Path("/proc").glob("[0-9]*/status") if path.exists()]
    return [state for state in states if mine in state and "ffmpeg" in state]


def test_what_ffmpeg_says_of_the_sound_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.m4a").write_bytes(b"no sound")
    write_piece(tmp_path / "a.mp4", noise(1))
    with pytest.raises(StorageError, match="Invalid data found"):
        join([(str(tmp_path / "a.mp4"), 1)], str(tmp_path / "broken.m4a"), str(tmp_path / "video.mp4"))
    assert not (tmp_path / "video.mp4").exists()


@pytest.mark.parametrize("num_frames", [1, 2000])  # ffmpeg's end is seen when closing, and when writing
def test_an_unwritable_place_is_told(tmp_path: Path, num_frames: int) -> None:
    path = str(tmp_path / "nowhere" / "a.mp4")
    with (
        pytest.raises(StorageError, match="No such file or directory"),
        PieceWriter(path, width=SIZE, height=SIZE, num_frames=num_frames) as writer,
    ):
        writer.write(np.zeros((num_frames, SIZE, SIZE, 3), np.uint8))


def noise(num_frames: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (num_frames, SIZE, SIZE, 3), np.uint8)


def write_piece(path: Path, frames_VHWC: np.ndarray, origin: str = "") -> None:
    with PieceWriter(str(path), width=SIZE, height=SIZE, num_frames=len(frames_VHWC), origin=origin) as writer:
        writer.write(frames_VHWC)


# Each cut is a piece's first frame; pieces of one or two frames hold back fewer than others.
@pytest.mark.parametrize("cuts", [[], [25], [1], [49], [48], [1, 2, 4, 9, 11, 40], [13, 26]])
def test_pieces_are_joined_frame_for_frame(tmp_path: Path, cuts: list[int]) -> None:
    num_frames, track = 50, write_sound(tmp_path, 50)[1]
    parts = np.split(noise(num_frames), cuts)
    paths = [tmp_path / f"it's {index}.mp4" for index in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        write_piece(path, part)
    video = tmp_path / "video.mp4"
    join([(str(path), len(part)) for path, part in zip(paths, parts, strict=True)], track, str(video))
    check_contract(measure_video(str(video)), num_frames=num_frames, width=SIZE, height=SIZE)
    assert frame_hashes(video) == [frame for path in paths for frame in frame_hashes(path)]
    with av.open(str(video)) as container:
        assert [frame.time for frame in container.decode(video=0)] == [n / FPS for n in range(num_frames)]
    with av.open(str(video)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert np.diff([packet.dts for packet in packets if packet.dts is not None]).tolist() == [512] * (
            num_frames - 1
        )
        assert sum(packet.is_keyframe for packet in packets) == len(parts)


def test_the_sound_of_a_joined_video_is_in_sync_behind_the_joints(tmp_path: Path) -> None:
    sound, track = write_sound(tmp_path, 50)
    parts = np.split(noise(50), [16, 33])
    for index, part in enumerate(parts):
        write_piece(tmp_path / str(index), part)
    video = tmp_path / "video.mp4"
    join([(str(tmp_path / str(index)), len(part)) for index, part in enumerate(parts)], track, str(video))
    for found in (decode_with_pyav(video), decode_with_ffmpeg(video)):
        last_second = slice(RATE, 2 * RATE)
        assert abs(lag_samples(found[last_second], sound[last_second])) < RATE // 1000


def test_a_piece_is_known_by_its_word_and_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "piece"
    write_piece(path, noise(9), origin="a1b2")
    assert is_piece(str(path), num_frames=9, origin="a1b2")
    assert not is_piece(str(path), num_frames=8, origin="a1b2")
    assert not is_piece(str(path), num_frames=9, origin="a1b3")
    path.write_bytes(path.read_bytes()[:-100])
    assert not is_piece(str(path), num_frames=9, origin="a1b2")
    assert not is_piece(str(tmp_path / "nothing"), num_frames=9, origin="a1b2")


@pytest.mark.parametrize(
    "frames", [np.zeros((1, SIZE, SIZE, 3), np.float32), np.zeros((1, 32, 32, 3), np.uint8), np.zeros((SIZE, SIZE, 3))]
)
def test_other_frames_are_refused(tmp_path: Path, frames: np.ndarray) -> None:
    _, track = write_sound(tmp_path, 1)
    with (
        pytest.raises(ValueError, match="wanted uint8"),
        video_writer(str(tmp_path / "a.mp4"), width=SIZE, height=SIZE, num_frames=1, sound_path=track) as writer,
    ):
        writer.write(frames)


def test_odd_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even"):
        PieceWriter(str(tmp_path / "a.mp4"), width=63, height=64, num_frames=1)


def peak_kib(path: Path, num_frames: int, track: str) -> int:
    """The most memory we hold while a video is written and measured, a second of frames at a time."""
    frames_VHWC = np.random.default_rng(3).integers(0, 256, (FPS, SIZE, SIZE, 3), np.uint8)
    Path("/proc/self/clear_refs").write_text("5")  # forget the earlier peak
    with video_writer(str(path), width=SIZE, height=SIZE, num_frames=num_frames, sound_path=track) as writer:
        for _ in range(num_frames // FPS):
            writer.write(frames_VHWC)
    assert measure_video(str(path)).num_frames == num_frames
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def test_our_memory_stays_flat(tmp_path: Path) -> None:
    tracks = {}
    for num_frames in (50, 1000):
        (tmp_path / str(num_frames)).mkdir()
        tracks[num_frames] = write_sound(tmp_path / str(num_frames), num_frames, rate=8_000)[1]
    few, many = (peak_kib(tmp_path / "a.mp4", num_frames, track) for num_frames, track in tracks.items())
    assert many - few < 8 * 1024  # of 12 MB of frames


def write_tracks(folder: Path, num_frames: int) -> list[Track]:
    """Two tones of 440 and 880 Hz, of other lengths than the video, and subtitles in two languages."""
    tracks = []
    for language, frequency_hz, seconds in (("fra", 440.0, 0.5), ("spa", 880.0, 9.0)):
        write_tone(folder / "tone.wav", duration_s=seconds, frequency_hz=frequency_hz, sample_rate=44_100)
        path = str(folder / f"{language}.m4a")
        encode_sound(str(folder / "tone.wav"), path, duration_s=num_frames / FPS)
        tracks.append(Track(kind=SOUND, language=language, path=path))
    for language, word in (("eng", "two"), ("", "zwei")):
        (folder / "a.srt").write_text(
            f"1\n00:00:00,500 --> 00:00:01,000\n<i>one</i>\n\n2\n00:00:01,500 --> 00:00:09,000\n{word}\n"
        )
        srt = folder / f"{word}.srt"
        srt.write_bytes(read_subtitles(str(folder / "a.srt"), duration_s=num_frames / FPS))
        tracks.append(Track(kind=SUBTITLES, language=language, path=str(srt)))
    return tracks


def write_with_tracks(path: Path, num_frames: int) -> None:
    _, sound = write_sound(path.parent, num_frames)
    tracks = write_tracks(path.parent, num_frames)
    frames_VHWC = np.random.default_rng(2).integers(0, 256, (num_frames, SIZE, SIZE, 3), np.uint8)
    size = {"width": SIZE, "height": SIZE, "num_frames": num_frames}
    with video_writer(str(path), sound_path=sound, language="deu", tracks=tracks, **size) as writer:
        writer.write(frames_VHWC)


def loudest_hz(container: Any, number: int) -> float:
    """Frequency of the first half second of a sound."""
    frames = [frame.to_ndarray()[0] for frame in container.decode(audio=number)]
    sound = np.concatenate(frames)[2000:20_000]
    return float(np.abs(np.fft.rfft(sound * np.hanning(len(sound)))).argmax() * 44_100 / len(sound))


def test_players_find_every_track_with_its_language(tmp_path: Path) -> None:
    write_with_tracks(tmp_path / "a.mp4", 75)
    with av.open(f"{tmp_path}/a.mp4") as container:
        found = [(s.type, s.metadata.get("language"), s.codec_context.name) for s in container.streams]
        default = [bool(s.disposition & av.stream.Disposition.default) for s in container.streams.audio]
        offered = [bool(s.disposition & av.stream.Disposition.default) for s in container.streams.subtitles]
        lengths_s = [float((s.duration or 0) * (s.time_base or 0)) for s in container.streams.audio]
        assert container.streams.best("audio") == container.streams.audio[0]
    assert found == [
        ("video", "und", "h264"),
        ("audio", "deu", "aac"),
        ("audio", "fra", "aac"),
        ("audio", "spa", "aac"),
        ("subtitle", "eng", "mov_text"),
        ("subtitle", "und", "mov_text"),
    ]
    assert (default, offered) == ([True, False, False], [False, False])
    assert lengths_s == pytest.approx([3.0] * 3, abs=0.03)
    for number, frequency_hz in ((1, 440), (2, 880)):
        with av.open(f"{tmp_path}/a.mp4") as container:
            assert loudest_hz(container, number) == pytest.approx(frequency_hz, abs=5)


def test_subtitles_are_shown_at_their_time_and_end_with_the_video(tmp_path: Path) -> None:
    write_with_tracks(tmp_path / "a.mp4", 75)
    with av.open(f"{tmp_path}/a.mp4") as container:
        packets = [p for p in container.demux(subtitles=0) if p.size > 2]  # an empty one is a pause
        shown = [
            (float((p.pts or 0) * p.time_base), float((p.duration or 0) * p.time_base), bytes(p)[2:]) for p in packets
        ]
        assert container.duration is not None
        assert container.duration / 1e6 == pytest.approx(3.0, abs=0.04)
    assert [(start_s, length_s) for start_s, length_s, _ in shown] == [(0.5, 0.5), (1.5, 1.5)]
    assert shown[0][2].startswith(b"one") and shown[1][2] == b"two"


def test_a_video_with_tracks_keeps_the_contract_and_is_reproducible(tmp_path: Path) -> None:
    for name in "ab":
        write_with_tracks(tmp_path / f"{name}.mp4", 75)
    check_contract(measure_video(f"{tmp_path}/a.mp4"), num_frames=75, width=SIZE, height=SIZE)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
