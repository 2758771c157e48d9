"""How rows flow: from a manifest, through Ray, to videos and result rows."""

import os

# Ray folds log lines that differ only in numbers into one. Ours say which video took how long, and each one counts.
# It reads this when it is imported.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # colour codes do not belong into a log file
# A thread that still waits for Ray when a run has ended must not start a cluster of its own.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
