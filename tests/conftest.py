"""What the tests share: one S3 server, one Ray cluster, and real rows."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from manifests.schema import MANIFEST
from pipelines import plan
from pipelines.workers import cluster
from stableavatar.presets import Preset, tiny

EXAMPLES = Path(__file__).parents[1] / "manifests" / "examples"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on this machine; the environment leads every client of this process to it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield settings["AWS_ENDPOINT_URL"]
    server.stop()


@pytest.fixture
def bucket(s3_server: str, request: pytest.FixtureRequest) -> str:
    """The URI of a new, empty bucket."""
    name = f"bucket-{abs(hash(request.node.nodeid)):x}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def ray_cluster(s3_server: str) -> Iterator[None]:
    """A real Ray cluster on this machine, started by the first test that asks; its workers know the S3 server."""
    os.environ.pop("RAY_ADDRESS", None)
    with cluster():
        yield


@pytest.fixture
def preset() -> Preset:
    return tiny()


@pytest.fixture
def make_row(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A row of a manifest in `tmp_path`, real portrait and speech, as the flow has it before the check."""

    def make(**words: Any) -> dict[str, Any]:
        empty = {column.name: None for column in MANIFEST}
        files = {"portrait": f"{EXAMPLES}/portrait_nasa.jpg", "audio": f"{EXAMPLES}/speech_es_short.flac"}
        state = {
            "status": "ready",
            "error_kind": "",
            "error": "",
            "stage": "",
            "content_id": "",
            "model": "tiny",
            "weights_hash": "0123",
            "carried": plan.pack({}),
        }
        place = {"manifest": f"{tmp_path}/night.jsonl", "row_number": 3, "id": "anna"}
        return {**empty, **files, **state, **place, **words}

    return make
