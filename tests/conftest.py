"""What the tests share: one S3 server, one Ray cluster, and real rows."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.retries.standard import ExponentialBackoff
from s3fs import S3FileSystem

from manifests.schema import MANIFEST
from pipelines import lease, plan, retries, scratch
from pipelines.workers import cluster
from stableavatar.presets import Preset, tiny
from tests.faults import Faults, proxy
from tests.s3 import serve_s3

EXAMPLES = Path(__file__).parents[1] / "manifests" / "examples"
EXAMPLE = {"portrait": f"{EXAMPLES}/portrait_nasa.jpg", "audio": f"{EXAMPLES}/speech_es_short.flac"}  # a row


GROUPS = ("ray_cluster", "ray_alone")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file run in one process, so that what they share is made once.

    So do those of all files that use the Ray cluster, and those that start one of their own, one after the other. They
    take longest, so they come first.
    """

    def group(item: pytest.Item) -> str:
        used = set(getattr(item, "fixturenames", ()))
        return next((name for name in GROUPS if name in used), item.path.stem)

    items.sort(key=lambda item: GROUPS.index(group(item)) if group(item) in GROUPS else len(GROUPS))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


@pytest.fixture(scope="session", autouse=True)
def scratch_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Scratch of these tests alone, without what others left."""
    path = str(tmp_path_factory.mktemp("scratch"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(scratch.VARIABLE, path)
        yield path


@pytest.fixture(autouse=True)
def logging_of_our_own() -> Iterator[None]:
    """What a command sets of our log is gone when the next test begins."""
    package = logging.getLogger("pipelines")
    before = package.handlers, package.propagate, package.level
    yield
    package.handlers, package.propagate, _ = before
    package.setLevel(before[2])


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on this machine; the environment leads every client of this process to it."""
    with serve_s3() as address:
        yield address


@pytest.fixture
def bucket(s3_server: str, request: pytest.FixtureRequest) -> str:
    """The URI of a new, empty bucket."""
    name = f"bucket-{abs(hash(request.node.nodeid)):x}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(params=["local", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that does not exist yet, on the local disk and on S3."""
    return f"{tmp_path}/out" if request.param == "local" else request.getfixturevalue("bucket") + "/out"


@pytest.fixture
def quick_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease is renewed, lost and taken over eight times as fast as in earnest."""
    for name in ("RENEW_S", "LOOK_EVERY_S", "DEAD_AFTER_S"):
        monkeypatch.setattr(lease, name, getattr(lease, name) / 8)


@pytest.fixture
def faults(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """What goes wrong between the clients of this process and the S3 server; nothing yet. Waits are short."""
    faults = Faults(s3_server, share=0.0)
    with proxy(faults) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.02)
        monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.01)
        S3FileSystem.clear_instance_cache()  # file systems remember the address
        yield faults
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def flaky_bucket(bucket: str, faults: Faults) -> str:
    """The URI of a new bucket behind a network on which a fifth of the requests fail."""
    faults.share = 0.2
    return bucket


@pytest.fixture(scope="session")
def ray_cluster(s3_server: str) -> Iterator[None]:
    """A real Ray cluster on this machine, started by the first test that asks; its workers know the S3 server."""
    os.environ.pop("RAY_ADDRESS", None)
    with cluster():
        yield


@pytest.fixture
def ray_alone() -> None:
    """For tests that start a cluster of their own, in another process."""


@pytest.fixture
def preset() -> Preset:
    return tiny()


@pytest.fixture
def make_row(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A row of a manifest in `tmp_path`, real portrait and speech, as the flow has it before the check."""

    def make(**words: Any) -> dict[str, Any]:
        empty = {column.name: None for column in MANIFEST}
        state = {
            "status": "ready",
            "error_kind": "",
            "error": "",
            "stage": "",
            "content_id": "",
            "model": "tiny",
            "weights_hash": "0123",
            "attempts": 1,
            "gpu_s": 0.0,
            "twin": "",
            "carried": plan.pack({}),
        }
        place = {"manifest": f"{tmp_path}/night.jsonl", "row_number": 3, "id": "anna"}
        return {**empty, **EXAMPLE, **state, **place, **words}

    return make
