import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from pipelines import lease, results, storage
from pipelines.cli import main
from pipelines.lease import Lease
from pipelines.stage import fail
from pipelines.status import read_status, utc
from stableavatar.errors import BadInput

MakeRow = Callable[..., dict[str, Any]]
RUN: dict[str, Any] = {"model": "tiny", "num_rows": 10}
MADE: dict[str, Any] = {"content_id": "c" * 32, "num_frames": 50, "gpu_s": 30.0, "generate_s": 20.0, "measure_s": 0.5}


pytestmark = pytest.mark.usefixtures("quick_lease")


@pytest.fixture
def output(base: str) -> str:
    return base


def write_lease(output: str, renewed_s_ago: float, **said: Any) -> None:
    renewed_at = (datetime.now(UTC) - timedelta(seconds=renewed_s_ago)).isoformat()
    mine = {"host": "node-7", "pid": 42, "started_at": "2020-01-01T00:00:00+00:00", "renewed_at": renewed_at}
    storage.write(json.dumps(mine | said).encode(), lease.lease_uri(output, 1))


def write_rows(output: str, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        results.WriteResult(output, pa.schema([]))(row)


def states(output: str) -> dict[str, int]:
    status = read_status(output)
    names = ("ok", "failed", "running", "waiting", "unfinished")
    counts = {name: getattr(status, f"num_{name}") for name in names}
    assert sum(counts.values()) == status.num_rows
    return {name: number for name, number in counts.items() if number}


def test_where_no_run_ever_began_there_is_nothing_to_tell(output: str) -> None:
    with pytest.raises(BadInput, match="holds no results"):
        read_status(output)


def test_a_run_that_goes_on(make_row: MakeRow, output: str) -> None:
    manifest = make_row()["manifest"]
    write_rows(output, [make_row(id="old", row_number=9, **MADE)])
    results.write_run(output, manifest=manifest, **RUN, num_done=1, left={"out_of_memory": 1}, num_generators=2)
    running = [{"id": "ä[b]", "windows_done": 1.25, "num_windows": 4}]
    with Lease(output) as run:
        run.note({"running": running, "seconds_left": 90.0, "windows_per_s": 0.5})
        lease.await_change(output, lease.look(output), for_s=10)
        results.write_run(output, manifest=manifest, **RUN, num_done=1, left={"out_of_memory": 1}, num_generators=2)
        assert states(output) == {"ok": 1, "failed": 1, "running": 1, "waiting": 7}  # before the first row
        write_rows(output, [make_row(id="new", row_number=1, **MADE), fail(make_row(), "check", "bad_input", "no")])
        assert states(output) == {"ok": 2, "failed": 2, "running": 1, "waiting": 5}
        status = read_status(output)
    assert status.is_running
    assert (status.running, status.seconds_left, status.windows_per_s) == (running, 90.0, 0.5)
    assert status.failed_kinds == {"bad_input": 1, "out_of_memory": 1}
    assert (status.num_videos, status.video_s, status.gpu_s, status.gpu_s_per_video_s) == (2, 4.0, 60.0, 15.0)
    assert status.stage_s["generate"] == 40.0
    assert status.videos_per_hour is not None
    assert status.videos_per_hour > 0


def test_a_run_that_was_killed(make_row: MakeRow, output: str) -> None:
    results.write_run(output, manifest=make_row()["manifest"], **RUN, num_done=0, left={}, num_generators=2)
    write_lease(output, renewed_s_ago=100, progress={"running": [{"id": "a"}], "seconds_left": 5})
    assert states(output) == {"unfinished": 10}
    assert read_status(output).seconds_left is None
    write_rows(output, [make_row(**MADE)])
    status = read_status(output)
    assert (status.is_running, status.host, status.pid, status.running) == (False, "node-7", 42, [])
    assert (status.num_ok, status.num_unfinished) == (1, 9)
    assert status.seconds_left == 9 * 30 / 2


def test_a_run_whose_clock_is_wrong_lives_if_its_lease_moves(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_now", lambda: "2020-01-01T00:00:00+00:00")
    with Lease(output):
        assert read_status(output).is_running


def test_a_run_that_still_checks_its_rows_is_not_taken_for_the_one_before(make_row: MakeRow, output: str) -> None:
    write_rows(output, [make_row(**MADE)])
    results.write_run(output, manifest=make_row()["manifest"], **RUN, num_done=0)
    with Lease(output):
        status = read_status(output)
    assert (status.is_running, status.num_rows, status.num_ok, status.manifest) == (True, 0, 0, None)
    assert status.num_videos == 1


def test_rows_of_a_machine_whose_clock_lags_are_of_this_run(make_row: MakeRow, output: str) -> None:
    began_at = time.time() + 3600.0  # by the driver's clock
    manifest = make_row()["manifest"]
    results.write_run(output, manifest=manifest, **RUN, began_at=began_at, num_done=0, left={}, num_generators=2)
    results.WriteResult(output, pa.schema([]), began_at)(make_row(**MADE))
    results.WriteResult(output, pa.schema([]), began_at)(
        fail(make_row(id="bad", row_number=4), "check", "bad_input", "no")
    )
    assert states(output) == {"ok": 1, "failed": 1, "unfinished": 8}


def test_rows_of_other_manifests_and_of_earlier_settings_are_not_of_this_run(make_row: MakeRow, output: str) -> None:
    made = {**MADE, "model": "tiny"}
    write_rows(output, [make_row(**made), make_row(id="other", manifest="/elsewhere.csv", **made)])
    results.write_run(output, manifest=make_row()["manifest"], model="tiny", num_rows=1, num_done=0)
    assert states(output) == {"unfinished": 1}
    assert read_status(output).gpu_s_per_video_s == 15.0  # of what earlier runs of the model tell
    write_rows(output, [make_row(**made | {"content_id": "d" * 32})])
    assert states(output) == {"ok": 1}
    assert read_status(output).num_videos == 3


def test_rows_that_an_earlier_run_left_are_of_this_run(make_row: MakeRow, output: str) -> None:
    carried = "/out/carried-over/0123.jsonl"
    results.write_run(output, manifest="/night.csv", model="tiny", num_rows=2, num_done=0, carried_over=carried)
    write_rows(output, [make_row(id="old", manifest=carried, content_id="c" * 32)])
    assert states(output) == {"ok": 1, "unfinished": 1}


def test_a_run_that_does_not_say_what_was_done_before_counts_its_whole_manifest(make_row: MakeRow, output: str) -> None:
    folder = "/night"
    rows = [make_row(id=f"a{n}", manifest=f"{folder}/{n}.csv", content_id="c" * 32) for n in range(2)]
    write_rows(output, [*rows, make_row(id="other", manifest="/nights/1.csv", content_id="c" * 32)])
    results.write_run(output, manifest=folder, model="tiny", num_rows=3)
    assert states(output) == {"ok": 2, "unfinished": 1}


def test_the_command_tells_people_and_machines(
    make_row: MakeRow, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results.write_run(output, manifest="[a].csv", **RUN, num_done=7, left={"internal": 3})
    write_rows(output, [make_row(manifest="[a].csv", **MADE)])
    assert main(["status", output]) == 0
    out = capsys.readouterr().out
    assert all(words in out for words in ("[a].csv, tiny", "internal", "8 rows", "finished", "1 videos, 2.0 s"))
    assert main(["status", output, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["output"], told["num_ok"], told["failed_kinds"]) == (output, 8, {"internal": 3})
    write_lease(output, renewed_s_ago=0, progress={"running": [{"id": "x", "windows_done": 1.25, "num_windows": 4}]})
    assert main(["status", output]) == 0
    assert "running on node-7, process 42" in capsys.readouterr().out
    write_lease(output, renewed_s_ago=99)
    assert main(["status", output]) == 0
    assert "died on node-7" in capsys.readouterr().out


def test_times_are_for_people() -> None:
    assert utc("2026-03-02T22:15:00.123456+00:00") == "2026-03-02 22:15:00 UTC"
    assert utc(None) == "at an unknown time"


def test_the_command_waits_neither_for_torch_nor_for_ray() -> None:
    script = "import sys, pipelines.cli; sys.exit(str([name for name in ('torch', 'ray') if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
