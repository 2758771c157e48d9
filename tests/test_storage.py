import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from pipelines import storage
from stableavatar.errors import BadInput, RowError, StorageError


@pytest.fixture(params=["local", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{tmp_path}/out" if request.param == "local" else request.getfixturevalue("bucket") + "/out"


def test_what_is_written_is_read(base: str, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"film")
    storage.publish(f"{tmp_path}/video.mp4", f"{base}/videos/a b#1.mp4")
    storage.write(b"row", f"{base}/videos/row")
    storage.write(b"newer", f"{base}/videos/row")
    assert storage.read(f"{base}/videos/a b#1.mp4") == b"film"
    assert storage.names_in(f"{base}/videos") == ["a b#1.mp4", "row"]
    assert storage.read(f"{base}/videos/row") == b"newer"
    storage.remove(f"{base}/videos/row")
    storage.remove(f"{base}/videos/row")
    assert not storage.exists(f"{base}/videos/row")


def test_a_failing_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        storage.publish(f"{tmp_path}/missing.mp4", f"{tmp_path}/out/a.mp4")
    assert os.listdir(tmp_path / "out") == []


def test_a_fetched_file_is_named_by_its_uri_in_errors_and_its_copy_is_removed(base: str) -> None:
    uri = f"{base}/face.png"
    storage.write(b"face", uri)
    paths = []

    def use() -> None:
        with storage.fetched(uri) as path:
            paths.append(path)
            assert Path(path).read_bytes() == b"face"
            raise BadInput(f"{path} is not an image.")

    with pytest.raises(RowError, match=f"^{uri} is not an image.$"):
        use()
    (path,) = paths
    assert os.path.exists(path) == (not uri.startswith("s3://"))


def test_a_signed_address_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "face.png").write_bytes(b"face")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        uri = f"http://127.0.0.1:{server.server_port}/face.png?signature={'x' * 400}.{'y' * 400}"
        with storage.fetched(uri) as path:
            assert (Path(path).read_bytes(), Path(path).suffix) == (b"face", ".png")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("missing", ["no/such/file", "/no/such/folder/face.png"])
def test_a_missing_file(missing: str) -> None:
    with pytest.raises(BadInput, match="does not exist"), storage.fetched(missing):
        pass


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a folder"), storage.fetched(str(tmp_path)):
        pass


def test_an_unknown_scheme_says_what_to_use() -> None:
    with pytest.raises(BadInput, match=r"nope://x.*local path"):
        storage.read("nope://x/y")


def test_a_missing_bucket(s3_server: str) -> None:
    with pytest.raises(BadInput, match=r"s3://no-such-bucket/a does not exist.*bucket"):
        storage.read("s3://no-such-bucket/a")
    with pytest.raises(StorageError, match=r"cannot write to s3://no-such-bucket/out .*bucket"):
        storage.check_writable("s3://no-such-bucket/out")


def test_no_credentials(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", "/nowhere")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="no credentials for s3://private/a"):
        storage.read("s3://private/a")
    S3FileSystem.clear_instance_cache()


def test_writable(base: str) -> None:
    storage.check_writable(base)
    assert storage.names_in(base) == []


def test_an_output_that_is_a_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(StorageError, match="out"):
        storage.check_writable(f"{tmp_path}/out")


def test_writing_replaces_a_link_and_leaves_what_it_led_to(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / "source").write_bytes(b"ours")
    for name in ("written", "published"):
        (tmp_path / name).symlink_to("theirs")
    storage.write(b"ours", f"{tmp_path}/written")
    storage.publish(f"{tmp_path}/source", f"{tmp_path}/published")
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    assert all((tmp_path / name).read_bytes() == b"ours" for name in ("written", "published"))
