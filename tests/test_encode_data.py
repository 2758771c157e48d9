import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines import encode_data as encode_stage
from pipelines import storage
from pipelines.encode_data import Windows, encode_data, encode_held_out, held_out_uri, shard_name
from pipelines.train_data import Found, Skipped, held_out_source
from pipelines.workers import Capacity
from stableavatar.drawn.clips import write_data_set
from stableavatar.errors import BadInput
from stableavatar.model.weights import encoders_hash
from stableavatar.presets import tiny
from stableavatar.training.clips import Clip
from stableavatar.training.config import Data
from stableavatar.training.order import Draw
from stableavatar.training.shards import as_row, write_shard
from stableavatar.training.sources import Encoded, start_of
from tests.training import small_config, small_sample


def test_windows_of_a_clip_start_at_different_frames() -> None:
    clip = Clip(folder="a/b", width=64, height=64, num_frames=30, prompt="")
    windows = Windows(num_latents=3, seed=1, per_clip=4)
    assert windows.seeds(clip) == windows.seeds(clip) and 1 < len(windows.seeds(clip)) <= 4
    assert len(windows.seeds(replace(clip, num_frames=9))) == 1  # there is only one
    assert windows.seeds(clip) != windows.seeds(replace(clip, folder="a/c"))
    assert len({start_of(clip, 3, seed) for seed in windows.seeds(clip)}) == len(windows.seeds(clip))


def test_what_changes_a_file_changes_its_name() -> None:
    clip = Clip(folder="a/b", width=64, height=64, num_frames=30, prompt="")
    windows = Windows(num_latents=3, seed=1)
    name = shard_name(clip, windows, "0123")
    assert name == shard_name(clip, windows, "0123")
    others = [shard_name(replace(clip, prompt="sings"), windows, "0123"), shard_name(clip, windows, "4567")]
    others += [
        shard_name(clip, replace(windows, seed=2), "0123"),
        shard_name(clip, replace(windows, per_clip=2), "0123"),
    ]
    others += [shard_name(replace(clip, content="other masks"), windows, "0123")]
    assert len({name, *others}) == 6
    assert shard_name(replace(clip, folder="moved/b"), windows, "0123") == name


def test_windows_of_other_encoders_are_not_added_to(tmp_path: Path) -> None:
    row = as_row(small_sample(0), clip="a", start=0, width=32, height=32)
    write_shard(str(tmp_path), [row], "a", "0123")
    with pytest.raises(BadInput, match=r"a\.parquet .*other networks.*another folder"):
        encode_data(small_config(data=Data(clips=("unused",))), str(tmp_path))


def test_held_out_clips_that_cannot_be_encoded_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = tuple(Clip(folder=f"/data/{name}", width=32, height=32, num_frames=9, prompt="") for name in "ab")
    config, found = small_config(output="/out"), Found(held_out=clips, skipped=(Skipped(folder="c", reason="short"),))
    for num_failed in (0, 1, 2):
        failed = [Skipped(folder=clip.folder, reason="gone") for clip in clips[:num_failed]]
        monkeypatch.setattr(encode_stage, "encode_clips", lambda *_, failed=failed: (0, failed))
        encoded = encode_held_out(config, tiny(), found, Capacity(num_cpus=1, num_gpus=0))
        assert encoded.skipped == (*found.skipped, *failed)
        assert encoded.held_out_at == (held_out_uri(config, found) if num_failed < 2 else "")
    assert held_out_source(config, encoded) is None


@pytest.mark.slow
def test_clips_are_encoded_once_and_bad_ones_are_told(ray_cluster: None, tmp_path: Path, bucket: str) -> None:
    base = f"{bucket}/encoded"
    root = tmp_path / "drawn"
    folders = write_data_set(str(root), 4, first_seed=3, size=(128, 128), num_frames=9)
    (Path(folders[1]) / "audio.wav").unlink()
    (tmp_path / "held.txt").write_text(f"{folders[3]}/\n")
    data = Data(clips=(str(root),), held_out=(str(tmp_path / "held.txt"),), num_latents=2)
    config = small_config(data=data)
    report = encode_data(config, base, per_clip=2)
    assert (report.num_clips, report.num_before) == (2, 0)
    assert [clip.folder for clip in report.skipped] == [folders[1]] and "without sound" in report.skipped[0].reason
    names = storage.names_in(base)
    assert len(names) == 2

    moved = replace(config, data=replace(data, clips=(str(shutil.copytree(root, tmp_path / "moved")),)))
    for same in (config, moved):  # the copy of the held-out clip is held out as well
        assert encode_data(same, base, per_clip=2).num_before == 2 and storage.names_in(base) == names
    (Path(folders[0].replace(str(root), moved.data.clips[0])) / "prompt.txt").write_text("Another prompt")
    for changed, per_clip in ((moved, 2), (config, 1)):
        with pytest.raises(BadInput, match="windows of the same clips, encoded when"):
            encode_data(changed, base, per_clip=per_clip)
    assert storage.names_in(base) == names

    source = Encoded([base], 2)
    assert source.windows.clips == {folders[0], folders[2]}
    source.windows.require_encoders(encoders_hash(tiny()))
    sample = source.read(Draw(position=0, index=0, seed=0))
    assert sample["mean"].shape == (16, 2, 16, 16) and torch.isfinite(sample["mean"]).all()
    with pytest.raises(BadInput, match=r"windows of 2 latent frames, but data\.num_latents is 3"):
        Encoded([base], 3)


def test_without_any_good_clip_there_is_nothing(ray_cluster: None, tmp_path: Path) -> None:
    root = tmp_path / "drawn"
    write_data_set(str(root), 1, size=(64, 64), num_frames=9)
    config = small_config(data=Data(clips=(str(root),), num_latents=2))
    with pytest.raises(BadInput, match="64x64 pixels, which is none of 128x128"):
        encode_data(config, str(tmp_path / "out"))
