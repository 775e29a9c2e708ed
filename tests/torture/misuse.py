"""What a bad sensor, a bad clock or a bad user does to a learner: one function per kind, one call
per turn.

Each may be refused with a named error; anything else it raises is a crash.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from warm import NAMES, samples

from edgeadapt.device.learner import Learner

WINDOW, WIDTH = 32, 12
DAY_S = 86_400.0
_clock = time.time


def batch(rng: np.random.Generator, moved: float = 0.0) -> tuple[Any, list[str]]:
    return samples(WINDOW, [0, 1, 2, 3], int(rng.integers(1 << 30)), moved)


def not_numbers(learner: Learner, rng: np.random.Generator) -> None:
    x, names = batch(rng)
    x[rng.integers(WINDOW), rng.integers(WIDTH)] = rng.choice([np.nan, np.inf, -np.inf])
    act = learner.observe if rng.random() < 0.5 else learner.predict
    act(x) if rng.random() < 0.7 else learner.learn(x, names)


def constant(learner: Learner, rng: np.random.Generator) -> None:
    learner.observe(
        np.full((WINDOW, WIDTH), rng.choice([0.0, 1.0, -3.0]), np.float32), stream="stuck"
    )


def repeats(learner: Learner, rng: np.random.Generator) -> None:
    """One frame again and again, and a label each time."""
    seen = learner.observe(
        np.repeat(samples(1, [0], int(rng.integers(3)))[0], WINDOW, axis=0), stream="repeats"
    )
    learner.label(seen.ids[0], "ok", source="repeats")


def wrong_types(learner: Learner, rng: np.random.Generator) -> None:
    x, names = batch(rng)
    bad: list[Any] = [
        x.astype(np.int64),
        x.astype(object),
        x.astype(str),
        x.astype(np.complex64),
        x[:, :5],
        x[0, 0],
        x[:0],
        None,
        "frame",
        {"z": x},
        [[1.0], [1.0, 2.0]],
        x.astype(np.float64),
        x.tolist(),
        np.asfortranarray(x),
        x[::-1],
        x.astype(">f4"),
        x.astype(np.float16),
        1e30 * x,
        1e-40 * x,
    ]
    value = bad[rng.integers(len(bad))]
    if rng.random() < 0.5:
        learner.observe(value, stream="types")
    else:
        learner.learn(value, names[: int(rng.integers(WINDOW + 2))], source="types")


def clock_jumps(learner: Learner, rng: np.random.Generator) -> None:
    """Back to 1970 or by days, then labels and house-keeping under the new time."""
    offset = float(rng.choice([-20_000, -40, -1, 0, 1, 40, 4000])) * DAY_S
    time.time = lambda: _clock() + offset
    try:
        x, names = batch(rng)
        learner.label(learner.observe(x, stream="clock").ids[:2], names[:2], source="clock")
        learner.questions()
        learner.checkpoint()
    finally:
        time.time = _clock


def flapping(learner: Learner, rng: np.random.Generator) -> None:
    """Streams that appear, and are never seen again."""
    learner.observe(batch(rng)[0], stream=f"camera {rng.integers(1 << 60)}")


def label_flood(learner: Learner, rng: np.random.Generator) -> None:
    """Everything labelled at once, some of it twice, some of it unknown, from many sources."""
    x, names = batch(rng)
    ids = list(learner.observe(x, stream="flood").ids)
    learner.label(ids, names, source=f"person {rng.integers(50)}")
    turn = int(rng.integers(4))
    if turn == 0:
        learner.label(ids[:4], [NAMES[rng.integers(4)] for _ in range(4)], source="second thoughts")
    elif turn == 1:
        learner.label([ids[0], ids[0]], ["ok", "dent"])
    elif turn == 2:
        learner.label("0" * 16, "ok")
    else:
        learner.label(ids[0], "nobody knows this name")


def changing_conditions(learner: Learner, rng: np.random.Generator) -> None:
    """Another condition every few windows: provisional ones open, are asked about, and are
    retired.
    """
    moved = float(rng.choice([-2.0, -1.2, 1.2, 2.0, 3.0]))
    for _ in range(3):
        x, names = batch(rng, moved)
        seen = learner.observe(x, stream=f"moving {rng.integers(4)}")
        learner.settle()
    if rng.random() < 0.3:
        learner.label(seen.ids[:5], names[:5], source="operator")


def changing_classes(learner: Learner, rng: np.random.Generator) -> None:
    """Classes come and go, beyond what there is room for."""
    name = f"class {rng.integers(12)}"
    if rng.random() < 0.4 and name in learner.classes:
        learner.remove_class(name)
        return
    learner.add_class(name)
    x, _ = samples(6, [4, 5], int(rng.integers(1 << 30)))
    learner.learn(x, [name] * 6, source="operator")


def second_thoughts(learner: Learner, rng: np.random.Generator) -> None:
    """Teach, then forget, withdraw, roll back."""
    x, names = batch(rng)
    ids = learner.learn(x[:8], names[:8], source="unsure")
    turn = int(rng.integers(3))
    if turn == 0:
        learner.forget(source="unsure")
    elif turn == 1:
        learner.settle()
        learner.withdraw(ids[:2])
    else:
        learner.rollback()


KINDS: tuple[Callable[[Learner, np.random.Generator], None], ...] = (
    not_numbers,
    constant,
    repeats,
    wrong_types,
    clock_jumps,
    flapping,
    label_flood,
    changing_conditions,
    changing_classes,
    second_thoughts,
)
