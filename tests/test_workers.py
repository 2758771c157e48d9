"""Ray clusters that grow, and an object store that does not overflow: each in processes of its own."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest
import ray
from ray.data import ExecutionResources

from pipelines import carry_over, plan, results
from pipelines.run import Options, run
from pipelines.spans import spans_of
from pipelines.stage import Row, Stage
from pipelines.watch import Bounds
from pipelines.workers import Pool, cluster, flow, limits_of
from stableavatar.presets import tiny
from tests.conftest import EXAMPLE

pytestmark = pytest.mark.usefixtures("ray_alone")

RAY = str(Path(sys.executable).parent / "ray")
ROW = {**EXAMPLE, "end_s": 0.5}
STORE_BYTES, ROW_BYTES, NUM_ROWS = 200 * 10**6, 5 * 10**6, 60  # one and a half times what the store holds
NODE_TYPES = {
    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    "cpus": {"resources": {"CPU": 4}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    "gpus": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
}
NO_SSH = ("disable_node_updaters", "disable_launch_config_check")
NOT_USED = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"),
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Heavy(Stage):
    """Makes a row heavy."""

    name = "prepare"

    def process(self, row: Row) -> Row:
        return {**row, "sound": os.urandom(ROW_BYTES)}


class Slow(Stage):
    """Makes it light again, in its time."""

    name = "generate"

    def process(self, row: Row) -> Row:
        time.sleep(0.2)
        return {name: value for name, value in row.items() if name != "sound"}


def most_rows_waiting() -> int:
    """Rows that were heavy at a time, of `NUM_ROWS` through an object store of `STORE_BYTES`."""
    ray.init("local", num_cpus=2, object_store_memory=STORE_BYTES, include_dashboard=False, logging_level="ERROR")
    ready = {"manifest": "m", "status": "ready", "error": ""}
    rows: list[Row] = [{"id": str(number), "row_number": number, **ready} for number in range(NUM_ROWS)]
    with cluster():
        made = list(flow(rows, [Pool(stage=Heavy, num_cpus=0.2), Pool(stage=Slow, num_cpus=1, queue=1)]))
    assert [row["error"] for row in made] == [""] * NUM_ROWS
    spans = [spans_of(row) for row in made]
    made_at = [prepared.started_at + prepared.seconds for prepared, _ in spans]
    gone_at = [generated.started_at + generated.seconds for _, generated in spans]
    return max(sum(made <= now < gone for made, gone in zip(made_at, gone_at, strict=True)) for now in made_at)


@pytest.mark.slow
def test_rows_are_prepared_ahead_until_half_of_the_object_store_is_full() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        assert 2 <= process.apply(most_rows_waiting) <= STORE_BYTES / ROW_BYTES / 2


def left_where_no_node_came(manifest: str, output: str) -> list[str]:
    """The rows that a run has left which is to end soon, on a cluster where nothing can be done."""
    ray.init("local", num_cpus=0, include_dashboard=False, logging_level="ERROR")
    soon = datetime.now().astimezone() + timedelta(seconds=2)
    report = run(manifest, output, tiny(), options=Options(bounds=Bounds(stop_by=soon)))
    assert report.stopped.startswith("it is ")
    return [row["id"] for row in report.unfinished]


@pytest.mark.slow
def test_a_night_whose_nodes_never_come_ends_in_time_and_lists_its_rows(tmp_path: Path) -> None:
    manifest, output = tmp_path / "night.jsonl", f"{tmp_path}/out"
    manifest.write_text(json.dumps({**ROW, "id": "one"}) + "\n" + json.dumps({**ROW, "id": "two"}))
    with multiprocessing.get_context("spawn").Pool(1) as process:
        left = process.apply_async(left_where_no_node_came, (str(manifest), output)).get(timeout=120)
    assert left == ["one", "two"]
    assert [row["id"] for row in plan.read_manifest(carry_over.list_uri(output))] == left


@pytest.fixture
def growing_cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a head without CPUs, whose autoscaler starts nodes of `NODE_TYPES` on this machine."""
    address = f"{socket.gethostbyname(socket.gethostname())}:{free_port()}"
    config = {
        "cluster_name": "growing",
        "max_workers": 2,
        "provider": {"type": "fake_multinode", "gcs_address": address, **dict.fromkeys(NO_SSH, True)},
        "available_node_types": NODE_TYPES,
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        **{name: {} for name in ("auth", "file_mounts")},
        **{name: [] for name in NOT_USED},
    }
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps(config))
    words = [RAY, "start", "--head", "--block", f"--port={address.rpartition(':')[2]}", "--num-cpus=0", "--num-gpus=0"]
    settings = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_AUTH_MODE": "disabled"}
    with open(tmp_path / "head.log", "w") as log:
        head = subprocess.Popen(
            [*words, f"--autoscaling-config={path}", "--include-dashboard=false"],
            env=os.environ | settings, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        is_up = [RAY, "health-check", "--address", address]
        while subprocess.run(is_up, env=os.environ | settings, capture_output=True).returncode:
            assert head.poll() is None, (tmp_path / "head.log").read_text()
        yield address
    finally:
        everybody = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
        for process in everybody:
            process.kill()
        psutil.wait_procs(everybody, timeout=30)


@pytest.mark.slow
def test_a_run_begins_where_there_is_no_node_yet(growing_cluster: str, tmp_path: Path) -> None:
    manifest, output = tmp_path / "night.jsonl", f"{tmp_path}/out"
    manifest.write_text(json.dumps({**ROW, "id": "one"}) + "\n" + json.dumps({**ROW, "id": "two"}))
    settings = {"RAY_ADDRESS": growing_cluster, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "pipelines.cli", "render", str(manifest), "--output", output, "--generators", "1"]
    made = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stdout + made.stderr
    assert results.read_results(output)["status"].to_pylist() == ["ok", "ok"]


def test_a_flow_asks_for_no_more_than_its_pools_hold() -> None:
    pools = [Pool(stage=object, num_cpus=0.2, size=3, least=1), Pool(stage=object, num_cpus=0, num_gpus=0.5, size=4)]
    assert limits_of(pools) == ExecutionResources.for_limits(cpu=1, gpu=2)
