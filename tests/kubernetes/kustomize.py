"""What kustomize makes of a folder: the one in kubectl, which comes as a package."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Thing = dict[str, Any]
KUBECTL = Path(sys.executable).with_name("kubectl")


def build(folder: Path) -> list[Thing]:
    """The objects that `kubectl apply -k FOLDER` would send."""
    return list(yaml.safe_load_all(_rendered(folder)))


@cache
def _rendered(folder: Path) -> str:
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
