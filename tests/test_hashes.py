import hashlib
import os
from pathlib import Path

import pytest

from stableavatar.checkpoints.hashes import HashBook
from stableavatar.errors import WeightsError


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    book = HashBook(tmp_path)
    assert book.sha256(Path("file")) == hashlib.sha256(b"one").hexdigest()
    real, num_reads = hashlib.file_digest, []
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: num_reads.append(1) or real(*given))  # type: ignore[func-returns-value]
    assert HashBook(tmp_path).sha256(Path("file")) == hashlib.sha256(b"one").hexdigest()
    assert not num_reads
    path.write_bytes(b"two")
    os.utime(path, ns=(0, 12345))
    assert book.sha256(Path("file")) == hashlib.sha256(b"two").hexdigest()
    assert num_reads


def test_a_read_only_folder_is_remembered_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = tmp_path / "folder", tmp_path / "cache"
    folder.mkdir()
    (folder / "file").write_bytes(b"one")
    (folder / ".cache").write_text("in the way: root may write to read-only folders")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    digest = HashBook(folder).sha256(Path("file"))
    assert digest in next((cache / "stableavatar").iterdir()).read_text()
    assert HashBook(folder).sha256(Path("file")) == digest


def test_without_any_place_to_remember(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"one")
    (tmp_path / ".cache").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert HashBook(tmp_path).sha256(Path("file")) == hashlib.sha256(b"one").hexdigest()


def test_a_damaged_memory_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"one")
    (tmp_path / ".cache/stableavatar").mkdir(parents=True)
    (tmp_path / ".cache/stableavatar/sha256.json").write_text('{"file": [3')
    assert HashBook(tmp_path).sha256(Path("file")) == hashlib.sha256(b"one").hexdigest()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing cannot be read"):
        HashBook(tmp_path).sha256(Path("nothing"))
