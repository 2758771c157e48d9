import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines import cache, scratch, storage
from pipelines.check import Check
from pipelines.prepare import Prepare
from stableavatar.errors import BadInput, RowError, StorageError
from stableavatar.presets import Preset
from tests.faults import Faults


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(scratch.VARIABLE, f"{tmp_path}/scratch")
    return tmp_path / "scratch"


def entries() -> dict[str, bytes]:
    """Content of what the cache holds, by file name."""
    files = Path(scratch.place("cache")).iterdir()
    return {file.name: file.read_bytes() for file in files if file.suffix not in (".lock", ".fetch")}


def fetch(uri: str, **words: Any) -> bytes:
    with cache.fetched(uri, **words) as path:
        return Path(path).read_bytes()


def test_a_fetched_file_is_named_by_its_uri_in_errors(base: str) -> None:
    uri = f"{base}/face.png"
    storage.write(b"face", uri)

    def use() -> None:
        with cache.fetched(uri) as path:
            assert Path(path).read_bytes() == b"face"
            assert Path(path).suffix == ".png"
            raise BadInput(f"{path} is not an image.")

    with pytest.raises(RowError, match=f"^{uri} is not an image.$"):
        use()


def test_what_is_needed_once_does_not_stay(bucket: str) -> None:
    storage.write(b"film", f"{bucket}/video.mp4")
    assert fetch(f"{bucket}/video.mp4", keep=False) == b"film"
    assert entries() == {}


def test_a_signed_address_may_be_long_and_its_signature_is_no_part_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "face.png").write_bytes(b"face")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        uri = f"http://127.0.0.1:{server.server_port}/face.png?signature={'x' * 400}.{'y' * 400}"
        with cache.fetched(uri) as path:
            assert (Path(path).read_bytes(), Path(path).suffix) == (b"face", ".png")
        with pytest.raises(BadInput, match="does not exist") as raised:
            fetch(uri.replace("face", "nobody"))
        assert "yyy" not in str(raised.value)
    finally:
        server.shutdown()
        server.server_close()


def use_made(name: str, make: Callable[[str], None]) -> bytes:
    with cache.made(name, make) as path:
        return Path(path).read_bytes()


def test_what_is_made_is_made_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(path: str) -> None:
        made.append(path)
        time.sleep(0.3)
        Path(path).write_bytes(b"x" * 600)

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: use_made("a.flac", make), range(4))) == {b"x" * 600}
    assert len(made) == 1
    monkeypatch.setenv(cache.VARIABLE, str(1000e-9))
    use_made("b.flac", make)  # both do not fit
    assert list(entries()) == ["b.flac"]


def test_what_could_not_be_made_is_made_by_the_next() -> None:
    def fail(path: str) -> None:
        Path(path).write_bytes(b"half")
        raise BadInput("no sound")

    with pytest.raises(BadInput, match="no sound"):
        use_made("a.flac", fail)
    assert entries() == {}
    assert use_made("a.flac", lambda path: storage.write(b"whole", path)) == b"whole"


@pytest.mark.parametrize("missing", ["no/such/file", "/no/such/folder/face.png"])
def test_a_missing_file(missing: str) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        fetch(missing)


def test_a_folder_is_no_file(base: str) -> None:
    storage.write(b"x", f"{base}/faces/a.png")
    with pytest.raises(BadInput, match="is a folder"):
        fetch(f"{base}/faces")


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (f"{tmp_path}/pipe", "/dev/zero"):
        with pytest.raises(BadInput, match="is no regular file"):
            fetch(path)


def test_a_file_that_is_larger_than_allowed_is_refused_before_it_is_fetched(base: str, tmp_path: Path) -> None:
    storage.write(bytes(1000), f"{base}/file")
    assert fetch(f"{base}/file", max_bytes=1000) == bytes(1000)
    with pytest.raises(BadInput, match=r"too large.*--max-file-bytes"):
        fetch(f"{base}/file", max_bytes=999)


def test_a_server_that_never_ends_is_stopped_at_the_limit() -> None:
    class Endless(SimpleHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            while True:
                self.wfile.write(bytes(10**6))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.handle_error = lambda *args: None  # type: ignore[method-assign]  # that the client leaves is the point
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(BadInput, match="too large"):
            fetch(f"http://127.0.0.1:{server.server_port}/endless", max_bytes=30e6)
        assert entries() == {}
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_is_fetched_once_for_each_version(bucket: str, faults: Faults) -> None:
    uri = f"{bucket}/face.png"
    for content in (b"one", b"two"):
        storage.write(content, uri)
        assert [fetch(uri) for _ in range(5)] == [content] * 5
    assert faults.count("GET", "face.png") == 2
    assert faults.count("HEAD", "face.png") == 10


def test_many_that_want_a_file_at_once_fetch_it_once(bucket: str, faults: Faults) -> None:
    storage.write(bytes(10**6), f"{bucket}/speech.wav")
    with ThreadPoolExecutor(8) as threads:
        contents = list(threads.map(fetch, [f"{bucket}/speech.wav"] * 16))
    assert contents == [bytes(10**6)] * 16
    assert faults.count("GET", "speech.wav") == 1
    assert len(os.listdir(scratch.place("cache"))) == 2  # the file and its lock


def test_other_processes_use_what_was_fetched(bucket: str, faults: Faults) -> None:
    storage.write(b"face", f"{bucket}/face.png")
    code = "import sys; from pipelines import cache\nwith cache.fetched(sys.argv[1]) as path: print(open(path).read())"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, f"{bucket}/face.png"], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in processes] == ["face\n"] * 2
    assert fetch(f"{bucket}/face.png") == b"face"
    assert faults.count("GET", "face.png") == 1


def test_the_cache_is_bounded_and_what_was_not_used_for_longest_goes(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.VARIABLE, "2.5e-6")  # 2500 bytes
    for name in "abc":
        storage.write(name.encode() * 1000, f"{bucket}/{name}")
    for name in "abac":
        fetch(f"{bucket}/{name}")
        time.sleep(0.02)  # the clock of a disk ticks every few milliseconds
    assert sorted(content[:1] for content in entries().values()) == [b"a", b"c"]
    assert len(os.listdir(scratch.place("cache"))) == 4  # no locks of what is gone


def test_what_is_in_use_stays(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "1.5e-6")
    for name in "ab":
        storage.write(name.encode() * 1000, f"{bucket}/{name}")
    with cache.fetched(f"{bucket}/a") as path:
        fetch(f"{bucket}/b")
        assert Path(path).read_bytes() == b"a" * 1000
    storage.write(b"c" * 1000, f"{bucket}/c")
    fetch(f"{bucket}/c")
    assert list(entries().values()) == [b"c" * 1000]


def test_what_is_larger_than_the_whole_cache_passes_it_by(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "0")
    storage.write(b"face", f"{bucket}/face.png")
    assert fetch(f"{bucket}/face.png") == b"face"
    assert entries() == {}


def test_a_full_disk_makes_the_cache_give_way(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write(b"old" * 100, f"{bucket}/old")
    storage.write(b"new" * 100, f"{bucket}/new")
    fetch(f"{bucket}/old")
    usage = shutil.disk_usage("/")

    def disk_usage(path: str) -> object:
        return usage._replace(free=1000 if not entries() else 0)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    fetch(f"{bucket}/new")
    storage.write(bytes(2000), f"{bucket}/large")
    with pytest.raises(StorageError, match=r"scratch has 0.0 GB free.*STABLEAVATAR_SCRATCH"):
        fetch(f"{bucket}/large")


def test_a_setting_that_is_no_number_is_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "much")
    storage.write(b"face", f"{bucket}/face.png")
    with pytest.raises(StorageError, match="STABLEAVATAR_CACHE_GB is not a number"):
        fetch(f"{bucket}/face.png")


def test_a_fetch_that_is_killed_leaves_nothing_that_counts(bucket: str, own_scratch: Path) -> None:
    storage.write(b"face" * 1000, f"{bucket}/face.png")
    code = """
import os, signal, sys
from pipelines import cache, storage
def half(uri, path, **words):
    open(path, "wb").write(b"fa")
    os.kill(os.getpid(), signal.SIGKILL)
storage.fetch = half
with cache.fetched(sys.argv[1]): pass
"""
    died = subprocess.run([sys.executable, "-c", code, f"{bucket}/face.png"])
    assert died.returncode == -9
    assert len(list((own_scratch / "work").glob("*/*/file"))) == 1
    assert fetch(f"{bucket}/face.png") == b"face" * 1000
    assert list((own_scratch / "work").glob("*/*/file")) == []


def test_a_flaky_network_does_not_harm_the_cache(flaky_bucket: str, faults: Faults) -> None:
    for number in range(20):
        content = os.urandom(100_000)
        storage.write(content, f"{flaky_bucket}/{number}.png")
        assert fetch(f"{flaky_bucket}/{number}.png") == content
    assert faults.failed


def test_a_hash_follows_the_content(tmp_path: Path) -> None:
    file = tmp_path / "face.png"
    hashes = set()
    for content in (b"one", b"two", b"six"):  # of one size, within one tick of the clock
        file.write_bytes(content)
        hashes.add(cache.sha256_of(str(file)))
    assert len(hashes) == 3


def test_a_file_that_does_not_change_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SETTLED_S", 0.0)
    (tmp_path / "face.png").write_bytes(b"face")
    real, read = cache._read_sha256, []

    def counted(path: str) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr(cache, "_read_sha256", counted)
    assert len({cache.sha256_of(f"{tmp_path}/face.png") for _ in range(5)}) == 1
    assert len(read) == 1
    (tmp_path / "face.png").write_bytes(b"fade")
    cache.sha256_of(f"{tmp_path}/face.png")
    assert len(read) == 2


def test_a_portrait_of_many_rows_is_fetched_once(
    bucket: str, faults: Faults, make_row: Callable[..., dict[str, Any]], preset: Preset
) -> None:
    row = make_row()
    for name in ("portrait", "audio"):
        storage.publish(row[name], f"{bucket}/{Path(row[name]).name}")
        row[name] = f"{bucket}/{Path(row[name]).name}"
    check, prepare = Check(preset, f"{bucket}/out"), Prepare()
    for number in range(4):
        done = prepare(check({**row, "id": f"anna {number}", "row_number": number}))
        assert done["status"] == "ready", done["error"]
    assert faults.count("GET", "portrait_nasa.jpg") == 1
    assert faults.count("GET", "speech_es_short.flac") == 1
