"""What is held out is never trained on, and encoded windows are those of the run's own encoders."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.encode_data import held_out_uri
from pipelines.train_data import (
    Fit,
    Found,
    Skipped,
    find_held_out,
    find_shards,
    inspect_one,
    samples_of,
    training_folders,
)
from stableavatar.drawn.clips import write_data_set
from stableavatar.errors import BadInput
from stableavatar.model.weights import encoders_hash
from stableavatar.training.clips import Clip
from stableavatar.training.config import Data, VaeOptions
from stableavatar.training.shards import as_row, write_shard
from tests.training import PRESET, small_config, small_sample, write_encoded


def write_list(path: Path, *folders: str) -> None:
    path.write_text("".join(f"{folder}\n" for folder in folders))


def shards(**words: Any) -> tuple[str, ...]:
    config = small_config(data=Data(num_latents=3, **words))
    return find_shards(config, find_held_out(config.data), encoders_hash(PRESET))


def test_clips_that_are_held_out_are_left_out_however_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_list(tmp_path / "all.txt", "a", "./b", f"{tmp_path}/c/", "d")
    write_list(tmp_path / "held.txt", f"{tmp_path}/b", "c")
    row = as_row(small_sample(0), clip=f"{tmp_path}/d", start=0, width=32, height=32)
    write_shard("shards", [row], "d", "0123")
    data = Data(clips=(f"{tmp_path}/all.txt",), held_out=("held.txt", "shards"))
    assert training_folders(data, find_held_out(data)) == [f"{tmp_path}/a"]


def test_encoded_windows_of_clips_that_are_held_out_are_refused(tmp_path: Path) -> None:
    train, held = f"{tmp_path}/train", f"{tmp_path}/held"
    write_encoded(train, 3)
    write_encoded(held, 2, first_seed=5)
    names = ("clip-000.parquet", "clip-001.parquet", "clip-002.parquet")
    assert shards(encoded=(train,), held_out=(held,)) == names
    assert samples_of(Found(shards=names)) == list(names)
    write_encoded(held, 3, first_seed=1)
    with pytest.raises(BadInput, match=r"clip-001\.parquet and 1 more files: windows of clips that data\.held_out"):
        shards(encoded=(train,), held_out=(held,))


def test_windows_of_a_clip_that_is_held_out_elsewhere_are_refused(tmp_path: Path) -> None:
    row = as_row(small_sample(0), clip="/before/a", recording="take 1", start=0, width=32, height=32)
    write_shard(str(tmp_path), [row], "a", encoders_hash(PRESET))
    clip = Clip(folder="/moved/a", width=32, height=32, num_frames=9, prompt="", recording="take 1")
    config = small_config(data=Data(num_latents=3, encoded=(str(tmp_path),)))
    held_out = find_held_out(config.data)
    assert find_shards(config, held_out, encoders_hash(PRESET)) == ("a.parquet",)
    with pytest.raises(BadInput, match=r"a\.parquet: windows of clips that data\.held_out names"):
        find_shards(config, replace(held_out, clips=(clip,)), encoders_hash(PRESET))


def test_what_is_held_out_is_encoded_again_where_it_has_changed() -> None:
    clip = Clip(folder="/data/a", width=32, height=32, num_frames=9, prompt="", content="0123")
    moved, changed = replace(clip, folder="/moved/a"), replace(clip, content="4567")
    uris = [held_out_uri(small_config(), Found(held_out=(one,))) for one in (clip, moved, changed)]
    assert uris[0] == uris[1] != uris[2]
    samples = [samples_of(Found(clips=(one,))) for one in (clip, moved, changed)]
    assert samples[0] == samples[1] != samples[2]


def test_a_clip_that_is_smaller_than_a_crop_is_skipped(tmp_path: Path) -> None:
    (folder,) = write_data_set(str(tmp_path), 1, size=(64, 96), num_frames=9)
    config = small_config(task="vae", vae=VaeOptions(windows=((1, 80), (5, 32)), first_windows=((1, 32),)))
    found = inspect_one(folder, Fit.of(config, PRESET))
    assert isinstance(found, Skipped) and "64x96 pixels, and a crop has 80 a side (vae.windows)" in found.reason
    small = replace(config, vae=VaeOptions(windows=((5, 32),)))
    assert isinstance(inspect_one(folder, Fit.of(small, PRESET)), Clip)


def test_a_clip_that_is_held_out_is_known_elsewhere_even_where_it_cannot_be_used(tmp_path: Path) -> None:
    (folder,) = write_data_set(str(tmp_path / "data"), 1, size=(32, 32), num_frames=9)
    shutil.copytree(folder, tmp_path / "held" / "copy")
    (tmp_path / "held" / "copy" / "prompt.txt").unlink()  # and its folder is no category
    fit = Fit.of(small_config(data=Data(encoded=("x",), num_latents=3, sizes=((32, 32),))), PRESET)
    refused, clip = inspect_one(f"{tmp_path}/held/copy", fit), inspect_one(folder, fit)
    assert isinstance(refused, Skipped) and isinstance(clip, Clip)
    held_out = replace(find_held_out(Data(encoded=("x",))), skipped=(refused,))
    assert held_out.recordings == {clip.recording}
    (tmp_path / "held" / "copy" / "audio.wav").unlink()
    silent = inspect_one(f"{tmp_path}/held/copy", fit)
    assert isinstance(silent, Skipped) and silent.recording == ""
    assert replace(held_out, skipped=(silent,)).recordings == set()


@pytest.mark.parametrize("other", ["{}/train/", "{}/./train", "file://{}/train"])
def test_a_folder_is_not_trained_on_and_held_out(tmp_path: Path, other: str) -> None:
    write_encoded(f"{tmp_path}/train", 1)
    with pytest.raises(BadInput, match=r"in data\.encoded and in data\.held_out"):
        shards(encoded=(f"{tmp_path}/train",), held_out=(other.format(tmp_path),))


@pytest.mark.parametrize("key", ["encoded", "held_out"])
def test_windows_of_other_encoders_are_refused_where_the_run_begins(tmp_path: Path, key: str) -> None:
    write_encoded(f"{tmp_path}/encoded", 1)
    words: dict[str, Any] = {"clips": ("unused",), key: (f"{tmp_path}/encoded",)}
    data = Data(num_latents=3, **words)
    with pytest.raises(BadInput, match="other networks than this run's"):
        find_shards(small_config(data=data), find_held_out(data), "0123")
