"""Kubernetes objects against the schemas of their kinds; a field that a kind does not have is an error."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

VERSION = "1.37"  # of Kubernetes
BUNDLED = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{VERSION}.0-local-strict"


def validate(thing: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError."""
    if thing["apiVersion"].startswith("ray.io/"):
        _kuberay(thing["kind"]).validate(thing)
    else:
        kubernetes_validate.validate(thing, VERSION, strict=True)


@cache
def _kuberay(kind: str) -> Draft202012Validator:
    """KubeRay's part is an excerpt that lies beside this file. What it says of pods is Kubernetes' own."""
    ours = json.loads(Path(__file__).with_name("kuberay.json").read_text())
    theirs = json.loads((BUNDLED / "_definitions.json").read_text())
    registry: Registry[Any] = Registry().with_resource("/api/_definitions.json", Resource.from_contents(theirs))
    return Draft202012Validator({**ours, "$ref": f"#/$defs/{kind}"}, registry=registry)
