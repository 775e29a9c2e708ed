"""Does the interval of what ten labels are expected to bring hold what they bring?

A bundle of every transfer meets its field: 96 samples are shown, then ten labels at a time are
taught, in random order, up to a hundred. Before each ten the learner says what it expects, and on
the transfer's test rows accuracy is measured before and after. Settings were chosen on the
``--validation`` twins; what is reported has other factory rows, other fields and other test rows.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from edgeadapt.bundle import Bundle
from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.results import ExpectedGain
from edgeadapt_bench.harness.measure import Row, Say, at_least, at_most
from edgeadapt_bench.transfer import FAMILIES, QUICK, SEEDS
from edgeadapt_bench.transfer.learner import FIELD, Bundles, answers, opened, teach
from edgeadapt_bench.transfer.transfers import Transfer

COVERED, LONGEST_S = 0.8, 0.3
_SHOWN, _BATCH, _STEPS = 96, 32, 10


@dataclass(frozen=True)
class Step:
    """Ten labels: what was expected, what came, and the seconds that the expectation took."""

    expected: ExpectedGain
    realised: float
    took_s: float

    @property
    def is_held(self) -> bool:
        return self.expected.low <= self.realised <= self.expected.high


def steps_of(transfer: Transfer, bundle: Bundle, draw: int, most: int = _STEPS) -> list[Step]:
    """One stream of a transfer; ``draw`` seeds the order of its rows."""
    order = np.random.default_rng([draw, len(transfer.stream)]).permutation(len(transfer.stream))
    found = []
    with opened(bundle) as learner:
        for start in range(0, _SHOWN, _BATCH):
            rows = order[start : start + _BATCH]
            learner.observe(features={"z": transfer.stream.z[rows]}, stream=FIELD)
            learner.settle()
        before = float(answers(learner, transfer.test, transfer.classes).mean())
        for number in range(min(most, len(order) // 10)):
            started = time.perf_counter()
            expected = learner.quality().gain
            took = time.perf_counter() - started
            rows = order[10 * number : 10 * number + 10]
            teach(learner, transfer.stream.z[rows], transfer.stream.y[rows], transfer.classes)
            after = float(answers(learner, transfer.test, transfer.classes).mean())
            found.append(Step(expected, after - before, took))
            before = after
    return found


def run_gain(
    data: str | None = None,
    say: Say = print,
    *,
    quick: bool = False,
    validation: bool = False,
    families: tuple[str, ...] | None = None,
    seeds: tuple[int, ...] = SEEDS,
    draws: int = 3,
) -> list[Row]:
    """Share of intervals that held, their width, and the error of the expectation.

    Args:
        data: unused. quick: the small transfers, one stream each; no row is judged.
        validation: the twins, for choosing settings. families, seeds: fewer than all, for a look.
        draws: streams of each transfer.
    """
    found: dict[str, list[Step]] = {}
    every_family = FAMILIES | QUICK
    chosen = QUICK if quick else {name: every_family[name] for name in families or every_family}
    with tempfile.TemporaryDirectory(prefix="edgeadapt-gain-") as folder:
        for seed, (name, family) in product(seeds[:1] if quick else seeds, chosen.items()):
            bundles = Bundles(Path(folder), stress=False)
            try:
                transfers = list(family(seed, validation, say))
            except (InputError, RuntimeUnavailable) as error:
                say(f"gain: {name} is skipped: {error}")
                continue
            for transfer, draw in product(transfers, range(1 if quick else draws)):
                steps = steps_of(transfer, bundles.of(transfer), draw)
                found.setdefault(name, []).extend(steps)
                held = np.mean([step.is_held for step in steps])
                say(f"gain: {transfer.name}, {seed}, order {draw}: {held:.2f} of {len(steps)} held")
    rows = [_coverage(f"held/{name}", steps, None) for name, steps in found.items()]
    every = [step for steps in found.values() for step in steps]
    if not every:
        return rows
    is_judged = not quick and not validation
    width = np.mean([step.expected.high - step.expected.low for step in every])
    missed = np.mean([abs(step.realised - step.expected.value) for step in every])
    size = np.mean([abs(step.realised) for step in every])
    longest = max(step.took_s for step in every)
    return [
        _coverage("held/all", every, COVERED if is_judged else None),
        *rows,
        at_most("width", float(width), "difference of accuracies", None),
        at_most("error", float(missed), "difference of accuracies", None, float(size)),
        at_most("longest", longest, "s", LONGEST_S if is_judged else None),
    ]


def _coverage(name: str, steps: list[Step], target: float | None) -> Row:
    held = float(np.mean([step.is_held for step in steps]))
    return at_least(name, held, "share of intervals", target)
