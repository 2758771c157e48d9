"""`pipelines.render` and `retry`, called from Python."""

import asyncio
import importlib
import inspect
import json
import re
import subprocess
import sys
import threading
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import pipelines
from pipelines import RenderResult, RunError, render, results, retry, storage
from pipelines.api import arguments_to_note, one_run_at_a_time
from pipelines.arguments import api_arguments, parser
from pipelines.look import Look
from pipelines.outcome import RunReport
from pipelines.run import Options
from stableavatar.errors import KINDS, BadInput
from stableavatar.limits import Limits
from stableavatar.presets import Preset
from tests.conftest import EXAMPLE

ROW = {**EXAMPLE, "end_s": 0.5}
ONLY_PYTHON = {"observers", "console"}
ONLY_WORDS = {"help", "dry_run", "log_json"}


def write_manifest(folder: Path, *rows: dict[str, Any]) -> str:
    storage.write("\n".join(json.dumps(ROW | row) for row in rows).encode(), f"{folder}/night.jsonl")
    return f"{folder}/night.jsonl"


def words_of(command: str) -> set[str]:
    """The options of a command, those about the files of rows as one."""
    (commands,) = (action.choices for action in parser()._actions if isinstance(action.choices, dict))
    words = {action.dest for action in commands[command]._actions}
    limits = {field.name for field in fields(Limits)}
    return words - ONLY_WORDS - limits | ({"limits"} if limits <= words else set())


def parameters_of(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - ONLY_PYTHON


def test_python_has_the_options_of_the_command_line() -> None:
    assert parameters_of(render) == words_of("render") | {"retry"}
    assert parameters_of(retry) == words_of("retry")


@pytest.mark.parametrize("command", ["render", "retry"])
def test_what_is_not_given_is_the_same_in_both(command: str) -> None:
    words = [command, "night.csv", *(["--output", "out"] if command == "render" else [])]
    usual = inspect.signature(getattr(pipelines, command)).parameters
    given = api_arguments(parser().parse_args(words))
    given = {name: value for name, value in given.items() if name not in ("manifest", "output")}
    assert {name: usual[name].default or {} if name == "settings" else usual[name].default for name in given} == given


def test_nothing_heavy_is_loaded_before_it_is_called() -> None:
    script = "import sys; from pipelines import render, retry, RenderResult; "
    script += "sys.exit(str([name for name in ('torch', 'ray', 'transformers') if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    script = "import sys, pipelines; sys.exit(str([name for name in ('pyarrow', 'rich') if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_what_it_raises_and_returns_comes_from_the_same_place() -> None:
    for home, names in pipelines._HOMES.items():
        for name in names:
            assert getattr(pipelines, name) is getattr(importlib.import_module(home), name)
    assert pipelines.BadInput is BadInput
    with pytest.raises(ImportError):
        exec("from pipelines import strange")


def test_importing_it_is_nothing_to_the_ray_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ENABLE_AUTO_CONNECT", raising=False)
    script = "import pipelines; from ray._private import auto_init_hook; assert auto_init_hook.enable_auto_connect"
    subprocess.run([sys.executable, "-c", script], check=True)


class Called:
    """Stands in for the run."""

    def __call__(self, manifest: str, output: str, preset: Preset, *, options: Options, console: Any) -> RunReport:
        self.manifest, self.output, self.preset, self.options, self.console = manifest, output, preset, options, console
        return RunReport(finished=[], unfinished=[], left=[], done=[], stopped="")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    called = Called()
    monkeypatch.setattr("pipelines.run.run", called)
    return called


def test_values_of_python_are_what_the_words_are(called: Called, tmp_path: Path) -> None:
    time = datetime(2999, 1, 31, 6, 30).astimezone()
    own = Limits(inputs=("faces",))
    result = render(
        tmp_path / "night.csv", tmp_path / "out", settings={"num_steps": 3, "prompt": "A man."},
        lora="a.safetensors:0.5", separator=Path("kim.onnx"), memory="fp8", limit=7, limits=own,
        stop_by=time, max_gpu_hours=2, retry=["storage"],
    )  # fmt: skip
    here = Path.cwd()
    assert (result.rows, result.output) == ((), f"{tmp_path}/out")
    assert (called.manifest, called.output, result.output) == (
        f"{tmp_path}/night.csv",
        f"{tmp_path}/out",
        f"{tmp_path}/out",
    )
    assert (called.preset.num_steps, called.preset.prompt, called.preset.memory) == (3, "A man.", "fp8")
    assert called.preset.lora == f"{here}/a.safetensors:0.5"
    assert (called.options.limit, called.options.separator) == (7, f"{here}/kim.onnx")
    assert called.options.limits == replace(own, inputs=(f"{here}/faces",))
    assert (called.options.bounds.stop_by, called.options.bounds.max_gpu_hours) == (time, 2.0)
    assert called.options.retry == {"storage"}
    render("a.csv", "out", stop_by=f"{time:%Y-%m-%dT%H:%M}")
    assert called.options.bounds.stop_by == time
    assert called.options.retry is None


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"stop_by": "later"}, "stop_by: 'later' is no time"),
        ({"stop_by": datetime(2020, 1, 1)}, "stop_by: 2020-01-01 00:00 has passed"),
        ({"limit": 0}, "limit: '0' is not a whole number from 1"),
        ({"max_gpu_hours": float("nan")}, "max_gpu_hours: 'nan' is not a number above 0"),
        ({"save_every_s": 0}, "save_every_s: '0' is not a number above 0"),
        ({"separator": "s3://models/kim.onnx"}, "separator: s3://models/kim.onnx is not a local file"),
        ({"memory": "huge"}, "memory: there is no 'huge'; there is: full"),
        ({"attention": "much"}, "attention: there is no 'much'"),
        ({"retry": ["strange"]}, "retry: there is no 'strange'; there is: internal"),
        ({"settings": {"steps": 3}}, "there is no 'steps' to set"),
        ({"settings": {"num_steps": "many"}}, "give a whole number"),
        ({"settings": {"prompt": None}}, "prompt is empty"),
        ({"lora": "a.safetensors:much"}, "lora: "),
    ],
)
def test_wrong_values_name_what_is_right(called: Called, argument: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        render("a.csv", "out", **argument)
    assert not vars(called)


def test_a_run_is_repeated_as_it_was(called: Called, tmp_path: Path) -> None:
    render("night.csv", tmp_path, settings={"num_steps": 3}, limit=7, limits=Limits(inputs=("faces",)), max_gpu_hours=2)
    first = called.options
    results.write_run(f"{tmp_path}", manifest="/in/night.csv", model="tiny", num_rows=1, arguments=first.arguments)
    retry(tmp_path, kinds=["storage"], max_gpu_hours=1)
    assert (called.manifest, called.output, called.preset.num_steps) == ("/in/night.csv", f"{tmp_path}", 3)
    assert called.options.bounds.max_gpu_hours == 1.0
    assert replace(called.options, bounds=first.bounds, retry=None, observers=first.observers) == first
    assert [type(observer) for observer in called.options.observers] == [type(observer) for observer in first.observers]
    assert called.options.retry == {"storage"}
    carried: dict[str, Any] = {"carried_over": "/out/carried-over/0123.jsonl"}
    results.write_run(f"{tmp_path}", manifest="m", model="tiny", num_rows=1, arguments=first.arguments, **carried)
    retry(tmp_path, save_every_s=60)
    assert called.options.carry_over == carried["carried_over"]
    assert (called.options.save_every_s, called.options.retry) == (60.0, set(KINDS))


def test_only_what_was_noted_can_be_repeated(called: Called, preset: Preset, tmp_path: Path) -> None:
    render("night.csv", tmp_path, model=preset)
    assert called.options.arguments == {}
    results.write_run(f"{tmp_path}", manifest="m", model="tiny", num_rows=1, arguments={})
    with pytest.raises(BadInput, match="no run that could be repeated"):
        retry(tmp_path)
    secret = arguments_to_note(Look(), limits=Limits(inputs=("https://store/in?sig=verysecret",)))
    results.write_run(f"{tmp_path}", manifest="m", model="tiny", num_rows=1, arguments=secret)
    with pytest.raises(BadInput, match="was given credentials"):
        retry(tmp_path)


def test_two_runs_in_one_process_are_refused(called: Called) -> None:
    with one_run_at_a_time(), pytest.raises(RunError, match="another run goes on in this process"):
        render("a.csv", "out")
    render("a.csv", "out")


@pytest.mark.slow
def test_in_a_notebook_and_in_a_thread(
    ray_cluster: None, preset: Preset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(tmp_path, {"id": "one"}, {"id": "missing", "portrait": "missing.jpg"})
    model = replace(preset, num_steps=1)

    async def cell() -> RenderResult:
        return render(manifest, tmp_path / "out", model=model, limit=1)

    capfd.readouterr()
    first = asyncio.run(cell())
    assert capfd.readouterr().out == ""
    assert [(row.id, row.status, row.was_before) for row in first.rows] == [("one", "ok", False)]
    assert first.rows[0].video is not None and Path(first.rows[0].video).is_file()

    found: list[RenderResult] = []
    thread = threading.Thread(
        target=lambda: found.append(render(manifest, f"{tmp_path}/out", model=model, console=Console()))
    )
    thread.start()
    thread.join()
    (second,) = found
    assert [(row.id, row.status, row.was_before) for row in second.rows] == [
        ("one", "ok", True),
        ("missing", "failed", False),
    ]
    assert "missing.jpg does not exist" in second.rows[1].error
    assert second.rows[0] == replace(first.rows[0], was_before=True)
    assert sorted(second.table()["id"].to_pylist()) == ["missing", "one"]
    assert second.exit_code == 2
    assert "1 of 2 videos are there; 1 failed" in Path(second.report_uri).read_text()


CALL = """
import contextlib, json, sys
from pipelines import render

told = render(*sys.argv[1:3]).to_dict()
import ray

with contextlib.suppress(ray.exceptions.RaySystemError):
    ray.put(1)  # as a thread may that has not heard of the end
told["has_ray_again"] = ray.is_initialized()
open(sys.argv[3], "w").write(json.dumps(told))
"""


@pytest.mark.slow
def test_a_call_that_starts_ray_itself_prints_nothing(ray_alone: None, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, {"id": "one", "num_steps": 1}, {"id": "missing", "portrait": "missing.jpg"})
    command = [sys.executable, "-c", CALL, manifest, f"{tmp_path}/out", f"{tmp_path}/told.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if not re.search(r"\.cc:\d+: ", line)]  # Ray's core, past Python
    assert (done.stdout, said, done.returncode) == ("", [], 0)
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["num_ok"], told["has_ray_again"]) == (1, False)
