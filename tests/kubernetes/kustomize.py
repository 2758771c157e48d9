"""As much of kustomize as cluster/ uses. Everything else in a kustomization is refused.

kustomize itself is on no registry that pip reaches. Where a machine has it, a test compares.
"""

from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Thing = dict[str, Any]
KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "images"}
PATCH = {"target", "patch", "options"}


def build(folder: Path) -> list[Thing]:
    """The objects that `kustomize build FOLDER` gives, in no particular order."""
    layer = _layer(folder, "Kustomization")
    things = [thing for name in layer.get("resources", []) for thing in _resource(folder / name)]
    for name in layer.get("components", []):
        things = _change(_layer(folder / name, "Component"), things)
    return _change(layer, things)


def _layer(folder: Path, kind: str) -> Thing:
    layer: Thing = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert layer["kind"] == kind and layer.keys() <= KNOWN, f"{folder}: {layer.keys() - KNOWN}"
    return layer


def _resource(path: Path) -> list[Thing]:
    return build(path) if path.is_dir() else [thing for thing in yaml.safe_load_all(path.read_text()) if thing]


def _change(layer: Thing, things: list[Thing]) -> list[Thing]:
    for patch in layer.get("patches", []):
        assert patch.keys() <= PATCH, patch.keys() - PATCH
        chosen = [thing for thing in things if _is_target(thing, **patch["target"])]
        assert chosen, f"no object is {patch['target']}"
        operations = yaml.safe_load(patch["patch"])
        things = [jsonpatch.apply_patch(thing, operations) if thing in chosen else thing for thing in things]
    things = [_with_images(thing, layer.get("images", [])) for thing in things]
    return [_moved(thing, layer["namespace"]) for thing in things] if "namespace" in layer else things


def _is_target(thing: Thing, kind: str, name: str | None = None) -> bool:
    return thing["kind"] == kind and name in (None, thing["metadata"]["name"])


def _moved(thing: Thing, namespace: str) -> Thing:
    """Every kind that we have lies in a namespace, and so do the accounts that a binding names."""
    named = {"subjects": [{**who, "namespace": namespace} for who in thing["subjects"]]} if "subjects" in thing else {}
    return {**thing, "metadata": {**thing["metadata"], "namespace": namespace}, **named}


def _with_images(value: Any, images: list[dict[str, str]]) -> Any:
    if isinstance(value, list):
        return [_with_images(item, images) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _with_images(item, images) for key, item in value.items()}
    for image in images:
        name, _, tag = str(value.get("image", "")).partition(":")
        if name == image["name"]:
            value["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
    return value
