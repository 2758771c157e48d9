import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from stableavatar.checkpoints.download import LEFTOVER_S, download
from stableavatar.checkpoints.inspect import inspect_folder
from stableavatar.checkpoints.layout import AUDIO, VOCALS
from stableavatar.errors import WeightsError
from tests.hub import Hub, serve
from tests.published import small, write_folder, write_tensors

SQUARE = "StableAvatar-1.3B/transformer3d-square.pt"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published files, and others that nobody needs."""
    folder = tmp_path_factory.mktemp("repository")
    write_folder(folder, small())
    write_tensors(folder / SQUARE, {"large": (1_000_000,)}, small().transformer_dtype, 0)
    (folder / VOCALS).write_bytes(b"separator")
    for name in ["README.md", "assets/demo.mp4", f"{AUDIO}/tf_model.h5", f"{AUDIO}/pytorch_model.bin"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"of no use")
    base = folder / "Wan2.1-Fun-V1.1-1.3B-InP"
    (base / "diffusion_pytorch_model.safetensors").write_bytes(b"the base model")
    return folder


@pytest.fixture
def hub(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(repository) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def files_in(folder: Path) -> set[str]:
    paths = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path.as_posix() for path in paths if path.parts[0] != ".cache"}


def test_everything_that_is_needed_and_nothing_else(hub: Hub, repository: Path, tmp_path: Path) -> None:
    download("1.3b", tmp_path)
    there = files_in(tmp_path)
    assert there == {
        SQUARE,
        "StableAvatar-1.3B/transformer3d-rec-vec.pt",
        "Wan2.1-Fun-V1.1-1.3B-InP/Wan2.1_VAE.pth",
        "Wan2.1-Fun-V1.1-1.3B-InP/config.json",
        "Wan2.1-Fun-V1.1-1.3B-InP/google/umt5-xxl/tokenizer.json",
        "Wan2.1-Fun-V1.1-1.3B-InP/google/umt5-xxl/tokenizer_config.json",
        "Wan2.1-Fun-V1.1-1.3B-InP/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
        "Wan2.1-Fun-V1.1-1.3B-InP/models_t5_umt5-xxl-enc-bf16.pth",
        "wav2vec2-base-960h/config.json",
        "wav2vec2-base-960h/model.safetensors",
        "wav2vec2-base-960h/preprocessor_config.json",
        VOCALS,
    }
    assert all((tmp_path / name).read_bytes() == (repository / name).read_bytes() for name in there)
    assert all(path.startswith(("/api/", "/FrancisRing/StableAvatar/")) for _, path, _ in hub.asked)


def test_one_of_the_two_weights_is_enough(hub: Hub, tmp_path: Path) -> None:
    download("1.3B", tmp_path, variants=("square",))
    assert not any("rec-vec" in name for name in files_in(tmp_path))


def test_the_base_models_transformer_comes_when_it_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    download("1.3b", tmp_path, base=True)
    assert (tmp_path / "Wan2.1-Fun-V1.1-1.3B-InP/diffusion_pytorch_model.safetensors").read_bytes() == b"the base model"


def test_a_broken_connection_is_taken_up_where_it_broke(
    hub: Hub, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It keeps whole chunks of what has come; the files of this test are smaller than the usual one of 10 MB.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    hub.break_once = SQUARE
    download("1.3b", tmp_path)
    assert (tmp_path / SQUARE).read_bytes() == (repository / SQUARE).read_bytes()
    ranges = [asked_range for method, path, asked_range in hub.asked if method == "GET" and path.endswith(SQUARE)]
    assert len(ranges) == 2 and ranges[0] == "" and int(ranges[1].removeprefix("bytes=").split("-")[0]) > 1_000_000


def test_files_that_are_there_are_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    download("1.3b", tmp_path)
    missing = "wav2vec2-base-960h/config.json"
    (tmp_path / missing).unlink()
    leftover = tmp_path / ".cache/huggingface/download/StableAvatar-1.3B/x.incomplete"
    leftover.touch()
    os.utime(leftover, (0, time.time() - LEFTOVER_S - 1))
    hub.asked.clear()
    download("1.3b", tmp_path)
    fetched = [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]
    assert len(fetched) == 1 and fetched[0].endswith(missing)
    assert not leftover.exists()


def test_damage_after_the_download_is_found(hub: Hub, tmp_path: Path) -> None:
    download("1.3b", tmp_path)
    path = "wav2vec2-base-960h/model.safetensors"

    def problem() -> str:
        reports = inspect_folder(tmp_path, hashes=True).files
        return next(report.problem for report in reports if report.path == path)

    assert problem() == ""
    content = bytearray((tmp_path / path).read_bytes())
    content[-5] ^= 1
    (tmp_path / path).write_bytes(content)
    assert "not what was downloaded" in problem()


def test_what_the_repository_lacks_is_said(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no 14B model: it lacks StableAvatar-14B/transformer3d-rec-vec.pt"):
        download("14b", tmp_path)
    with pytest.raises(WeightsError, match=r"there is: 1.3b, 14b"):
        download("7b", tmp_path)
    assert files_in(tmp_path) == set()


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r"could not be fetched from http://127.0.0.1:9.*HF_ENDPOINT"):
        download("1.3b", tmp_path, tries=1)


def test_a_full_disk_is_noticed_first(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(WeightsError, match="GB are to come"):
        download("1.3b", tmp_path)
    assert files_in(tmp_path) == set()
