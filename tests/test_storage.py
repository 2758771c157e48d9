import errno
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import boto3
import pytest
from s3fs import S3FileSystem

from pipelines import exclusive, storage
from stableavatar.errors import BadInput, NetworkError, StorageError
from tests.faults import KINDS, Faults


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


def test_an_output_that_gives_back_something_else_is_not_writable(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "read", lambda uri: b"")
    with pytest.raises(StorageError, match="does not give back what is written"):
        storage.check_writable(base)


@pytest.mark.parametrize("answer", ["403 InvalidAccessKeyId", "403 AccessDenied", "403 ExpiredToken"])
def test_wrong_credentials_are_told_at_once(bucket: str, faults: Faults, answer: str) -> None:
    faults.choose = lambda method, path: answer
    with pytest.raises(StorageError, match=r"cannot write to s3://.*no permission.*Check the credentials") as raised:
        storage.check_writable(f"{bucket}/out")
    assert not isinstance(raised.value, NetworkError)
    assert len(faults.requests) == 1


def test_folders_are_listed_and_removed_with_all_that_is_in_them(base: str) -> None:
    for name in (
        "checkpoints/a/1",
        "checkpoints/a/deep/2",
        "checkpoints/b/3",
        "checkpoints/notes",
        "checkpoints-1/4",
    ):
        storage.write(b"x", f"{base}/{name}")
    assert storage.folders_in(f"{base}/checkpoints") == ["a", "b"]
    assert storage.names_in(f"{base}/checkpoints") == ["notes"]
    storage.remove_folder(f"{base}/checkpoints/a")
    storage.remove_folder(f"{base}/checkpoints/a")
    assert storage.folders_in(f"{base}/checkpoints") == ["b"]
    storage.remove_folder(f"{base}/checkpoints")
    assert storage.folders_in(base) == ["checkpoints-1"]
    assert storage.folders_in(f"{base}/nothing") == []


def test_names_of_files_in_a_folder_and_within(base: str) -> None:
    for name in ("videos/b.mp4", "videos/de/a b.mp4", "videos/de/x/c.mp4", "videos-1/d.mp4"):
        storage.write(b"x", f"{base}/{name}")
    assert storage.names_under(f"{base}/videos") == ["b.mp4", "de/a b.mp4", "de/x/c.mp4"]
    assert storage.names_under(f"{base}/nothing") == []


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "/"])
def test_a_whole_store_is_not_removed(uri: str) -> None:
    with pytest.raises(ValueError, match="not a folder to be removed"):
        storage.remove_folder(uri)


def test_the_version_of_a_file_changes_with_its_content(base: str) -> None:
    versions = set()
    for content in (b"one", b"two", b"three"):
        storage.write(content, f"{base}/file")
        info = storage.info(f"{base}/file")
        assert info.size == len(content)
        versions.add(info.version)
    assert len(versions) == 3
    with pytest.raises(BadInput, match="is a folder"):
        storage.info(base)


def test_a_file_that_is_larger_than_allowed_is_not_fetched(base: str, tmp_path: Path) -> None:
    storage.write(bytes(1000), f"{base}/file")
    storage.fetch(f"{base}/file", f"{tmp_path}/copy", max_bytes=1000)
    with pytest.raises(BadInput, match=r"file is too large: .* at most 999 bytes.*--max-file-bytes"):
        storage.fetch(f"{base}/file", f"{tmp_path}/other", max_bytes=999)
    assert not (tmp_path / "other").exists()


def test_every_operation_survives_a_network_that_fails_often(flaky_bucket: str, faults: Faults, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(bytes(range(256)) * 4000)
    for number in range(12):
        base = f"{flaky_bucket}/{number}"
        storage.check_writable(base)
        storage.publish(f"{tmp_path}/video.mp4", f"{base}/videos/a.mp4")
        assert exclusive.create(str(number).encode(), f"{base}/lease") is True
        assert exclusive.create(b"other", f"{base}/lease") is False
        storage.write(b"row", f"{base}/row")
        assert storage.read(f"{base}/row") == b"row"
        assert storage.exists(f"{base}/row") and not storage.exists(f"{base}/other")
        assert storage.is_folder(base)
        assert storage.info(f"{base}/videos/a.mp4").size == 1_024_000
        storage.fetch(f"{base}/videos/a.mp4", f"{tmp_path}/copy.mp4")
        assert (tmp_path / "copy.mp4").read_bytes() == (tmp_path / "video.mp4").read_bytes()
        assert (storage.names_in(base), storage.folders_in(base)) == (["lease", "row"], ["videos"])
        storage.remove(f"{base}/row")
        storage.remove(f"{base}/row")
        storage.remove_folder(base)
        assert storage.names_in(base) == storage.folders_in(base) == []
    assert set(faults.failed) == set(KINDS)
    assert len(faults.failed) > 0.1 * len(faults.requests)


@pytest.mark.parametrize("fault", [*KINDS, "500 InternalError", "429 TooMany", "400 RequestTimeout"])
def test_what_never_passes_is_given_up_as_a_failure_of_the_network(
    bucket: str, faults: Faults, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.retries.TRIES", 3)
    faults.choose = lambda method, path: fault
    with pytest.raises(NetworkError, match=r"s3://.*/row could not be reached.*Check the network"):
        storage.write(b"row", f"{bucket}/row")
    assert 3 <= len(faults.requests) <= 18  # three tries of three requests, each sent twice by the client at the bottom


@pytest.mark.parametrize("answer", ["403 AccessDenied", "400 InvalidRequest"])
@pytest.mark.parametrize(
    "operation",
    [
        storage.read,
        partial(storage.write, b"x"),
        partial(exclusive.create, b"x"),
        storage.info,
        storage.exists,
        storage.names_in,
        storage.remove,
        storage.remove_folder,
    ],
)
def test_what_cannot_pass_is_not_tried_again(
    bucket: str, faults: Faults, operation: Callable[[str], object], answer: str
) -> None:
    faults.choose = lambda method, path: answer
    with pytest.raises(StorageError) as raised:
        operation(f"{bucket}/out/file")
    assert not isinstance(raised.value, NetworkError)
    assert len(faults.requests) == len(set(faults.requests))


def test_a_missing_file_is_not_asked_for_again(bucket: str, faults: Faults) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        storage.read(f"{bucket}/nothing")
    assert len(faults.requests) == 1


@pytest.mark.parametrize("failing", ["part", "complete", "lost"])
def test_an_upload_in_parts_leaves_no_parts(bucket: str, faults: Faults, tmp_path: Path, failing: str) -> None:
    size = 101 * 2**20
    with open(tmp_path / "long.mp4", "wb") as file:
        file.truncate(size)
    choices = {"part": (("PUT", "partNumber=2", "403 AccessDenied"), 9), "complete": (("POST", "uploadId", "busy"), 4)}
    (method, words, fault), times = choices.get(failing, (("POST", "uploadId", "cut_after"), 1))
    faults_left = [fault] * times
    faults.choose = lambda m, path: faults_left.pop() if faults_left and m == method and words in path else None
    if failing == "part":
        with pytest.raises(StorageError, match="no permission"):
            storage.publish(f"{tmp_path}/long.mp4", f"{bucket}/long.mp4")
        assert not storage.exists(f"{bucket}/long.mp4")
    else:
        storage.publish(f"{tmp_path}/long.mp4", f"{bucket}/long.mp4")
        assert storage.info(f"{bucket}/long.mp4").size == size
    name = bucket.removeprefix("s3://")
    assert "Uploads" not in boto3.client("s3", endpoint_url=faults.backend).list_multipart_uploads(Bucket=name)


def test_a_full_disk_is_told_at_once_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"no space left for .*Make room") as raised:
        storage.write(b"x", f"{tmp_path}/row")
    assert not isinstance(raised.value, NetworkError)
    assert os.listdir(tmp_path) == []


def test_a_network_disk_that_stalls_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.retries.FIRST_WAIT_S", 0.01)
    errors = [OSError(errno.ESTALE, "Stale file handle"), OSError(errno.EIO, "Input/output error")]
    replace = os.replace

    def sometimes(source: str, target: str) -> None:
        if errors:
            raise errors.pop()
        replace(source, target)

    monkeypatch.setattr(os, "replace", sometimes)
    storage.write(b"x", f"{tmp_path}/row")
    assert os.listdir(tmp_path) == ["row"]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    for name, age_s in ((".old.part", 7200), (".new.part", 0), ("old.mp4", 7200)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    storage.remove_parts(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == [".new.part", "old.mp4"]


def test_messages_of_a_store_hold_no_credentials(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as raised:
        storage.read(f"{tmp_path}/face.png?X-Amz-Signature=5ec2e7")
    assert "5ec2e7" not in str(raised.value)


def test_writing_replaces_a_link_and_leaves_what_it_led_to(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / "source").write_bytes(b"ours")
    for name in ("written", "published"):
        (tmp_path / name).symlink_to("theirs")
    storage.write(b"ours", f"{tmp_path}/written")
    storage.publish(f"{tmp_path}/source", f"{tmp_path}/published")
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    assert all((tmp_path / name).read_bytes() == b"ours" for name in ("written", "published"))


def test_a_file_on_s3_has_the_type_that_its_name_says(bucket: str) -> None:
    client = boto3.client("s3")
    for name, kind in (("report.html", "text/html"), ("anna.jpg", "image/jpeg"), ("0042", "binary/octet-stream")):
        storage.write(b"content", f"{bucket}/{name}")
        assert client.head_object(Bucket=bucket.removeprefix("s3://"), Key=name)["ContentType"] == kind
