"""The dashboard is one that Grafana can load: panels that do not overlap, and expressions that name
what there is.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from promql import metrics_of, unknown

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"
FILE = COMPOSE / "grafana" / "dashboards" / "edgeadapt.json"
BOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS: list[dict[str, Any]] = BOARD["panels"]
DRAWN = [panel for panel in PANELS if panel["type"] != "row"]
EXPRESSIONS = [(panel["title"], target["expr"]) for panel in DRAWN for target in panel["targets"]]


def plain(expression: str) -> str:
    return expression.replace("$__rate_interval", "5m").replace("$instance", ".*")


def test_it_has_a_name_a_schema_of_today_and_panels_with_ids_of_their_own() -> None:
    assert BOARD["uid"] == "edgeadapt" and BOARD["schemaVersion"] >= 39 and "id" not in BOARD
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids) and len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"] for panel in DRAWN)
    assert all(
        [chr(65 + n) for n in range(len(p["targets"]))] == [t["refId"] for t in p["targets"]]
        for p in DRAWN
    )


def test_no_two_panels_overlap_and_none_leaves_the_grid() -> None:
    spots = [(panel["title"], panel["gridPos"]) for panel in PANELS]
    assert all(
        spot["x"] >= 0 and spot["x"] + spot["w"] <= 24 and min(spot["w"], spot["h"]) > 0
        for _, spot in spots
    )
    overlapping = [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(spots, 2)
        if a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    ]
    assert overlapping == []


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_every_metric_and_label_of_a_panel_exists(
    title: str, expression: str, samples: dict[str, tuple[str, set[str]]]
) -> None:
    assert metrics_of(expression) and unknown(plain(expression), samples) == []


def test_what_has_to_be_seen_is_there(samples: dict[str, tuple[str, set[str]]]) -> None:
    shown = set().union(*(metrics_of(expression) for _, expression in EXPRESSIONS))
    every = {
        re.sub(r"_(bucket|sum|count|created)$", "", name)
        for name in samples
        if name.startswith("edgeadapt_")
    }
    left_out = {"edgeadapt_http_request_seconds", "edgeadapt_pending_samples"}
    assert (
        every
        - {name.removesuffix("_bucket") for name in shown}
        - {f.removesuffix("_created") for f in every if f + "_total" in samples}
        == left_out
    )


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_promtool_parses_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{n}", "expr": plain(expression)}
        for n, (_, expression) in enumerate(EXPRESSIONS)
    ]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    done = subprocess.run(
        ["promtool", "check", "rules", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_choose_the_data_source_and_the_device_that_the_board_offers() -> None:
    offered = {variable["name"] for variable in BOARD["templating"]["list"]}
    text = json.dumps(PANELS)
    used = set(re.findall(r"\$\{?(\w+)\}?", text)) - {"__rate_interval", "__all"}
    assert used == offered == {"datasource", "instance"}
    assert all("$instance" in expression for _, expression in EXPRESSIONS)


def test_grafana_is_told_where_board_and_data_are() -> None:
    yaml = pytest.importorskip("yaml")
    provisioning = COMPOSE / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "edgeadapt.yaml").read_text())[
        "providers"
    ]
    grafana = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in grafana["volumes"]
    assert (
        source["url"] == "http://prometheus:9090"
        and BOARD["templating"]["list"][0]["current"]["value"] == source["uid"]
    )
