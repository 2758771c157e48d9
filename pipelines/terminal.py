"""What all commands share: where they print, how they end, and why they cannot go on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from manifests.redact import redacted
from manifests.schema import ManifestError
from stableavatar.errors import RowError

ALL_FINE, CANNOT_GO_ON, SOME_FAILED, UNFINISHED = 0, 1, 2, 3
BAD_CONFIG = 2  # of a training

MAX_RUNNING = 16  # running rows that are shown
WIDE = 160  # columns, where nobody's terminal says otherwise


class BadConfig(Exception):
    """The file that describes a training says what no run understands."""


class RunError(Exception):
    """The run could not go on, for a reason that is not in the manifest or the stores."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Inside, what ends a run on Ray becomes a RunError, and no error of ours tells credentials.

    It loads Ray: to be entered when that is needed anyway.
    """
    from ray.exceptions import RayError

    from pipelines.lease import LeaseError
    from pipelines.workers import ClusterError

    try:
        yield
    except (ClusterError, LeaseError) as error:
        raise RunError(redacted(str(error))) from error
    except RayError as error:
        last_line = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise RunError(redacted(f"Ray failed: {last_line}")) from error
    except (ManifestError, RowError) as error:
        error.args = (redacted(str(error)),)
        raise


def say(text: str) -> None:
    """Print words for people on stdout: as they are, but for credentials, and never wrapped."""
    console.print(redacted(text), soft_wrap=True, markup=False)


console = Console(width=None if sys.stdout.isatty() else WIDE)
errors = Console(stderr=True)


def counted(number: int, thing: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
