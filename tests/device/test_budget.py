"""What learning may cost: a clock that the test turns."""

from __future__ import annotations

import pytest
from clothes import BATCH, Opener, images, watch

from edgeadapt.device.budget import Budget, Meter
from edgeadapt.errors import BudgetError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def meter(busy_fraction: float = 0.2, window_s: float = 10.0) -> tuple[Meter, Clock]:
    clock = Clock()
    return Meter(Budget(busy_fraction=busy_fraction, window_s=window_s), clock), clock


@pytest.mark.parametrize("settings", [{"busy_fraction": 0.0}, {"busy_fraction": 1.1}, {"busy_fraction": -1}, {"memory_mib": 0}, {"window_s": 0}], ids=str)
def test_a_budget_that_makes_no_sense_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(BudgetError, match="got"):
        Budget(**settings)


def test_memory_that_fits_passes_and_what_does_not_is_refused_with_the_numbers() -> None:
    budget = Budget(memory_mib=3)
    budget.require_memory({"frozen": 2 << 20, "evidence": 1 << 20})
    with pytest.raises(BudgetError, match=r"declares 3\.5 MiB \(frozen 2\.0, evidence 1\.5\) and memory_mib is 3"):
        budget.require_memory({"evidence": 3 << 19, "frozen": 2 << 20})


def test_work_waits_when_its_share_of_the_window_is_used_and_goes_on_later() -> None:
    m, clock = meter()
    assert m.may_start("adapt")  # nothing is known yet
    for _ in range(4):
        m.record("adapt", 0.5)
    assert not m.may_start("adapt") and m.deferred == 1
    clock.now = 10.0
    assert not m.may_start("adapt")
    clock.now = 10.1
    assert m.may_start("adapt") and m.deferred == 2


def test_every_kind_of_work_fills_the_window_and_each_is_judged_by_its_own_cost() -> None:
    m, _ = meter()
    m.record("learn", 1.4)
    m.record("adapt", 0.1)
    assert m.may_start("adapt")
    assert not m.may_start("learn")


def test_the_cost_is_the_95th_percentile_of_the_last_50() -> None:
    m, _ = meter()
    assert m.cost("adapt") == 0.0
    for i in range(200):
        m.record("adapt", i / 1000)
    assert m.cost("adapt") == pytest.approx((150 + int(0.95 * 50)) / 1000)


def test_an_overrun_is_counted() -> None:
    m, _ = meter()
    for seconds in (0.1, 0.1, 0.19, 0.5):
        m.record("adapt", seconds)
    assert m.overruns == 1


def test_without_a_limit_everything_may_start() -> None:
    m, _ = meter(busy_fraction=1.0)
    m.record("adapt", 100.0)
    assert m.may_start("adapt") and m.deferred == 0


@pytest.mark.parametrize("busy_fraction", [0.2, 1.0])
def test_a_meter_that_is_never_asked_does_not_grow(busy_fraction: float) -> None:
    m, clock = meter(busy_fraction)
    for _ in range(10_000):
        clock.now += 0.1
        m.record("learn", 0.01)
    assert len(m._spans) <= 102


def test_a_tight_budget_defers_adaptation_and_labels_are_learned_regardless(opened: Opener) -> None:
    learner = opened(budget=Budget(busy_fraction=1e-5, window_s=600.0))
    x, names = images(8 * BATCH, condition="fog")
    watch(learner, x)
    learner.learn(x, names)
    learner.settle()
    assert learner.counters()["deferred"] > 0 and learner.counters()["refreshes"] <= 1
    assert sum(learner.counters()["evidence"].values()) == len(x) and "received" not in learner.counters()["evidence"]
