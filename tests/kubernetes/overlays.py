"""The overlays of cluster/kubernetes, and what tests look for in them."""

import shlex
from pathlib import Path
from typing import Any

from tests.kubernetes.kustomize import Thing, build

KUBERNETES = Path(__file__).parents[2] / "cluster" / "kubernetes"
OVERLAYS = ("bulk", "nightly", "nightly-raycronjob")


def only(things: list[Thing], kind: str) -> Thing:
    [thing] = [thing for thing in things if thing["kind"] == kind]
    return thing


def job_spec(overlay: str) -> Any:
    """The run that an overlay makes, whatever begins it."""
    things = build(KUBERNETES / overlay)
    if overlay == "nightly-raycronjob":
        return only(things, "RayCronJob")["spec"]["jobTemplate"]
    return only(things, "RayJob")["spec"]


def pods(spec: Any) -> dict[str, Any]:
    """The pods of a run by the name of their group."""
    groups = spec["rayClusterSpec"]["workerGroupSpecs"]
    head = spec["rayClusterSpec"]["headGroupSpec"]
    return {name: group["template"]["spec"] for name, group in [("head", head), *((g["groupName"], g) for g in groups)]}


def run_line(overlay: str) -> str:
    """The command of a run, as the shell gets it that Ray starts."""
    # KubeRay gives the entrypoint to a shell that submits it, which takes the quotes away.
    bash, option, script = shlex.split(job_spec(overlay)["entrypoint"])
    assert (bash, option) == ("bash", "-c")
    return script.partition("||")[0]


def values(thing: Any, key: str) -> list[Any]:
    """Everything that stands under that key, however deep."""
    inner = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list) else ()
    own = [thing[key]] if isinstance(thing, dict) and key in thing else []
    return own + [found for item in inner for found in values(item, key)]
