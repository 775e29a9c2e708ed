"""Is learning here worth more than a logistic regression refitted on the same features and labels?

``run_transfer`` is the suite; ``tasks`` says what is tried, ``refit_baselines`` what it is compared
with, ``choice`` how those are chosen, ``judgement`` what has to hold.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.harness.measure import Row, Say, absent
from edgeadapt_bench.transfer.emoji import emoji
from edgeadapt_bench.transfer.gray_images import digits, inspection
from edgeadapt_bench.transfer.judgement import bar_of, is_judged, rows_of, tables
from edgeadapt_bench.transfer.learner import Bundles
from edgeadapt_bench.transfer.raw_features import letters, smartwatch
from edgeadapt_bench.transfer.refit_baselines import require_sklearn
from edgeadapt_bench.transfer.small import small
from edgeadapt_bench.transfer.stream_learners import installed
from edgeadapt_bench.transfer.tasks import Measured, measure
from edgeadapt_bench.transfer.transfers import Transfer

SEEDS = (0, 1, 2)
Family = Callable[[int, bool, Say], Iterator[Transfer]]
FAMILIES: dict[str, Family] = {
    "smartwatch": smartwatch,
    "letters": letters,
    "emoji": emoji,
    "digits": digits,
    "inspection": inspection,
}
"""Name -> transfers of one data set: ``(seed, is_twin, say)``."""
QUICK: dict[str, Family] = {"small": small}


def run_transfer(
    data: str | None,
    say: Say,
    quick: bool = False,
    validation: bool = False,
    *,
    seeds: tuple[int, ...] | None = None,
    families: tuple[str, ...] | None = None,
) -> list[Row]:
    """Transfers from a factory to a field, beside what a user could pick instead.

    Args:
        data: unused: the data sets are read from where ``edgeadapt data fetch`` puts them.
        quick: two small transfers and one seed, which need nothing but the package and
            scikit-learn; no row is judged.
        validation: the twins, for choosing settings: nothing of what the reported transfers judge
            is in them.
        seeds, families: fewer than all, for a look.

    Raises:
        RuntimeUnavailable: scikit-learn, or what exports a bundle, is not installed.
    """
    require_sklearn()
    here, missing = installed()
    for name, reason in missing.items():
        say(f"transfer: {name} is skipped: {reason}")
    chosen = QUICK if quick else {name: FAMILIES[name] for name in families or FAMILIES}
    found: list[Measured] = []
    absences: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory(prefix="edgeadapt-transfer-") as folder,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", module="sklearn")  # classes with fewer rows than folds
        for seed in seeds or (SEEDS[:1] if quick else SEEDS):
            bundles = Bundles(Path(folder), stress=False if quick else "short")
            for name, family in chosen.items():
                if name in absences:
                    continue
                try:
                    transfers = list(family(seed, validation, say))
                except (InputError, RuntimeUnavailable) as error:
                    absences[name] = str(error)
                    say(f"transfer: {name} is skipped: {error}")
                    continue
                found += [_measured(transfer, bundles, seed, here, say) for transfer in transfers]
    rows = [absent(f"transfers/{name}", reason) for name, reason in absences.items()]
    if not found:
        return rows
    for line in tables(found):
        say(line)
    return rows + rows_of(found, quick)


def _measured(
    transfer: Transfer, bundles: Bundles, seed: int, streaming: list[str], say: Say
) -> Measured:
    started = time.perf_counter()
    bundle = bundles.of(transfer)
    exported = time.perf_counter() - started
    found = measure(transfer, bundle, seed, streaming)
    found.seconds["export"] = exported
    bars = ", ".join(
        f"{task} {100 * who['learner']:.1f} ({100 * who[bar_of(task)[0]]:.1f})"
        for task, who in found.accuracy.items()
        if is_judged(task)
    )
    took = sum(found.seconds.values())
    say(f"{transfer.name}, seed {seed}, {took:.0f} s: {transfer.source}: {bars}")
    return found
