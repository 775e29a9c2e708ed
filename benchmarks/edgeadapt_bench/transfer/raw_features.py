"""Raw features in their own units, no encoder: motion of unseen people, letters that come late.

Motion: statistics of windows of 100 rows, one recording per (subject, exercise, arm). One recording
of each subject and exercise, fixed by a draw, may be learned, the other is judged. Reported: six
subjects in the factory, three of the other four in the field. The twin has the six alone: four of
them in the factory, two in the field; the judged recordings of the three subjects whose clean
recordings are reported are never met.

Letters: 16 whole numbers of 0 to 15, the same condition everywhere; sixteen letters are known, the
other ten come half-way. The 4,000 rows that the data set's own paper judges on are judged here; the
twin has none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from edgeadapt_bench.datasets.pools import WINDOW, window_statistics
from edgeadapt_bench.downloads import folder as data
from edgeadapt_bench.harness.measure import Say
from edgeadapt_bench.transfer.transfers import F32, I64, Part, Transfer, capped, relabelled

PER_CLASS, STREAM, TEST = 40, 640, 1000
KNOWN_LETTERS, NEW_STREAM = 16, 320
_LEARNED, _TWIN_JUDGED = 16_000, 4_000


def smartwatch(seed: int, is_twin: bool, say: Say) -> Iterator[Transfer]:
    """Subjects whom the factory has not seen.

    Raises:
        InputError: the data are not here.
    """
    windows, subject, is_learned, names = _windows()
    people = np.random.default_rng(5).permutation(np.unique(subject))
    others, mixed, unseen = people[:3], people[3:6], people[6:]
    rng = np.random.default_rng([seed, 4, int(is_twin)])
    if is_twin:
        drawn = rng.permutation(mixed)
        made, judged, there = np.append(others, drawn[0]), drawn[:1], drawn[1:]
    else:
        made, judged, there = people[:6], others, rng.permutation(unseen)[:3]

    def part(who: I64, learned: bool) -> Part:
        return windows.rows(np.flatnonzero(np.isin(subject, who) & (is_learned == learned)))

    factory = part(made, True)
    yield Transfer(
        "smartwatch-subjects-raw",
        "smartwatch",
        f"motion, {len(made)} subjects to {len(there)} others, {windows.z.shape[1]} raw statistics",
        names,
        len(names),
        factory=factory.rows(capped(factory.y, np.arange(len(factory)), PER_CLASS, rng)),
        stream=_by_recording(part(there, True), rng),
        test=part(there, False),
        clean=part(judged, False),
        has_groups=True,
    )


def _by_recording(part: Part, rng: np.random.Generator) -> Part:
    """Recordings in random order, each in its own."""
    order = rng.permutation(np.unique(part.unit))
    return part.rows(np.concatenate([np.flatnonzero(part.unit == unit) for unit in order]))


@cache
def _windows() -> tuple[Part, I64, np.ndarray, tuple[str, ...]]:
    """All windows, their subjects, whether their recording may be learned, and the exercises."""
    kept = data.load("smartwatch")
    z: list[F32] = []
    rows: list[I64] = []
    starts = zip(kept["start"][:-1], kept["start"][1:], strict=True)
    for recording, (start, stop) in enumerate(starts):
        count = int(stop - start) // WINDOW
        x = kept["x"][start : start + count * WINDOW].reshape(count, WINDOW, -1)
        z.append(window_statistics(x))
        rows.append(np.full(count, recording))
    unit = np.concatenate(rows)
    y, subject = kept["y"].astype(np.int64), kept["subject"].astype(np.int64)
    rng = np.random.default_rng(6)
    learned = np.zeros(len(y), bool)
    for who in np.unique(subject):
        for what in np.unique(y):
            learned[rng.permutation(np.flatnonzero((subject == who) & (y == what)))[:1]] = True
    windows = Part(np.concatenate(z), y[unit], unit)
    return windows, subject[unit], learned[unit], tuple(kept["classes"].tolist())


def letters(seed: int, is_twin: bool, say: Say) -> Iterator[Transfer]:
    """No other condition, and ten letters of 26 that come half-way.

    Raises:
        InputError: the data are not here.
    """
    kept = data.load("letters")
    rng = np.random.default_rng([seed, 5, int(is_twin)])
    order = rng.permutation(26)
    y = relabelled(kept["y"].astype(np.int64), order)
    everything = Part(kept["x"].astype(np.float32), y, np.arange(len(y)))
    end = _LEARNED - (_TWIN_JUDGED if is_twin else 0)
    judged = np.arange(end, _LEARNED) if is_twin else np.arange(_LEARNED, len(y))
    is_known = y < KNOWN_LETTERS
    rows = rng.permutation(end)
    known, new = rows[is_known[rows]], rows[~is_known[rows]]
    factory = capped(y, known, PER_CLASS, rng)
    field = known[~np.isin(known, factory)]
    tested = np.sort(rng.permutation(judged[is_known[judged]])[: 2 * TEST])
    shuffled = rng.permutation(tested)
    yield Transfer(
        "letters-none-raw",
        "letters",
        "letters, 16 raw numbers, the same condition",
        tuple(chr(65 + k) for k in order),
        KNOWN_LETTERS,
        factory=everything.rows(factory),
        stream=everything.rows(field[:STREAM]),
        test=everything.rows(np.sort(shuffled[:TEST])),
        clean=everything.rows(np.sort(shuffled[TEST:])),
        new=everything.rows(new[:NEW_STREAM]),
        new_test=everything.rows(judged[~is_known[judged]][:TEST]),
    )
