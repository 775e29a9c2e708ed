"""Transfers that need nothing but the package: drawn classes that move, and the shipped images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeadapt_bench.datasets.small_pools import drawn_like, shipped_pool
from edgeadapt_bench.harness.measure import Say
from edgeadapt_bench.transfer.transfers import Part, Transfer, capped

PER_CLASS, STREAM, TEST = 30, 128, 300
_KNOWN = 6


def small(seed: int, is_twin: bool, say: Say) -> Iterator[Transfer]:
    """One drawn transfer with a shift and one of real images without one, both with new classes.

    The twin's rows are the pools' training rows alone.
    """
    for name, field in (("emoji", 2 if is_twin else 1), ("fashion", 0)):
        pool = shipped_pool() if name == "fashion" else drawn_like(name)
        rng = np.random.default_rng([seed, 6, int(is_twin)])
        count, offset = len(pool.classes), len(pool.y)
        known = min(_KNOWN, count - 2)
        trained = Part(pool.z, pool.y, np.arange(offset))
        judged = Part(pool.test_z, pool.test_y, np.arange(len(pool.test_y)) + offset)
        group, judged_group = pool.group, pool.test_group
        rows = rng.permutation(offset)
        if is_twin:
            cut = offset * 2 // 3
            judged, judged_group = trained.rows(np.sort(rows[cut:])), group[np.sort(rows[cut:])]
            rows = rows[:cut]
        factory = rows[(trained.y[rows] < known) & (group[rows] == 0)]
        factory = capped(trained.y, factory[: len(factory) * 2 // 3], PER_CLASS, rng)
        there = rows[(group[rows] == field) & ~np.isin(rows, factory)]
        fresh = there[trained.y[there] >= known]
        if not len(fresh):  # the shipped sample has its new classes in the test part alone
            fresh = np.zeros(0, np.int64)
        is_known = judged.y < known
        unknown = np.flatnonzero(~is_known & (judged_group == field))
        yield Transfer(
            f"small-{name}",
            name,
            pool.source,
            pool.classes,
            known,
            factory=trained.rows(factory),
            stream=trained.rows(there[trained.y[there] < known][:STREAM]),
            test=judged.rows(np.flatnonzero(is_known & (judged_group == field))[:TEST]),
            clean=judged.rows(np.flatnonzero(is_known & (judged_group == 0))[:TEST]),
            new=trained.rows(fresh[:STREAM]) if len(fresh) else None,
            new_test=judged.rows(unknown[:TEST]) if len(fresh) else None,
        )
