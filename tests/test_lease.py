import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines import lease, storage
from pipelines.lease import Lease, LeaseHeld, LeaseLost
from stableavatar.errors import NetworkError

Asleep = Callable[[str], Lease]

HOLD = """
import sys, time
from pipelines.lease import Lease
with Lease(sys.argv[1]):
    print("holding", flush=True)
    time.sleep(1000)
"""


pytestmark = pytest.mark.usefixtures("quick_lease")


@pytest.fixture
def output(base: str) -> str:
    return base


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> Asleep:
    """Makes a run that does not renew its lease, like one that is dead or stopped."""

    def make(output: str) -> Lease:
        run = Lease(output)
        monkeypatch.setattr(run, "_thread", threading.Thread(target=lambda: None))
        return run

    return make


def generations(output: str) -> list[str]:
    return storage.names_in(f"{output}/lease")


def test_nobody_else_may_work_there_until_the_lease_is_released(output: str) -> None:
    with Lease(output) as run:
        with pytest.raises(LeaseHeld, match=r"process \d+, started .* UTC, .* `stableavatar status"):
            Lease(output).__enter__()
        run.check()
        assert lease.is_held_by(output, run.holder) and not lease.is_held_by(output, "another")
    assert generations(output) == [] and not lease.is_held_by(output, run.holder)
    with Lease(output):
        assert generations(output) == ["00000001.json"]


def test_it_is_released_when_the_run_fails(output: str) -> None:
    with pytest.raises(ZeroDivisionError), Lease(output):
        raise ZeroDivisionError
    assert generations(output) == []


def test_a_silent_lease_is_taken_over_and_its_owner_stops(output: str, asleep: Asleep) -> None:
    with asleep(output) as sleeper:
        began = time.monotonic()
        with Lease(output) as run:
            assert time.monotonic() - began >= lease.DEAD_AFTER_S
            assert generations(output) == ["00000002.json"]
            with pytest.raises(LeaseLost, match="another run has taken over"):
                sleeper.check()  # it has just woken up
            run.check()
        assert generations(output) == []
    assert generations(output) == []


def test_a_run_that_goes_on_renewing_notices_that_it_was_taken_over(output: str) -> None:
    with Lease(output) as run:
        storage.write(b"{}", lease.lease_uri(output, 7))
        assert run.why_lost() == ""
        assert run.lost.wait(5)
        assert run.why_lost() == f"another run has taken over {output}"
        with pytest.raises(LeaseLost):
            run.check()
    assert generations(output) == ["00000007.json"]


def test_a_run_whose_lease_is_gone_or_another_s_stops(tmp_path: Path) -> None:
    for replaced in (False, True):
        with Lease(str(tmp_path)) as run:
            storage.remove(lease.lease_uri(str(tmp_path), 1))
            if replaced:
                storage.write(b'{"holder": "someone"}', lease.lease_uri(str(tmp_path), 1))
            assert run.lost.wait(5)
        assert generations(str(tmp_path)) == ["00000001.json"] * replaced


def test_of_many_that_want_it_at_once_one_gets_it(output: str, asleep: Asleep) -> None:
    def try_it(number: int) -> str:
        try:
            with Lease(output):
                over.wait(30)
                return "held"
        except LeaseHeld:
            return "refused"

    for num_dead in (0, 1):
        over = threading.Event()
        if num_dead:
            asleep(output).__enter__()
        with ThreadPoolExecutor(4) as threads:
            tries = [threads.submit(try_it, number) for number in range(4)]
            while sum(t.done() for t in tries) < 3:
                time.sleep(0.05)
            over.set()
        assert sorted(t.result() for t in tries) == ["held", "refused", "refused", "refused"]


def test_a_latecomer_does_not_take_a_generation_that_is_over(
    tmp_path: Path, asleep: Asleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path)
    asleep(output).__enter__()
    create = lease.create

    def others_are_faster(data: bytes, uri: str) -> bool:
        monkeypatch.setattr(lease, "create", create)
        storage.remove(lease.lease_uri(output, 1))
        storage.write(b"{}", lease.lease_uri(output, 3))  # 2 was here, and died
        return create(data, uri)

    monkeypatch.setattr(lease, "create", others_are_faster)
    with Lease(output):
        assert generations(output) == ["00000004.json"]


def test_a_store_that_fails_for_a_moment_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output, write = str(tmp_path), storage.write
    failures = iter([NetworkError("no answer")] * 2)

    def flaky(data: bytes, uri: str) -> None:
        for error in failures:
            raise error
        write(data, uri)

    with Lease(output) as run:
        monkeypatch.setattr(storage, "write", flaky)
        time.sleep(lease.RENEW_S * 5)
        run.check()
        look = lease.look(output)
        assert look is not None
        assert look.said["counter"] >= 2
    assert caplog.text.count("could not be renewed") == 2


def test_what_is_noted_goes_out_with_the_next_renewal(output: str) -> None:
    with Lease(output) as run:
        first = lease.look(output)
        run.note({"running": [{"id": "ä", "windows_done": 1.5}]})
        now = lease.await_change(output, first, for_s=10)
        while now and not now.said["progress"]:
            now = lease.await_change(output, now, for_s=10)
        assert now is not None
        assert now.said["progress"] == {"running": [{"id": "ä", "windows_done": 1.5}]}
        assert now.said["started_at"] == run.started_at < now.said["renewed_at"]
        with pytest.raises(TypeError):
            run.note({"what": object()})


def test_a_damaged_lease_is_taken_over_like_a_silent_one(tmp_path: Path) -> None:
    for content in (b"", b"[1]"):
        storage.write(content, lease.lease_uri(str(tmp_path), 5))
        with Lease(str(tmp_path)):
            assert generations(str(tmp_path)) == ["00000006.json"]


@pytest.mark.slow
def test_the_lease_of_a_killed_process_is_taken_over_within_thirty_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # in earnest
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"holding\n"
    with pytest.raises(LeaseHeld, match=f"process {holder.pid}"):
        Lease(str(tmp_path)).__enter__()
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with Lease(str(tmp_path)) as run:
        assert time.monotonic() - began <= 30
        run.check()
        (name,) = generations(str(tmp_path))
        assert json.loads(storage.read(f"{tmp_path}/lease/{name}"))["holder"] == run.holder
