"""A bottleneck that counts beside other heads of at most the same bytes: images by a frozen
encoder, letters, motion of a wrist.

Bytes are those that stay in memory for learning to go on, frozen and evidence together; the class
means that novelty scores read are left out, since every head has them. Keys, projections and random
features are made from 3,000 training features without their labels. What there is to choose (sizes,
smoothing, penalties, neighbours) is chosen on training rows held out; the test part is only
reported on. The order of a stream changes none of these heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.baselines.stream_baselines import row_bytes
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.datasets.pools import load_pool, quick_pool
from edgeadapt_bench.harness.measure import Row, Say, absent, at_least
from edgeadapt_bench.harness.resampling import mean_and_spread, paired_interval

F32 = NDArray[np.float32]
Right = NDArray[np.bool_]
POOLS = ("smartwatch", "letters", "fashion")
BUDGETS = (110_000, 272_000)
SEEDS = (0, 1, 2)
PLACED = 3000  # training features that frozen tensors are made from
CHOOSING_ROWS = 6_000
_LEFT_OUT = ("mean.moment", "projection.centre")
_BATCH = 1024


@dataclass(frozen=True)
class Choice:
    """One setting of a family: its bytes, and which test rows it answers rightly after learning the
    training rows, by seed.
    """

    label: str
    bytes: int
    answers: Callable[[Pool, int], Right]


def run_key_value(data: str | None, say: Say, quick: bool = False) -> list[Row]:
    """Accuracy of every family within two budgets of bytes, and the difference of the bottleneck to
    each of the others.

    Args:
        data: folder of the four Fashion-MNIST files.
        quick: drawn data, one seed, one budget, one choice per family.
    """
    rows: list[Row] = []
    for name in ("smartwatch",) if quick else POOLS:
        try:
            pool = quick_pool(name) if quick else load_pool(name, data, say)
        except (InputError, RuntimeUnavailable) as error:
            rows.append(absent(f"key_value/{name}", str(error)))
            continue
        rows += compare(
            pool,
            BUDGETS[:1] if quick else BUDGETS,
            SEEDS[:1] if quick else SEEDS,
            say,
            most=1 if quick else None,
        )
    return rows


def compare(
    pool: Pool, budgets: tuple[int, ...], seeds: tuple[int, ...], say: Say, most: int | None = None
) -> list[Row]:
    """Choose within each family and budget on validation rows, learn all training rows, report on
    the test part; at most ``most`` choices are tried.
    """
    fitted = pool.rows(np.random.default_rng(0).permutation(len(pool.y)))
    validation = pool.validation()
    validation = validation.rows(
        np.random.default_rng(1).permutation(len(validation.y))[:CHOOSING_ROWS]
    )
    say(f"key_value: {pool.name}, {len(fitted.y):,} training rows, {len(pool.test_y):,} test rows")
    families = {name: list(make(pool.dim, len(pool.classes))) for name, make in FAMILIES.items()}
    marks: dict[str, float] = {}
    rows: list[Row] = []
    for budget in budgets:
        right: dict[str, list[Right]] = {}
        for name, choices in families.items():
            within = [
                choice for choice in choices if budget // 4 < choice.bytes <= budget
            ] or sorted((c for c in choices if c.bytes <= budget), key=lambda c: -c.bytes)[:4]
            if not within:
                continue
            within = within[:most]
            for choice in within:
                if choice.label not in marks:
                    marks[choice.label] = float(choice.answers(validation, 0).mean())
            best = max(within, key=lambda c: marks[c.label])
            right[name] = [best.answers(fitted, seed) for seed in seeds]
            mean, spread = mean_and_spread([100.0 * r.mean() for r in right[name]])
            say(
                f"key_value: {pool.name}, {budget // 1000} kB: {best.label},"
                f" {best.bytes / 1000:.0f} kB, {mean:.1f} +- {spread:.1f}% (validation"
                f" {100 * marks[best.label]:.1f}%)"
            )
            rows.append(Row(f"{name}/{pool.name}_{budget // 1000}kB", mean, "%"))
            rows.append(
                Row(
                    f"{name}/{pool.name}_{budget // 1000}kB/bytes",
                    best.bytes / 1000,
                    "kB",
                    budget / 1000,
                )
            )
        rows += _differences(pool, budget, right)
    if most is not None:
        return rows
    plain = _as_published(pool.dim, len(pool.classes))
    mean, spread = mean_and_spread([100.0 * plain.answers(fitted, seed).mean() for seed in seeds])
    say(
        f"key_value: {pool.name}: {plain.label}, {plain.bytes / 1000:.0f} kB, {mean:.1f} +-"
        f" {spread:.1f}%"
    )
    return [
        *rows,
        Row(f"key_value/{pool.name}_without_whitening", mean, "%"),
        Row(f"key_value/{pool.name}_without_whitening/bytes", plain.bytes / 1000, "kB"),
    ]


def _differences(pool: Pool, budget: int, right: dict[str, list[Right]]) -> list[Row]:
    """The bottleneck minus each of the others on the test part, with an interval over test
    units.
    """
    units = np.unique(pool.test_unit, return_inverse=True)[1]
    size = np.bincount(units)
    share = {
        name: np.bincount(units, np.mean(answers, axis=0)) / size for name, answers in right.items()
    }
    rows: list[Row] = []
    for baseline in right:
        if baseline != "key_value":
            _, low, high = paired_interval(share["key_value"], share[baseline])
            where = f"key_value/{pool.name}_{budget // 1000}kB/ahead_of_{baseline}"
            ahead = 100.0 * float(np.mean(right["key_value"]) - np.mean(right[baseline]))
            rows += [
                at_least(where, ahead, "points", 0.0),
                Row(f"{where}/low", 100.0 * low, "points"),
                Row(f"{where}/high", 100.0 * high, "points"),
            ]
    return rows


# -- families --------------------------------------------------------------------------------------
def _head(head: Any, dim: int, classes: int) -> Choice:
    from edgeadapt.host.contracts import Dims

    specs = [
        spec
        for spec in head.tensors(Dims(dim, 0, classes))
        if spec.kind != "derived" and spec.name not in _LEFT_OUT
    ]
    size = sum(
        int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize for spec in specs
    )
    return Choice(repr(head), size, lambda pool, seed: head_answers(head, pool, seed))


def head_answers(head: Any, pool: Pool, seed: int) -> Right:
    """Which test rows a head answers rightly that has learned the training rows by its own
    functions, each once.
    """
    import torch

    from edgeadapt.host.contracts import FactoryData
    from edgeadapt_bench.baselines.stream_heads import derive, predict

    seeded = replace(head, seed=seed) if hasattr(head, "seed") else head
    if getattr(seeded, "projection", None) is not None:
        seeded = replace(seeded, projection=replace(seeded.projection, seed=seed))
    z, y = pool.z[:PLACED], pool.y[:PLACED]
    factory = FactoryData(
        z, np.zeros((len(z), 0), np.float32), y, np.ones(len(z), np.float32), len(pool.classes)
    )
    kinds = {spec.name: spec.kind for spec in seeded.tensors(factory.dims)}
    state = {
        name: torch.from_numpy(np.ascontiguousarray(value))
        for name, value in seeded.factory(factory).items()
    }
    state = {
        name: torch.zeros_like(value) if kinds[name] == "evidence" else value
        for name, value in state.items()
    }
    for first in range(0, len(pool.y), _BATCH):
        part = slice(first, first + _BATCH)
        count = len(pool.y[part])
        state = state | seeded.learn(
            state,
            torch.from_numpy(pool.z[part]),
            torch.zeros(count, 0),
            torch.from_numpy(pool.y[part]),
            torch.ones(count),
        )
    right: Right = predict(seeded, derive(seeded, state), pool.test_z) == pool.test_y
    return right


def _bottlenecks(dim: int, classes: int) -> Iterator[Choice]:
    from edgeadapt.host.methods.heads.key_value.bottleneck import KeyValueBottleneck
    from edgeadapt.host.methods.heads.projection import PrincipalProjection

    projection = PrincipalProjection(64) if dim > 256 else None
    width = 1 << int(np.ceil(np.log2(64 if projection else dim)))
    sizes = (
        ((16, 64, 16), (16, 128, 16), (32, 64, 16), (32, 128, 16))
        if projection
        else (
            (8, 64, width),
            (4, 128, width),
            (4, 256, width),
            (8, 128, width),
            (8, 256, width),
            (16, 256, width // 2),
            (16, 128, width // 2),
            (16, 64, width // 2),
        )
    )
    for books, pairs, key_dim in sizes:
        for smoothing in (0.05, 0.5):
            yield _head(
                KeyValueBottleneck(
                    books=books,
                    pairs=pairs,
                    key_dim=key_dim,
                    projection=projection,
                    smoothing=smoothing,
                ),
                dim,
                classes,
            )


def _as_published(dim: int, classes: int) -> Choice:
    """Random heads on features as they are, nearest key only; 64 books of 256 keys, smaller than
    the paper's 256 books of 4,096.
    """
    from edgeadapt.host.methods.heads.key_value.bottleneck import KeyValueBottleneck

    head = KeyValueBottleneck(
        books=64, pairs=256, key_dim=8, whitening="none", split="random", reads=1, start="normal"
    )
    return _head(head, dim, classes)


def _linear_discriminants(dim: int, classes: int) -> Iterator[Choice]:
    from edgeadapt.host.methods.heads.projection import PrincipalProjection
    from edgeadapt.host.methods.heads.slda import StreamingLDA

    for projection in (
        (PrincipalProjection(128), PrincipalProjection(160), PrincipalProjection(256))
        if dim > 256
        else (None,)
    ):
        yield _head(StreamingLDA(projection=projection), dim, classes)


def _ridges(dim: int, classes: int) -> Iterator[Choice]:
    from edgeadapt.host.methods.heads.ridge import Ridge

    for width in () if dim > 256 else (128, 160, 192, 224, 256, 288, 320):
        for penalty in (1e-3, 1e-5):
            yield _head(Ridge(random_features=width, penalty=penalty, packed=True), dim, classes)


def _banks(dim: int, classes: int) -> Iterator[Choice]:
    for budget in BUDGETS:
        for neighbours in (1, 5):
            capacity = budget // row_bytes(dim)
            yield Choice(
                f"{neighbours} neighbours of {capacity}",
                capacity * row_bytes(dim),
                _bank_answers(capacity, neighbours),
            )


def _bank_answers(capacity: int, neighbours: int) -> Callable[[Pool, int], Right]:
    """A sample of the training rows, as large as the bytes allow, and a vote of the nearest; the
    nearest decides a tie.
    """

    def answers(pool: Pool, seed: int) -> Right:
        kept = np.random.default_rng([seed, capacity]).permutation(len(pool.y))[:capacity]
        bank, labels = pool.z[kept], pool.y[kept]
        found = []
        for first in range(0, len(pool.test_y), _BATCH):
            squared = (bank**2).sum(axis=1) - 2.0 * pool.test_z[first : first + _BATCH] @ bank.T
            nearest = np.argsort(squared, axis=1, kind="stable")[:, :neighbours]
            votes = (
                np.eye(len(pool.classes))[labels[nearest]].sum(axis=1)
                + 0.5 * np.eye(len(pool.classes))[labels[nearest[:, 0]]]
            )
            found.append(votes.argmax(axis=1))
        right: Right = np.concatenate(found) == pool.test_y
        return right

    return answers


FAMILIES: dict[str, Callable[[int, int], Iterator[Choice]]] = {
    "key_value": _bottlenecks,
    "slda": _linear_discriminants,
    "ridge_random_features": _ridges,
    "neighbours": _banks,
}
