"""Rows of the daemon beside the bare loop: ratios by rounds, tails, work done, memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from edgeadapt_bench.harness.measure import Row, at_least, at_most, reported
from edgeadapt_bench.serving.player import Said

RATE_RATIO, P99_RATIO = 0.85, 1.5
GROWTH_MIB, GROWTH_SHARE = 16.0, 0.05  # after the warm-up; whichever is more
CAMERA_HZ, WARM_UP = 10.0, 1 / 3
_RATE_UNIT = "frames/s, background work included"
_LOOP_UNIT = "ms of CPU a frame, the thread that answers"
_CPU_UNIT = "ms of CPU a frame, all threads"


@dataclass(eq=False)
class Match:
    """Turns of both, and what the daemon had to say at the end."""

    bare: list[Said] = field(default_factory=list)
    daemon: list[Said] = field(default_factory=list)
    camera_bare: list[Said] = field(default_factory=list)
    camera_daemon: list[Said] = field(default_factory=list)
    told: Said = field(default_factory=dict)
    readings: int = 0  # of the metrics

    @property
    def is_measurement(self) -> bool:
        """Whether something was adapted and something learned."""
        return self.told["refreshes"] > 0 and self.told["commits"].get("learned", 0) > 0


def rows_of(end: str, found: Match, *, with_targets: bool) -> list[Row]:
    """Of one match; ``end`` says on what and where."""
    return [
        *full_speed_rows(end, found, with_targets),
        *camera_rows(end, found),
        *work_rows(end, found, with_targets),
    ]


def full_speed_rows(end: str, found: Match, with_targets: bool) -> list[Row]:
    """Rates and times between answers."""
    rates = [
        _rate(theirs) / _rate(bare) for theirs, bare in zip(found.daemon, found.bare, strict=True)
    ]
    tails = [
        _ms(theirs, 0.99) / _ms(bare, 0.99)
        for theirs, bare in zip(found.daemon, found.bare, strict=True)
    ]
    whole, bare = _together(found.daemon), _together(found.bare)
    rate = at_least(
        f"rate_ratio/{end}",
        _median(rates),
        f"x bare, {_range(rates)}",
        RATE_RATIO if with_targets else None,
        1.0,
    )
    tail = at_most(
        f"p99_ratio/{end}",
        _median(tails),
        f"x bare, {_range(tails)}",
        P99_RATIO if with_targets else None,
        1.0,
    )
    if with_targets and not found.is_measurement:
        rate, tail = _missed(rate), _missed(tail)
    rates_hz = [[_rate(said) for said in turns] for turns in (found.daemon, found.bare)]
    cpu = [said["loop_cpu"] for said in found.daemon]
    worked = sum(said["worked"] for said in found.daemon) / _seconds(found.daemon)
    return [
        rate,
        *reported(end, ("rate_hz", _median(rates_hz[0]), _RATE_UNIT, _median(rates_hz[1]))),
        tail,
        *reported(
            end,
            ("p50_ms", *_quantiles_ms(0.5, whole, bare, "ms an answer, all rounds")),
            ("p99_ms", *_quantiles_ms(0.99, whole, bare, "ms an answer, all rounds")),
            ("max_ms", 1e3 * whole.max(), "ms an answer", 1e3 * float(bare.max())),
            ("loop_cpu_ms", 1e3 * _median(cpu), _LOOP_UNIT, _bare_cpu_ms(found.bare)),
            ("cpu_ms", _cpu_ms(found.daemon), _CPU_UNIT, _cpu_ms(found.bare)),
            ("worker_share", worked, "of the time, adapting, learning, writing"),
            (
                "caught_up_s",
                _median([said["caught_up"] for said in found.daemon]),
                "s after the last answer of a turn",
            ),
        ),
    ]


def camera_rows(end: str, found: Match) -> list[Row]:
    """At a fixed rate of frames."""
    if not found.camera_daemon:
        return []
    theirs, bare = found.camera_daemon, found.camera_bare
    answers = _together(theirs), _together(bare)
    busy = [sum(said["cpu"] for said in turns) / _seconds(turns) for turns in (theirs, bare)]
    return reported(
        f"{end}/{CAMERA_HZ:.0f}_hz",
        ("busy", busy[0], "of a core", busy[1]),
        ("p50_ms", *_quantiles_ms(0.5, *answers, "ms an answer")),
        ("p99_ms", *_quantiles_ms(0.99, *answers, "ms an answer")),
    )


def work_rows(end: str, found: Match, with_targets: bool) -> list[Row]:
    """What was adapted and learned meanwhile, and how right both were under the conditions."""
    told, turns = found.told, found.daemon + found.camera_daemon
    floor = 1.0 if with_targets else None
    learned, evidence = told["commits"].get("learned", 0), told["evidence"]
    labels = evidence.get("learned", 0) + evidence.get("held_out", 0)
    dropped = sum(sink["dropped"] for sink in told["sinks"])
    lost = told["loop"]["refused"] + told["loop"]["failures"] + dropped
    bare = _right(found.bare + found.camera_bare)
    return [
        at_least(f"refreshes/{end}", float(told["refreshes"]), "corrections computed", floor),
        at_least(f"commits/{end}", float(learned), "commits of labels, learned", floor),
        *reported(
            end,
            ("labels", labels, "labels learned or held out"),
            ("questions", told["questions"], "questions answered"),
            ("conditions", told["conditions"], "conditions known at the end"),
            ("checkpoints", told["checkpoints"], "checkpoints, at least"),
            ("pauses", told["latency"]["pauses"], "times the worker waited for the answers"),
            ("deferred", told["deferred"], "times work was put off"),
            ("lost", lost, "frames or events without an answer"),
            ("accuracy", _right(turns), "right under a condition", bare),
            ("metrics_read", found.readings, "times"),
        ),
    ]


def memory_rows(
    end: str, mib: list[float], frames: int, told: Said, *, with_targets: bool
) -> list[Row]:
    """Growth after the warm-up: medians of the first and the last fifth of what follows it."""
    after = np.array(mib[int(WARM_UP * len(mib)) :])
    part = max(1, len(after) // 5)
    start, last = float(np.median(after[:part])), float(np.median(after[-part:]))
    bound = max(GROWTH_MIB, GROWTH_SHARE * start)
    name, unit = f"rss_growth_mib/{end}/{frames}", f"MiB after {WARM_UP * frames:.0f} frames"
    row = at_most(name, last - start, unit, bound if with_targets else None, start)
    if with_targets and not (told["refreshes"] and told["commits"].get("learned", 0)):
        row = _missed(row)
    slope = _slope(after) * 1e4 * len(mib) / frames
    return [
        row,
        *reported(
            f"{end}/{frames}",
            ("rss_slope_mib", slope, "MiB per 10,000 frames, after the warm-up"),
            ("rss_max_mib", max(mib), "MiB"),
            ("refreshes", told["refreshes"], "corrections computed"),
            ("commits", told["commits"].get("learned", 0), "commits of labels, learned"),
        ),
    ]


def _slope(values: np.ndarray) -> float:
    """A step, by least squares."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


def _missed(row: Row) -> Row:
    """A row whose target nothing can meet: without a correction and a label that was learned it
    says what idling costs.
    """
    return replace(
        row, unit=f"{row.unit}; not measured: nothing was adapted, or nothing learned", holds=False
    )


def _rate(said: Said) -> float:
    return len(said["answers"]) / (said["seconds"] + said.get("caught_up", 0.0))


def _ms(said: Said, share: float) -> float:
    return 1e3 * float(np.quantile(said["answers"], share))


def _seconds(turns: list[Said]) -> float:
    return float(sum(said["seconds"] + said.get("caught_up", 0.0) for said in turns))


def _together(turns: list[Said]) -> np.ndarray:
    return np.concatenate([said["answers"] for said in turns])


def _quantiles_ms(
    share: float, theirs: np.ndarray, bare: np.ndarray, unit: str
) -> tuple[float, str, float]:
    return 1e3 * float(np.quantile(theirs, share)), unit, 1e3 * float(np.quantile(bare, share))


def _cpu_ms(turns: list[Said]) -> float:
    return 1e3 * sum(said["cpu"] for said in turns) / len(_together(turns))


def _bare_cpu_ms(turns: list[Said]) -> float:
    return _median([1e3 * said["cpu"] / len(said["answers"]) for said in turns])


def _right(turns: list[Said]) -> float:
    return sum(said["right"] for said in turns) / max(1, sum(said["shifted"] for said in turns))


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"
