"""The daemon's ``precision``: from settings, by ``--precision``, through swaps and reloads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from golden_files import GOLDEN

from edgeadapt.bundle import FACTORY, FROZEN, GUARD, read_bundle, write_bundle
from edgeadapt.cli import main
from edgeadapt.daemon.config.loader import load_settings
from edgeadapt.daemon.service import Service
from edgeadapt.demo.sample import bundle_path
from edgeadapt.errors import BundleError, RecipeError

Made = Callable[..., Any]
PRECISE = GOLDEN / "precise.edge"
X = np.random.default_rng(0).integers(0, 256, (4, 12, 12)).astype(np.uint8)


def serving(service: Service) -> tuple[str, float]:
    """The precision of the open learner, and its novelty threshold."""
    with service.context.lease.borrow() as learner:
        return learner.precision, learner.manifest.policy.novelty.threshold


def settings_file(folder: Path, precision: str, bundle: Path = PRECISE) -> Path:
    path = folder / "serve.toml"
    path.write_text(
        f'bundle = "{bundle}"\nstate = "{folder / "state"}"\nunsigned = "accept"\nprecision ='
        f' "{precision}"\n[control]\nlisten = ""\n'
    )
    return path


def test_a_service_opens_the_encoder_that_the_settings_name(serve: Made, settings: Made) -> None:
    service = serve(settings(bundle=PRECISE, precision="int8"))
    manifest = service.context.manifest
    assert serving(service) == ("int8", manifest.at("int8").policy.novelty.threshold)
    share = manifest.at("int8").policy.novelty.window_share
    status = service.status()
    assert status["thresholds"]["novel_share"] == share and status["precision"] == "int8"
    assert service.observe(X)[0].id


def test_a_bundle_without_that_precision_is_refused_before_anything_is_served(
    settings: Made,
) -> None:
    with pytest.raises(BundleError, match="has no float16 encoder; it has float32"):
        Service(settings(precision="float16"))


def test_a_swap_keeps_the_precision_and_refuses_a_bundle_without_it(
    serve: Made, settings: Made, tmp_path: Path
) -> None:
    service = serve(settings(bundle=PRECISE, precision="int8"))
    copy = tmp_path / "copy.edge"
    copy.write_bytes(PRECISE.read_bytes())
    full = read_bundle(PRECISE)
    graphs = tuple(graph for graph in full.manifest.graphs if graph.precision == "float32")
    manifest = msgspec.structs.replace(full.manifest, version=2, precisions=(), graphs=graphs)
    weights = {member: full.weights(member) for member in (FROZEN, FACTORY, GUARD)}
    bare = write_bundle(
        tmp_path / "bare.edge",
        manifest,
        {graph.file: full.graph(graph.file) for graph in graphs},
        weights,
        full.card,
    )
    assert service.swap(copy)["agreement"] in (None, 1.0) and serving(service)[0] == "int8"
    with pytest.raises(BundleError, match="version 2 has no int8 encoder; it has float32"):
        service.swap(bare.path)
    assert serving(service)[0] == "int8" and service.observe(X)[0].id


def test_a_reload_changes_the_precision_on_the_same_state_and_keeps_the_old_one_if_it_cannot(
    serve: Made, tmp_path: Path
) -> None:
    path = settings_file(tmp_path, "float32")
    service = serve(load_settings(path), reread=lambda: load_settings(path))
    ids = [answer.id for answer in service.observe(X)]
    service.label([(id, "saddle") for id in ids], "anna")
    float32 = serving(service)
    settings_file(tmp_path, "int8")
    assert service.reload() == {"ok": True, "why": "", "restart": []}
    assert serving(service)[0] == "int8" and serving(service)[1] != float32[1]
    assert sum(service.status()["learner"]["evidence"].values()) == 4
    settings_file(tmp_path, "float32")
    assert service.reload()["ok"] and serving(service) == float32


def test_a_reload_to_a_precision_that_is_not_there_leaves_the_old_one_serving(
    serve: Made, tmp_path: Path
) -> None:
    path = settings_file(tmp_path, "float32", bundle_path())
    service = serve(load_settings(path), reread=lambda: load_settings(path))
    settings_file(tmp_path, "int8", bundle_path())
    report = service.reload()
    assert not report["ok"] and "has no int8 encoder; it has float32" in report["why"]
    assert serving(service)[0] == "float32" and service.ready() == (True, "")


def test_a_reload_to_a_precision_that_is_wrong_on_this_machine_disturbs_nothing(
    serve: Made, tmp_path: Path
) -> None:
    full = read_bundle(PRECISE)
    wrong = tuple(
        msgspec.structs.replace(spec, probe=tuple(value + 1.0 for value in spec.probe))
        for spec in full.manifest.precisions
    )
    weights = {member: full.weights(member) for member in (FROZEN, FACTORY, GUARD)}
    graphs = {graph.file: full.graph(graph.file) for graph in full.manifest.graphs}
    odd = write_bundle(
        tmp_path / "odd.edge",
        msgspec.structs.replace(full.manifest, precisions=wrong),
        graphs,
        weights,
        full.card,
    )
    path = settings_file(tmp_path, "float32", odd.path)
    service = serve(load_settings(path), reread=lambda: load_settings(path))
    ids = [answer.id for answer in service.observe(X)]
    with service.context.lease.borrow() as learner:
        before = learner
    settings_file(tmp_path, "int8", odd.path)
    report = service.reload()
    assert not report["ok"] and "int8 encoder does not compute here" in report["why"]
    with service.context.lease.borrow() as learner:
        # it was not closed to find out
        assert learner is before and all(learner.is_pending(id) for id in ids)


def test_a_precision_that_does_not_exist_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="precision"):
        load_settings(settings_file(tmp_path, "int4"))


def test_check_says_which_encoder_would_serve_and_the_option_goes_before_the_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings_file(tmp_path, "float16")
    assert main(["serve", str(path), "--check"]) == 0
    assert "precise version 1, unsigned, encoder in float16" in capsys.readouterr().out
    assert main(["serve", str(path), "--check", "--precision", "int8"]) == 0
    assert "encoder in int8" in capsys.readouterr().out
    assert (
        main(
            [
                "serve",
                str(settings_file(tmp_path, "float32", bundle_path())),
                "--check",
                "--precision",
                "int8",
            ]
        )
        != 0
    )
    assert "REFUSED  bundle" in capsys.readouterr().out
