"""`ray job submit` to real clusters: what comes back, stopping and going on, a node that dies, authentication."""

import json
import re
import shutil
import socket
from collections import Counter
from itertools import islice
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import yaml
from ray.runtime_env import RuntimeEnv

from pipelines import results, storage
from tests.chaos import generators
from tests.conftest import EXAMPLES
from tests.nodes import PATIENCE_S, ROOT, Nodes, nodes, wait_for
from tests.pins import pins

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
TINY = ("--model", "tiny")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout as people have it: with results, an environment, and a manifest of their own."""
    for name in ("pipelines", "stableavatar", "manifests", "tests/golden"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitignore", tmp_path)
    for name in ("outputs/old.mp4", ".venv/bin/python", ".git/index"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(1000))
    good = {"portrait": "manifests/examples/portrait_nasa.jpg", "audio": "manifests/examples/speech_es_short.flac"}
    rows: list[dict[str, Any]] = [{**good, "end_s": 0.3, "num_steps": 2, "id": "here"}]
    rows += [{**rows[0], "portrait": "/home/anna/face.png", "id": "elsewhere"}]
    (tmp_path / "night.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE_S)
@pytest.mark.usefixtures("ray_alone")
def test_a_job_brings_its_code_along_and_its_exit_code_back(checkout: Path, bucket: str) -> None:
    with nodes(1, RAY_AUTH_MODE="disabled") as cluster:
        assert cluster.imports("ray") and not cluster.imports("pipelines")
        job = cluster.submit("night", checkout, "render", "night.jsonl", "--output", f"{bucket}/out", *TINY)
        wait_for(lambda: any(found["status"] == "RUNNING" for found in cluster.ask("api/jobs/")))
        (folder,) = Path(cluster.folder, "session_latest/runtime_resources/working_dir_files").glob("*/")
        uploaded = {path.name for path in folder.iterdir()}
        out = said(job)
        assert "2 rows: 1 ok, 1 failed" in out
        assert f"/home/anna/face.png does not exist on {socket.gethostname()}" in out
        assert job.returncode == 1 and cluster.exit_code("night") == 2, out
        assert "failed with exit code 2" in said(cluster.job("status", "night"))
    found = {row["id"]: row for row in results.read_results(f"{bucket}/out").to_pylist()}
    assert {id: row["error_kind"] for id, row in found.items()} == {"here": "", "elsewhere": "bad_input"}
    assert uploaded == {"pipelines", "stableavatar", "manifests", "night.jsonl", ".gitignore"}


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE_S)
@pytest.mark.usefixtures("ray_alone")
def test_a_job_drains_when_it_is_stopped_and_the_next_outlives_a_node(bucket: str) -> None:
    with nodes(2, **TOKEN) as cluster:
        output = f"{bucket}/out"
        command = ("render", write_manifest(bucket), "--output", output, *TINY)
        first = cluster.submit("first", ROOT, *command)
        refused = cluster.submit("stranger", ROOT, *command, RAY_AUTH_TOKEN="f" * 64)
        assert "Invalid authentication token" in said(refused) and refused.returncode == 1
        wait_for(lambda: cluster.works(0) and cluster.works(1))
        assert "Job 'first' was stopped" in stop_slowly(cluster, "first")
        out = said(first)
        assert first.returncode == 0  # of the client: to be stopped is no failure
        (num_left,) = map(int, re.findall(r"SIGTERM was received: (\d+) rows are unfinished", out))
        left = [json.loads(line)["id"] for line in storage.read(f"{output}/carry-over.jsonl").splitlines()]
        assert num_left == len(set(left)) >= 2
        assert storage.folders_in(f"{output}/checkpoints") and not storage.folders_in(f"{output}/lease")

        second = cluster.submit("second", ROOT, *command)
        wait_for(lambda: cluster.works(1))
        cluster.kill(1)
        out = said(second)
        assert second.returncode == 0 and cluster.exit_code("second") == 0, out
        assert re.search(rf"\d/{num_left} rows done", out)
        assert f": {num_left} ok, 0 failed" in out
    table = results.read_results(output).to_pylist()
    assert Counter(row["id"] for row in table) == Counter(f"row {number}" for number in range(4))
    videos = [storage.join(output, f"videos/{name}") for name in storage.names_in(f"{output}/videos")]
    assert sorted(row["video"] for row in table) == sorted(videos)
    assert storage.folders_in(f"{output}/checkpoints") == []


def test_both_parts_of_the_runtime_environment_are_understood() -> None:
    text = (ROOT / "cluster/runtime-env.yaml").read_text()
    mine, packages = text[: text.index("# For nodes")], text[text.index("# uv:") :]
    assert set(RuntimeEnv(**yaml.safe_load(mine))) == {"excludes", "env_vars"}
    installed = RuntimeEnv(**yaml.safe_load(re.sub("^# ", "", packages, flags=re.MULTILINE)))
    assert set(installed) == {"uv"} and installed["uv"]["uv_version"] == f"=={pins()['uv']}"


def said(client: Popen) -> str:
    """What it says until its end."""
    return client.communicate(timeout=PATIENCE_S)[0]


def stop_slowly(cluster: Nodes, id: str) -> str:
    """`ray job stop`, while generators cannot save for five seconds: by itself Ray kills a job after three."""
    held = [process for process, _ in generators()]
    for process in held:
        process.suspend()
    client = cluster.job("stop", id, PYTHONUNBUFFERED="1")
    assert client.stdout
    waiting = [*islice((line for line in client.stdout if "has not exited yet" in line), 6)]  # one each second
    for process in held:
        process.resume()
    rest = client.stdout.read()
    assert len(waiting) == 6, "it was killed before it could save"
    return rest


def write_manifest(bucket: str) -> str:
    """Four rows that take long enough to be disturbed."""
    for name in ("portrait_nasa.jpg", "speech_es_short.flac"):
        storage.publish(f"{EXAMPLES}/{name}", f"{bucket}/in/{name}")
    row = {"portrait": "portrait_nasa.jpg", "audio": "speech_es_short.flac", "end_s": 0.5, "num_steps": 50}
    rows = ({**row, "id": f"row {number}", "seed": number} for number in range(4))
    storage.write("\n".join(map(json.dumps, rows)).encode(), f"{bucket}/in/night.jsonl")
    return f"{bucket}/in/night.jsonl"
