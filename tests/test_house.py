"""The house itself: its rooms, its pinned versions and its two commands."""

import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import GROUPS, pytest_collection_modifyitems
from tests.pins import ROOT, normal, pins

TOP_LEVEL = {
    *("pipelines", "stableavatar", "manifests", "cluster", "tests", "pyproject.toml", "README.md"),
    *("Makefile", "constraints.txt", "CHANGELOG.md", "LICENSE", ".ci", ".gitignore"),
}


def test_top_level_is_exactly_the_rooms() -> None:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {file.split("/")[0] for file in files} == TOP_LEVEL


def test_constraints_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    # A local version ("+cpu") would keep the same line from finding a CUDA build elsewhere.
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
    assert len(pins()) == len(lines), "a package is pinned twice"


def test_everything_the_project_asks_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["test"]
    asked += [*project["build-system"]["requires"], "pip", "audio-separator"]
    names = {normal(re.split(r"[\[<>=!~ ]", requirement)[0]) for requirement in asked}
    assert names - pins().keys() == set()


def test_tests_of_one_group_run_in_one_process(tmp_path: Path) -> None:
    """Some pairs of pytest and pytest-xdist forget the groups in silence; then every process starts a Ray cluster."""
    hook = inspect.getsource(pytest_collection_modifyitems)
    shared = "@pytest.fixture\ndef ray_cluster(): pass\n"
    (tmp_path / "conftest.py").write_text(f"import pytest\n\nGROUPS = {GROUPS}\n\n{shared}\n{hook}")
    for name, used in (("one", "ray_cluster"), ("two", "ray_cluster"), ("alone", "request")):
        (tmp_path / f"test_{name}.py").write_text(
            "import os, pathlib\nimport pytest\n"
            "@pytest.mark.parametrize('number', range(8))\n"
            f"def test_it({used}, number):\n"
            f"    pathlib.Path('{used}-' + os.environ['PYTEST_XDIST_WORKER']).touch()\n"
        )
    [options] = re.findall(r"pytest (.*--dist .*) --durations", (ROOT / "Makefile").read_text())
    words = [*options.split(), "--rootdir", ".", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    subprocess.run([sys.executable, "-m", "pytest", *words], cwd=tmp_path, env=environment, check=True)
    assert [len(list(tmp_path.glob(f"{used}-gw*"))) for used in ("ray_cluster", "request")] == [1, 1]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A directory with the Makefile and what the environment depends on, but without an environment."""
    if not shutil.which("make"):
        pytest.skip("no make")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def plan(house: Path, target: str) -> str:
    """What make would do."""
    command = ["make", "--dry-run", target, f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=house, capture_output=True, text=True, check=True).stdout


def test_demo_makes_an_environment_and_renders_the_example(house: Path) -> None:
    steps = plan(house, "demo")
    assert steps.index("venv --clear .venv") < steps.index("pip install") < steps.index("stableavatar render")
    assert "render manifests/examples/demo.jsonl --model mini --output outputs/demo/" in steps


def test_test_runs_every_check(house: Path) -> None:
    steps = plan(house, "test")
    assert all(tool in steps for tool in ("ruff check", "ruff format --check", "mypy", "pytest"))


def test_a_finished_environment_is_kept_and_an_older_one_brought_up_to_date(house: Path) -> None:
    stamp = house / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.touch()
    assert "pip install" not in plan(house, "demo")
    later = stamp.stat().st_mtime + 10
    os.utime(house / "constraints.txt", (later, later))
    assert "pip install" in plan(house, "demo")


def test_an_interrupted_environment_is_made_afresh(house: Path) -> None:
    (house / ".venv").mkdir()
    fake = house / "python"
    fake.write_text('#!/bin/sh\necho "$@" >> calls\ncase "$1" in -m) exit 1;; esac\n')
    fake.chmod(0o755)
    run = subprocess.run(["make", "demo", f"PYTHON={fake}"], cwd=house, capture_output=True, text=True)
    assert run.returncode != 0
    assert "-m venv --clear .venv" in (house / "calls").read_text()
    assert not (house / ".venv" / ".installed").exists()


def test_an_old_python_is_refused_with_a_remedy(house: Path) -> None:
    fake = house / "python"
    # Runs the check under a Python that says it is 3.10.
    fake.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; sys.version_info = (3, 10); exec(sys.argv[1])" "$2"\n'
    )
    fake.chmod(0o755)
    run = subprocess.run(["make", "demo", f"PYTHON={fake}"], cwd=house, capture_output=True, text=True)
    assert run.returncode != 0
    assert "Python 3.10 is too old: install Python 3.11 or newer" in run.stderr
    assert not (house / ".venv").exists()


def test_who_imports_a_package_has_its_types() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["*"]
    assert all((ROOT / name / "py.typed").is_file() for name in ("pipelines", "stableavatar", "manifests"))


def test_no_registry_address_is_written_down() -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/run"):
        text = (ROOT / name).read_text()
        assert "index-url" not in text
        assert "find-links" not in text
        assert "://" not in text


def test_the_image_is_built_from_whatever_registry_there_is() -> None:
    assert "://" not in (ROOT / "cluster/Dockerfile").read_text()
