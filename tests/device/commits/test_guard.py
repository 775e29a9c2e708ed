"""Was it good? Exact tails, and real batches of honest and false labels."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import numpy as np
import pytest
from edgeadapt_bench.labels.guard_power import verdict_of
from learner_steps import Opener
from sample_images import KNOWN, NEW, images, wrong

from edgeadapt.bundle.schema import GuardPolicy
from edgeadapt.device.commits.factory_samples import FactorySamples
from edgeadapt.device.commits.guard import bound_problem, cumulative_loss, judge, out_of_bounds
from edgeadapt.device.detection.domain_router import open_domain
from edgeadapt.device.numerics.statistics import sign_test, upper_tail
from edgeadapt.testing import inspect_state


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (0, 0, 1.0),
        (0, 1, 0.5),
        (1, 0, 1.0),
        (0, 5, 1 / 32),
        (1, 9, 11 / 1024),
        (5, 5, 638 / 1024),
        (0, 400, 2.0**-400),
    ],
)
def test_the_sign_test_is_exact(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_the_upper_tail_is_the_binomial_one(count: int) -> None:
    exact = sum(comb(10, k) * 0.1**k * 0.9 ** (10 - k) for k in range(count, 11))
    assert upper_tail(count, 10, 0.1) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("count", [0, 1, 40, 64])
def test_the_tails_hold_for_the_largest_batches_and_guard_sets(count: int) -> None:
    assert 0.0 <= upper_tail(count, 64, 0.1) <= 1.0 + 1e-9
    assert 0.0 <= sign_test(count, 1000) <= 1.0


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.nan, "not finite"),
        (np.inf, "not finite"),
        (-np.inf, "not finite"),
        (-11.0, "reaches 11, its bound is 10"),
        (10.0, ""),
    ],
)
def test_a_tensor_out_of_bounds_is_named(value: float, told: str) -> None:
    problem = bound_problem("ridge.gram", np.array([0.0, value], np.float32), 10.0)
    assert told in problem and bool(problem) == bool(told)


def test_a_candidate_that_is_not_finite_or_too_large_is_vetoed_whatever_its_accuracy(
    opened: Opener,
) -> None:
    learner = opened()
    live, program = inspect_state(learner).state, inspect_state(learner).program
    for value in (np.nan, 1e30):
        gram = program.runtime.upload({"ridge.gram": np.full((97, 97), value, np.float32)})
        candidate = replace(live, tensors=gram.over(live.tensors))
        assert out_of_bounds(program, candidate).startswith("ridge.gram ")
        assert not judge(program, live, candidate, [], GuardPolicy()).passed
    assert judge(program, live, live, [], GuardPolicy()).passed


@pytest.mark.parametrize("name", ["head.weight", "head.mean", "mean.moment"])
def test_one_value_that_is_not_finite_is_found_in_evidence_and_in_what_is_derived_from_it(
    opened: Opener, name: str
) -> None:
    learner = opened()
    live, program = inspect_state(learner).state, inspect_state(learner).program
    value = program.runtime.download(live.tensors, [name])[name].copy()
    value.flat[7] = np.inf
    candidate = replace(live, tensors=program.runtime.upload({name: value}).over(live.tensors))
    assert (
        judge(program, live, candidate, [], GuardPolicy()).why
        == f"{name} has values that are not finite"
    )
    assert out_of_bounds(program, live, live) == "" and out_of_bounds(program, live) == ""


def test_a_condition_whose_correction_is_not_finite_is_vetoed_with_its_name(opened: Opener) -> None:
    learner = opened()
    program = inspect_state(learner).program
    memory, domain = open_domain(inspect_state(learner).state, program, 4)
    values = program.runtime.download(domain.tensors)
    name = sorted(values)[0]
    broken = {**values, name: np.full_like(values[name], np.nan)}
    candidate = memory.with_domain(replace(domain, tensors=program.runtime.upload(broken)))
    assert judge(program, memory, memory, [], GuardPolicy()).passed
    assert (
        judge(program, memory, candidate, [], GuardPolicy()).why
        == f"{name} of {domain.name} has values that are not finite"
    )


@pytest.mark.parametrize(("loss", "churn", "at_most"), [(0.0, 0.03, 0.05), (0.01, 0.03, 0.2)])
def test_a_change_that_costs_no_more_than_the_margin_is_hardly_ever_vetoed(
    loss: float, churn: float, at_most: float
) -> None:
    rng = np.random.default_rng(0)
    vetoes = [verdict_of(300, loss, churn, rng) for _ in range(400)]
    assert np.mean(vetoes) <= at_most


@pytest.mark.parametrize(
    ("count", "loss", "at_least"),
    [(300, 0.05, 0.8), (300, 0.1, 0.99), (64, 0.2, 0.9), (20, 0.5, 0.9)],
)
def test_a_loss_is_seen_on_as_many_samples_as_it_takes(
    count: int, loss: float, at_least: float
) -> None:
    rng = np.random.default_rng(1)
    assert np.mean([verdict_of(count, loss, 0.02, rng) for _ in range(400)]) >= at_least


def test_a_series_of_losses_each_too_small_for_the_paired_test_is_stopped_before_it_adds_up(
    opened: Opener,
) -> None:
    learner = opened()
    origin, program = inspect_state(learner).state, inspect_state(learner).program
    (factory,) = FactorySamples(inspect_state(learner).program).sets(origin)
    weight = program.runtime.download(origin.tensors, ["head.weight"])["head.weight"]
    worse = np.roll(weight, 1, axis=1) - weight
    live, stopped = origin, ""
    for step in range(1, 200):
        moved = program.runtime.upload(
            {"head.weight": (weight + 0.005 * step * worse).astype(np.float32)}
        )
        candidate = replace(origin, tensors=moved.over(origin.tensors))
        assert judge(program, live, candidate, [factory], GuardPolicy()).passed
        stopped = cumulative_loss(program, origin, live, candidate, [factory], GuardPolicy())
        if stopped:
            break
        live = candidate
    assert "at the factory" in stopped
    assert factory.correct(program, origin).mean() - factory.correct(program, live).mean() <= 0.06
    # the way back up is free
    assert not cumulative_loss(program, origin, candidate, live, [factory], GuardPolicy())


def test_a_candidate_must_lose_by_margin_and_by_significance_to_be_vetoed(opened: Opener) -> None:
    learner = opened()
    live, program = inspect_state(learner).state, inspect_state(learner).program
    (factory,) = FactorySamples(inspect_state(learner).program).sets(live)
    assert len(factory.y) == 300 and factory.correct(program, live).mean() > 0.9
    swapped = program.runtime.upload(
        {
            "head.weight": np.roll(
                program.runtime.download(live.tensors, ["head.weight"])["head.weight"], 1, axis=1
            )
        }
    )
    candidate = replace(live, tensors=swapped.over(live.tensors))
    verdict = judge(program, live, candidate, [factory], GuardPolicy())
    assert (
        verdict.why.startswith("factory samples: accuracy 0.9") and "on 300 samples" in verdict.why
    )
    assert judge(program, live, candidate, [factory], GuardPolicy(margin=1.0)).passed
    assert judge(program, live, candidate, [factory], GuardPolicy(significance=0.0)).passed


def test_64_labels_of_one_source_80_percent_wrong_never_get_in_while_95_percent_of_clean_batches_do(
    opened: Opener,
) -> None:
    honest, poison = [], []
    for seed in range(6):
        learner = opened()
        for number in range(6):
            x, names = images(32, seed=1000 + 10 * seed + number)
            learner.learn(x, names, source="honest")
            learner.settle()
            honest.append(learner.history()[0].outcome)
        judged, _ = images(600, seed=seed)
        before = learner.predict(judged).probs
        x, names = images(64, seed=2000 + seed)
        lie = np.random.default_rng(seed).permutation(64) < 51
        learner.learn(
            x,
            [
                w if is_lie else n
                for w, n, is_lie in zip(wrong(names, seed), names, lie, strict=True)
            ],
            source="liar",
        )
        learner.settle()
        poison.append(learner.history()[0].outcome)
        np.testing.assert_array_equal(learner.predict(judged).probs, before)
    assert set(poison) <= {"vetoed", "held"}
    assert honest.count("learned") >= 0.95 * len(honest)


def test_at_least_95_percent_of_honest_batches_pass_new_classes_and_conditions_included(
    opened: Opener,
) -> None:
    outcomes = []
    for seed in range(2):
        learner = opened()
        for name in NEW:
            learner.add_class(name)
        for number in range(30):
            condition = ("clean", "clean", "fog", "contrast")[number % 4]
            x, names = images(
                16,
                classes=KNOWN if number % 3 else NEW,
                seed=100 * seed + number,
                condition=condition,
            )
            learner.learn(x, names, source="honest")
            learner.settle()
            outcomes.append(learner.history()[0].outcome)
    assert np.mean([outcome == "learned" for outcome in outcomes]) >= 0.95
