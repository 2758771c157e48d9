"""Files of one JSON object in each line, which are written whole: no store can append."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines import storage


def read_lines(uri: str) -> list[dict[str, Any]]:
    """The lines of a file; none if it is missing. Raises StorageError."""
    return [json.loads(line) for line in (storage.read_if_there(uri) or b"").splitlines() if line.strip()]


def write_lines(lines: Iterable[Mapping[str, Any]], uri: str) -> None:
    """Write a file, whole or not at all. Raises StorageError."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    storage.write(text.encode(), uri)
