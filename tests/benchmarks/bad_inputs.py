"""Prints what is said about hostile or wrong rows, what it takes, and how much memory: a table in Markdown.

python -m tests.benchmarks.bad_inputs
"""

import resource
import tempfile
import time
from pathlib import Path

from tests.bad_inputs import CASES, run


def main() -> None:
    print("| row | message | seconds |\n|---|---|---|")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            row = run(case, Path(folder))
            seconds = time.perf_counter() - started
        message = (row["error"] or "**it passed**").replace(folder, "").replace("|", "\\|")
        print(f"| {case.name} | {message} | {seconds:.2f} |")
    for name, who in (("this process", resource.RUSAGE_SELF), ("the largest ffmpeg", resource.RUSAGE_CHILDREN)):
        print(f"\nMost memory of {name}: {resource.getrusage(who).ru_maxrss >> 10} MiB")


if __name__ == "__main__":
    main()
