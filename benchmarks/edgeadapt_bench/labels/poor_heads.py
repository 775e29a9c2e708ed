"""Honest labels where the factory's head is poor: another style of the same things, two classes,
classes that mean something else.

Features of a pretrained encoder; the bundle is exported from one style in the run. Beside each
stream its label noise: labels that mean nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.learner import Learner
from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.datasets.image_dataset import Say, bar, open_quick
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.datasets.pools import load_pool
from edgeadapt_bench.harness.measure import Row

HOME = 0  # the style that the factory saw
CLASSES = 8  # the largest of the pool; a bundle needs ten samples of each
SIZES = (16, 65)  # labels in a batch, from and to (excluded)
BATCHES = 6
ACCEPTED = 0.95


@dataclass(frozen=True, eq=False)
class Stream:
    """Labelled features (N, D) of one place, no two of them equal."""

    z: NDArray[np.float32]
    names: NDArray[np.str_]

    def of(self, rows: NDArray[np.int64]) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
        return {"z": self.z[rows]}, self.names[rows].tolist()


def streams_of(
    pool: Pool, meaning: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Stream]:
    """Every style but the factory's.

    Args:
        meaning: names of classes and the pool's classes that have them; the pool's own by default.
    """
    named = (
        np.array(pool.classes)
        if meaning is None
        else np.array(["" for _ in pool.classes], dtype="U32")
    )
    for name, members in (meaning or {}).items():
        named[list(members)] = name
    found = {}
    for style in range(len(pool.groups)):
        rows = np.flatnonzero((pool.test_group == style) & (named[pool.test_y] != ""))
        if style != HOME and len(rows):
            # one frame is labelled once
            first = np.unique(pool.test_z[rows], axis=0, return_index=True)[1]
            found[pool.groups[style]] = Stream(
                pool.test_z[rows][first], named[pool.test_y[rows]][first]
            )
    return found


def renamed(stream: Stream) -> Stream:
    """Each class is called the next one: what the field means by a name is not what the factory
    meant.
    """
    names = np.unique(stream.names)
    return Stream(stream.z, np.roll(names, -1)[np.searchsorted(names, stream.names)])


def offered(
    learner: Learner, stream: Stream, rng: np.random.Generator, *, is_honest: bool
) -> dict[str, int]:
    """Offer batches of one source; how many labels ended in each status. Poison: the names of a
    batch, shuffled.
    """
    order, at, ids = rng.permutation(len(stream.z)), 0, []
    for _ in range(BATCHES if is_honest else 1):
        size = int(rng.integers(*SIZES)) if is_honest else SIZES[1] - 1
        rows = order[at : at + size]
        if len(rows) < SIZES[0]:
            break
        at += size
        features, names = stream.of(rows)
        ids += learner.learn(
            None,
            names if is_honest else rng.permutation(names).tolist(),
            features=features,
            source="field",
        )
        learner.settle()
    statuses, counts = np.unique(
        [state.status for state in learner.label_states(ids)], return_counts=True
    )
    return dict(zip(statuses.tolist(), counts.tolist(), strict=True))


def poor_head_rows(
    say: Say, seeds: tuple[int, ...] = (0, 1, 2), pool: Pool | None = None
) -> list[Row]:
    """Labels that are not held, and those accepted (not held and not vetoed), and noise caught, on
    every stream on which the head gets less than .65; skipped, with the reason, where the data are
    not here.
    """
    try:
        pool = pool or load_pool("emoji", None, say)
        from edgeadapt import host
    except (InputError, RuntimeUnavailable, ImportError) as error:
        say(f"honest labels where the head is poor: skipped, {error}")
        return []
    pool = pool.only(np.argsort(-np.bincount(pool.y), kind="stable")[:CLASSES])
    living = {"living": (0, 1, 2, 3), "thing": (4, 5, 6, 7)}
    other = {"living": (0, 4, 5), "thing": (1, 2, 3, 6, 7)}
    kinds = {
        "classes": (None, streams_of(pool)),
        "renamed": (None, {name: renamed(stream) for name, stream in streams_of(pool).items()}),
        "two_classes": (living, streams_of(pool, living)),
        "two_classes_meaning_something_else": (living, streams_of(pool, other)),
    }
    total: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        bundles: dict[int, Path] = {}
        for kind, (meaning, streams) in kinds.items():
            key = 0 if meaning is None else len(meaning)
            if key not in bundles:
                home = pool.group == HOME
                names = list(pool.classes) if meaning is None else list(meaning)
                slot = {k: i for i, members in enumerate((meaning or {}).values()) for k in members}
                y = (
                    pool.y[home]
                    if meaning is None
                    else np.array([slot[int(k)] for k in pool.y[home]])
                )
                bundles[key] = host.export(
                    Path(scratch) / f"{key}.edge",
                    host.Identity(pool.dim),
                    calibration=(pool.z[home], y),
                    classes=names,
                    random_features=0,
                    stress=False,
                ).path
            for name, stream in streams.items():
                for seed in seeds:
                    _tried(bundles[key], kind, name, stream, seed, total, say)
    rows = []
    for kind, (held, vetoed, labels, caught, noise) in total.items():
        accepted = labels - held - vetoed
        say(
            f"honest labels where the head is poor, {kind}: of {labels} labels {held} held at the"
            f" end, {vetoed} vetoed; poison caught {caught} of {noise}"
        )
        rows.append(
            bar(f"poor_head/{kind}/not_held", 1 - held / labels, "share", at_least=ACCEPTED)
        )
        rows.append(
            bar(f"poor_head/{kind}/accepted", accepted / labels, "share", at_least=ACCEPTED)
        )
        rows.append(bar(f"poor_head/{kind}/poison_caught", caught / noise, "share"))
    return rows


def _tried(
    bundle: Path,
    kind: str,
    name: str,
    stream: Stream,
    seed: int,
    total: dict[str, list[int]],
    say: Say,
) -> None:
    from edgeadapt.bundle import read_bundle

    opened = read_bundle(bundle)
    with open_quick(opened) as learner, open_quick(opened) as lied_to:
        right = float(
            np.mean(np.array(learner.predict(features={"z": stream.z}).labels) == stream.names)
        )
        if right >= 0.65:
            return
        found = offered(learner, stream, np.random.default_rng([seed, 1]), is_honest=True)
        lies = offered(lied_to, stream, np.random.default_rng([seed, 2]), is_honest=False)
    say(
        f"  {kind}, {name}, seed {seed}: the head gets {right:.2f}; honest {found}, shuffled {lies}"
    )
    sums = total.setdefault(kind, [0] * 5)
    through = lies.get("learned", 0) + lies.get("held_out", 0)
    for place, value in enumerate(
        (found.get("held", 0), found.get("vetoed", 0), sum(found.values()), int(through == 0), 1)
    ):
        sums[place] += value
