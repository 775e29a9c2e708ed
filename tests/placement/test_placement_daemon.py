"""Where graphs run, as a daemon, the command line and a bench tell it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeadapt_bench.precision.placement import graph_rows, run_placement, sides_of
from fake_runtimes import DoesNotOpen, MadeUp, NotANumber, Wrong
from placement_trials import settle

from edgeadapt import cli
from edgeadapt.bundle import read_bundle
from edgeadapt.demo.sample import bundle_path, load_sample
from edgeadapt.placement import PlacedRuntime


@pytest.fixture
def service(register: Callable[..., None], tmp_path: Path, slow_cpu: dict[str, Any]) -> Any:
    pytest.importorskip("prometheus_client")
    from edgeadapt.daemon.config.schema import ControlSection, Settings
    from edgeadapt.daemon.service import Service

    register(MadeUp)
    slow_cpu["by_graph"]["graphs/encode.onnx"] = 25.0
    made = Service(
        Settings(
            bundle=bundle_path(),
            state=tmp_path / "state",
            unsigned="accept",
            control=ControlSection(listen=""),
        )
    )
    made.start()
    yield made
    assert made.stop()
    made.context.runtime.close()


def test_a_daemon_shows_where_roles_run_and_what_it_copied(service: Any) -> None:
    runtime = service.context.runtime
    assert isinstance(runtime, PlacedRuntime)
    x = load_sample().x
    for at in range(0, 80, 8):
        service.predict(x[at : at + 8])
        settle(runtime)
    placement = service.status()["placement"]
    assert (
        "made-up" in placement["roles"]["encode"] and placement["roles"]["learn"] == "onnxruntime"
    )
    assert placement["runtimes"]["made-up"] == {"state": "serves", "why": ""}
    json.dumps(placement)


def test_a_daemon_whose_device_took_tensors_with_it_is_not_well_and_ends(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeadapt.daemon.lifecycle import signals as supervised

    monkeypatch.setattr(supervised, "run", lambda one, has_failed: has_failed())
    assert service.ready() == (True, "") and service.health()["ok"] and not service.run()
    service.context.runtime.exchange.lost = "tensor 'ridge.gram' lies only in 'made-up'"
    assert service.ready() == (False, "tensor 'ridge.gram' lies only in 'made-up'")
    health = service.health()
    assert not health["ok"] and "tensor 'ridge.gram' lies only in 'made-up'" in health["problems"]
    assert service.run()  # the process ends, and its supervisor starts it anew


def test_run_says_where_graphs_ran(
    register: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(DoesNotOpen)
    np.savez(tmp_path / "images.npz", x=load_sample().x[:64])
    assert cli.main(["run", str(bundle_path()), "--source", str(tmp_path / "images.npz")]) == 0
    said = capsys.readouterr().out
    assert "  ran in onnxruntime: encode, correct, predict" in said
    assert (
        cli.main(["run", str(bundle_path()), "--source", str(tmp_path / "images.npz"), "--json"])
        == 0
    )
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])["summary"]
    assert set(summary["placement"]["roles"].values()) == {"onnxruntime"}


def test_a_replay_is_of_one_runtime(
    register: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(MadeUp)
    np.savez(tmp_path / "images.npz", x=load_sample().x[:8])
    assert (
        cli.main(
            [
                "run",
                str(bundle_path()),
                "--source",
                str(tmp_path / "images.npz"),
                "--state",
                str(tmp_path / "state"),
            ]
        )
        == 0
    )
    assert cli.main(["replay", str(tmp_path / "state"), "--bundle", str(bundle_path())]) == 0
    assert "runtime onnxruntime," in capsys.readouterr().out


def test_the_bench_has_a_row_for_each_graph_batch_and_runtime(
    register: Callable[..., None],
) -> None:
    register(MadeUp, Wrong, DoesNotOpen, NotANumber)
    bundle = read_bundle(bundle_path())
    sides, absent = sides_of(bundle, lambda line: None)
    assert [row.name for row in absent] == ["doesnotopen"] and "libmadeup" in absent[0].unit
    specs = {Path(spec.file).stem: spec for spec in bundle.manifest.graphs}
    rows = {
        row.name: row
        for graph in ("read", "learn", "refold")
        for row in graph_rows(bundle, specs[graph], sides, lambda line: None, 6)
    }
    assert len(rows) == 4 * (3 + 3 + 1)
    for at in ("read/b1", "read/b32", "learn/b8", "refold"):
        cpu, same = rows[f"{at}/onnxruntime"], rows[f"{at}/madeup"]
        assert cpu.value and cpu.unit == "ms" and same.baseline == cpu.value
        assert same.unit == f"ms, {same.value / cpu.value:.2f} x CPU, agrees to 0.0e+00"
        assert (
            "differs by" in rows[f"{at}/wrong"].unit
            and "not finite" in rows[f"{at}/notanumber"].unit
        )


def test_the_bench_of_a_machine_with_a_cpu_alone_says_so(register: Callable[..., None]) -> None:
    register()
    said: list[str] = []
    rows = run_placement(None, said.append, quick=True, bundle=str(bundle_path()))
    assert "no runtime works here beside ONNX Runtime on the CPU" in said[0]
    assert len(rows) == 13 and all(row.name.endswith("/onnxruntime") and row.value for row in rows)
