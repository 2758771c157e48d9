import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines import scratch
from stableavatar.errors import StorageError

HOLD = """
import sys, time
from pipelines import scratch
with scratch.folder() as folder:
    open(folder + "/frames", "w").close()
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(scratch.VARIABLE, f"{tmp_path}/scratch")
    return tmp_path / "scratch"


def start_holder() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_new_empty_private_and_gone_at_the_end(root: Path) -> None:
    with scratch.folder() as one, scratch.folder() as other:
        assert one != other
        assert os.listdir(one) == os.listdir(other) == []
        assert Path(one).is_relative_to(root)
        Path(one, "frame").touch()
    assert not os.path.exists(one)
    assert root.stat().st_mode & 0o777 == 0o700


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_stays() -> None:
    (dead, dead_folder), (living, living_folder) = start_holder(), start_holder()
    try:
        scratch.sweep()
        assert (dead_folder / "frames").exists() and (living_folder / "frames").exists()
        os.kill(dead.pid, signal.SIGKILL)
        dead.wait()
        scratch.sweep()
        assert not dead_folder.parent.exists()
        assert (living_folder / "frames").exists()
    finally:
        living.kill()
        living.wait()


def test_a_process_that_ends_leaves_no_folder(root: Path) -> None:
    code = "from pipelines import scratch\nwith scratch.folder(): pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert os.listdir(root / "work") == []


def test_a_folder_whose_mark_was_tidied_away_is_not_taken_from_its_process(root: Path) -> None:
    with scratch.folder() as mine:
        os.unlink(Path(mine).parent / "owner")
        scratch.sweep()
        assert os.path.isdir(mine)
        with scratch.folder() as other:
            assert os.path.dirname(other) != os.path.dirname(mine)
        os.utime(Path(mine).parent, (0, 0))
        scratch.sweep()
        assert not os.path.isdir(mine)


def test_many_that_begin_and_sweep_at_once_do_not_disturb_each_other(root: Path) -> None:
    code = """
import os
from pipelines import scratch
for _ in range(20):
    with scratch.folder() as folder:
        open(folder + "/frames", "w").close()
        scratch.sweep()
        assert os.listdir(folder) == ["frames"]
"""
    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(lambda _: subprocess.run([sys.executable, "-c", code]), range(6)))
    assert [run.returncode for run in runs] == [0] * 6
    assert os.listdir(root / "work") == []


def test_a_forked_child_has_folders_of_its_own() -> None:
    with scratch.folder() as mine:
        child = os.fork()
        if child == 0:
            with scratch.folder() as other:
                is_own = os.path.dirname(other) != os.path.dirname(mine)
            os._exit(0 if is_own else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert os.path.isdir(mine)


def test_what_waits_for_its_upload_survives_and_is_removed_after_a_week() -> None:
    for name, age_s in (("old.mp4", 8 * 24 * 3600), ("new.mp4", 3600)):
        path = scratch.outbox(name)
        Path(path).touch()
        os.utime(path, (time.time() - age_s,) * 2)
    scratch.sweep()
    assert not os.path.exists(scratch.outbox("old.mp4"))
    assert os.path.exists(scratch.outbox("new.mp4"))


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", ".."])
def test_only_a_name_has_a_place_in_the_outbox(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a file"):
        scratch.outbox(name)


def test_too_little_space_is_told_with_the_remedy(root: Path) -> None:
    scratch.require_space(1)
    with pytest.raises(StorageError, match=rf"{root} has [\d.]+ GB free, and 1000000.0 GB .*STABLEAVATAR_SCRATCH"):
        scratch.require_space(1e15)


def test_a_scratch_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(scratch.VARIABLE, f"{tmp_path}/file/scratch")
    with pytest.raises(StorageError, match=r"no scratch folder at .*STABLEAVATAR_SCRATCH"), scratch.folder():
        pass


def test_the_default_folder_must_be_of_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(scratch.VARIABLE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert Path(scratch.root()) == tmp_path / f"stableavatar-{os.getuid()}"
    os.chmod(scratch.root(), 0o755)
    with pytest.raises(StorageError, match="not a folder of this user alone"):
        scratch.root()
    os.rmdir(tmp_path / f"stableavatar-{os.getuid()}")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    os.symlink(tmp_path / "elsewhere", tmp_path / f"stableavatar-{os.getuid()}")
    with pytest.raises(StorageError, match="not a folder of this user alone"):
        scratch.root()
