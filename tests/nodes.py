"""A Ray cluster of several nodes on this machine, in processes that are ours alone, and jobs that go there."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

import psutil

from tests.chaos import generators
from tests.conftest import EXAMPLES

ROOT = EXAMPLES.parents[1]
RAY = ("-m", "ray.scripts.scripts")
PATIENCE_S = 400.0  # for each thing that is to happen: on a busy machine a run takes two minutes to begin


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """A running cluster. `nodes`: `ray start --block` of each, the head first."""

    address: str  # where jobs are submitted
    python: str  # of the nodes: all packages, but not ours
    folder: str  # of Ray
    environment: dict[str, str]
    nodes: list[subprocess.Popen] = field(default_factory=list)

    def job(self, word: str, *words: str, **environment: str) -> subprocess.Popen:
        """`ray job WORD`, with what a laptop knows: the address, and how to prove who it is."""
        command = [sys.executable, *RAY, "job", word, "--address", self.address, *words]
        environment = self.environment | environment
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    def submit(self, id: str, working_dir: str | Path, *words: str, **environment: str) -> subprocess.Popen:
        """`ray job submit` of a command of ours, as cluster/README.md has it."""
        runtime_env = f"{ROOT}/cluster/runtime-env.yaml"
        options = ("--submission-id", id, "--working-dir", str(working_dir), "--runtime-env", runtime_env)
        return self.job("submit", *options, "--", "python", "-m", "pipelines.cli", *words, **environment)

    def imports(self, name: str) -> bool:
        """Whether the nodes have this package, without what a job brings."""
        look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
        return subprocess.run([self.python, "-c", look], env=self.environment, cwd="/").returncode == 0

    def exit_code(self, id: str) -> int | None:
        """Of the command that a job ran, as its driver gave it."""
        return self.ask(f"api/jobs/{id}")["driver_exit_code"]

    def ask(self, path: str) -> Any:
        """What the head answers."""
        token = {"Authorization": f"Bearer {self.environment.get('RAY_AUTH_TOKEN', '')}"}
        with urllib.request.urlopen(urllib.request.Request(f"{self.address}/{path}", headers=token)) as answer:
            return json.load(answer)

    def num_alive(self) -> int:
        """Nodes that the head knows to be alive."""
        with suppress(URLError, ConnectionError):
            nodes = self.ask("nodes?view=summary")["data"]["summary"]
            return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)
        return 0

    def works(self, number: int) -> bool:
        """Whether a generator of this node works on a row."""
        mine = {process.pid for process in psutil.Process(self.nodes[number].pid).children(recursive=True)}
        return any(process.pid in mine and ".submit" in title for process, title in generators())

    def kill(self, number: int) -> None:
        """Kill a node with all its processes, at once and without a word."""
        process = self.nodes[number]
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


@contextmanager
def nodes(num_nodes: int, **environment: str) -> Iterator[Nodes]:
    """A cluster of so many nodes of two CPUs, which know what the environment says of S3 and of authentication."""
    gcs, dashboard = free_port(), free_port()
    # Sockets have short names, so Ray's folder is not pytest's.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
        python = make_image(f"{folder}/image")
        path = {"PATH": f"{folder}/image/bin:{os.environ['PATH']}"}
        cluster = Nodes(
            address=f"http://127.0.0.1:{dashboard}",
            python=python,
            folder=f"{folder}/ray",
            environment=inherited | path | environment,
        )
        head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}/ray"]
        head += [f"--ray-client-server-port={free_port()}"]
        try:
            for number in range(num_nodes):
                words = head if number == 0 else [f"--address=127.0.0.1:{gcs}"]
                cluster.nodes.append(start_node(cluster, *words))
                wait_for(lambda: cluster.num_alive() == len(cluster.nodes))
            yield cluster
        finally:
            for number, node in enumerate(cluster.nodes):
                if node.poll() is None:
                    cluster.kill(number)


def start_node(cluster: Nodes, *words: str) -> subprocess.Popen:
    """One node with ports of its own, far from this checkout."""
    ports = [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port")]
    ports += ["--min-worker-port=0", "--max-worker-port=0"]
    sizes = ["--num-cpus=2", "--num-gpus=0", "--object-store-memory=200000000"]
    command = [cluster.python, *RAY, "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    with open(f"{os.path.dirname(cluster.folder)}/nodes.log", "ab") as log:
        return subprocess.Popen(
            [*command, *ports, *sizes, *words], env=cluster.environment, cwd="/", stdout=log, stderr=log
        )


def make_image(folder: str) -> str:
    """A Python with all packages of this one but ours, which are installed as links to this checkout."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = sysconfig.get_path("purelib", vars={"base": folder})
    Path(site, "packages.pth").write_text(sysconfig.get_path("purelib"))
    return f"{folder}/bin/python"


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(happens: Callable[[], object]) -> None:
    """Wait until something has happened. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.2)
