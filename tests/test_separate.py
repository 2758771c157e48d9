import json
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile

from pipelines import cache, scratch, storage
from pipelines.check import Check
from pipelines.cli import main
from pipelines.prepare import Prepare
from pipelines.results import read_results
from pipelines.run import Loaders, Options, render_pools, run
from pipelines.separate import QUIET_S, Separate, _write_wav, blocks_of, kept_blocks, wants_vocals
from pipelines.sizes import Work, choose_sizes
from pipelines.workers import Capacity, require_room
from stableavatar.audio.decode import decode_speech
from stableavatar.audio.span import Span
from stableavatar.audio.vocals import vocals_of
from stableavatar.errors import StorageError
from stableavatar.presets import Preset
from tests.avatars import load_no_words, load_noise
from tests.media import write_tone
from tests.separators import band, write_separator

MakeRow = Callable[..., dict[str, Any]]
RATE = 44_100
SECONDS = 75.0  # three blocks


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(scratch.VARIABLE, f"{tmp_path}/scratch")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write_separator(tmp_path / "band.onnx", band(300, 2000))


@pytest.fixture
def song(tmp_path: Path) -> str:
    """A voice that fades in at 2 s and sweeps, and music above it all the time."""
    t = np.arange(round(SECONDS * RATE)) / RATE
    fade = (1 - np.cos(np.pi * np.clip(t - 2, 0, 1))) / 2  # what begins at once has all frequencies
    voice = 0.3 * np.sin(2 * np.pi * (600 + 5 * t) * t) * fade
    for name, sound in (("song", voice + 0.3 * np.sin(2 * np.pi * 5000 * t)), ("voice", voice)):
        soundfile.write(f"{tmp_path}/{name}.wav", sound, RATE, subtype="FLOAT")
    return f"{tmp_path}/song.wav"


@pytest.fixture
def separate(path: str) -> Separate:
    """The stage, whose separator counts the chunks that it separates."""
    stage = Separate(path)
    stage.separator._mdx.run_model = Mock(side_effect=stage.separator._mdx.run_model)
    return stage


def num_chunks(separate: Separate) -> int:
    return separate.separator._mdx.run_model.call_count


def prepared(row: dict[str, Any], preset: Preset, path: str) -> dict[str, Any]:
    row = Prepare()(Check(preset, "/out", separator=path)(row))
    assert row["status"] == "ready", row["error"]
    return row


def error_db(found: np.ndarray, expected: np.ndarray) -> float:
    """Without the edges, where the music itself was cut."""
    size = min(len(found), len(expected))
    assert abs(len(found) - len(expected)) <= 1
    return 20 * float(np.log10(np.abs(found - expected[:size])[1600 : size - 1600].max() / np.abs(expected).max()))


@pytest.mark.parametrize(
    ("start_s", "end_s"), [(None, None), (1.0, 5.0), (28.0, 34.0), (30.52, 61.04), (40.0, None), (70.0, 99.0)]
)
def test_the_voice_of_the_span_drives_the_lips(
    separate: Separate, path: str, song: str, preset: Preset, make_row: MakeRow, start_s: float, end_s: float
) -> None:
    row = prepared(make_row(audio=song, start_s=start_s, end_s=end_s, separate_vocals=True), preset, path)
    done = separate(row)
    assert done["status"] == "ready", done["error"]
    span = Span(start_s=row["start_s"], end_s=end_s)
    voice, mix = decode_speech(song.replace("song", "voice"), span), decode_speech(song, span)
    assert abs(len(done["speech"]) - len(mix)) <= 1
    assert error_db(done["speech"], voice) < -50
    assert error_db(mix, voice) > -3  # with the music
    assert "speech" not in row  # of the mix, which nobody would hear
    assert done["sound"] == row["sound"]
    assert done["separate_s"] > 0


def test_new_sentences_are_put_into_the_separated_voice(
    separate: Separate, path: str, song: str, preset: Preset, make_row: MakeRow, tmp_path: Path
) -> None:
    row = prepared(make_row(audio=song, end_s=5.0, separate_vocals=True), preset, path)
    plain = separate(row)["speech"]
    write_tone(tmp_path / "fix.wav", duration_s=0.5, frequency_hz=5000)  # which the separator would take away
    sha256 = cache.sha256_of(f"{tmp_path}/fix.wav")
    part = {"start_s": 3.0, "end_s": 3.5, "uri": f"{tmp_path}/fix.wav", "sha256": sha256}
    done = separate({**row, "correction": json.dumps({"video": {}, "sentences": [part]})})
    assert done["status"] == "ready", done["error"]
    found, new = done["speech"], slice(48_000, 56_000)
    assert np.array_equal(np.delete(found, new), np.delete(plain, new))
    assert abs(int(np.abs(np.fft.rfft(found[new])).argmax()) - 2500) <= 1


def test_a_block_is_separated_once_for_all_rows(
    separate: Separate, path: str, song: str, preset: Preset, make_row: MakeRow
) -> None:
    one_block = separate.separator.num_steps + 1

    def separated(**words: Any) -> None:
        assert separate(prepared(make_row(audio=song, separate_vocals=True, **words), preset, path))["error"] == ""

    separated(start_s=35.0, end_s=45.0)  # in the second block alone
    assert num_chunks(separate) == one_block
    separated(start_s=50.0, end_s=60.0, id="other")
    assert num_chunks(separate) == one_block
    separated()
    assert num_chunks(separate) <= 3 * one_block
    before = num_chunks(separate)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda start_s: separated(start_s=start_s), [0.0, 20.0]))
    assert num_chunks(separate) == before


def test_another_separator_does_not_find_these_blocks(
    separate: Separate, path: str, song: str, preset: Preset, make_row: MakeRow, tmp_path: Path
) -> None:
    row = make_row(audio=song, end_s=10.0, separate_vocals=True)
    separate(prepared(row, preset, path))
    other = write_separator(tmp_path / "other" / "high.onnx", band(4000, 6000))
    speech = Separate(other)(prepared(row, preset, other))["speech"]
    spectrum = np.abs(np.fft.rfft(speech[16_000:32_000]))
    assert abs(int(spectrum.argmax()) - 5000) <= 1


def test_rows_that_want_nothing_pass_and_load_nothing(make_row: MakeRow) -> None:
    row = make_row(separate_vocals=False)
    stage = Separate("/missing.onnx")
    assert stage(row) is row
    assert not wants_vocals([row, make_row(separate_vocals=True, status="failed")])
    assert wants_vocals([row, make_row(separate_vocals=True)])


def test_a_separator_that_has_changed_fails_the_row(
    path: str, song: str, preset: Preset, make_row: MakeRow, tmp_path: Path
) -> None:
    row = prepared(make_row(audio=song, separate_vocals=True), preset, path)
    write_separator(Path(path), band(300, 2500))
    failed = Separate(path)(row)
    assert (failed["error_kind"], failed["stage"]) == ("bad_input", "separate")
    assert "band.onnx has changed since it was checked" in failed["error"]
    Path(path).unlink()
    assert "`stableavatar download" in Separate(path)(row)["error"]


def test_kept_blocks_are_those_that_were_separated(separate: Separate, song: str) -> None:
    with vocals_of(separate.separator, song) as vocals:
        new = list(kept_blocks(vocals, "song", range(4)))
        num_calls = num_chunks(separate)
        assert all(map(np.array_equal, kept_blocks(vocals, "song", range(4)), new))
        assert num_chunks(separate) == num_calls
        assert np.allclose(new[1], vocals.block(1), atol=2**-23)
    assert [len(block) for block in new[-2:]] == [round((SECONDS - 61.04) * 16_000), 0]


def test_a_kept_block_that_cannot_be_read_is_made_again(separate: Separate, song: str) -> None:
    with vocals_of(separate.separator, song) as vocals:
        (new,) = kept_blocks(vocals, "song", [0])
        (entry,) = (file for file in Path(scratch.place("cache")).iterdir() if file.suffix != ".lock")
        for broken in (b"", b"fLaC", entry.read_bytes()[:30_000]):
            entry.write_bytes(broken)
            assert np.array_equal(next(kept_blocks(vocals, "song", [0])), new)


@pytest.mark.parametrize("max_bytes", [50_000, 1_500_000])  # too little for a block, and for the voice
def test_a_full_disk_is_no_fault_of_the_row(
    separate: Separate, path: str, song: str, preset: Preset, make_row: MakeRow, max_bytes: int
) -> None:
    row = prepared(make_row(audio=song, end_s=10.0, separate_vocals=True), preset, path)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, usual[1]))
    try:
        failed = separate(row)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert (failed["error_kind"], failed["stage"]) == ("storage", "separate"), failed["error"]
    assert "Make room" in failed["error"]
    assert separate(row)["error"] == ""


def test_room_for_the_voice_is_asked_for_first(
    separate: Separate, path: str, song: str, preset: Preset, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = prepared(make_row(audio=song, end_s=10.0, separate_vocals=True), preset, path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    failed = separate(row)
    assert (failed["error_kind"], num_chunks(separate)) == ("storage", 0)
    assert "GB are needed" in failed["error"]


def test_which_blocks_hold_a_span() -> None:
    assert blocks_of(0.0, 10.0, 30.0) == (range(0, 1), 0.0)
    assert blocks_of(29.0, 30.0, 30.0) == (range(0, 1), 0.0)
    assert blocks_of(29.0, 30.1, 30.0) == (range(0, 2), 0.0)
    assert blocks_of(60.0, 90.0, 30.0) == (range(2, 3), 60.0 - QUIET_S)


@pytest.mark.parametrize("num_cpus", [2, 3, 4, 8, 16, 64])
@pytest.mark.parametrize("num_gpus", [0, 1, 8])
def test_there_is_room_for_it(preset: Preset, num_cpus: int, num_gpus: int) -> None:
    capacity = Capacity(num_cpus=num_cpus, num_gpus=num_gpus)
    sizes = choose_sizes(capacity, Work(lengths={0: [1.0] * 100}))
    without, pools = (
        render_pools(preset, Loaders(), Options(), (), (), sizes, is_wanted) for is_wanted in (False, True)
    )
    require_room(pools, capacity)
    assert Separate not in [pool.stage for pool in without]
    assert [pool.stage for pool in pools].index(Separate) == 1


@pytest.mark.slow
def test_through_ray(
    ray_cluster: None, path: str, song: str, preset: Preset, tmp_path: Path, bucket: str, make_row: MakeRow
) -> None:
    storage.publish(song, f"{bucket}/song.wav")
    row = f'"portrait": "{make_row()["portrait"]}", "audio": "{bucket}/song.wav"'
    lines = [
        f'{{"id": "voice", "end_s": 1, "separate_vocals": true, {row}}}',
        f'{{"id": "mix", "end_s": 1, {row}}}',
    ]
    (tmp_path / "night.jsonl").write_text("\n".join(lines))

    options, loaders = Options(separator=path), Loaders(avatar=load_noise, encoder=load_no_words)
    run(f"{tmp_path}/night.jsonl", f"{tmp_path}/out", preset, options=options, loaders=loaders)
    table = {row["id"]: row for row in read_results(f"{tmp_path}/out").to_pylist()}
    assert (table["mix"]["status"], table["mix"]["separate_s"]) == ("ok", None)
    assert table["voice"]["status"] == "ok", table["voice"]["error"]
    assert table["voice"]["separate_s"] > 0
    assert table["voice"]["content_id"] != table["mix"]["content_id"]


def test_the_command_writes_the_whole_voice(path: str, song: str, bucket: str, tmp_path: Path) -> None:
    storage.publish(song, f"{bucket}/song.wav")
    out = f"{bucket}/out/voice.wav"
    assert main(["separate-vocals", f"{bucket}/song.wav", out, "--separator", path]) == 0
    with cache.fetched(out) as found:
        samples, rate = soundfile.read(found)
        assert soundfile.info(found).subtype == "PCM_16"
    voice = soundfile.read(song.replace("song", "voice"))[0]
    assert (rate, samples.shape) == (RATE, (len(voice), 2))
    assert error_db(samples[:, 1], voice) < -50
    assert not list(tmp_path.glob("scratch/work/*/*/"))


def test_the_command_replaces_only_if_it_is_told_to(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_row: MakeRow
) -> None:
    out = tmp_path / "voice.wav"
    out.write_bytes(b"mine")
    words = ["separate-vocals", make_row()["audio"], str(out), "--separator", path]
    assert main(words) == 1
    assert "voice.wav is there already" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert main([*words, "--force"]) == 0
    assert soundfile.info(str(out)).channels == 2


@pytest.mark.parametrize(
    ("words", "message"), [([], "Name its file with --separator"), (["--separator", "/no.onnx"], "/no.onnx")]
)
def test_the_command_without_a_separator(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_row: MakeRow
) -> None:
    assert main(["separate-vocals", make_row()["audio"], f"{tmp_path}/voice.wav", *words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "voice.wav").exists()


def test_a_sound_that_is_none_leaves_nothing(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["separate-vocals", __file__, f"{tmp_path}/voice.wav", "--separator", path]) == 1
    assert "test_separate.py" in capsys.readouterr().err
    assert not (tmp_path / "voice.wav").exists()


def test_a_voice_that_cannot_be_written_is_the_fault_of_the_disk() -> None:
    piece_SC = np.zeros((1 << 20, 2), np.float32)
    with pytest.raises(StorageError, match=r"could not be written: .*No space left"):
        _write_wav("/dev/full", [piece_SC] * 4)
