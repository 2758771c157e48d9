import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import checkpoint, scratch, storage
from pipelines.checkpoint import ATTEMPTS, STATE, Unfinished, forget
from stableavatar.errors import NetworkError, Quarantined
from tests.checkpoints import Words, checkpoint_at


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[str]:
    with scratch.folder() as folder:
        yield folder


def noted(uri: str) -> dict[str, Any]:
    return json.loads(storage.read(f"{uri}/{ATTEMPTS}"))


def die(uri: str, folder: str, run: str = "tonight", saved: int | None = None) -> None:
    """An attempt that ends as a killed process does: without a word."""

    class Killed(Exception):
        pass

    dying = checkpoint_at(uri, folder)
    with contextlib.suppress(Killed), dying.attempt(run, fatal=(Killed,)):
        if saved is not None:
            dying.offer(saved, lambda: Words(f"at {saved}"))
            dying._thread.shutdown(wait=True)
        raise Killed


@pytest.mark.parametrize("store", ["local", "s3"])
def test_another_process_goes_on_from_the_newest_state(store: str, bucket: str, tmp_path: Path, folder: str) -> None:
    uri = f"{tmp_path}/out/checkpoints/anna" if store == "local" else f"{bucket}/checkpoints/anna"
    first = checkpoint_at(uri, folder)
    assert first.state() is None and first.segment(0) is None
    (Path(folder) / "piece.mp4").write_text("piece")
    with first.attempt("tonight"):
        first.offer(3, lambda: Words("three"))
        first.keep_segment(0, f"{folder}/piece.mp4")
    second = checkpoint_at(uri, folder)
    assert Path(second.state() or "").read_text() == "three"
    assert Path(second.segment(0) or "").read_text() == "piece"
    assert second.segment(1) is None
    assert noted(uri)["position"] == 3


def test_a_state_is_saved_when_it_is_time_and_only_if_there_is_news(tmp_path: Path, folder: str) -> None:
    taken = []

    def snapshot() -> Words:
        taken.append(1)
        return Words("x")

    saved: list[bool] = []
    state = tmp_path / "often" / STATE
    often = checkpoint_at(f"{tmp_path}/often", folder, on_save=lambda: saved.append(state.exists()))
    with often.attempt("tonight"):
        for num_done in (1, 1, 1, 2):
            often.offer(num_done, snapshot)
            often._thread.submit(lambda: None).result()
    assert len(taken) == 2
    assert saved == [True, True]
    seldom = checkpoint_at(f"{tmp_path}/seldom", folder, every_s=1000.0)
    with seldom.attempt("tonight"):
        seldom.offer(1, snapshot)
    assert len(taken) == 2


def test_a_row_that_has_died_is_saved_as_soon_as_it_can_be(tmp_path: Path, folder: str) -> None:
    die(f"{tmp_path}/anna", folder)
    second = checkpoint_at(f"{tmp_path}/anna", folder, every_s=1000.0)
    with second.attempt("tonight"):
        for num_done in (1, 2):
            second.offer(num_done, lambda: Words("x"))
            second._wait()
    assert noted(f"{tmp_path}/anna")["position"] == 1


def test_saving_holds_up_half_a_percent_at_most(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])

    def slow() -> Words:
        clock[0] += 3.0  # seconds to copy from the device
        saved.append(1)
        return Words("x")

    saved: list[int] = []
    kept = checkpoint_at(f"{tmp_path}/anna", folder, every_s=10.0)
    with kept.attempt("tonight"):
        for num_done in range(2000):
            clock[0] += 1.0
            kept.offer(num_done, slow)
            kept._thread.submit(lambda: None).result()
    assert len(saved) * 3.0 <= 0.005 * clock[0] + 3.0
    assert len(saved) > 1


def test_a_run_that_is_to_stop_saves_at_once(tmp_path: Path, folder: str) -> None:
    uri = f"{tmp_path}/anna"
    stopping = checkpoint_at(uri, folder, every_s=1000.0, is_stopping=lambda: True)
    with pytest.raises(Unfinished), stopping.attempt("tonight"):
        stopping.offer(7, lambda: Words("seven"))
    assert storage.read(f"{uri}/{STATE}") == b"seven"
    assert noted(uri)["is_open"] is False


def test_a_save_that_fails_does_not_fail_the_video(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = storage.publish

    def publish(path: str, uri: str) -> None:
        if uri.endswith(STATE):
            raise NetworkError("the store is gone")
        real(path, uri)

    monkeypatch.setattr(storage, "publish", publish)
    saved: list[int] = []
    kept = checkpoint_at(f"{tmp_path}/anna", folder, on_save=lambda: saved.append(1))
    with kept.attempt("tonight"):
        kept.offer(1, lambda: Words("one"))
    assert saved == []
    assert noted(f"{tmp_path}/anna")["position"] is None


def test_a_row_that_kills_three_processes_at_one_place_is_quarantined(tmp_path: Path, folder: str) -> None:
    uri = f"{tmp_path}/anna"
    for _ in range(3):
        die(uri, folder)
    last = checkpoint_at(uri, folder)
    with pytest.raises(Quarantined, match="3 times"), last.attempt("tonight"):
        pass
    assert last.attempts.begun == 3
    with checkpoint_at(uri, folder).attempt("tomorrow"):  # `retry` starts to count anew
        pass


def test_a_row_that_comes_further_each_time_is_not_the_one_that_kills(tmp_path: Path, folder: str) -> None:
    for saved in range(5):
        die(f"{tmp_path}/anna", folder, saved=saved)
    with checkpoint_at(f"{tmp_path}/anna", folder).attempt("tonight"):
        pass


def test_saving_the_same_place_again_is_no_progress(tmp_path: Path, folder: str) -> None:
    for _ in range(3):
        die(f"{tmp_path}/anna", folder, saved=5)
    with pytest.raises(Quarantined), checkpoint_at(f"{tmp_path}/anna", folder).attempt("tonight"):
        pass


def test_a_process_that_died_with_its_run_is_not_the_rows_fault(tmp_path: Path, folder: str) -> None:
    for night in range(5):
        die(f"{tmp_path}/anna", folder, run=f"night {night}")
    with checkpoint_at(f"{tmp_path}/anna", folder).attempt("the next"):
        pass


def test_attempts_and_their_time_are_counted_over_all_of_them(tmp_path: Path, folder: str) -> None:
    uri = f"{tmp_path}/anna"
    die(uri, folder)
    storage.write(json.dumps({**noted(uri), "gpu_s": 40.0}).encode(), f"{uri}/{ATTEMPTS}")
    second = checkpoint_at(uri, folder)
    with second.attempt("tonight"):
        second.report = {"sample_s": 1.5}
    assert second.attempts.begun == 2
    assert 40.0 < second.gpu_s < 100.0
    assert noted(uri)["report"] == {"sample_s": 1.5}
    third = checkpoint_at(f"{tmp_path}/other", folder)
    with third.attempt("tonight", attempts=4, gpu_s=7.0):
        assert third.attempts.begun == 4
        assert third.gpu_s > 7.0


@pytest.mark.parametrize("content", ['{"begun": 1, "of another version": 2}', '{"begun":'])
def test_attempts_that_cannot_be_read_begin_anew_and_the_state_is_kept(
    tmp_path: Path, folder: str, content: str
) -> None:
    die(f"{tmp_path}/anna", folder, saved=1)
    storage.write(content.encode(), f"{tmp_path}/anna/{ATTEMPTS}")
    again = checkpoint_at(f"{tmp_path}/anna", folder)
    with again.attempt("tonight"):
        assert again.attempts.begun == 1
        assert again.state()


def test_what_is_done_is_forgotten_and_what_can_go_on_is_kept(tmp_path: Path, folder: str) -> None:
    die(f"{tmp_path}/checkpoints/only-tried", folder)
    die(f"{tmp_path}/checkpoints/saved", folder, saved=1)
    for stem in ("only-tried", "saved", "never-begun"):
        forget(str(tmp_path), stem, always=False)
    assert storage.folders_in(f"{tmp_path}/checkpoints") == ["saved"]
    forget(str(tmp_path), "saved", always=True)
    assert storage.folders_in(f"{tmp_path}/checkpoints") == []
