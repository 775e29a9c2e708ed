"""The stress card: what it runs, what its rules allow, and that a harmful method does not get past
it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeadapt
from edgeadapt import host
from edgeadapt.bundle import FACTORY, FROZEN, GUARD, Bundle, read_bundle, stress_table, write_bundle
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.cli import main
from edgeadapt.device.adaptation import corrections
from edgeadapt.errors import InputError
from edgeadapt.host.assembly import examples
from edgeadapt.host.compile import compile_graph
from edgeadapt.host.exporting import stressed
from edgeadapt.host.methods.label_free import adaptations
from edgeadapt.host.methods.label_free.feature_space.feature_shift import FeatureShift
from edgeadapt.host.stress.again import stress_again
from edgeadapt.host.stress.card import (
    LENGTHS,
    FrozenModel,
    Lengths,
    StressCard,
    pool_for,
    stress_card,
)
from edgeadapt.host.stress.streams import (
    CLEAN,
    COLUMN_SHIFTS,
    Columns,
    EncodedPool,
    constants,
    pool_of,
    streams,
)
from edgeadapt.host.stress.strengths import Trial, best, card_of, tried
from edgeadapt.host.stress.verdict import LongRun, StressRow, verdict
from edgeadapt.scenarios.corruptions import TUNING

SHIFTS = ("fog", "snow")


def row(
    condition: str,
    order: str,
    change: float,
    *,
    samples: int = 1000,
    refreshes: int = 0,
    churn: int = 0,
) -> StressRow:
    """A stream on which the frozen twin is right half of the time; ``churn`` samples more are won,
    and as many lost.
    """
    moved = round(change * samples)
    return StressRow(
        condition,
        order,
        samples,
        0.5 + change,
        0.5,
        max(moved, 0) + churn,
        max(-moved, 0) + churn,
        refreshes,
    )


def table(**changes: float) -> list[StressRow]:
    """Every kind of row of a bundle that earns ``act``, but for the changes given as
    ``condition_order=points``.
    """
    rows = {
        f"{c}_{o}": row(c, o, 0.0)
        for o in ("shuffled", "sorted", "single")
        for c in (CLEAN, *SHIFTS)
    }
    rows |= {
        "mixed_mixed": row("mixed", "mixed", 0.0),
        "clean_constant": row(CLEAN, "constant", 0.0),
        "fog_constant": row("fog", "constant", 0.0),
    }
    gains = {f"{c}_{o}": 0.3 for c in SHIFTS for o in ("shuffled", "sorted", "single")} | changes
    return [
        row(
            r.condition,
            r.order,
            gains.get(name, 0.0),
            refreshes=int(r.condition in SHIFTS and r.order != "constant"),
        )
        for name, r in rows.items()
    ]


def long(change: float = 0.0, **found: Any) -> LongRun:
    whole = {
        "tensor_bytes": 90,
        "tensor_bytes_declared": 100,
        "pending": 10,
        "pending_allowed": 10,
        "backlog": 1,
        "conditions": 3,
        "conditions_allowed": 8,
        "resident_mib": 100.0,
        "resident_growth_mib": 1.0,
    }
    phase = row("features", "long", change)
    return LongRun(phase, (row(CLEAN, "long", 0.0), phase), **(whole | found))


# -- the rules -------------------------------------------------------------------------------------
def test_a_gain_without_a_loss_may_act() -> None:
    card = verdict(table(), long())
    assert card.mode == "act"
    assert card.reason == "gains +30.0% shuffled and +30.0% sorted under shift; loses on no stream"


@pytest.mark.parametrize(
    ("changes", "mode", "reason"),
    [
        (
            {"fog_shuffled": 0.01, "snow_shuffled": 0.02},
            "advise",
            "shifted shuffled: gains +1.5%, 2% are needed",
        ),
        ({"fog_shuffled": 0.044, "snow_shuffled": -0.004}, "act", "gains +2.0% shuffled"),
        ({"fog_sorted": 0.001, "snow_sorted": -0.005}, "advise", "shifted sorted: gains -0.2%"),
        ({"clean_sorted": -0.07}, "advise", "clean sorted: loses 7.0% (70 samples lost, 0 gained)"),
        (
            {"clean_single": -0.011, "mixed_mixed": -0.02},
            "advise",
            "mixed: loses 2.0% (20 samples lost, 0 gained); also clean single 1.1%",
        ),
        ({"fog_sorted": -0.02, "snow_sorted": 0.5}, "advise", "fog sorted: loses 2.0%"),
        ({"mixed_mixed": -0.004}, "act", "largest loss 0.4% (mixed)"),
        ({"mixed_mixed": -0.008}, "act", "largest loss 0.8% (mixed)"),
        (
            {"mixed_mixed": -0.012, "clean_sorted": -0.03, "fog_single": -0.02},
            "advise",
            "; also fog single 2.0%, mixed 1.2%",
        ),
        (
            {"fog_shuffled": 0.04, "snow_shuffled": 0.03, "mixed_mixed": -0.012},
            "advise",
            "mixed: loses 1.2%",
        ),
        (
            {"fog_shuffled": 0.03, "snow_shuffled": 0.03, "mixed_mixed": -0.009},
            "advise",
            "mixed: loses 0.9%",
        ),
        ({"clean_sorted": -0.101}, "off", "clean sorted: loses 10.1%"),
        ({"fog_constant": -0.5}, "off", "fog constant: loses 50.0%"),
    ],
)
def test_the_reason_names_the_row_that_failed(
    changes: dict[str, float], mode: str, reason: str
) -> None:
    card = verdict(table(**changes), long())
    assert (card.mode, reason in card.reason) == (mode, True), card.reason


def test_a_small_loss_counts_if_neither_chance_nor_gain_explains_it_and_a_large_one_always() -> (
    None
):
    assert row("fog", "single", -0.008).loss_counts(0.02), "8 lost and none gained"
    assert not row("fog", "single", -0.008, churn=60).loss_counts(0.02), "68 lost and 60 gained"
    assert row("fog", "single", -0.011, churn=60).loss_counts(0.3), "above one point"
    assert not row("fog", "single", 0.0, churn=60).loss_counts(0.02)
    significant = row("clean", "long", -0.003, samples=6250, churn=10)
    assert significant.interval == pytest.approx((0.0010, 0.0049), abs=1e-3)
    assert significant.loss_counts(0.0) and not significant.loss_counts(0.2), (
        "three tenths against twenty points"
    )
    assert row("clean", "long", -0.009, samples=6250).loss_counts(0.1), (
        "nine tenths against ten points"
    )


def test_what_changes_cost_before_they_are_noticed_is_in_the_whole_long_run_and_counts_there() -> (
    None
):
    fine = long()
    assert verdict(table(), fine).mode == "act"
    costly = replace(fine, row=row("features", "long", -0.02))
    assert verdict(table(), costly).reason.startswith("features long: loses 2.0%")


def test_shifts_that_nothing_adapts_to_say_nothing_of_the_gain() -> None:
    rows = [
        replace(r, refreshes=0) if r.condition == "snow" else r
        for r in table(snow_shuffled=0.0, snow_sorted=-0.001, fog_shuffled=0.025)
    ]
    assert verdict(rows, long()).reason.startswith(
        "gains +2.5% shuffled and +30.0% sorted under shift"
    )
    nothing = verdict([replace(r, refreshes=0) for r in rows], long())
    assert (nothing.mode, nothing.reason) == (
        "advise",
        "shifted shuffled: gains +0.0%, 2% are needed",
    )


def test_frames_that_do_not_change_may_not_be_adapted_to() -> None:
    rows = [
        replace(r, refreshes=2) if (r.condition, r.order) == ("fog", "constant") else r
        for r in table()
    ]
    assert (verdict(rows).mode, verdict(rows).reason) == (
        "advise",
        "fog constant: adapts 2 times to frames that do not change",
    )


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"tensor_bytes": 101}, "tensors take 101 bytes, 100 are declared"),
        ({"pending": 11}, "11 samples are kept for labels, 10 may be"),
        ({"conditions": 9}, "9 conditions are kept, 8 may be"),
        (
            {"resident_growth_mib": 9.0},
            "resident memory grows by 9 MiB in the last quarter, 8 MiB are allowed",
        ),
    ],
)
def test_a_long_run_without_bounds_switches_adaptation_off(
    found: dict[str, Any], told: str
) -> None:
    card = verdict(table(), long(**found))
    assert card.mode == "off" and card.reason == f"not bounded over 1000 batches: {told}"
    assert not long(resident_mib=1000.0, resident_growth_mib=20.0).problem, (
        "2.5% of a large process"
    )


def test_a_phase_of_the_long_run_is_held_to_the_same_rule() -> None:
    assert verdict(table(), long(-0.012)).reason.startswith("features long: loses 1.2%")
    assert verdict(table(), long(-0.012), kind="short").reason.endswith("(short streams)")


# -- strengths -------------------------------------------------------------------------------------
def card(**changes: float) -> StressCard:
    return verdict(table(**changes), long())


def test_a_correction_that_harms_is_tried_milder_until_it_harms_nowhere() -> None:
    cards = {
        1.0: card(fog_sorted=-0.04),
        0.5: card(fog_sorted=-0.011),
        0.25: card(fog_shuffled=0.04, snow_shuffled=0.04),
    }
    trials = tried("mean_std", cards.__getitem__)
    assert [(trial.strength, trial.mode) for trial in trials] == [
        (1.0, "advise"),
        (0.5, "advise"),
        (0.25, "act"),
    ]
    assert best(trials).strength == 0.25 and card_of(trials)["mode"] == "act"
    printed = " ".join(" ".join(stress_table({"stress": card_of(trials)})).split())
    assert (
        "tried mean_std at strength 1: +21.5 under shift, advise: fog sorted: loses 4.0%" in printed
    )


def test_one_that_acts_or_gains_too_little_is_not_tried_milder() -> None:
    assert [trial.strength for trial in tried("mean_std", lambda strength: card())] == [1.0]
    useless = tried("mean_std", lambda strength: card(fog_shuffled=0.01, snow_shuffled=0.01))
    assert [trial.strength for trial in useless] == [1.0] and "trials" not in card_of(useless)


def test_of_those_that_may_act_the_one_that_gains_most_is_taken_and_else_the_first() -> None:
    trials = [
        Trial("a", 1.0, card(clean_single=-0.02)),
        Trial("b", 1.0, card(fog_shuffled=0.1)),
        Trial("c", 0.5, card()),
    ]
    assert best(trials).method == "c" and best(trials[:1]).method == "a"


# -- the streams -----------------------------------------------------------------------------------
def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three kinds of 16 x 16 images: horizontal, vertical and no stripes, faint ones among them."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.integers(0, 60, (count, 16, 16))
    strength = rng.integers(40, 160, (count, 1, 1))
    x[y == 0, ::4] += strength[y == 0]
    x[y == 1, :, ::4] += strength[y == 1]
    return x.astype(np.uint8), y.astype(np.int64)


def test_every_kind_of_stream_is_run_and_they_share_their_samples() -> None:
    x, y = images(60, 0)
    pool = pool_of(x, y, InputSpec(layout="NHW", dtype="uint8", shape=(16, 16)), 0)
    made = list(streams(pool, 90))
    assert [(s.condition, s.order) for s in made] == [
        *((c, o) for o in ("shuffled", "sorted", "single") for c in (CLEAN, *TUNING)),
        ("mixed", "mixed"),
    ]
    assert {len(s.x) for s in made} == {90}, "a small pool is passed through again"
    by = {(s.condition, s.order): s for s in made}
    for condition in (CLEAN, *TUNING):
        shuffled, ordered, single = (
            by[condition, order] for order in ("shuffled", "sorted", "single")
        )  # type: ignore[index]
        assert sorted(a.tobytes() for a in shuffled.x) == sorted(a.tobytes() for a in ordered.x)
        assert (np.diff(ordered.y) != 0).sum() == 2 and (np.diff(shuffled.y) != 0).sum() > 30
        assert single.batch == 1 and np.array_equal(single.x, shuffled.x)
    mixed = by["mixed", "mixed"].x
    met = [
        np.array(
            [np.array_equal(a, b) for a, b in zip(mixed, by[c, "shuffled"].x, strict=True)]
        ).sum()
        for c in (CLEAN, *TUNING)
    ]
    assert all(8 <= count <= 30 for count in met) and sum(met) >= 90


def test_a_constant_stream_is_one_frame_that_the_frozen_twin_knows() -> None:
    x, y = images(60, 0)
    pool = pool_of(x, y, InputSpec(layout="NHW", dtype="uint8", shape=(16, 16)), 0)
    clean, shifted = constants(pool, 60, lambda some, labels: labels == 2)
    assert (clean.condition, shifted.condition) == (CLEAN, TUNING[0])
    for stream in (clean, shifted):
        assert len(stream.x) == 256 and (stream.x == stream.x[0]).all() and set(stream.y) == {2}


@pytest.mark.parametrize(("shape", "axis"), [((20,), 1), ((20, 3), 2), ((3, 20), 1)])
def test_columns_are_shifted_in_units_of_their_own_spread(
    shape: tuple[int, ...], axis: int
) -> None:
    spec = InputSpec(layout="NC", dtype="float32", shape=shape, range=(-500.0, 500.0))
    rng = np.random.default_rng(0)
    scale = np.arange(1, shape[axis - 1] + 1, dtype=np.float32).reshape(
        [-1 if i == axis - 1 else 1 for i in range(len(shape))]
    )
    x = (10 * scale + scale * rng.standard_normal((400, *shape))).astype(np.float32)
    pool = pool_of(x, np.zeros(400, np.int64), spec, 3)
    assert pool.shifts == COLUMN_SHIFTS
    columns = Columns.of(x, axis)
    assert np.allclose(columns.spread.ravel(), scale.ravel(), rtol=0.15)
    others = tuple(i for i in range(x.ndim) if i != axis)
    made = {name: pool.shift(x, name, 3) for name in COLUMN_SHIFTS}
    assert np.allclose(
        np.abs((made["offset"] - x).mean(axis=others)), columns.spread.ravel(), rtol=1e-3
    )
    assert set(np.round((made["gain"] / x).mean(axis=others), 3)) <= {0.5, 2.0}
    assert np.allclose((made["noise"] - x).std(axis=others), columns.spread.ravel(), rtol=0.1)
    assert (made["dead"].std(axis=others) < 0.01).sum() == max(1, shape[axis - 1] // 4)
    assert np.array_equal(made["offset"], pool.shift(x, "offset", 3)) and not np.array_equal(
        made["offset"], pool.shift(x, "offset", 4)
    )
    limited = Columns.of(x, axis).shifted(x, "gain", 3, (0.0, 12.0))
    assert limited.min() >= 0.0 and limited.max() <= 12.0


# -- whole cards -----------------------------------------------------------------------------------
class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.block = nn.Sequential(
            nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x / 255.0)).mean((2, 3)))


def trained() -> TinyNet:
    torch.manual_seed(0)
    net = TinyNet()
    x, y = (torch.from_numpy(a) for a in images(300, 1))
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(x[:, None].float()), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, list[str]]:
    said: list[str] = []
    path = tmp_path_factory.mktemp("short") / "stripes.edge"
    host.export(
        path,
        trained(),
        images(240, 2),
        ["rows", "columns", "plain"],
        stress="short",
        progress=said.append,
        name="stripes",
        random_features=0,
        novelty="cosine",
        class_slots=8,
    )
    return read_bundle(path), said


def test_a_short_card_has_rows_of_every_kind_and_says_that_it_is_short(
    short: tuple[Bundle, list[str]],
) -> None:
    bundle, said = short
    stress = bundle.card["stress"]
    assert stress["kind"] == "short" and stress["distinct"] == 120
    assert [row["order"] for row in stress["rows"]] == ["shuffled"] * 5 + ["sorted"] * 5 + [
        "single"
    ] + ["mixed"] + ["constant"] * 2
    for row in stress["rows"]:
        assert row["samples"] == (256 if row["order"] == "constant" else LENGTHS["short"].samples)
        assert row["learner"] - row["frozen"] == pytest.approx(
            (row["gained"] - row["lost"]) / row["samples"]
        )
    held = {(row["condition"], row["order"]): row for row in stress["rows"]}
    assert held["clean", "constant"]["refreshes"] == held[TUNING[0], "constant"]["refreshes"] == 0
    assert any(row["refreshes"] for row in stress["rows"]), "something was adapted to"
    assert 4500 <= stress["long"]["row"]["samples"] <= 5000 and stress["long"]["problem"] == ""
    assert 0 < stress["long"]["tensor_bytes"] <= stress["long"]["tensor_bytes_declared"]
    adapt = bundle.manifest.policy.adapt
    assert (adapt.mode, adapt.reason) == (stress["mode"], stress["reason"])
    assert adapt.reason.endswith("(short streams)")
    assert sum(line.startswith("stress: ") for line in said) == 1 + 14 + 2 + 2


def test_a_bundle_that_is_there_gets_another_card_and_the_next_version(
    short: tuple[Bundle, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, _ = short
    monkeypatch.setitem(LENGTHS, "full", Lengths(64, 160))
    x, y = images(60, 9)
    np.savez(tmp_path / "later.npz", x=x, y=y, classes=["rows", "columns", "plain"])
    given = [
        str(bundle.path),
        "--data",
        str(tmp_path / "later.npz"),
        "-o",
        str(tmp_path / "b.edge"),
    ]
    assert main(["stress", *given]) == 0
    made = read_bundle(tmp_path / "b.edge")
    card, adapt = made.card["stress"], made.manifest.policy.adapt
    assert (card["kind"], card["distinct"], card["rows"][0]["samples"]) == ("full", 60, 64)
    assert (adapt.mode, adapt.reason) == (card["mode"], card["reason"])
    assert adapt.strength == bundle.manifest.policy.adapt.strength
    assert made.manifest.version == bundle.manifest.version + 1
    assert made.card["held_out_accuracy"] == bundle.card["held_out_accuracy"]
    assert all(np.array_equal(made.frozen[name], value) for name, value in bundle.frozen.items())
    np.savez(tmp_path / "other.npz", x=x[:, :8], y=y, classes=["rows", "columns", "plain"])
    given[2] = str(tmp_path / "other.npz")
    assert main(["stress", *given]) == 2


def test_a_signed_bundle_is_stressed_again_only_with_a_key(
    short: tuple[Bundle, list[str]], tmp_path: Path
) -> None:
    signed = replace(short[0], signed_by="somebody")
    with pytest.raises(InputError, match="give the key"):
        stress_again(signed, tmp_path / "b.edge", *images(60, 9))
    assert not (tmp_path / "b.edge").exists()


def test_inspect_prints_the_table_and_the_reason(
    short: tuple[Bundle, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, _ = short
    assert main(["inspect", str(bundle.path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name in (
        "clean shuffled",
        *(f"{c} sorted" for c in TUNING),
        "mixed",
        "clean constant",
        "features long",
    ):
        assert f" {name} " in printed
    assert (
        "short card, streams of 120 different held-out samples:"
        f" {bundle.manifest.policy.adapt.mode}: {bundle.manifest.policy.adapt.reason}" in printed
    )


@pytest.mark.parametrize(
    "stress",
    [
        [],
        3,
        "act",
        {},
        {"rows": 1},
        {"rows": [{"condition": "fog"}]},
        {"rows": [], "mode": 1},
        {"rows": [{"condition": "a", "order": "b", "learner": "x", "frozen": 1, "refreshes": 1}]},
    ],
)
def test_a_card_that_says_something_else_is_not_shown_as_a_table(stress: Any) -> None:
    assert stress_table({"stress": stress}) == [
        "the stress card is not one that this version can show; inspect --json prints it as it is"
    ]
    assert stress_table({}) == []


def test_only_four_kinds_of_stress_are_known(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match='stress is True, False, "short" or "long", got \'longer\''
    ):
        host.export(
            tmp_path / "x.edge",
            host.Identity(4),
            (np.zeros((20, 4), np.float32), np.arange(20) % 2),
            ["a", "b"],
            stress="longer",
        )


def test_an_export_runs_the_short_card_and_compiles_each_graph_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled: list[str] = []
    kinds: list[str] = []

    def recorded(name: str, *given: Any, **options: Any) -> Any:
        compiled.append(name)
        return compile_graph(name, *given, **options)

    def carded(*given: Any, kind: str, **options: Any) -> StressCard:
        kinds.append(kind)
        return verdict(table(), long(), kind=kind)

    monkeypatch.setattr(examples, "compile_graph", recorded)
    monkeypatch.setattr(stressed, "stress_card", carded)
    calibration, names = blobs(60, 1), ["a", "b", "c"]
    chosen: dict[str, Any] = {"random_features": 0, "novelty": "cosine", "class_slots": 8}
    bundle = host.export(tmp_path / "a.edge", host.Identity(12), calibration, names, **chosen)
    assert kinds == ["short", "short"] and sorted(compiled) == [
        "adapt",
        "adapt",
        "learn",
        "read",
        "read",
    ]
    assert bundle.manifest.policy.adapt.method == "feature_shift"
    said = capsys.readouterr().err.splitlines()
    assert (
        " s  compile: learn" in said[[line.endswith("compile: learn") for line in said].index(True)]
    )
    graph = next(graph for graph in bundle.manifest.graphs if "learn" in graph.roles)
    assert graph.parity.cases >= 8 and "correct.variance" not in graph.reads
    host.export(
        tmp_path / "b.edge",
        host.Identity(12),
        calibration,
        names,
        stress=False,
        quiet=True,
        **chosen,
    )
    assert capsys.readouterr().err == ""


class NextClass(FeatureShift):
    """Once it has adapted, it moves every sample onto the mean of the class after the one it looks
    like: close to the classes, and wrong.
    """

    preserves_space = False

    def correct(self, t: Any, z: Tensor) -> Tensor:
        means = t["head.mean"][:3]
        nearest = (z @ nn.functional.normalize(means, dim=1).T).argmax(dim=1)
        after = ((nearest + 1) % 3)[:, None].eq(torch.arange(3)[None, :]).to(torch.float32)
        has_adapted = (t["correct.source"] - t["correct.mean"]).abs().sum() > 1e-3
        return torch.where(has_adapted, after @ means, z)


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((3, 12)) * 1.2
    y = np.arange(count) % 3
    return (centres[y] + rng.standard_normal((count, 12))).astype(np.float32), y.astype(np.int64)


def test_features_as_wide_as_inputs_are_not_encoded_once_more(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    x, y = blobs(400, 1)
    bundle = host.export(
        tmp_path / "wide.edge",
        net,
        (x, y),
        ["a", "b", "c"],
        stress=False,
        random_features=0,
        novelty="cosine",
        class_slots=8,
    )
    assert bundle.manifest.input.shape == (bundle.manifest.feature_dim,) == (12,)
    pool = pool_for(bundle, x, y, 0)
    assert isinstance(pool, EncodedPool)
    inputs, (features, labels) = pool_of(x, y, bundle.manifest.input, 0), pool.shuffled(CLEAN, 64)
    with edgeadapt.open(bundle) as frozen:
        said = frozen.predict(inputs.shuffled(CLEAN, 64)[0]).labels
        right = FrozenModel(bundle, frozen, is_encoded=True).right(features, labels)
    assert list(right) == list(np.array(said) == np.array(["a", "b", "c"])[labels])
    assert right.mean() > 0.6


def test_a_harmful_method_may_not_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(adaptations.FEATURE_SPACE, "feature_shift", lambda beside: NextClass())
    bundle = host.export(
        tmp_path / "bad.edge",
        host.Identity(12),
        blobs(400, 1),
        ["a", "b", "c"],
        stress=False,
        random_features=0,
        novelty="cosine",
        class_slots=8,
    )
    assert not bundle.manifest.policy.adapt.preserves_space, (
        "what a method says of itself is in the manifest"
    )
    acting = with_mode(bundle, tmp_path / "acting.edge")

    def card() -> StressCard:
        return stress_card(
            acting, *blobs(300, 2), seed=0, say=lambda line: None, lengths=Lengths(320, 400)
        )

    refused = card()
    assert (refused.mode, refused.reason) == (
        "advise",
        "shifted shuffled: gains +0.0%, 2% are needed",
    ), "the device's health check refuses every correction"
    assert sum(row.refreshes for row in refused.rows) > 5
    monkeypatch.setattr(corrections, "healthiest", lambda choices, *rest: (choices[0][1], ""))
    harmed = card()
    worst = max(
        (*harmed.rows, *(harmed.long.phases if harmed.long else ())), key=lambda found: found.loss
    )
    assert harmed.mode == "off" and worst.loss > 0.1
    assert harmed.reason == f"{worst.name}: loses {worst.loss:.1%}"


def test_an_adaptor_cannot_be_trained_behind_a_method_that_leaves_the_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(adaptations.FEATURE_SPACE, "feature_shift", lambda beside: NextClass())
    with pytest.raises(
        InputError,
        match=(
            r"adapt = 'feature_shift' gives a condition a feature space of its own, .* leave out"
            r" adaptors"
        ),
    ):
        host.export(
            tmp_path / "x.edge",
            host.Identity(12),
            blobs(400, 1),
            ["a", "b", "c"],
            adaptors="family",
            random_features=0,
            novelty="cosine",
        )
    assert not (tmp_path / "x.edge").exists()


def with_mode(bundle: Bundle, path: Path) -> Bundle:
    policy = bundle.manifest.policy
    policy = msgspec.structs.replace(
        policy, adapt=msgspec.structs.replace(policy.adapt, mode="act")
    )
    graphs = {graph.file: bundle.graph(graph.file) for graph in bundle.manifest.graphs}
    weights = {member: dict(bundle.weights(member)) for member in (FROZEN, FACTORY, GUARD)}
    return write_bundle(
        path,
        msgspec.structs.replace(bundle.manifest, policy=policy, members={}),
        graphs,
        weights,
        {},
    )
