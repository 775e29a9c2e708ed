"""Prometheus takes the settings and the rules, every rule fires where it should, and a real one
reads a real daemon with its token.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from promql import metrics_of, unknown

from edgeadapt.daemon.config.schema import BudgetSection
from edgeadapt.demo.sample import bundle_path

yaml = pytest.importorskip("yaml")
COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"
TOKEN_FILE = "/run/secrets/edgeadapt_token"
HAS_DAEMON = all(
    importlib.util.find_spec(name) is not None
    for name in ("starlette", "uvicorn", "prometheus_client")
)
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
needs_both = pytest.mark.skipif(
    shutil.which("prometheus") is None or not HAS_DAEMON,
    reason="needs prometheus and the daemon extra",
)


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((COMPOSE / "alerts.yml").read_text())["groups"][0][
        "rules"
    ]
    return found


def configuration(folder: Path, target: str) -> Path:
    """The shipped file, with the token and the daemon where a test has them."""
    (folder / "token").write_text("a token of the tests\n")
    shutil.copy(COMPOSE / "alerts.yml", folder)
    text = (COMPOSE / "prometheus.yml").read_text()
    assert TOKEN_FILE in text and "edgeadapt:8420" in text
    path = folder / "prometheus.yml"
    path.write_text(
        text.replace(TOKEN_FILE, str(folder / "token"))
        .replace("edgeadapt:8420", target)
        .replace("15s", "1s")
    )
    return path


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_promtool_takes_the_settings_and_the_rules(tmp_path: Path) -> None:
    assert f"{len(rules())} rules found" in promtool(
        "check", "config", "--lint-fatal", configuration(tmp_path, "edgeadapt:8420")
    )


@needs_promtool
def test_every_rule_fires_where_it_should_and_nowhere_else() -> None:
    assert "SUCCESS" in promtool("test", "rules", Path(__file__).with_name("alerts_test.yml"))


def test_every_alert_has_its_test() -> None:
    tested = Path(__file__).with_name("alerts_test.yml").read_text()
    assert [
        rule["alert"] for rule in rules() if f'alertname="{rule["alert"]}", instance=' not in tested
    ] == []


def test_every_metric_and_label_of_a_rule_exists(samples: dict[str, tuple[str, set[str]]]) -> None:
    assert {rule["alert"]: bad for rule in rules() if (bad := unknown(rule["expr"], samples))} == {}
    assert all(metrics_of(rule["expr"]) for rule in rules())
    assert unknown(
        "rate(edgeadapt_inbox_samples[5m]) > sum by (zone) (edgeadapt_nothing)", samples
    ) == ["edgeadapt_nothing", "zone", "edgeadapt_inbox_samples"]


def test_no_rule_repeats_a_number_that_a_device_says_itself() -> None:
    found = {rule["alert"]: rule["expr"] for rule in rules()}
    budget = BudgetSection()
    assert "edgeadapt_write_budget_bytes" in found["EdgeadaptWritesNearTheirBudget"]
    assert (
        "edgeadapt_latency_bound_ratio" in found["EdgeadaptSlowsAnswers"]
        and "edgeadapt_temperature_budget_celsius" in found["EdgeadaptHot"]
    )
    assert [
        name
        for name, expr in found.items()
        if f"{budget.write_mib_per_day:g}" in expr or f"> {budget.p99_ratio:g}" in expr
    ] == []


# -- the real ones ---------------------------------------------------------------------------------
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def asked(port: int, query: str) -> list[dict[str, Any]]:
    with urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={query}", timeout=5) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


@needs_both
def test_a_real_prometheus_reads_a_real_daemon_with_its_token(tmp_path: Path) -> None:
    of_daemon, of_prometheus = free_port(), free_port()
    config = configuration(tmp_path, f"127.0.0.1:{of_daemon}")
    (tmp_path / "serve.toml").write_text(
        f'bundle = "{bundle_path()}"\nstate = "state"\nunsigned = "accept"\n[control]\nlisten ='
        f' "0.0.0.0:{of_daemon}"\ntoken_file = "token"\n'
    )
    serve = [sys.executable, "-m", "edgeadapt", "serve", tmp_path / "serve.toml"]
    watch = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'metrics'}",
        f"--web.listen-address=127.0.0.1:{of_prometheus}",
    ]
    quiet = {
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    with subprocess.Popen(serve, **quiet) as daemon, subprocess.Popen(watch, **quiet) as prometheus:
        try:
            end, up = time.monotonic() + 60, []
            while not (up and up[0]["value"][1] == "1"):
                assert (
                    time.monotonic() < end and daemon.poll() is None and prometheus.poll() is None
                )
                time.sleep(0.2)
                try:
                    up = asked(of_prometheus, "up")
                except OSError:
                    continue
            (built,) = asked(of_prometheus, "edgeadapt_build_info")
            with urlopen(f"http://127.0.0.1:{of_prometheus}/api/v1/rules", timeout=5) as answer:
                loaded = json.load(answer)["data"]["groups"][0]["rules"]
        finally:
            daemon.terminate()
            prometheus.terminate()
    assert built["metric"]["bundle"] == "fashion" and built["metric"]["job"] == "edgeadapt"
    assert {rule["name"] for rule in loaded} == {rule["alert"] for rule in rules()}
