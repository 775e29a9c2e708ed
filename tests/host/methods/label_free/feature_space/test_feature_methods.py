"""Label-free methods behind the encoder: corrections of features, answers adjusted by prototypes,
answers of a batch smoothed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from edgeadapt.bundle import Bundle
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.host import Identity, export
from edgeadapt.host.contracts import Dims
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.label_free.adaptations import FEATURE_SPACE
from edgeadapt.host.methods.label_free.feature_space.adjusted_prototypes import AdjustedPrototypes
from edgeadapt.host.methods.label_free.feature_space.feature_shift import FeatureShift
from edgeadapt.host.methods.label_free.feature_space.hebbian_prototypes import HebbianPrototypes
from edgeadapt.host.methods.label_free.feature_space.lame import Lame
from edgeadapt.host.methods.label_free.feature_space.mean_std import MeanStd
from edgeadapt.host.methods.label_free.feature_space.prototypes import source_prototypes
from edgeadapt.testing import check_method
from edgeadapt.testing._correction_checks import check_adjust
from edgeadapt.testing._subject import Subject
from edgeadapt.testing._toy import Rows, Toy

SHARPNESS = 10.0
DIMS = Dims(24, 0, 7)
CORRECTING = (FeatureShift(), MeanStd())
ADJUSTING = (AdjustedPrototypes(Ridge(), SHARPNESS), HebbianPrototypes(Ridge(), SHARPNESS))


def by_name(method: Any) -> str:
    return str(method.name)


def subject_of(method: Any) -> Subject:
    return Subject.of(method, DIMS)


def adapted(subject: Subject, z: Tensor, times: int = 1) -> dict[str, Tensor]:
    state = subject.state
    for _ in range(times):
        state = {**state, **subject.method.adapt(state, z, torch.ones(len(z)))[1]}
    return state


@pytest.mark.slow  # test_methods.py checks the same at the usual sizes every time
@pytest.mark.parametrize("method", [*CORRECTING, *ADJUSTING, Lame(SHARPNESS)], ids=by_name)
def test_promises_hold_at_other_sizes_and_without_taps(method: Any) -> None:
    check_method(method, features=12, taps=0, slots=9)


@pytest.mark.parametrize("method", [*CORRECTING, *ADJUSTING], ids=by_name)
def test_the_order_of_a_batch_does_not_matter(method: Any) -> None:
    subject = subject_of(method)
    z = subject.toy.shifted(subject.toy.rows(1, 12)).z
    other = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(2))]
    one, two = adapted(subject, z, 2), adapted(subject, other, 2)
    for spec in method.tensors(DIMS):
        torch.testing.assert_close(one[spec.name], two[spec.name], rtol=1e-4, atol=1e-4)


# -- corrections of features -----------------------------------------------------------------------
def test_mean_and_deviation_are_those_of_everything_met_so_far() -> None:
    """One refresh at full rate and a second at half of it weigh their batches equally, means and
    the spread between them included.
    """
    subject, toy = subject_of(MeanStd(rate=1.0)), Toy(DIMS)
    first, second = toy.rows(3, 8).z, 3.0 + 2.0 * toy.rows(4, 8).z
    state = adapted(subject, first)
    state |= MeanStd(rate=0.5 / len(second)).adapt(state, second, torch.ones(len(second)))[1]
    both = torch.cat([first, second])
    torch.testing.assert_close(state["correct.mean"], both.mean(dim=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        state["correct.variance"], both.var(dim=0, correction=0), rtol=1e-4, atol=1e-4
    )


def test_mean_std_undoes_a_change_of_scale_that_a_shift_cannot() -> None:
    left = {}
    for method in (FeatureShift(rate=1.0), MeanStd(rate=1.0)):
        subject = subject_of(method)
        clean = subject.toy.rows(5, 60).z
        squeezed = 0.5 * clean + 1.0
        left[method.name] = float(
            (method.correct(adapted(subject, squeezed), squeezed) - clean).square().mean()
        )
    assert left["mean_std"] < 0.1 * left["feature_shift"]


def test_a_column_that_is_dead_under_a_condition_is_not_blown_up() -> None:
    method = MeanStd(rate=1.0, largest=4.0)
    subject = subject_of(method)
    z = subject.toy.rows(6, 20).z.clone()
    z[:, 3] = 7.0
    state = adapted(subject, z)
    probe = z.clone()
    probe[:, 3] += 1.0
    moved = method.correct(state, probe) - method.correct(state, z)
    assert torch.allclose(moved[:, 3], torch.full((len(z),), 4.0), atol=1e-3)
    assert bool(method.correct(state, z).isfinite().all())


# -- answers adjusted by prototypes ----------------------------------------------------------------
def turned(toy: Toy, rows: Rows) -> Rows:
    """Every class moved in a direction of its own."""
    away = torch.randn(
        toy.dims.slots, toy.dims.features, generator=torch.Generator().manual_seed(9)
    )
    return Rows(rows.z + 3.0 * (away / away.norm(dim=1, keepdim=True))[rows.y], rows.taps, rows.y)


@pytest.mark.parametrize("method", ADJUSTING, ids=by_name)
def test_answers_move_only_by_what_the_prototypes_moved_and_unused_slots_stay_unused(
    method: Any,
) -> None:
    subject = subject_of(method)
    check_adjust(subject)
    z = turned(subject.toy, subject.toy.rows(7, 20)).z
    state = adapted(subject, z, 3)
    logits = subject.logits(state, z)
    answers = method.adjust(state, z, logits)
    assert float((answers - logits)[:, list(subject.toy.known)].abs().max()) > 0.01
    for slot in (subject.toy.novel, subject.toy.unused):
        assert torch.equal(answers[:, slot], logits[:, slot])


def test_t3a_keeps_the_most_certain_samples_of_each_class_and_each_once() -> None:
    method = AdjustedPrototypes(Ridge(), SHARPNESS, supports=3)
    subject = subject_of(method)
    rows = subject.toy.rows(8, 10)
    once, twice = adapted(subject, rows.z), adapted(subject, rows.z, 2)
    torch.testing.assert_close(once["t3a.entropy"], twice["t3a.entropy"])
    logits = subject.logits(subject.state, rows.z)
    entropy = torch.distributions.Categorical(logits=SHARPNESS * logits).entropy()
    for slot in subject.toy.known:
        own = entropy[logits.argmax(dim=1) == slot].sort().values[:3]
        torch.testing.assert_close(once["t3a.entropy"][slot, : len(own)], own, rtol=1e-3, atol=1e-5)
        lengths = once["t3a.support"][slot].norm(dim=1)
        assert torch.allclose(lengths[: len(own)], torch.ones(len(own)), atol=1e-5)
    assert not bool(once["t3a.support"][subject.toy.unused].any())


def test_hebbian_prototypes_turn_and_keep_their_length() -> None:
    """Oja's term alone pulls lengths to 1; here they have that length and keep it, however often
    the rule runs.
    """
    method = HebbianPrototypes(Ridge(), SHARPNESS, rate=1.0, anchor=0.0)
    subject = subject_of(method)
    source = source_prototypes(subject.state, subject.state["hebbian.centre"])
    state = adapted(subject, turned(subject.toy, subject.toy.rows(10, 20)).z, 30)
    known = list(subject.toy.known)
    lengths = (source + state["hebbian.offset"])[known].norm(dim=1)
    assert torch.allclose(lengths, torch.ones(len(known)), atol=1e-4)
    assert float(state["hebbian.offset"][known].norm(dim=1).min()) > 0.1


def test_an_unsure_sample_teaches_hebbian_prototypes_nothing() -> None:
    method = HebbianPrototypes(Ridge(), SHARPNESS)
    subject = subject_of(method)
    between = subject.toy.rows(11, 1).z.mean(dim=0, keepdim=True).expand(8, -1)
    outputs, new = method.adapt(subject.state, between, torch.ones(8))
    assert not bool(outputs["used"].any())
    assert torch.equal(new["hebbian.offset"], subject.state["hebbian.offset"])


def test_the_anchor_brings_hebbian_prototypes_back() -> None:
    far = {}
    for anchor in (0.0, 0.2, 1.0):
        subject = subject_of(HebbianPrototypes(Ridge(), SHARPNESS, anchor=anchor))
        far[anchor] = float(
            adapted(subject, turned(subject.toy, subject.toy.rows(12, 20)).z, 20)[
                "hebbian.offset"
            ].norm()
        )
    assert far[0.0] > 1.2 * far[0.2] > 0.0 and far[1.0] < 1e-3


# -- answers of a batch ----------------------------------------------------------------------------
def test_lame_does_not_care_about_the_order_of_a_batch() -> None:
    method, toy = Lame(SHARPNESS), Toy(DIMS)
    subject = subject_of(method)
    rows = toy.rows(13, 10)
    logits = subject.logits(subject.state, rows.z)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    one = method.smooth(subject.state, rows.z, logits, rows.ones)[order]
    torch.testing.assert_close(
        one,
        method.smooth(subject.state, rows.z[order], logits[order], rows.ones),
        rtol=1e-4,
        atol=1e-4,
    )


def test_lame_changes_no_answer_by_more_than_its_neighbours_weigh() -> None:
    method = Lame(SHARPNESS, neighbours=5.0)
    subject = subject_of(method)
    rows = subject.toy.rows(14, 10)
    logits = subject.logits(subject.state, rows.z)
    moved = SHARPNESS * (method.smooth(subject.state, rows.z, logits, rows.ones) - logits)
    assert float(moved.min()) >= -1e-3 and float(moved.max()) <= 5.0 + 1e-3
    torch.testing.assert_close(
        moved.sum(dim=1), torch.full((len(rows),), 5.0), rtol=1e-3, atol=1e-3
    )


# -- in a bundle, on a device ----------------------------------------------------------------------
KNOWN = tuple("abcdef")


def features(count: int, seed: int, condition: str = "clean") -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(5).standard_normal((20, 20)))[0]
    means, away, moved = basis[:6], basis[6:12], basis[12]
    y = rng.integers(0, 6, count)
    z = 3.0 * means[y] + 0.8 * rng.standard_normal((count, 20))
    if condition == "shifted":
        z = 0.6 * z + 4.0 * moved - 1.5 * means[0]
    if condition == "turned":
        z = 0.5 * z + 2.0 * away[y] - 1.0 * means[0]
    return z.astype(np.float32), y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("feature_shift", "shifted"),
        ("mean_std", "shifted"),
        ("t3a", "turned"),
        ("hebbian_prototypes", "turned"),
    ],
)
def test_in_a_bundle_it_acts_under_a_shift_and_answers_become_better(
    tmp_path: Path, name: str, condition: str
) -> None:
    assert name in FEATURE_SPACE
    bundle = export(
        tmp_path / "a.edge",
        Identity(20),
        features(900, 1),
        KNOWN,
        adapt=name,
        stress=False,
        novelty="cosine",
        random_features=0,
    )
    policy = bundle.manifest.policy
    policy = msgspec.structs.replace(
        policy, adapt=msgspec.structs.replace(policy.adapt, mode="act")
    )
    acting: Bundle = dataclasses.replace(
        bundle, manifest=msgspec.structs.replace(bundle.manifest, policy=policy)
    )
    z, y = features(1600, 2, condition)
    truth = np.array(KNOWN)[y]
    with open_learner(acting, budget=Budget(busy_fraction=1.0)) as learner:
        alone = np.array(learner.predict(z).labels) == truth
        said: list[str] = []
        for start in range(0, len(z), 32):
            said += learner.observe(z[start : start + 32]).prediction.labels
            learner.settle()
        assert learner.counters()["refreshes"] >= 5
    late = slice(800, None)
    assert (np.array(said) == truth)[late].mean() > alone[late].mean() + 0.03
