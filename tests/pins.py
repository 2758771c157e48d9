"""The versions of constraints.txt."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    """The version of each package, by its name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines)}


def normal(name: str) -> str:
    """The name of a package as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()
