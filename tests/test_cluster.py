"""What cluster/ asks of Kubernetes, of `ray up` and of Docker: valid, pinned, and in the words of our own command."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from pipelines.arguments import parser
from pipelines.checkpoint import EVERY_S
from tests.kubernetes.kustomize import Thing, build
from tests.kubernetes.overlays import KUBERNETES, OVERLAYS, job_spec, only, pods, run_line, values
from tests.kubernetes.schemas import validate
from tests.pins import pins

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
CLOUDS = ("aws", "gcp")
README = (CLUSTER / "README.md").read_text()
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def cloud(name: str) -> Any:
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The README's example of an overlay of one's own."""
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    folder = tmp_path / "kubernetes" / "mine"
    folder.mkdir()
    [example] = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (folder / "kustomization.yaml").write_text(example)
    return folder


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_what_its_kind_allows(overlay: str) -> None:
    things = build(KUBERNETES / overlay)
    assert things
    for thing in things:
        validate(thing)


def test_own_overlay_is_a_few_lines(mine: Path) -> None:
    things = build(mine)
    for thing in things:
        validate(thing)
    ours = {image for image in values(things, "image") if "stableavatar" in image}
    assert ours == {f"registry.example.com/stableavatar-{kind}:{VERSION}" for kind in ("cpu", "cuda")}
    assert set(values(things, "namespace")) == {"avatars"}
    assert only(things, "Job")["spec"]["template"]["spec"]["initContainers"][0]["args"][2] == "14b"
    assert "s3://mine/" in only(things, "RayJob")["spec"]["entrypoint"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_larger_model_has_its_memory_whatever_begins_the_run(mine: Path, overlay: str) -> None:
    layer = {"namespace": "avatars", "resources": [f"../{overlay}"], "components": ["../14b"]}
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(layer))
    things = build(mine)
    assert set(values(things, "namespace")) == {"avatars"}  # also of whom a night is begun by
    [groups] = values(things, "workerGroupSpecs")
    [memory] = {container["resources"]["limits"]["memory"] for container in groups[1]["template"]["spec"]["containers"]}
    assert (groups[1]["groupName"], memory) == ("gpu", "120Gi")


def test_what_is_deleted_before_applying_again_is_all_that_cannot_change(mine: Path) -> None:
    [named] = re.findall(r"kubectl delete .*--ignore-not-found (.*)", README)
    once = [thing for thing in build(mine) if thing["kind"] in ("Job", "RayJob")]
    assert set(named.split()) == {f"{thing['kind'].lower()}/{thing['metadata']['name']}" for thing in once}


def test_each_file_belongs_to_some_overlay() -> None:
    used = {KUBERNETES / overlay for overlay in (*OVERLAYS, "14b")}
    for folder in list(used):
        layer = yaml.safe_load((folder / "kustomization.yaml").read_text())
        used |= {(folder / name).resolve() for name in (*layer.get("resources", []), *layer.get("components", []))}
    assert {path for path in KUBERNETES.iterdir() if path not in used} == set()


WRONG: dict[str, tuple[str, Any]] = {
    "unknown field of the job": ("spec.concurrencyPolicy", "Forbid"),
    "unknown field of the cluster": ("spec.rayClusterSpec.autoscaling", True),
    "unknown field of a group": ("spec.rayClusterSpec.workerGroupSpecs.0.minReplica", 0),
    "unknown field of a pod": ("spec.rayClusterSpec.headGroupSpec.template.spec.gracePeriod", 9),
    "unknown field of a container": ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.e", []),
    "number as text": ("spec.backoffLimit", "2"),
    "text as priority": ("spec.rayClusterSpec.workerGroupSpecs.0.priority", "high"),
    "text as number": ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
    "no such mode": ("spec.rayClusterSpec.authOptions.mode", "Token"),
    "name too long": ("metadata.name", "s" * 48),
}


def changed_run(path: str, value: Any) -> Thing:
    operation = {"op": "add", "path": "/" + path.replace(".", "/"), "value": value}
    return jsonpatch.apply_patch(only(build(KUBERNETES / "bulk"), "RayJob"), [operation])


@pytest.mark.parametrize(("path", "value"), WRONG.values(), ids=WRONG)
def test_wrong_runs_are_refused(path: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        validate(changed_run(path, value))


def test_a_group_may_come_before_others() -> None:
    validate(changed_run("spec.rayClusterSpec.workerGroupSpecs.0.priority", 10))


def test_wrong_objects_of_kubernetes_are_refused() -> None:
    schedule = only(build(KUBERNETES / "nightly"), "CronJob")
    with pytest.raises(ValidationError, match="concurrency"):
        validate({**schedule, "spec": {**schedule["spec"], "concurrency": "Forbid"}})
    with pytest.raises(ValidationError):
        validate({**schedule, "spec": {**schedule["spec"], "startingDeadlineSeconds": "3600"}})


def commands() -> dict[str, list[str]]:
    """Every `stableavatar` command in cluster/, as it is written, and its words without the program."""
    found = [shlex.split(run_line(overlay)) for overlay in OVERLAYS]
    things = [thing for overlay in OVERLAYS for thing in build(KUBERNETES / overlay)]
    found += [words for words in values(things, "args") if words[0] == "stableavatar"]
    found += [shlex.split(line) for name in CLOUDS for line in cloud(name)["setup_commands"]]
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        found += [shlex.split(line) for line in re.findall(r"stableavatar render [^'\n]*", block)]
    return {" ".join(words): words[1:] for words in found}


@pytest.mark.parametrize("words", commands().values(), ids=commands())
def test_commands_are_words_of_our_program(words: list[str]) -> None:
    assert parser().parse_args(words).command == words[0]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_run_asks_for_all_gpus_that_may_come(overlay: str) -> None:
    """Ray tells no driver how many its autoscaler may add: without the word a run would see none, and use CPUs."""
    asked = parser().parse_args(shlex.split(run_line(overlay))[1:]).generators
    assert (
        asked
        == {
            group["groupName"]: group["maxReplicas"]
            for group in job_spec(overlay)["rayClusterSpec"]["workerGroupSpecs"]
        }["gpu"]
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (2, 0), (3, 0), (137, 1)])
def test_runs_that_came_to_their_end_are_not_begun_again(
    overlay: str, code: int, expected: int, tmp_path: Path
) -> None:
    fake = tmp_path / "stableavatar"
    fake.write_text(f"#!/bin/sh\nexit {code}\n")
    fake.chmod(0o755)
    words = shlex.split(job_spec(overlay)["entrypoint"])
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(words, env=environment, check=False).returncode == expected


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_that_are_to_go_save_first(overlay: str) -> None:
    for name, pod in pods(job_spec(overlay)).items():
        [container] = pod["containers"]
        stop_s = next(int(variable["value"]) for variable in container["env"] if "STOP_WAIT" in variable["name"])
        script = container["lifecycle"]["preStop"]["exec"]["command"][-1]
        subprocess.run(["bash", "-n", "-c", script], check=True)
        [wait_s] = map(int, re.findall(r"timeout (\d+)", script))
        assert EVERY_S <= stop_s <= wait_s < pod["terminationGracePeriodSeconds"], name


ALONE = [*("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")]  # it sees only its own processes


@pytest.mark.skipif(subprocess.run([*ALONE, "true"], capture_output=True).returncode != 0, reason="no such namespaces")
@pytest.mark.parametrize(
    "work",
    [
        "ray::MapWorker(Map(Generate)).submit",
        "/opt/venv/bin/python /opt/venv/bin/stableavatar render s3://a",
        "/opt/venv/bin/python /opt/venv/bin/stableavatar retry s3://a",
        "python -m pipelines.cli render s3://a",
    ],
)
def test_pods_wait_for_their_work_and_for_nothing_else(work: str) -> None:
    script = pods(job_spec("bulk"))["gpu"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    idle = ["ray::RuntimeEnvAgent", "ray::IDLE", "ray::MapWorker(Map(Generate))", "ray::Progress"]
    bash = "".join(f"(exec -a '{title}' sleep 60) & " for title in idle)
    bash += f'(exec -a "$WORK" sleep 1) & work=$!\n{script}\n! kill -0 $work'
    environment = {**os.environ, "WORK": work}  # in the words of bash, the script would find itself
    subprocess.run([*ALONE, "bash", "-c", bash], env=environment, check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_head_has_no_work_and_workers_come_from_nothing(overlay: str) -> None:
    spec = job_spec(overlay)
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(group["minReplicas"] == group["replicas"] == 0 for group in spec["rayClusterSpec"]["workerGroupSpecs"])
    limits = {name: pod["containers"][0]["resources"]["limits"] for name, pod in pods(spec).items()}
    assert [name for name in limits if "nvidia.com/gpu" in limits[name]] == ["gpu"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_generators_may_go_to_nodes_with_gpus_and_to_spot_nodes(overlay: str) -> None:
    """Such nodes have taints, by these names: a pod that does not tolerate them waits for ever."""
    tainted = {"nvidia.com/gpu", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "spot"}
    tolerated = {name: pod.get("tolerations", []) for name, pod in pods(job_spec(overlay)).items()}
    assert {toleration["key"] for toleration in tolerated.pop("gpu")} == tainted
    assert tolerated == {"head": [], "cpu": []}  # a head that goes takes the run with it


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_have_no_rights_they_do_not_need(overlay: str) -> None:
    things = build(KUBERNETES / overlay)
    for containers in values(things, "containers") + values(things, "initContainers"):
        for container in containers:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert "memory" in container["resources"]["limits"]
    for pod in (spec for spec in values(things, "spec") if "containers" in spec):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] and context["seccompProfile"] == {"type": "RuntimeDefault"}
    tokens = {name: pod.get("automountServiceAccountToken", True) for name, pod in pods(job_spec(overlay)).items()}
    assert tokens == {"head": True, "cpu": False, "gpu": False}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pod_that_submits_has_no_more_rights_than_others(overlay: str) -> None:
    """KubeRay's own has no security context, which namespaces of the level `restricted` refuse."""
    submitter = job_spec(overlay)["submitterPodTemplate"]["spec"]
    head = pods(job_spec(overlay))["head"]
    [container], [ray] = submitter["containers"], head["containers"]
    assert submitter["securityContext"] == head["securityContext"] and not submitter["automountServiceAccountToken"]
    assert submitter["restartPolicy"] == "Never" and not {"command", "args", "env"} & container.keys()
    assert container["securityContext"] == ray["securityContext"] and container["image"] == ray["image"]


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_up_takes_the_file(name: str) -> None:
    validate_config(prepare_config(cloud(name)))


@pytest.mark.parametrize("change", [{"idle_timeout": 5}, {"max_workers": "12"}, {"docker": {"images": "a:1"}}])
@pytest.mark.parametrize("name", CLOUDS)
def test_ray_up_refuses_what_it_does_not_know(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validate_config(prepare_config({**cloud(name), **change}))


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds_have_the_groups_of_kubernetes(name: str) -> None:
    spec = job_spec("bulk")["rayClusterSpec"]
    types = cloud(name)["available_node_types"]
    assert list(types) == list(pods(job_spec("bulk")))
    assert types["head"]["resources"] == {"CPU": 0}
    for group in spec["workerGroupSpecs"]:
        kind = types[group["groupName"]]
        assert (kind["min_workers"], kind["max_workers"]) == (group["minReplicas"], group["maxReplicas"])
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert kind["resources"]["CPU"] == int(group["rayStartParams"].get("num-cpus", limits["cpu"]))
        assert "spot" in str(kind["node_config"]).lower()
    assert cloud(name)["idle_timeout_minutes"] * 60 == spec["autoscalerOptions"]["idleTimeoutSeconds"]
    assert "--env RAY_AUTH_MODE=token" in cloud(name)["docker"]["run_options"]
    assert spec["authOptions"] == {"mode": "token"}


def test_images_are_pinned_and_of_this_version() -> None:
    things = [thing for overlay in OVERLAYS for thing in build(KUBERNETES / overlay)]
    docker = [cloud(name) for name in CLOUDS]
    images = values(things, "image") + values(docker, "head_image") + values(docker, "worker_image")
    images += re.findall(r"^ARG \w*BASE=(\S+:\S+)$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    assert {image.partition(":")[0] for image in images} == {
        *("stableavatar-cpu", "stableavatar-cuda", "alpine/k8s", "nvidia/cuda")
    }
    assert [image for image in images if not re.search(r":\d+\.\d+\.\d+(-[\w.-]+)?$", image)] == []
    assert {image.partition(":")[2] for image in images if image.startswith("stableavatar-")} == {VERSION}
    assert job_spec("bulk")["rayClusterSpec"]["rayVersion"] == pins()["ray"]


NEEDED = {"--tmux": "tmux", "pgrep": "procps", "`TZ`": "tzdata"}  # a word of ours: the package of its program


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    words = [str(Path(sys.executable).with_name("hadolint")), "--no-color", str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_dockerfile_passes_its_linter(tmp_path: Path) -> None:
    done = hadolint(CLUSTER / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")
    wrong = tmp_path / "Dockerfile"
    wrong.write_text((CLUSTER / "Dockerfile").read_text().replace("USER 1000", "USER root"))
    assert "DL3002" in hadolint(wrong).stdout


def test_image_has_the_programs_that_are_run_in_it() -> None:
    """`ray exec` and `ray attach` run in the container, as the commands of pods do."""
    last = (CLUSTER / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    [words] = re.findall(r"apt-get install ([^&]*)", last)
    said = README + (KUBERNETES / "base/rayjob.yaml").read_text()
    assert [word for word in NEEDED if word not in said] == []
    assert set(NEEDED.values()) <= set(words.split())


def test_image_has_the_pinned_versions() -> None:
    dockerfile = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    before, _, after = dockerfile.partition("pip install")
    [settings] = re.findall(r"^ENV (.*PIP_CONSTRAINT.*)$", before, re.MULTILINE)
    assert {"PIP_CONSTRAINT=constraints.txt", "PIP_BUILD_CONSTRAINT=constraints.txt"} <= set(settings.split())
    assert "constraints.txt" in before[: before.index(settings)] and "PIP_" not in after
    installed = re.findall(r"(?<![-\w])pip install ([^&;\n]*)", dockerfile)
    names = {word for words in installed for word in words.split() if re.fullmatch(r"[a-z][a-z-]*", word)}
    assert names == {"audio-separator", "flash-attn", "ninja", "pip", "setuptools", "wheel"} and names <= pins().keys()
    assert "==" not in "".join(installed)


def test_image_is_installed_as_the_makefile_installs() -> None:
    makefile, dockerfile = ((ROOT / name).read_text() for name in ("Makefile", "cluster/Dockerfile"))
    assert "--no-deps audio-separator" in makefile and "--no-deps audio-separator" in dockerfile
    assert re.search(r"^USER 1000$", dockerfile, re.MULTILINE)
    copied = re.search(r"^COPY (.*) \./$", dockerfile, re.MULTILINE)
    assert copied and dockerfile.index(copied[0]) < dockerfile.index("'.[cloud,otel]'") < dockerfile.index("COPY . .")
    allowed = [line[1:] for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"]
    assert {*copied[1].split(), "pipelines", "stableavatar", "manifests"} <= set(allowed)
    assert all((ROOT / name).exists() for name in allowed)
