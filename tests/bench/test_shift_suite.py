"""The suite of label-free adaptation at toy size: published methods do what their papers say,
streams are what they are called, bars judge.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from edgeadapt_bench import suites
from edgeadapt_bench.datasets.cache import cache_folder
from edgeadapt_bench.harness.measure import Row
from edgeadapt_bench.shift import shift
from edgeadapt_bench.shift.shift_baselines import (
    BatchStatistics,
    Eata,
    Sar,
    Tent,
    entropy,
    images,
    makers,
)
from edgeadapt_bench.shift.shift_dataset import ShiftDataset, acting, ours
from edgeadapt_bench.shift.shift_feature_baselines import FeatureMoments, Lame, T3a
from edgeadapt_bench.shift.shift_members import hebbian_rows, member_rows
from edgeadapt_bench.shift.shift_picture import draw
from edgeadapt_bench.shift.shift_rate import at_rate
from edgeadapt_bench.shift.shift_runs import FROZEN, ORACLE, OURS, Result, Results, learn
from edgeadapt_bench.shift.shift_streams import BATCH, REPEATS, Shown
from edgeadapt_bench.shift.shift_summary import gap_rows, loss_rows, losses, share_of_means

from edgeadapt.errors import InputError


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def dataset() -> ShiftDataset:
    return ours(None, quiet, quick=True)


@pytest.fixture(scope="module")
def shown(dataset: ShiftDataset) -> Shown:
    return Shown(dataset.test, 256, 0)


# -- material and streams --------------------------------------------------------------------------
def test_the_encoder_of_the_shipped_bundle_is_put_together_again(dataset: ShiftDataset) -> None:
    x = dataset.test.x[:32]
    with torch.no_grad():
        z = dataset.encoder(images(x)).numpy()
    assert np.abs(z - dataset.program.encode(x)[0]).max() < 1e-4
    with_network = dataset.head.logits(z).argmax(axis=1)
    assert (with_network == dataset.test.y[:32]).mean() > 0.85 and dataset.head.bias.size == 6


def test_tuning_images_are_no_test_images(dataset: ShiftDataset) -> None:
    test = {row.tobytes() for row in dataset.test.x}
    assert not test & {row.tobytes() for row in dataset.tuning.x}


def test_every_order_of_a_condition_has_the_same_images(shown: Shown) -> None:
    shuffled, ordered = shown.stream("shuffled", "fog", 3), shown.stream("sorted", "fog", 3)
    assert sorted(row.tobytes() for row in shuffled.x) == sorted(row.tobytes() for row in ordered.x)
    assert (np.diff(ordered.y) != 0).sum() == 5 and (np.diff(shuffled.y) != 0).sum() > 100
    assert not np.intersect1d(shown.rows, shown.oracle_rows).size


def test_the_stress_list_has_what_its_kinds_say(shown: Shown) -> None:
    streams = {
        stream.name: stream for stream in shown.stress(("brightness", "gaussian_noise"), 3, 16)
    }
    assert {
        "shuffled/clean",
        "sorted/clean",
        "batch_1/clean",
        "mixed/2 conditions/3",
        "constant/clean",
        "drift/gaussian_noise-fog/3",
    } <= set(streams)
    assert streams["batch_1/clean"].batch == 1 and len(streams["batch_1/clean"].y) == 16
    frames = streams["constant/brightness/3"].x
    assert (frames[0] == frames[REPEATS - 1]).all() and not (frames[0] == frames[REPEATS]).all()
    mixed, clean = streams["mixed/2 conditions/3"].x, shown.under("clean", 0)
    brightness, noise = shown.under("brightness", 3), shown.under("gaussian_noise", 3)
    is_bright = np.array([(m == b).all() for m, b in zip(mixed, brightness, strict=True)])
    is_noisy = np.array([(m == n).all() for m, n in zip(mixed, noise, strict=True)])
    assert (
        (is_bright ^ is_noisy).all() and 0.3 < is_bright.mean() < 0.7 and not (mixed == clean).all()
    )
    drift = streams["drift/gaussian_noise-fog/3"]
    assert [np.sum(np.diff(part) != 0) <= 5 for part in np.split(drift.y, 4)] == [True] * 4


# -- published methods -----------------------------------------------------------------------------
def test_batch_statistics_are_those_of_the_batch(dataset: ShiftDataset, shown: Shown) -> None:
    """An offset and a gain on all pixels changes nothing: normalisation takes it away."""
    x = shown.under("clean", 0)[:BATCH]
    method = BatchStatistics(dataset.basis)
    with torch.no_grad():
        plain, moved = method.network(images(x)), method.network(images(x) * 0.5 + 30.0)
    padded = method.read(x)
    assert (plain.argmax(1) == moved.argmax(1)).float().mean() > 0.9 and (
        padded == plain.argmax(1).numpy()
    ).all()


@pytest.mark.parametrize("make", [Tent, Eata, Sar])
def test_a_step_lowers_the_entropy_it_steps_on(
    make: type[Tent | Eata | Sar], dataset: ShiftDataset, shown: Shown
) -> None:
    x = shown.under("brightness", 3)[:BATCH]
    method = make(dataset.basis, 0.01, reset=0.0) if make is Sar else make(dataset.basis, 0.01)

    def uncertainty() -> float:
        with torch.no_grad():
            return float(entropy(method.network(images(x))).mean())

    before = uncertainty()
    first = method.read(x)
    # it answers from before its step
    assert (method.predict(x, np.zeros((0, 0), np.float32)) == first).all()
    method.predict(x, np.zeros((0, 0), np.float32))
    assert method.steps == 2 and uncertainty() < before


def test_sar_leaves_the_last_stage_alone_and_starts_over_when_all_is_certain(
    dataset: ShiftDataset, shown: Shown
) -> None:
    x, none = shown.under("clean", 0)[:BATCH], np.zeros((0, 0), np.float32)
    method = Sar(dataset.basis, 0.5, reset=0.0)
    start = {name: p.detach().clone() for name, p in method.network.named_parameters()}

    def moved() -> set[str]:
        return {
            name for name, p in method.network.named_parameters() if not torch.equal(p, start[name])
        }

    method.predict(x, none)
    # the stem and two of three blocks
    assert len(moved()) == 2 * 7 and not any("block3" in name for name in moved())
    method.reset = math.inf
    method.predict(x, none)
    assert method.level is None and not moved()


def test_eata_takes_no_step_on_what_it_is_unsure_of(dataset: ShiftDataset) -> None:
    method = Eata(dataset.basis)
    method.margin = 0.0
    method.predict(dataset.tuning.x[:BATCH], np.zeros((0, 0), np.float32))
    assert method.steps == 0 and method.mean is None
    assert (
        all(bool((f >= 0).all()) for f in method.fisher)
        and sum(float(f.sum()) for f in method.fisher) > 0
    )


def test_lame_gives_neighbours_the_same_answer(dataset: ShiftDataset) -> None:
    """Twelve features near one class mean, one of them pushed over the border: its neighbours pull
    it back.
    """
    z, rng = dataset.basis.tuning_z, np.random.default_rng(0)
    weight = dataset.head.weight
    centre = z[dataset.tuning.y == 1].mean(axis=0)
    batch = np.repeat(centre[None], 12, axis=0) + rng.normal(0, 1e-3, (12, z.shape[1])).astype(
        np.float32
    )
    direction = weight[:, 3] - weight[:, 1]
    gap = dataset.head.logits(batch[:1])[0]
    batch[0] += (
        (gap[1] - gap[3] + 0.1) / (direction @ direction * dataset.head.sharpness) * direction
    )
    assert (
        dataset.head.logits(batch[:1]).argmax() != 1
        and Lame(dataset.basis).predict(np.zeros(0), batch)[0] == 1
    )
    # alone it changes nothing
    assert (
        Lame(dataset.basis).predict(np.zeros(0), z[:1]) == dataset.head.logits(z[:1]).argmax(axis=1)
    ).all()


def test_feature_moments_undo_a_shift_and_prototypes_are_bounded(dataset: ShiftDataset) -> None:
    """All features pushed towards one class: the frozen head sees nothing else until the mean has
    followed.
    """
    # the shipped images are in order of class
    rows = np.random.default_rng(0).permutation(len(dataset.tuning))[:640]
    z, y = dataset.basis.tuning_z[rows], dataset.tuning.y[rows]
    weight, logits = dataset.head.weight, dataset.head.logits(z)
    push = weight[:, 0] - weight[:, 1:].mean(axis=1)
    moved = z + 2.0 * float(np.ptp(logits)) / (dataset.head.sharpness * float(push @ push)) * push
    assert (dataset.head.logits(moved).argmax(axis=1) == 0).mean() > 0.9
    method = FeatureMoments(dataset.basis, 0.1, is_scaled=False)
    marks = [
        method.predict(np.zeros(0), moved[i : i + 64]) == y[i : i + 64]
        for _ in range(8)
        for i in range(0, 640, 64)
    ]
    assert np.mean(marks[-10:]) > 0.85 > 0.5 > np.mean(marks[0])
    bank = T3a(dataset.basis)
    bank.predict(np.zeros(0), moved)
    assert bank.z.shape[0] <= 6 * 100 and np.bincount(bank.slots, minlength=6).max() <= 100


def test_a_chosen_rate_that_is_the_published_one_makes_no_second_contender(
    dataset: ShiftDataset,
) -> None:
    names = list(makers(dataset.basis, {"TENT": 1e-3, "SAR": 2.5e-2}))
    assert "TENT, rate chosen" not in names and "SAR, rate chosen" in names and len(names) == 9


# -- the learner, rates, rows ----------------------------------------------------------------------
def test_the_learner_adapts_without_a_label_and_a_bundle_can_be_made_to_act(
    dataset: ShiftDataset, shown: Shown
) -> None:
    acts = acting(dataset.bundle)
    assert (
        acts.manifest.policy.adapt.mode == "act"
        and acts.path.parent == cache_folder()
        and acts.sha256 != dataset.bundle.sha256
    )
    stream = shown.stream("shuffled", "brightness", 3)
    right, refreshes = learn(acts, stream)
    frozen = dataset.head.logits(dataset.program.encode(stream.x)[0]).argmax(axis=1) == stream.y
    assert refreshes > 0 and right.mean() > frozen.mean() + 0.2


@pytest.mark.parametrize(
    ("cost", "interval", "share"),
    [
        (1.0, 1.0, 1.0),
        (1.04, 1.0, 1.0),
        (1.5, 1.0, 0.5),
        (3.0, 1.0, 1 / 3),
        (3.0, 2.0, 0.5),
        (3.0, 4.0, 1.0),
    ],
)
def test_frames_that_do_not_wait_are_answered_without_adapting(
    cost: float, interval: float, share: float
) -> None:
    asked: list[int] = []

    def step(k: int) -> tuple[np.ndarray, float]:
        asked.append(k)
        return np.ones(4, bool), cost

    found = at_rate(
        step, lambda k: np.array([True, True, False, False]), [np.zeros(4, bool)] * 12, interval
    )
    assert found.in_time == pytest.approx(share) and asked[0] == 0
    assert found.frozen == pytest.approx(share) and found.last == pytest.approx(
        share + (1 - share) / 2
    )


def made_up(
    accuracies: dict[str, float],
    seeds: tuple[int, ...] = (0,),
    kind: str = "shuffled",
    condition: str = "fog",
) -> list[Result]:
    return [
        Result(name, kind, condition, 3, seed, np.arange(1000) < 1000 * value)
        for name, value in accuracies.items()
        for seed in seeds
    ]


def test_bars_judge_share_lead_and_worst_loss() -> None:
    results = Results(
        made_up({FROZEN: 0.5, OURS: 0.7, ORACLE: 0.9, "TENT": 0.71, "LAME": 0.8})
        + made_up(
            {FROZEN: 0.8, OURS: 0.785, ORACLE: 0.8, "TENT": 0.7, "LAME": 0.8}, condition="contrast"
        )
    )
    rows = {row.name: row for row in gap_rows(results, "shuffled", 3, ["TENT"], judged=True)[0]}
    assert (
        rows["share/shuffled/3"].value == pytest.approx(0.185 / 0.4)
        and rows["share/shuffled/3"].holds is False
    )
    # contrast has no gap to share
    assert rows["share_of_streams/shuffled/3"].value == pytest.approx(0.5)
    assert (
        rows["lead/shuffled/3"].value == pytest.approx(0.0375)
        and rows["lead/shuffled/3"].holds
        and rows["lead/shuffled/3"].unit == "accuracy over TENT"
    )
    assert losses(results, OURS) == {
        "shuffled/fog/3": [pytest.approx(-0.2)],
        "shuffled/contrast/3": [pytest.approx(0.015)],
    }
    worst = {row.name: row for row in loss_rows(results, judged=True)[0]}
    assert worst["worst_loss/edgeadapt"] == Row(
        "worst_loss/edgeadapt",
        pytest.approx(0.015),
        "accuracy, shuffled/contrast/3",
        None,
        0.01,
        False,
    )
    assert worst["worst_loss/TENT"].target is None
    assert math.isclose(share_of_means(results, "LAME", "shuffled", 3), 0.75)


def test_the_suite_runs_on_what_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        shift,
        "QUICK",
        shift.replace(
            shift.QUICK,
            count=192,
            single=4,
            conditions=("brightness",),
            only=("batch statistics", "LAME"),
        ),
    )
    said: list[str] = []
    rows = {row.name: row for row in shift.run_shift(None, said.append, quick=True)}
    assert all(row.value is None or np.isfinite(row.value) for row in rows.values())
    acts = "adapt = act" in said[0]  # else the same bundle is shown against its card's advice
    assert rows["share/shuffled/3" if acts else "share_if_acting/shuffled/3"].value > 0.3 and all(
        row.target is None for row in rows.values()
    )  # type: ignore[operator]
    assert ("worst_loss/edgeadapt, made to act" in rows) is not acts
    assert rows["worst_loss/edgeadapt"].value <= 0.05 < rows["worst_loss/batch statistics"].value  # type: ignore[operator]
    assert (
        0.5 < rows["time_between_refreshes"].value < 2 and rows["time/batch statistics"].value > 0.1
    )
    assert {"rate_1x/edgeadapt", "rate_4x_else_frozen/batch statistics"} <= set(rows)


@pytest.mark.slow
def test_members_stand_beside_each_other_and_one_that_cannot_says_why(
    dataset: ShiftDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edgeadapt.host.methods.label_free.adaptations.NAMES",
        ("norm_statistics", "feature_shift", "no_such_method"),
    )
    said: list[str] = []
    rows = {
        row.name: row for row in member_rows(dataset, (0,), 256, ("brightness",), (3,), said.append)
    }
    assert (
        rows["accuracy/no_such_method"].value is None
        and "adapt is one of" in rows["accuracy/no_such_method"].unit
    )
    ours = rows["accuracy/shuffled/3/norm_statistics"]
    slow = rows["accuracy/shuffled/3/feature_shift"]
    assert ours.value > slow.value and ours.baseline == slow.baseline  # type: ignore[operator]
    assert (
        rows["refresh_ms/norm_statistics"].value > 0
        and rows["worst_loss/feature_shift"].value < 0.05
    )  # type: ignore[operator]


def test_a_setting_is_won_by_two_standard_errors_over_every_rival() -> None:
    names = {
        "norm_statistics": 0.5,
        "feature_shift": 0.4,
        "hebbian_a": 0.6,
        "hebbian_b": 0.51,
        FROZEN: 0.4,
    }
    found = [
        Result(
            name, "shuffled", "fog", 3, 0, np.random.default_rng(k).permutation(1000) < 1000 * value
        )
        for k, (name, value) in enumerate(names.items())
    ]
    said: list[str] = []
    rows = {
        row.name: row.value
        for row in hebbian_rows(
            Results(found),
            ["norm_statistics", "feature_shift", "hebbian_a", "hebbian_b"],
            said.append,
        )
    }
    assert (
        rows == {"settings_won/hebbian_a": 1.0, "settings_won/hebbian_b": 0.0}
        and "it found none" in said[1]
    )


def test_the_picture_has_both_orders(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = [
        r
        for kind in ("shuffled", "sorted")
        for c in ("fog", "contrast")
        for r in made_up({FROZEN: 0.4, OURS: 0.7, ORACLE: 0.8, "TENT": 0.5}, kind=kind, condition=c)
    ]
    path = draw(tmp_path / "deep" / "shift.png", Results(found), 3, ["TENT"])
    assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 20_000


def test_the_suite_is_listed_with_its_options() -> None:
    assert {"quick", "members", "foreign"} <= set(suites.SUITES["shift"].options)
    with pytest.raises(InputError, match="it has: --quick, --members, --foreign"):
        suites.run("shift", options=("peers",))
