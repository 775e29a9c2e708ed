"""What learning may cost: a clock that the test turns."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from learner_steps import BATCH, Opener, watch
from sample_images import images

from edgeadapt.device.detection.steadiness import WindowStats
from edgeadapt.device.resources import sensors
from edgeadapt.device.resources.budget import Budget, Meter
from edgeadapt.device.resources.sensors import SensorReadings
from edgeadapt.errors import BudgetError, InputWarning


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def meter(busy_fraction: float = 0.2, window_s: float = 10.0) -> tuple[Meter, Clock]:
    clock = Clock()
    return Meter(Budget(busy_fraction=busy_fraction, window_s=window_s), clock), clock


@pytest.mark.parametrize(
    "settings",
    [
        {"busy_fraction": 0.0},
        {"busy_fraction": 1.1},
        {"busy_fraction": -1},
        {"memory_mib": 0},
        {"window_s": 0},
    ],
    ids=str,
)
def test_a_budget_that_makes_no_sense_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(BudgetError, match="got"):
        Budget(**settings)


def test_memory_that_fits_passes_and_what_does_not_is_refused_with_the_numbers() -> None:
    budget = Budget(memory_mib=3)
    budget.require_memory({"frozen": 2 << 20, "evidence": 1 << 20})
    with pytest.raises(
        BudgetError, match=r"declares 3\.5 MiB \(frozen 2\.0, evidence 1\.5\) and memory_mib is 3"
    ):
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
    assert (
        sum(learner.counters()["evidence"].values()) == len(x)
        and "received" not in learner.counters()["evidence"]
    )


def test_a_kind_that_has_not_run_in_the_window_runs_once_whatever_else_there_is_to_do() -> None:
    m, clock = meter()
    for _ in range(5):
        clock.now += 1.0
        m.record("learn", 1.0)
    assert m.may_start("adapt")
    m.record("adapt", 0.1)
    assert not m.may_start("adapt")
    clock.now += 10.1
    m.record("learn", 5.0)
    assert m.may_start("adapt")


def test_work_inside_work_counts_once_and_a_failure_costs_what_it_took() -> None:
    spent = Clock()
    m = Meter(Budget(), Clock(), spent=spent)
    with pytest.raises(OSError), m.spending("sense"):
        spent.now += 0.25
        with m.spending("adapt"):
            spent.now += 1.0
            with m.spending("grow"):
                spent.now += 4.0
        spent.now += 0.25
        raise OSError
    assert (m.cost("sense"), m.cost("adapt"), m.cost("grow")) == (0.5, 1.0, 4.0)
    with m.spending("sense"):
        spent.now += 2.0
    assert m.cost("sense") == 2.0


def test_a_thread_that_waits_for_its_turn_spends_nothing() -> None:
    m = Meter(Budget())
    with m.spending("adapt"):
        time.sleep(0.2)
    assert m.cost("adapt") < 0.1


def test_a_stream_under_a_condition_is_sensed_as_its_share_allows_and_a_clean_one_always(
    opened: Opener,
) -> None:
    learner = opened(budget=Budget(busy_fraction=1e-5, window_s=600.0))
    x, _ = images(8 * BATCH, condition="fog")
    watch(learner, x)
    learner.settle()
    before = learner.counters()["deferred"]
    assert learner.domain() != "source" and before > 0, (
        "it took the first windows to notice, and the rest had no room"
    )
    x, _ = images(8 * BATCH)
    watch(learner, x, stream="clean")
    learner.settle()
    assert learner.counters()["deferred"] == before


# -- heat and power --------------------------------------------------------------------------------
class Thermometer:
    hottest_c: float | None = 50.0
    power_w: float | None = 8.0

    def __call__(self) -> SensorReadings:
        return SensorReadings(hottest_c=self.hottest_c, power_w=self.power_w)


@pytest.mark.parametrize(
    "settings", [{"temperature_c": 0}, {"temperature_c": float("nan")}, {"power_w": -1.0}], ids=str
)
def test_a_limit_of_heat_or_power_that_makes_no_sense_is_refused(
    settings: dict[str, float],
) -> None:
    with pytest.raises(BudgetError, match="or None, got"):
        Budget(**settings)


@pytest.mark.parametrize("busy_fraction", [0.2, 1.0])
def test_work_waits_while_it_is_too_hot_and_goes_on_three_degrees_below(
    busy_fraction: float,
) -> None:
    sensed = Thermometer()
    m = Meter(Budget(busy_fraction=busy_fraction, temperature_c=80.0), Clock(), sensed)
    heard = []
    for sensed.hottest_c in (79.0, 80.0, 80.1, 79.9, 77.1, 77.0, 79.9, 81.0):
        heard.append(m.may_start("adapt"))
    assert heard == [True, True, False, False, False, True, True, False]
    assert m.deferred == 4 and m.too_hot == "the hottest zone is above temperature_c = 80"


def test_work_waits_while_too_much_power_is_drawn_and_goes_on_five_percent_below() -> None:
    sensed = Thermometer()
    m = Meter(Budget(power_w=10.0), Clock(), sensed)
    heard = []
    for sensed.power_w in (10.0, 10.1, 9.6, 9.5, 10.0):
        heard.append(m.may_start("grow"))
    assert heard == [True, False, False, True, True] and m.too_hot == ""


def test_either_of_the_two_holds_work_back() -> None:
    sensed = Thermometer()
    m = Meter(Budget(temperature_c=80.0, power_w=10.0), Clock(), sensed)
    sensed.hottest_c, sensed.power_w = 90.0, 12.0
    assert not m.may_start("adapt") and m.too_hot.count(" is above ") == 2
    sensed.hottest_c = 50.0
    assert not m.may_start("adapt")
    sensed.power_w = 5.0
    assert m.may_start("adapt")


def test_a_limit_that_nothing_measures_is_said_once_and_holds_nothing_back() -> None:
    sensed = Thermometer()
    sensed.hottest_c = sensed.power_w = None
    with pytest.warns(InputWarning) as told:
        m = Meter(Budget(temperature_c=80.0, power_w=10.0), Clock(), sensed)
    assert ["temperature_c" in str(one.message) for one in told] == [True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(m.may_start("adapt") for _ in range(3))


def test_without_a_limit_nothing_is_measured() -> None:
    def fail() -> SensorReadings:
        raise AssertionError("measured")

    assert Meter(Budget(), Clock(), fail).may_start("adapt")


def thermal_zone(sys: Path, degrees: float) -> None:
    zone = sys / "class" / "thermal" / "thermal_zone0"
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "type").write_text("CPU-therm\n")
    (zone / "temp").write_text(f"{int(1000 * degrees)}\n")


def test_a_learner_that_is_too_hot_adapts_to_nothing_and_learns_labels(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "SYS", tmp_path)
    thermal_zone(tmp_path, 85.0)
    learner = opened(budget=Budget(busy_fraction=1.0, temperature_c=80.0))
    x, names = images(8 * BATCH, condition="fog")
    watch(learner, x)
    learner.learn(x[:BATCH], names[:BATCH])
    learner.settle()
    assert learner.counters()["deferred"] > 0 and learner.counters()["refreshes"] == 0
    assert (
        sum(learner.counters()["evidence"].values()) == BATCH
        and "received" not in learner.counters()["evidence"]
    )
    thermal_zone(tmp_path, 60.0)
    time.sleep(1.1)  # a reading is a second old at most
    watch(learner, x)
    assert learner.counters()["refreshes"] > 0


def test_opening_where_no_sensor_is_warns_the_caller_once(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "SYS", tmp_path)
    with pytest.warns(InputWarning, match="does not tell a temperature") as told:
        learner = opened(budget=Budget(busy_fraction=1.0, temperature_c=80.0))
    assert len(told) == 1 and Path(told[0].filename).name == "conftest.py"  # the fixture opens
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch(learner, images(8 * BATCH, condition="fog")[0])
    assert learner.counters()["refreshes"] > 0


def test_however_hot_it_is_a_stream_leaves_a_condition_that_is_over(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "SYS", tmp_path)
    thermal_zone(tmp_path, 60.0)
    learner = opened(budget=Budget(busy_fraction=1.0, temperature_c=80.0))
    watch(learner, images(12 * BATCH, condition="fog")[0])
    assert learner.domain() != "source" and learner.counters()["refreshes"] > 0
    thermal_zone(tmp_path, 95.0)
    time.sleep(1.1)  # a reading is a second old at most
    watch(learner, images(12 * BATCH)[0])
    assert learner.domain() == "source"


def test_however_little_it_may_spend_a_stream_leaves_a_condition_that_is_over(
    opened: Opener,
) -> None:
    """A window that is unlike the one that was looked at last is looked at whatever it costs, and
    so is every window until the stream is settled.
    """
    learner = opened(budget=Budget(busy_fraction=1e-5, window_s=600.0))
    watch(learner, images(12 * BATCH, condition="fog")[0])
    assert learner.domain() != "source" and learner.counters()["refreshes"] == 1
    before = learner.counters()["deferred"]
    watch(learner, images(8 * BATCH, condition="fog", seed=1)[0])
    assert learner.counters()["deferred"] > before and learner.domain() != "source"
    watch(learner, images(12 * BATCH)[0])
    assert learner.domain() == "source"


@pytest.mark.parametrize("what", ["distances", "scores"])
def test_windows_are_alike_under_one_correction_as_long_as_chance_explains_the_difference(
    what: str,
) -> None:
    rng, correction = np.random.default_rng(0), object()

    def look(moved: float = 0.0, under: object = correction) -> WindowStats:
        drawn = {
            name: rng.normal(1.0 + (moved if name == what else 0.0), 0.2, 32).astype(np.float32)
            for name in ("distances", "scores")
        }
        return WindowStats(under, **drawn)

    assert np.mean([look().same_distribution_as(look()) for _ in range(500)]) > 0.97
    assert not any(
        look(0.3).same_distribution_as(look()) or look(-0.3).same_distribution_as(look())
        for _ in range(50)
    )
    assert not look().same_distribution_as(look(under=object())) and not look(
        under=None
    ).same_distribution_as(look(under=None))
