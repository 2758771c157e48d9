"""The report: one page that tells in the morning what came of the night. `<output>/report.html`, complete in itself.

Written from what lies in the output alone, and of the newest run as `pipelines.status` counts it.
"""

import base64
import logging
import shlex
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from manifests.redact import redacted
from pipelines import carry_over, results, storage
from pipelines.observers import Observer
from pipelines.outcome import RunReport
from pipelines.results import FILES_AT_ONCE
from pipelines.stage import STAGES, Row, place, reason_of
from pipelines.status import COLUMNS, Facts, Status, ended_rows, gpu_s, read_facts, status_of, utc, video_s
from pipelines.terminal import counted
from pipelines.threads import helpers
from pipelines.timeline import WIDTH, Bar, Timeline, busy_share, clock, timeline, timings
from stableavatar.errors import RowError
from stableavatar.units import FPS

ROW_COLUMNS = [*COLUMNS, "id", "content_id", "video_name", "error", "stage", "spans", "width", "height"]
ROW_COLUMNS += ["attempts", "num_windows"]
FIRST_CARDS = 12  # videos; the others are folded away
MAX_SHEETS = 60
MAX_SHEET_BYTES = 60_000
MAX_SLOWEST = 10
FIRST_REASONS = 6  # of each kind of failure; the others are folded away
MAX_REASONS = 100
MAX_ROWS = 10  # of each reason
MAX_LINKS = 2000  # to videos without a picture
MAX_IDS = 3  # in the words on a bar

logger = logging.getLogger(__name__)

# What to do about failures of each kind. Where a run does not try them again, the command that does comes after it.
REMEDIES = {
    "bad_input": "The rows or their files cannot be used. Put them right; the next run looks at them again.",
    "storage": "A store refused: no permission, or a full disk. The next run tries them again.",
    "network": "A store could not be reached, though it was tried again and again. The next run tries them again.",
    "out_of_memory": "The device cannot hold these videos. Make them shorter or smaller, or use a larger GPU:",
    "broken_video": "What was made is blank or not as promised, and was removed. With other settings:",
    "quarantined": "They killed every process that worked on them. See the log, then:",
    "internal": "Nobody expected this. The log has the trace. Afterwards:",
}
COLOURS = dict(zip(STAGES, ("#8a8f98", "#5b8fb9", "#9a7bb0", "#4f9d94", "#d98e3c", "#7d9a52"), strict=True))


class ReportWriter(Observer):
    """Writes the report when its run begins, and when it is over, also if an error ended it."""

    def __init__(self) -> None:
        self.run: Mapping[str, Any] = {}
        self.stopped = ""
        self.beginning = threading.Thread(target=self._begin, daemon=True, name="report")

    def begin(self, run: Mapping[str, Any]) -> None:
        """Write it: should this run be killed, the page would still be about the one before."""
        self.run = run
        self.beginning.start()

    def end(self, report: RunReport) -> None:
        """Remember why it ended."""
        self.stopped = report.stopped

    def close(self) -> None:
        """Write it: now the run has let go of its output, and all of it counts as over."""
        if self.run:
            self.beginning.join()
            self._write()

    def _begin(self) -> None:
        try:
            self._write()
        except Exception as error:  # the run need not wait for this page, and at its end it says what is wrong
            logger.debug("the report could not be written yet: %s", error)

    def _write(self) -> None:
        """Unless another run has taken the output over: the page is about that one now."""
        facts = read_facts(self.run["output"], ROW_COLUMNS)
        if facts.run.get("started_at") == self.run.get("started_at"):
            _write(self.run["output"], facts, self.stopped)


@dataclass(frozen=True, kw_only=True)
class Card:
    """A video as the page shows it."""

    row: Row
    link: str  # from the page, ready for an attribute
    sheet: str = ""  # the picture as a data: URI; empty if there is none


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Rows that failed at the same stage with the same words."""

    stage: str
    words: str
    rows: tuple[Row, ...]


def write_report(output: str, stopped: str = "") -> str:
    """Write the page about an output, as it is now, and give its URI. `stopped`: why its run ended early.

    Raises BadInput if no run has ever begun there, StorageError.
    """
    output = storage.absolute(output)
    return _write(output, read_facts(output, ROW_COLUMNS), stopped)


def _write(output: str, facts: Facts, stopped: str) -> str:
    page = render_page(output, facts, stopped)
    uri = storage.join(output, results.REPORT)
    storage.write(page.encode(errors="replace"), uri)
    return uri


def render_page(output: str, facts: Facts, stopped: str = "") -> str:
    """The page about an output in which this lies; it fetches the pictures."""
    status = status_of(output, facts)
    mine = ended_rows(facts.rows, facts.run)
    of_manifest = ended_rows(facts.rows, {name: facts.run.get(name) for name in ("manifest", "carried_over")})
    ok = [row for row in mine if row["status"] == "ok"]
    slowest = sorted(ok, key=lambda row: row["generate_s"] or 0.0, reverse=True)[:MAX_SLOWEST]
    there = sorted((row for row in of_manifest if row["status"] == "ok"), key=place)
    cards = [*there[:MAX_SHEETS], *(row for row in slowest if row not in there[:MAX_SHEETS])]
    return _template().render(
        status=status,
        output=status.output,
        stopped=redacted(stopped),
        sentence=sentence(status),
        made_at=clock_and_day(datetime.now(UTC).timestamp()),
        video_s=video_s(ok),
        gpu_s=gpu_s(mine),
        wall_s=wall_s(facts, mine),
        busy=busy_share(mine, facts.run.get("num_generators") or 1),
        failures=failures(mine, earlier_failures(mine, of_manifest, facts.run)),
        cards=with_sheets(output, cards),
        others=[Card(row=row, link=link(output, row)) for row in there if row not in cards],
        timings=timings(mine),
        timeline=timeline(mine),
        slowest=[(row, cards.index(row)) for row in slowest],
        files=[name for name in storage.names_in(output) if name in (results.COMPACTED, carry_over.LIST)],
    )


def sentence(status: Status) -> str:
    """What happened, in one sentence."""
    if not status.num_rows:
        return "The rows of a new run are being checked." if status.is_running else "There was nothing to do."
    all_there = status.num_ok == status.num_rows
    there = f"{status.num_ok:,} of {status.num_rows:,} video{'s are' if status.num_rows > 1 else ' is'} there"
    if all_there:
        there = "The video is there" if status.num_rows == 1 else f"All {status.num_rows:,} videos are there"
    failed = f"{status.num_failed:,} failed" if status.num_failed else "none failed"
    if status.is_running:
        return f"{there} so far; {failed}; {status.num_running:,} in the making; {status.num_waiting:,} still to come."
    number = status.num_unfinished
    left = f"{number:,} {'is' if number == 1 else 'are'} unfinished" if number else "nothing is unfinished"
    return f"{there}; {failed}; {left}."


def earlier_failures(mine: Sequence[Row], of_manifest: Iterable[Row], run: Mapping[str, Any]) -> list[Row]:
    """Rows that failed in an earlier run, and which this one left alone."""
    places, kinds = set(map(place, mine)), run.get("left", {})
    return [row for row in of_manifest if row["error_kind"] in kinds and place(row) not in places]


def failures(mine: Iterable[Row], earlier: Iterable[Row]) -> dict[str, list[Reason]]:
    """The failed rows by kind and reason, in the order of the manifest."""
    found: dict[str, dict[tuple[str, str], list[Row]]] = defaultdict(lambda: defaultdict(list))
    failed = [{**row, "is_earlier": False} for row in mine if row["status"] == "failed"]
    failed += [{**row, "is_earlier": True} for row in earlier]
    for row in sorted(failed, key=place):
        found[row["error_kind"]][row["stage"], reason_of(row)].append(row)
    return {
        kind: [Reason(stage=stage, words=words, rows=tuple(rows)) for (stage, words), rows in found[kind].items()]
        for kind in sorted(found)
    }


def wall_s(facts: Facts, mine: Sequence[Row]) -> float | None:
    """How long the newest run took, or takes by now, from its begin to the end of its last row; None: unknown."""
    ends = [row["finished_at"] for row in mine] + ([datetime.now(UTC)] if facts.is_running else [])
    if not (ends and facts.run.get("started_at")):
        return None
    return (max(ends) - datetime.fromisoformat(facts.run["started_at"])).total_seconds()


def num_rows(reasons: Iterable[Reason]) -> str:
    """How many rows failed for these reasons."""
    return f"{sum(len(reason.rows) for reason in reasons):,}"


def link(output: str, row: Row) -> str:
    """The way from the page to a row's video, which is the same wherever the whole output is moved to."""
    return quote(results.video_uri(output, row).removeprefix(storage.join(output, "")))


def with_sheets(output: str, rows: Sequence[Row]) -> list[Card]:
    """The rows with their contact sheets, as far as those can be had."""
    with helpers(FILES_AT_ONCE) as threads:
        sheets = threads.map(lambda row: _sheet(results.sheet_uri(output, row)), rows)
        return [Card(row=row, link=link(output, row), sheet=sheet) for row, sheet in zip(rows, sheets, strict=True)]


def _sheet(uri: str) -> str:
    try:
        data = storage.read_if_there(uri) or b""
    except RowError:  # a page without a picture is better than none
        return ""
    if not 0 < len(data) <= MAX_SHEET_BYTES:
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # the other commands need not wait for it

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = (duration, clock, clock_and_day, period, bar_words, num_rows, shlex.quote)
    environment.filters |= {function.__name__: function for function in own}
    environment.globals |= {
        "FIRST_CARDS": FIRST_CARDS,
        "FIRST_REASONS": FIRST_REASONS,
        "MAX_REASONS": MAX_REASONS,
        "MAX_ROWS": MAX_ROWS,
        "MAX_LINKS": MAX_LINKS,
        "WIDTH": WIDTH,
        "FPS": FPS,
        "REMEDIES": REMEDIES,
        "FINAL_KINDS": results.FINAL_KINDS,
        "COLOURS": COLOURS,
        "CARRY_OVER": carry_over.LIST,
        "RESULTS": results.COMPACTED,
        "counted": counted,
        "utc": utc,
    }
    return environment.get_template("report.html")


def duration(seconds: float | None) -> str:
    """Seconds for people: `0.42 s`, `12 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds is None:
        return "–"
    if seconds < 59.5:
        return f"{seconds:.{0 if seconds >= 9.95 else 1 if seconds >= 0.995 else 2}f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60:02} min"
        if minutes < 48 * 60
        else f"{minutes // 1440} d {minutes % 1440 // 60} h"
    )


def clock_and_day(time: float) -> str:
    """A moment, UTC: `23 Nov 2026, 06:31`."""
    return datetime.fromtimestamp(time, UTC).strftime("%-d %b %Y, %H:%M")


def period(shown: Timeline) -> str:
    """From when to when: `23 Nov 2026, 22:15 to 23:40`; the day again if it is another one."""
    began, ended = clock_and_day(shown.began_at), clock_and_day(shown.ended_at)
    day = began.partition(",")[0]
    return f"{began} to {ended.removeprefix(f'{day}, ')}"


def bar_words(bar: Bar) -> str:
    """What a bar of the timeline is about."""
    what = ", ".join(bar.ids[:MAX_IDS]) + (f" and {len(bar.ids) - MAX_IDS} more" if len(bar.ids) > MAX_IDS else "")
    share = f", {bar.busy:.0%} busy" if len(bar.ids) > 1 else ""
    return f"{what}: {clock(bar.started_at)} to {clock(bar.ended_at)}, {duration(bar.ended_at - bar.started_at)}{share}"
