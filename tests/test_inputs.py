import os
from pathlib import Path

import pytest

from pipelines import inputs, storage
from stableavatar.errors import BadInput
from stableavatar.limits import Limits


@pytest.fixture
def here(tmp_path: Path) -> Limits:
    """Files may only lie in the folder `in`, in which there is `a.wav`."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.wav").write_bytes(b"sound")
    (tmp_path / "secret.wav").write_bytes(b"secret")
    return Limits(inputs=(f"{tmp_path}/in", "s3://bucket/in/"))


def locate(reference: str, folder: Path, limits: Limits) -> str:
    return inputs.locate(reference, f"{folder}/night.jsonl", limits)


@pytest.mark.parametrize("reference", ["in/a.wav", "in/../in/a.wav", "link/a.wav", "file://{}/in/a.wav"])
def test_a_file_inside_of_the_allowed_folders_is_found(tmp_path: Path, here: Limits, reference: str) -> None:
    (tmp_path / "link").symlink_to("in")
    assert locate(reference.format(tmp_path), tmp_path, here) == os.path.realpath(tmp_path / "in/a.wav")


@pytest.mark.parametrize(
    "reference", ["secret.wav", "in/../secret.wav", "in/link.wav", "in/missing/../../x", "/etc/passwd"]
)
def test_a_file_outside_is_refused_whether_it_exists_or_not(tmp_path: Path, here: Limits, reference: str) -> None:
    (tmp_path / "in/link.wav").symlink_to("../secret.wav")
    with pytest.raises(BadInput, match=r"lies outside of the folders .* add its folder with --inputs"):
        locate(reference, tmp_path, here)


def test_prefixes_of_stores_end_at_a_slash(tmp_path: Path, here: Limits) -> None:
    assert locate("s3://bucket/in/a.wav", tmp_path, here) == "s3://bucket/in/a.wav"
    for uri in ("s3://bucket/inside/a.wav", "s3://other/in/a.wav", "https://bucket/in/a.wav"):
        with pytest.raises(BadInput, match="lies outside"):
            locate(uri, tmp_path, here)


@pytest.mark.parametrize("segment", ["..", "%2e%2e", "%252E%252e", "..\\x"])
def test_a_way_up_inside_of_a_uri_is_refused(tmp_path: Path, segment: str) -> None:
    with pytest.raises(BadInput, match=r"holds `\.\.`"):
        locate(f"https://host/in/{segment}/a.wav", tmp_path, Limits())


@pytest.mark.parametrize(
    "reference",
    [
        "zip://a.wav::/x/a.zip",
        "simplecache::s3://b/a.wav",
        "ftp://h/a",
        "http://h/a",
        "S3://b/a",
        "memory://a",
        "local:///a",
    ],
)
def test_only_allowed_stores_are_opened(tmp_path: Path, reference: str) -> None:
    with pytest.raises(BadInput, match=r"joins several stores|may not name"):
        locate(reference, tmp_path, Limits())


def test_other_schemes_are_allowed_by_asking(tmp_path: Path) -> None:
    limits = Limits(input_schemes=("http",))
    assert locate("http://host/a.wav", tmp_path, limits) == "http://host/a.wav"
    with pytest.raises(BadInput, match="is a local file, which rows may not name"):
        locate("a.wav", tmp_path, limits)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("pipe", "a pipe"), (".", "a folder"), ("/dev/zero", "a device")):
        uri = locate(name, tmp_path, Limits())
        with pytest.raises(BadInput, match=f"is {kind}"), inputs.fetched(uri, Limits()):
            pass


def test_a_file_past_the_limit_is_refused_before_it_is_fetched(tmp_path: Path, bucket: str) -> None:
    storage.write(b"12345", f"{bucket}/a.wav")
    storage.write(b"12345", f"{tmp_path}/a.wav")
    for uri in (f"{bucket}/a.wav", f"{tmp_path}/a.wav"):
        refused = pytest.raises(BadInput, match=r"a file may have at most 4 bytes\. .* --max-file-bytes")
        with refused, inputs.fetched(uri, Limits(max_file_bytes=4)):
            pass
        with inputs.fetched(uri, Limits(max_file_bytes=5)) as path:
            assert Path(path).read_bytes() == b"12345"
