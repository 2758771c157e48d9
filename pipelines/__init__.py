"""How rows flow: from a manifest, through Ray, to videos and result rows.

from pipelines import render

result = render("night.jsonl", "s3://studio/night", model="checkpoints")
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from pipelines.logs import keep_credentials_out

if TYPE_CHECKING:
    from manifests.schema import ManifestError as ManifestError
    from pipelines.api import render as render
    from pipelines.api import retry as retry
    from pipelines.outcome import RenderResult as RenderResult
    from pipelines.outcome import RowResult as RowResult
    from pipelines.terminal import RunError as RunError
    from stableavatar.errors import BadInput as BadInput
    from stableavatar.errors import StorageError as StorageError
    from stableavatar.errors import WeightsError as WeightsError

_HOMES = {
    "pipelines.api": ("render", "retry"),
    "pipelines.outcome": ("RenderResult", "RowResult"),
    "pipelines.terminal": ("RunError",),
    "manifests.schema": ("ManifestError",),
    "stableavatar.errors": ("BadInput", "StorageError", "WeightsError"),
}

# Ray folds log lines that differ only in numbers into one. Ours say which video took how long, and each one counts.
# It reads this when it is imported.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # colour codes do not belong into a log file

keep_credentials_out()


def __getattr__(name: str) -> Any:
    # Every import of a part of this package comes through this file, and each is to load only what it needs.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
