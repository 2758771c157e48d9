"""Imports run one way, and nothing imports itself in a circle. Read from the source, so that nothing need be run."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each package may import of ours, and what it may not import of others.
OURS = {
    "manifests": {"manifests"},
    "stableavatar": {"stableavatar"},
    "pipelines": {"pipelines", "stableavatar", "manifests"},
}
BANNED = {"manifests": {"ray", "torch"}, "stableavatar": {"ray"}, "pipelines": set[str]()}

Sources = Mapping[str, str]  # module name -> source; packages end in ".__init__"


def read_sources(package: str) -> dict[str, str]:
    files = sorted((ROOT / package).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): file.read_text() for file in files}


def imports_of(module: str, source: str) -> Iterator[str]:
    """Every dotted name that the module imports, wherever in the file: `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            base += [node.module] if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def wrong_ways(sources: Sources) -> list[str]:
    """Imports that run the wrong way, as `module imports name`."""
    wrong = []
    for module, source in sources.items():
        package = module.split(".")[0]
        for name in imports_of(module, source):
            top = name.split(".")[0]
            if top == "tests" or (top in OURS and top not in OURS[package]) or top in BANNED[package]:
                wrong.append(f"{module} imports {name}")
    return wrong


def find_cycle(sources: Sources) -> list[str]:
    """One circle of modules that import each other, or nothing."""
    modules = {name.removesuffix(".__init__"): name for name in sources}
    graph: dict[str, set[str]] = {}
    for module, full_name in modules.items():
        targets = set()
        for name in imports_of(full_name, sources[full_name]):
            # The last word of `from a import b` is a module, or a name within module `a`.
            target = name if name in modules else name.rpartition(".")[0]
            targets |= {target} & modules.keys()
        graph[module] = targets
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", OURS)
def test_imports_run_one_way(package: str) -> None:
    sources = read_sources(package)
    assert sources, f"{package} has no modules"
    assert wrong_ways(sources) == []


@pytest.mark.parametrize("package", OURS)
def test_no_module_imports_itself_in_a_circle(package: str) -> None:
    assert find_cycle(read_sources(package)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("stableavatar.avatar", "import ray"),
        ("stableavatar.avatar", "from ray.data import Dataset"),
        ("stableavatar.avatar", "import pipelines.stage"),
        ("stableavatar.avatar", "def load():\n    from manifests import schema"),
        ("stableavatar.avatar", "from tests import helpers"),
        ("manifests.read", "from stableavatar.errors import BadInput"),
        ("manifests.read", "from pipelines import storage"),
    ],
)
def test_a_wrong_way_is_seen(module: str, source: str) -> None:
    assert len(wrong_ways({module: source})) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipelines.run", "import ray\nfrom stableavatar import avatar\nfrom manifests.read import resolve"),
        ("stableavatar.avatar", "from .model import dit\nimport rayon"),
        ("manifests.read", "from manifests.schema import MANIFEST"),
    ],
)
def test_a_right_way_is_let_pass(module: str, source: str) -> None:
    assert wrong_ways({module: source}) == []


@pytest.mark.parametrize(
    "sources",
    [
        {"p.a": "import p.b", "p.b": "from p import a"},
        {"p.a": "from p.b import x", "p.b": "def f():\n    from p.c import y", "p.c": "from . import a"},
        {"p.__init__": "from p.a import x", "p.a": "from p import y"},
        {"p.q.__init__": "", "p.q.a": "from .b import x", "p.q.b": "from .a import y"},
    ],
)
def test_a_circle_is_seen(sources: dict[str, str]) -> None:
    assert find_cycle(sources)


def test_a_diamond_is_no_circle() -> None:
    assert find_cycle({"p.a": "from p import b, c", "p.b": "from p import d", "p.c": "import p.d", "p.d": ""}) == []


def test_no_process_but_those_that_hold_networks_waits_for_their_libraries() -> None:
    stages = (
        "pipelines.run, pipelines.check, pipelines.prepare, pipelines.generate, pipelines.measure, pipelines.results"
    )
    code = f"import sys, {stages}; print(*{{'diffusers', 'transformers', 'peft'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""
