"""How far an output is, at any time: before the first row, while a run goes on, and after it was killed.

Read from what lies in the output alone. It comes from three places:
run.json  what the newest run is to do: manifest, model, started_at, num_rows; of these `num_done` were done before and
          `left` (kind -> number) failed before for good; num_generators; carried_over: the list that came before the
          manifest, if there was one
lease/    what it does right now: see Display.facts
results   what came of the rows, of this run and of all before
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from manifests.redact import redacted
from pipelines import lease, results
from pipelines.results import LONG_AGO
from pipelines.stage import STAGES, Row, place
from stableavatar.errors import BadInput
from stableavatar.units import FPS

COLUMNS = ["manifest", "row_number", "status", "error_kind", "model", "num_frames", "gpu_s", "finished_at"]
COLUMNS += [f"{name}_s" for name in STAGES]


@dataclass(frozen=True, kw_only=True)
class Status:
    """An output and the newest run there, which its rows are counted for: each is in one of the five states.

    `running` and `waiting` there are while it runs; what it has not done when it ends is `unfinished`.
    """

    output: str
    is_running: bool
    host: str | None  # of the run that holds the lease, also if it has died; None: no run began, or it ended in order
    pid: int | None
    last_sign: str | None  # of life, UTC
    manifest: str | None
    model: str | None
    started_at: str | None  # UTC
    num_rows: int
    num_ok: int
    num_failed: int
    num_running: int
    num_waiting: int
    num_unfinished: int
    failed_kinds: dict[str, int]
    running: list[dict[str, Any]]  # id, windows_done and num_windows of each row
    windows_per_s: float | None
    seconds_left: float | None
    videos_per_hour: float | None
    gpu_s_per_video_s: float | None
    num_videos: int  # in the output, of all runs
    video_s: float  # their length
    gpu_s: float  # spent on all rows, also failed ones
    stage_s: dict[str, float]

    @property
    def state(self) -> str:
        """What became of the newest run, in words."""
        where = f"on {self.host}, process {self.pid}; last sign of life {utc(self.last_sign)}"
        if self.is_running:
            return f"running {where}"
        if self.host:
            return f"died {where}. The same command goes on from there"
        return "ended with rows unfinished. The same command goes on from there" if self.num_unfinished else "finished"

    def to_json(self) -> str:
        """All of it, for machines."""
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What lies in an output."""

    rows: list[Row]  # of the result table, of all runs
    run: dict[str, Any]  # run.json, of the newest run
    said: dict[str, Any]  # by the run that holds the lease
    is_running: bool


def read_status(output: str) -> Status:
    """How far an output is. Takes a moment; some seconds more where a run seems to have died.

    A run that was killed counts as running until it has been silent for lease.DEAD_AFTER_S.

    Raises BadInput if no run has ever begun there, StorageError.
    """
    return status_of(output, read_facts(output))


def read_facts(output: str, columns: Sequence[str] = COLUMNS) -> Facts:
    """What lies in an output; of the result table these columns. Raises as `read_status`."""
    held = lease.look(output)
    rows = results.read_results(output).select(columns).to_pylist()
    run = results.read_run(output)
    if not (held or run or rows):
        raise BadInput(f"{redacted(output)} holds no results. Give the folder or URI that was given to render.")
    said = held.said if held else {}
    is_running = held is not None and is_alive(output, held)
    if is_running and run and _time(run.get("started_at")) < _time(said.get("started_at")):
        # It still checks its rows; what is noted is about the run before.
        run = {"started_at": said["started_at"], "num_rows": 0, "num_done": 0}
    return Facts(rows=rows, run=run or {}, said=said, is_running=is_running)


def status_of(output: str, facts: Facts) -> Status:
    """How far an output is in which this lies."""
    return Status(
        output=redacted(output),
        is_running=facts.is_running,
        host=facts.said.get("host"),
        pid=facts.said.get("pid"),
        last_sign=facts.said.get("renewed_at"),
        **_run_facts(facts.rows, facts.run, facts.said, facts.is_running),
        **_output_facts(facts.rows),
    )


def is_alive(output: str, held: lease.Look) -> bool:
    """Does the holder of a lease live? Its clock may be wrong: if it says no, only silence proves it."""
    renewed_at = _time(held.said.get("renewed_at"))
    if abs((datetime.now(UTC) - renewed_at).total_seconds()) < lease.DEAD_AFTER_S:
        return True
    now = lease.await_change(output, held, 2 * lease.RENEW_S)
    return now is not None and now != held


def _run_facts(rows: list[Row], run: Mapping[str, Any], said: Mapping[str, Any], is_running: bool) -> Row:
    """All that Status says about the newest run."""
    facts = (said.get("progress") or {}) if is_running else {}
    ended = ended_rows(rows, run)
    ok = [row for row in ended if row["status"] == "ok"]
    kinds = Counter(row["error_kind"] for row in ended if row["status"] == "failed") + Counter(run.get("left", {}))
    num_ok, num_failed = len(ok) + run.get("num_done", 0), kinds.total()
    num_rows = run.get("num_rows", num_ok + num_failed)
    rest = max(0, num_rows - num_ok - num_failed)
    num_running = min(len(facts.get("running", [])), rest)
    measured = ok or [row for row in rows if row["status"] == "ok" and row["model"] == run.get("model")]
    return {
        **{name: run.get(name) for name in ("manifest", "model", "started_at")},
        **{"num_rows": num_rows, "num_ok": num_ok, "num_failed": num_failed, "num_running": num_running},
        "num_waiting": rest - num_running if is_running else 0,
        "num_unfinished": 0 if is_running else rest,
        "failed_kinds": dict(sorted(kinds.items())),
        "running": facts.get("running", []),
        "windows_per_s": facts.get("windows_per_s"),
        "seconds_left": facts.get("seconds_left") if is_running else _seconds_for(rest, measured, run),
        "videos_per_hour": _per_hour(ok, run, said),
        "gpu_s_per_video_s": _ratio(gpu_s(measured), video_s(measured)),
    }


def ended_rows(rows: list[Row], run: Mapping[str, Any]) -> list[Row]:
    """The rows that came of a run, each once. Of one that does not say what was done before it, all of its manifest."""
    since = _time(run.get("started_at")) if "num_done" in run else LONG_AGO
    manifest, carried = run.get("manifest"), run.get("carried_over")
    if manifest is not None:
        folder = f"{manifest.rstrip('/')}/"
        rows = [row for row in rows if row["manifest"] in (manifest, carried) or row["manifest"].startswith(folder)]
    rows = sorted((row for row in rows if row["finished_at"] >= since), key=lambda row: row["finished_at"])
    return list({place(row): row for row in rows}.values())


def _output_facts(rows: list[Row]) -> Row:
    """All that Status says about all runs together."""
    ok = [row for row in rows if row["status"] == "ok"]
    stage_s = {name: sum(row[f"{name}_s"] or 0.0 for row in rows) for name in STAGES}
    return {"num_videos": len(ok), "video_s": video_s(ok), "gpu_s": gpu_s(rows), "stage_s": stage_s}


def _per_hour(ok: list[Row], run: Mapping[str, Any], said: Mapping[str, Any]) -> float | None:
    """Videos per hour of a run, up to its last sign of life, or to its last video if it ended in order."""
    begin, last_sign = _time(run.get("started_at")), _time(said.get("renewed_at"))
    times = [row["finished_at"] for row in ok if row["finished_at"] >= begin]
    if not times or begin == LONG_AGO:
        return None
    end = last_sign if last_sign > begin else max(times)
    return _ratio(3600.0 * len(times), (end - begin).total_seconds())


def _seconds_for(num_rows: int, measured: list[Row], run: Mapping[str, Any]) -> float | None:
    """What so many rows would take on the generators that the run had, at what rows took so far."""
    seconds = _ratio(gpu_s(measured) * num_rows, len(measured) * (run.get("num_generators") or 1))
    return seconds if num_rows else 0.0


def gpu_s(rows: list[Row]) -> float:
    """Seconds on a generator that these rows took."""
    return sum(row["gpu_s"] or row["generate_s"] or 0.0 for row in rows)


def video_s(rows: list[Row]) -> float:
    """Seconds of video in these rows."""
    return sum(row["num_frames"] or 0 for row in rows) / FPS


def _ratio(amount: float, of: float) -> float | None:
    return amount / of if of > 0 else None


def _time(text: object) -> datetime:
    try:
        time = datetime.fromisoformat(str(text))
        return time if time.tzinfo else time.replace(tzinfo=UTC)
    except ValueError:
        return LONG_AGO


def utc(time: str | None) -> str:
    """A time as `Status` has it, in words."""
    return f"{time[:19].replace('T', ' ')} UTC" if time else "at an unknown time"
