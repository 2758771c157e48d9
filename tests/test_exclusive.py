import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines import storage
from pipelines.exclusive import create
from tests.faults import Faults


def test_of_all_that_create_a_file_one_succeeds(base: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        contents = [str(number).encode() for number in range(8)]
        created = list(threads.map(lambda content: create(content, f"{base}/lease/1.json"), contents))
    assert sum(created) == 1
    assert storage.read(f"{base}/lease/1.json") == contents[created.index(True)]
    assert create(storage.read(f"{base}/lease/1.json"), f"{base}/lease/1.json") is False
    assert storage.names_in(f"{base}/lease") == ["1.json"]


def test_a_disk_without_links_creates_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: str, target: str) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    assert create(b"a", f"{tmp_path}/a") is True
    assert create(b"b", f"{tmp_path}/a") is False
    assert (tmp_path / "a").read_bytes() == b"a"


def test_a_store_without_conditions_creates_files_too() -> None:
    uri = "memory://out/create"
    assert (create(b"a", uri), create(b"b", uri), storage.read(uri)) == (True, False, b"a")
    storage.remove(uri)


@pytest.mark.parametrize("times", [1, 2, 5, 10])  # client upon client repeats a request, and not all of them tell
def test_a_creation_whose_answer_was_lost_has_succeeded(bucket: str, faults: Faults, times: int) -> None:
    storage.write(b"x", f"{bucket}/warm")  # a connection that was used before is another case
    lost = ["cut_after"] * times
    faults.choose = lambda method, path: lost.pop() if lost and method == "PUT" else None
    assert create(b"mine", f"{bucket}/lease") is True
    assert create(b"mine", f"{bucket}/lease") is False


def test_a_creation_whose_answer_was_lost_is_told_from_another_writer(bucket: str, faults: Faults) -> None:
    create(b"same", f"{bucket}/lease")
    lost = ["cut_after"] * 3
    faults.choose = lambda method, path: lost.pop() if lost and method == "PUT" else None
    assert create(b"same", f"{bucket}/lease") is False
