"""From a folder of published weights to a video: small ones quickly, the full-size one with `-m slow`.

The full-size folder takes 10.5 GB of disk; STABLEAVATAR_FULL_T5=1 adds the text encoder and 11.4 GB.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stableavatar.avatar import Avatar
from stableavatar.checkpoints.inspect import verify_folder
from stableavatar.model.conditions import TextEncoder
from stableavatar.presets import published
from stableavatar.video.quality import check_contract, measure_video
from tests.published import full, small, small_preset, write_folder
from tests.small import small_request


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_video_from_a_small_folder(tmp_path: Path, dtype: torch.dtype) -> None:
    write_folder(tmp_path, small())
    preset = small_preset(tmp_path)
    verify_folder(preset)
    avatar, text = Avatar.load(preset, "cpu", dtype=dtype), TextEncoder.load(preset, "cpu")
    request = replace(
        small_request(tmp_path, 15),
        portrait_HWC=np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8),
        height=96,
        prompt_embeds=text.encode("a person is talking"),
        negative_prompt_embeds=text.encode(""),
    )
    avatar.generate(request, str(tmp_path / "video.mp4"))
    check_contract(measure_video(str(tmp_path / "video.mp4")), num_frames=15, width=96, height=96)


WITH_TEXT = os.environ.get("STABLEAVATAR_FULL_T5") == "1"
NEEDED = 22e9 if WITH_TEXT else 11e9  # bytes of disk


@pytest.fixture(scope="module")
def full_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("full")
    free = shutil.disk_usage(folder).free
    if free < NEEDED + 2e9:
        pytest.skip(f"the full-size folder takes {NEEDED / 1e9:.0f} GB; {folder} has {free / 1e9:.0f} GB free")
    started = time.monotonic()
    try:
        write_folder(folder, full(with_text=WITH_TEXT))
        os.sync()
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"\nwrote {size / 1e9:.2f} GB in {time.monotonic() - started:.0f} s")
        yield folder
    finally:
        shutil.rmtree(folder)


# Runs alone, so that its peak is its own. VmHWM counts the pages of mapped files too.
MEASURE = """
import json, re, sys, time
from pathlib import Path
import torch
from stableavatar.model.networks import TRANSFORMER
from stableavatar.model.weights import load_network
from stableavatar.presets import published

def memory(word):
    return int(re.search(rf"{word}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

preset = published(sys.argv[1])
dtype = getattr(torch, sys.argv[2])
before, started = memory("VmRSS"), time.monotonic()
network = load_network(TRANSFORMER, preset, "cpu", dtype)
loaded = time.monotonic()
total = sum(float(tensor.sum()) for tensor in network.parameters())  # every page has been read
print(json.dumps(dict(
    load_s=loaded - started, read_s=time.monotonic() - started, peak=memory("VmHWM") - before,
    anonymous=memory("RssAnon"),
)))
"""


def drop_from_cache(path: Path) -> None:
    """So that the next reader reads the disk."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cat_s(path: Path) -> float:
    drop_from_cache(path)
    started = time.monotonic()
    subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures with /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_the_full_size_transformer(full_folder: Path, dtype: str) -> None:
    path = full_folder / "StableAvatar-1.3B" / "transformer3d-square.pt"
    size, reading_s = path.stat().st_size, cat_s(path)
    drop_from_cache(path)
    arguments = [sys.executable, "-c", MEASURE, str(full_folder), dtype]
    figures = json.loads(subprocess.check_output(arguments, text=True))
    print(
        f"\n{dtype}: cat {reading_s:.1f} s, load {figures['load_s']:.1f} s, load and touch {figures['read_s']:.1f} s, "
        f"peak {figures['peak'] / 1e9:.2f} GB = {figures['peak'] / size:.2f} of the file's {size / 1e9:.2f} GB, "
        f"not shared {figures['anonymous'] / 1e9:.2f} GB"
    )
    assert figures["peak"] < 1.3 * size


@pytest.mark.slow
def test_a_first_window_step_at_full_size(full_folder: Path) -> None:
    preset = published(full_folder)
    if WITH_TEXT:
        verify_folder(preset)
        assert TextEncoder.load(preset, "cpu").encode("a person is talking").shape == (5, 4096)
    avatar = Avatar.load(preset, "cpu")
    torch.manual_seed(0)
    started = time.monotonic()
    with torch.inference_mode():
        velocity = avatar.transformer(
            torch.randn(3, 36, 5, 8, 8),
            torch.full((3,), 1000.0),
            torch.randn(3, 7, 4096),
            torch.randn(3, 257, 1280),
            torch.randn(1, 33, 768),
            [None, 0, 0],
        )
    print(f"\none window-step, 64x64 pixels, 17 frames, three rows: {time.monotonic() - started:.1f} s")
    assert velocity.shape == (3, 16, 5, 8, 8) and torch.isfinite(velocity).all()


@pytest.mark.slow
def test_a_full_size_file_that_lost_its_end_is_found_at_once(full_folder: Path) -> None:
    preset, path = published(full_folder), full_folder / "Wan2.1-Fun-V1.1-1.3B-InP" / "Wan2.1_VAE.pth"
    path.rename(path.with_suffix(".whole"))
    try:
        with open(path.with_suffix(".whole"), "rb") as whole, open(path, "wb") as file:
            file.write(whole.read(path.with_suffix(".whole").stat().st_size - 5000))
        with pytest.raises(Exception, match=r"Wan2.1_VAE.pth .*damaged or cut short"):
            verify_folder(preset)
    finally:
        path.with_suffix(".whole").rename(path)
