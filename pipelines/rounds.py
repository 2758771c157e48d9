"""Rows through the pools, and those that failed for a reason that passes once more: after all others, with a pause."""

import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pipelines import plan
from pipelines.estimate import Estimate
from pipelines.progress import snapshot
from pipelines.stage import Place, Row, place
from pipelines.watch import Watch
from pipelines.workers import ClusterError, Pool, flow
from stableavatar.errors import NetworkError, Quarantined

FILES_AT_ONCE = 8  # more would have an autoscaler start nodes for what is soon read
ROUNDS = 3  # in all
PAUSE_S = 20.0  # before the second round; twice as long before the third; up to half as much again by chance
PASSING = (NetworkError.kind,)
DOUBTFUL = (Quarantined.kind,)  # set aside, and tried once more: somebody else may have killed the processes


def read_files(uris: Sequence[str], read: Callable[[str], list[Row]], watch: Watch) -> list[Row]:
    """The rows that `read(uri)` finds in all files.

    Raises ClusterError if one was lost with the workers that read it.
    """

    def read_file(file: Row) -> Row:
        return {**file, "rows": pickle.dumps(read(file["manifest"]))}

    files: list[Row] = [{"manifest": uri, "row_number": 0} for uri in uris]
    pool = Pool(stage=read_file, size=min(len(files), FILES_AT_ONCE), num_cpus=1)
    found = {file["manifest"]: file["rows"] for file in watch.until_drained(flow(files, [pool]))}
    lost = [uri for uri in uris if uri not in found]
    if lost and not watch.reason:
        raise ClusterError(f"{lost[0]} could not be read: its workers died, or failed. See the log, and run again.")
    # A run that is to stop waits for no node. What its rows are it must know all the same, to list them as left.
    return [row for uri in uris for row in (pickle.loads(found[uri]) if uri in found else read(uri))]


def check_rounds(rows: Sequence[Row], pools: list[Pool], watch: Watch) -> list[Row]:
    """The rows, checked; those whose store could not be reached once more. If the run is to stop, some are missing."""
    checked = {place(row): row for row in watch.until_drained(flow(list(rows), pools))}
    again = [row for row in rows if checked.get(place(row), row)["error_kind"] in PASSING]
    if again:
        watch.pause(PAUSE_S)
        checked |= {place(row): row for row in watch.until_drained(flow(again, pools))}
    if not watch.reason:
        checked |= {place(row): row for row in plan.lost(rows, checked.values(), "check")}
    return list(checked.values())


def rounds(
    rows: Iterable[Row],
    pools: list[Pool],
    estimate: Estimate,
    watch: Watch,
    progress: Any,
    write: Callable[[Row], Row],
) -> Iterator[Row]:
    """What came of each row, as soon as it is written down; a row that is tried again comes again.

    Args:
        rows: checked rows.
        pools: what they go through.
        estimate: tells in which order.
        watch: tells when to stop.
        progress: handle of the Progress actor, which knows what has begun.
        write: writes down a row that never came back.
    """
    todo = [{**row, "may_return": True} for row in estimate.in_order(rows)]
    for number in range(ROUNDS):
        again: dict[Place, Row] = {}
        returned = []
        progress.begin_round.remote()
        for row in watch.until_drained(flow(todo, pools), lambda: begun(progress)):
            returned.append(row)
            yield row
            if row["error_kind"] in (PASSING + DOUBTFUL if number == 0 else PASSING):
                again[place(row)] = row
        lost = [] if watch.reason else plan.lost(todo, returned, "")
        if number == 0:  # a node that dies takes along rows that only waited there
            again |= {place(row): row for row in lost}
        else:
            yield from map(write, lost)
        # A row that came here as failed would only pass through again.
        todo = [
            _next_attempt(row, again[place(row)]) for row in todo if place(row) in again and row["status"] == "ready"
        ]
        if not todo or number == ROUNDS - 1:
            return
        watch.pause(PAUSE_S * 2**number * random.uniform(1, 1.5))
        if watch.reason:
            return


def _next_attempt(row: Row, failed: Row) -> Row:
    return {**row, "attempts": failed["attempts"] + 1, "gpu_s": failed["gpu_s"], "may_return": False}


def begun(progress: Any) -> Iterable[Place]:
    """The rows that a generator has begun in this round and that may still come, told by the Progress actor."""
    return snapshot(progress).begun
