"""A night of kills: a run whose generators and drivers are killed with -9 at random moments, until it has finished.

python -m tests.chaos MANIFEST OUTPUT    one driver, as the tests start (and kill) it
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import reduce
from typing import Any

import psutil

from pipelines import plan, storage
from pipelines.check import Check
from pipelines.encode_text import EncodeText, load_encoder
from pipelines.generate import Generate, load_avatar
from pipelines.measure import Measure
from pipelines.prepare import Prepare
from pipelines.stage import Stage
from stableavatar.avatar import Avatar
from stableavatar.limits import Limits
from stableavatar.model.weights import weights_hash
from stableavatar.presets import Preset, tiny
from stableavatar.request import VideoReport, VideoRequest
from tests.conftest import EXAMPLES

FAULTS: list[dict[str, Any]] = [
    {"portrait": "missing.jpg", "kind": "bad_input"},
    {"audio": "notes.txt", "kind": "bad_input"},
    {"num_steps": -1, "kind": "bad_input"},
    {"seed": 666, "kind": "quarantined"},
    {"seed": 14, "kind": "internal"},
]


class Fragile:
    """The real avatar, but seed 666 kills its process and seed 14 raises."""

    def __init__(self, preset: Preset, device: str) -> None:
        self.avatar = Avatar.load(preset, device)
        self.read_lora = self.avatar.read_lora

    def generate(self, request: VideoRequest, path: str, **options: Any) -> VideoReport:
        if request.seed == 666:
            os.kill(os.getpid(), signal.SIGKILL)
        if request.seed == 14:
            raise RuntimeError("something nobody expected")
        return self.avatar.generate(request, path, **options)


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """How a night goes: each generator dies within twice `kill_every_s`, drivers at these shares of rows done."""

    seed: int
    kill_every_s: float
    driver_deaths: tuple[float, ...]
    max_kills: int | None = None  # of generators; None: as long as the night lasts, which is long on a slow machine


def write_manifest(base: str, num_rows: int, faults: list[dict[str, Any]]) -> str:
    """`num_rows` rows of different lengths, of which as many are bad as there are `faults`; seeded, always the same."""
    storage.publish(f"{EXAMPLES}/portrait_nasa.jpg", f"{base}/face.jpg")
    storage.publish(f"{EXAMPLES}/speech_es_short.flac", f"{base}/speech.flac")
    storage.write(b"not a sound", f"{base}/notes.txt")
    lengths = random.Random(0)
    rows: list[dict[str, Any]] = []
    for number in range(num_rows):
        fault = (
            {name: value for name, value in faults[number].items() if name != "kind"} if number < len(faults) else {}
        )
        good = {"portrait": "face.jpg", "audio": "speech.flac", "seed": 1000 + number, "num_steps": 3}
        rows.append({**good, "id": f"row {number}", "end_s": round(lengths.uniform(0.3, 1.6), 2), **fault})
    lengths.shuffle(rows)
    storage.write("\n".join(map(json.dumps, rows)).encode(), f"{base}/night.jsonl")
    return f"{base}/night.jsonl"


def make_alone(manifest: str, output: str) -> dict[str, bytes]:
    """What a run makes of the good rows: their videos and sheets by name, made one by one without Ray."""
    preset = tiny()
    rows = plan.select_rows(plan.read_manifest(manifest), None, model=preset.name, weights_hash=weights_hash(preset))
    stages: list[Stage] = [Check(preset, output), Prepare(Limits()), EncodeText(preset, load_encoder)]
    stages += [Generate(preset, load_avatar, output), Measure()]
    for row in rows:
        reduce(lambda row, stage: stage(row), stages, {**row, "twin": ""})
    return videos_and_sheets(files_in(output))


def videos_and_sheets(files: dict[str, bytes]) -> dict[str, bytes]:
    """Those among the files of an output."""
    return {name: data for name, data in files.items() if name.startswith(("videos/", "sheets/"))}


def start_driver(manifest: str, output: str, address: str | None) -> subprocess.Popen:
    """A driver in a process of its own, on the cluster at `address`, or with one of its own."""
    environment = {**os.environ, **({"RAY_ADDRESS": address} if address else {})}
    return subprocess.Popen([sys.executable, "-m", "tests.chaos", manifest, output], env=environment)


def run_disturbed(manifest: str, output: str, address: str, num_rows: int, disturbance: Disturbance) -> dict[str, int]:
    """Run until a driver says that it is done; gives the number of kills by what was killed. Raises on a failed run."""
    kills = {"generators": 0, "drivers": 0}
    with _killing(disturbance, kills):
        for share in (*disturbance.driver_deaths, 2.0):
            driver = start_driver(manifest, output, address)
            while driver.poll() is None:
                time.sleep(0.5)
                if num_results(output) >= share * num_rows:
                    driver.kill()
                    kills["drivers"] += 1
                    break
            if driver.wait() not in (2, -signal.SIGKILL):
                raise RuntimeError(f"the driver ended with {driver.returncode}")
    return kills


def num_results(output: str) -> int:
    """Rows written down so far, as files: cheap to ask."""
    return len(storage.names_in(f"{output}/results"))


@contextmanager
def _killing(disturbance: Disturbance, kills: dict[str, int]) -> Iterator[None]:
    """While inside, generators die at random moments."""
    chance, ended = random.Random(disturbance.seed), threading.Event()

    def kill_on() -> None:
        while not ended.wait(0.2) and (disturbance.max_kills is None or kills["generators"] < disturbance.max_kills):
            if not any("__init__" not in title for _, title in generators()):
                continue  # a generator that never gets through loading would prove nothing
            ended.wait(chance.uniform(0.0, 2.0) * disturbance.kill_every_s)
            for process, _ in generators():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    kills["generators"] += 1

    thread = threading.Thread(target=kill_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def generators() -> list[tuple[psutil.Process, str]]:
    """The processes of this test's cluster that load or hold a generator, and what they call themselves."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and "Map(Generate)" in title:
                found.append((process, title))
    return found


def files_in(output: str) -> dict[str, bytes]:
    """Everything under an output, by name."""
    store, path = storage.open_store(output)
    return {name.removeprefix(path).lstrip("/"): store.cat_file(name) for name in store.find(path)}


def main(manifest: str, output: str) -> int:
    """One driver. 0 or 2, as the command line has it."""
    from pipelines.cli import print_result
    from pipelines.outcome import outcome
    from pipelines.run import Loaders, Options, run

    options = Options(save_every_s=0.1)
    load: Callable[[Preset, str], Any] = Fragile
    report = run(manifest, output, tiny(), options=options, loaders=Loaders(avatar=load))
    return print_result(outcome(output, report))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
