"""Tuning end to end, on a network that knows nothing yet: what is trained, within which budget,
what comes of an interruption, and which errors name what is wrong.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_training import interrupt_at, network, stripes, tones

from edgeadapt.bundle import read_bundle
from edgeadapt.errors import InputError
from edgeadapt.host.tuning.budget import Budget
from edgeadapt.host.tuning.delta_file import read_delta
from edgeadapt.host.tuning.deltas.low_rank import LowRank
from edgeadapt.host.tuning.deltas.scale_shift import ScaleShift
from edgeadapt.host.tuning.deltas.whole import Bias, Full, Head
from edgeadapt.host.tuning.run import Tuned, TuneSettings, tune
from edgeadapt.host.tuning.scores.squared_gradient import SquaredGradient
from edgeadapt.host.tuning.starts.context_oriented import ContextOriented
from edgeadapt.host.tuning.starts.explained_variance import ExplainedVariance

FIT, HELD_OUT, OTHER = stripes(96), stripes(128, 1), stripes(64, 2)
BASE = network().eval()


def tuned(delta: Any, files: dict[str, Any] | None = None, **settings: Any) -> Tuned:
    given = {"epochs": 4, "batch": 16, "lr": 0.02, "augment": "none", **settings}
    lines = settings.pop("lines", None)
    return tune(
        BASE,
        FIT,
        HELD_OUT,
        TuneSettings(delta, **given),
        progress=(lines.append if lines is not None else lambda line: None),
        **(files or {}),
    )


@pytest.mark.parametrize(
    ("delta", "gain"),
    [(LowRank(), 0.15), (Full(), 0.15), (ScaleShift(), -1.0), (Bias(), -1.0)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_tuned_network_learns_what_it_can_and_merges_exactly(delta: Any, gain: float) -> None:
    """Two numbers a channel cannot repair random filters, so of those only the merge is asked."""
    before = {name: value.clone() for name, value in BASE.state_dict().items()}
    found = tuned(delta, epochs=8)
    report = found.report
    assert report.accuracy > report.accuracy_before + gain
    assert report.merge_error <= 1e-6
    assert report.numbers == found.plan.numbers > 0
    assert all(torch.equal(value, before[name]) for name, value in BASE.state_dict().items())
    assert not found.network.training


def test_the_classifier_alone_is_the_probe_and_little_else() -> None:
    found = tuned(Head(), lr=1e-6)
    assert found.report.numbers == found.report.bytes == 0
    assert found.report.numbers_whole == 2 * 8 + 2
    assert abs(found.report.accuracy - found.report.accuracy_before) < 0.02


@pytest.mark.parametrize("score", [None, SquaredGradient()], ids=["uniform", "by gradients"])
def test_a_budget_of_bytes_is_kept_to_the_byte(score: Any) -> None:
    for amount in (800, 1200, 1900):
        found = tuned(LowRank(), budget=Budget(amount, "bytes"), score=score, epochs=1)
        assert amount // 2 < found.report.bytes <= amount
        assert found.report.bytes == 2 * found.plan.numbers  # float16


def test_budgets_count_parameters_and_shares_too() -> None:
    assert tuned(LowRank(), budget=Budget(500, "parameters"), epochs=1).report.numbers <= 500
    weights = sum(value.numel() for name, value in BASE.named_parameters() if "head" not in name)
    found = tuned(LowRank(), budget=Budget(0.4, "share"), epochs=1)
    assert 0.2 * weights < found.report.numbers <= 0.4 * weights


def test_the_same_seed_gives_the_same_bits_and_an_interruption_changes_nothing(
    tmp_path: Path,
) -> None:
    settings = {"start": ExplainedVariance(), "budget": Budget(600, "bytes"), "lr": 0.01}
    settings |= {"score": SquaredGradient(), "augment": "plain"}
    whole = tuned(LowRank(), **settings)
    again = tuned(LowRank(), **settings)
    files = {"checkpoint": tmp_path / "run.safetensors"}
    with pytest.raises(KeyboardInterrupt):
        tune(
            BASE,
            FIT,
            HELD_OUT,
            TuneSettings(LowRank(), epochs=4, batch=16, **settings),
            progress=interrupt_at("epoch 2 of 4  loss"),
            **files,
        )
    resumed = tuned(LowRank(), {**files, "resume": True}, **settings)
    for other in (again, resumed):
        assert list(other.values) == list(whole.values)
        assert all(torch.equal(other.values[name], value) for name, value in whole.values.items())


def test_a_start_that_is_not_zero_trains_from_the_base() -> None:
    found = tuned(LowRank(), start=ContextOriented("keep"), lr=1e-7, epochs=1, codec="float32")
    assert abs(found.report.accuracy - found.report.accuracy_before) < 0.02
    assert sum("up0" in name for name in found.values) == len(found.plan.sites)
    assert found.report.bytes == 2 * 4 * found.plan.numbers  # the first product is stored, too


def test_few_bits_are_what_the_merged_network_has() -> None:
    coarse = tuned(LowRank(), codec="2bit")
    assert coarse.report.merge_error <= 1e-6
    at = next(name for name in coarse.values if name.endswith(":up"))
    assert len(np.unique(coarse.values[at].numpy())) <= 4


def test_a_control_is_about_the_encoder_and_not_its_classifier() -> None:
    def after(delta: Any) -> tuple[float, float]:
        settings = TuneSettings(delta, epochs=6, batch=16, lr=0.02, augment="none")
        report = tune(
            BASE, FIT, HELD_OUT, settings, control=OTHER, progress=lambda line: None
        ).report
        assert report.control is not None and report.control_before is not None
        return report.control_before, report.control

    before, untouched = after(Head())
    assert untouched == before  # the classifier moved, the features did not
    before, learned = after(Full())
    assert learned > before + 0.1  # the same stripes, so what was learned helps there


def test_what_cannot_be_tuned_is_named() -> None:
    with pytest.raises(InputError, match=r"no site .*fits 'blockx\.\*'; there are .*block1"):
        tuned(LowRank(), sites=("blockx.*",))
    with pytest.raises(InputError, match=r"a budget of 10 bytes .*smallest.* takes \d+"):
        tuned(LowRank(), budget=Budget(10, "bytes"), score=SquaredGradient())
    with pytest.raises(InputError, match=r"too small for low_rank.*at every site"):
        tuned(LowRank(), budget=Budget(60, "parameters"))
    with pytest.raises(InputError, match="applies to none"):
        tuned(LowRank(), sites=("stem.1",))
    with pytest.raises(InputError, match="no linear layer that classifies"):
        tune(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), FIT, HELD_OUT, TuneSettings(LowRank()))
    with pytest.raises(InputError, match="above 0"):
        Budget(0, "bytes")


def test_signals_are_tuned_as_images_are() -> None:
    from edgeadapt.host.encoders.networks import build_network

    fit = tones(96)
    base = build_network("sensor-cnn", 2, 2, seed=0, widths=[4, 6, 6])
    settings = TuneSettings(LowRank(), size=1, start=ExplainedVariance(), epochs=3, batch=16)
    found = tune(base, fit, tones(96, 1), settings, progress=lambda line: None)
    assert found.report.merge_error <= 1e-6
    assert found.report.accuracy >= found.report.accuracy_before - 0.05


RECIPE = """
[encoder]
network = "small-residual"
options = { widths = [6, 8, 8] }
[data]
kind = "npz"
path = "stripes.npz"
[tune]
method = "low_rank"
budget = { bytes = 1200 }
allocate = "squared_gradient"
epochs = 2
batch = 16
lr = 0.02
[tune.control]
kind = "npz"
path = "stripes.npz"
[export]
name = "stripes"
class_slots = 4
domain_slots = 2
batches = [8]
adapt = "off"
stress = false
"""


def test_the_command_leaves_a_signed_delta_merged_weights_and_a_bundle(
    run: Any, tmp_path: Path
) -> None:
    data = stripes(240)
    np.savez(tmp_path / "stripes.npz", x=data.x, y=data.y, classes=np.array(data.classes))
    recipe = tmp_path / "stripes.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    run("keygen", tmp_path / "maker.pem")
    said = run("tune", recipe, "--key", tmp_path / "maker.pem")
    for line in ("numbers trained inside", "control after", "merge error", "peak memory"):
        assert line in said
    file = read_delta(tmp_path / "stripes.delta", trust=tmp_path / "maker.pem.pub")
    assert 600 < file.figures["bytes"] <= 1200
    assert not (tmp_path / "stripes.checkpoint.safetensors").exists()
    bundle = read_bundle(tmp_path / "stripes.edge", trust=tmp_path / "maker.pem.pub")

    # the merged weights are a network like any other, and its encoder has no node more
    plain = tmp_path / "plain.toml"
    untuned = RECIPE[: RECIPE.index("[tune]")] + RECIPE[RECIPE.index("[export]") :]
    plain.write_text(
        untuned.replace("[data]", 'weights = "stripes.safetensors"\n[data]'), encoding="utf-8"
    )
    run("export", plain, "-o", tmp_path / "plain.edge")
    again = read_bundle(tmp_path / "plain.edge")
    counts = [{spec.file: spec.nodes for spec in one.manifest.graphs} for one in (bundle, again)]
    assert counts[0] == counts[1] and max(counts[0].values()) > 10


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('method = "low_rank"', 'method = "lowrank"', "tune.method = 'lowrank'; allowed: bias"),
        ("{ bytes = 1200 }", "{ bytes = 1200, share = 0.5 }", "one of bytes, parameters and share"),
        ("{ bytes = 1200 }", "{ bytes = 12 }", "a budget of 12 bytes is too small for low_rank"),
        ('"squared_gradient"', '"gradients"', "tune.allocate = 'gradients'; allowed"),
        ("[tune]\n", '[tune]\nsites = ["head*"]\n', "no site of the network fits 'head\\*'"),
        ("[tune]\n", '[tune]\nstart = "kronecker_svd"\n', "for tune.method = 'kronecker'"),
        (
            'network = "small-residual"\noptions = { widths = [6, 8, 8] }',
            'file = "e.onnx"',
            "no backward",
        ),
    ],
)
def test_bad_recipes_get_one_clear_line(
    run: Any, tmp_path: Path, old: str, new: str, said: str
) -> None:
    data = stripes(64)
    np.savez(tmp_path / "stripes.npz", x=data.x, y=data.y, classes=np.array(data.classes))
    recipe = tmp_path / "stripes.toml"
    assert old in RECIPE
    recipe.write_text(RECIPE.replace(old, new), encoding="utf-8")
    run("tune", recipe, code=2)
    assert re.search(said, run.error), run.error
