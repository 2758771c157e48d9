"""The dashboard and the metrics name the same things."""

import json
import re
from pathlib import Path
from typing import Any

from pipelines.metrics import COUNTERS, GAUGES, HISTOGRAMS, PREFIX

DASHBOARD = Path(__file__).parents[1] / "cluster" / "grafana.json"
ENDINGS = ((GAUGES, ("",)), (COUNTERS, ("_total",)), (HISTOGRAMS, ("_bucket",)))


def expressions(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    board = json.loads(DASHBOARD.read_text())
    shown = set(re.findall(rf"ray_{PREFIX}\w+", " ".join(expressions(board))))
    made = {f"ray_{PREFIX}{name}{end}" for metrics, ends in ENDINGS for name in metrics for end in ends}
    assert shown == made


def test_it_groups_by_tags_that_the_metrics_have() -> None:
    tags = {name: words[-1] for metrics, _ in ENDINGS for name, words in metrics.items()}
    for expression in expressions(json.loads(DASHBOARD.read_text())):
        (name, *_) = re.findall(rf"ray_{PREFIX}(\w+?)(?:_total|_bucket)?{{", expression)
        for group in re.findall(r"by \(([\w, ]+)\)", expression):
            assert set(group.split(", ")) <= {*tags[name], "le"}, expression


def test_panels_have_places_of_their_own_and_one_source() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    cells: list[tuple[int, int]] = []
    for place in (panel["gridPos"] for panel in panels):
        assert place["x"] + place["w"] <= 24
        across, down = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells += [(x, y) for x in across for y in down]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
