"""Emoji in other styles and under corruptions: colour drawings at 96 px by pretrained encoders.

Nine of fourteen classes are known. A third of the emoji of every class (fixed, whatever the seed)
is judged in the reported transfers and never met by their twins, which split the other two thirds,
between other styles and under the corruptions that are kept for choosing. A seed draws the nine
classes, and who is in the factory.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from edgeadapt_bench.datasets.frozen_encoders import ENCODERS, features_of
from edgeadapt_bench.downloads import folder as data
from edgeadapt_bench.harness.measure import Say
from edgeadapt_bench.transfer.transfers import (
    F32,
    I64,
    Part,
    Rows,
    Transfer,
    capped,
    held,
    relabelled,
)

PIXELS, KNOWN, PER_CLASS, FEWEST = 96, 9, 40, 40
SEVERITY = 3
PAIRS = (("google", "twitter"), ("google", "openmoji"), ("google", "openmoji-black"))
TWIN_PAIRS = (("twitter", "google"), ("twitter", "openmoji"), ("openmoji", "openmoji-black"))
CORRUPTIONS = ("defocus_blur", "fog")
TWIN_CORRUPTIONS = ("gaussian_blur", "speckle_noise")
_JUDGED = 1 / 3


def emoji(seed: int, is_twin: bool, say: Say) -> Iterator[Transfer]:
    """Styles and corruptions, each by both encoders.

    Raises:
        InputError: the data are not here.
        RuntimeUnavailable: an encoder is not installed.
    """
    pairs, corruptions = (TWIN_PAIRS, TWIN_CORRUPTIONS) if is_twin else (PAIRS, CORRUPTIONS)
    for encoder in ENCODERS:
        for source, field in pairs:
            yield _between(encoder, source, field, "", seed, is_twin, say)
        for corruption in corruptions:
            yield _between(encoder, pairs[0][0], pairs[0][0], corruption, seed, is_twin, say)


def _between(
    encoder: str, source: str, field: str, corruption: str, seed: int, is_twin: bool, say: Say
) -> Transfer:
    kept, names, styles = _labels()
    sizes = np.bincount(kept["y"][kept["style"] == 0])
    rng = np.random.default_rng([seed, 1, int(is_twin)])
    many = np.flatnonzero(sizes >= FEWEST)
    known = np.sort(rng.permutation(many)[:KNOWN])
    classes = np.concatenate([known, np.setdiff1d(np.arange(len(names)), known)])
    y = relabelled(kept["y"], classes)
    of_unit = np.unique(kept["id"], return_index=True)[1]
    unit, unit_y = kept["id"][of_unit], y[of_unit]
    judged = held(kept["y"][of_unit], _JUDGED, 0)
    order = rng.permutation(np.flatnonzero(~judged))
    parts = [unit[rows] for rows in _thirds(unit_y, order, 3 if is_twin else 2)]
    factory, arriving, tested = (*parts[:2], parts[2] if is_twin else unit[judged])

    def rows(style: str, units: I64, is_known: bool = True) -> Rows:
        is_there = (kept["style"] == styles.index(style)) & np.isin(kept["id"], units)
        found = np.flatnonzero(is_there & ((y < KNOWN) == is_known))
        return found[np.argsort(kept["id"][found], kind="stable")]

    z = _features(encoder, "", "", say)
    moved, offset = z, 0
    if corruption:
        moved, offset = _features(encoder, field, corruption, say), _first_of(field)

    def part(rows: Rows, features: F32, first: int = 0) -> Part:
        return Part(features[rows - first], y[rows], kept["id"][rows])

    there = f"{corruption} {SEVERITY}" if corruption else field
    field_rows, new_rows = rows(field, arriving), rows(field, arriving, is_known=False)
    return Transfer(
        f"{source}-{corruption or field}-{encoder}",
        "emoji",
        f"emoji, {source} to {there}, {encoder} at {PIXELS} px",
        tuple(names[k] for k in classes),
        KNOWN,
        factory=part(capped(y, rows(source, factory), PER_CLASS, rng), z),
        stream=part(rng.permutation(field_rows), moved, offset),
        test=part(rows(field, tested), moved, offset),
        clean=part(rows(source, tested), z),
        new=part(rng.permutation(new_rows), moved, offset),
        new_test=part(rows(field, tested, is_known=False), moved, offset),
    )


def _thirds(y: I64, order: Rows, count: int) -> list[Rows]:
    """Rows in ``count`` parts, every class in even shares."""
    parts: list[list[Rows]] = [[] for _ in range(count)]
    for k in np.unique(y[order]):
        for part, rows in zip(parts, np.array_split(order[y[order] == k], count), strict=True):
            part.append(rows)
    return [np.concatenate(part) for part in parts]


@cache
def _labels() -> tuple[dict[str, I64], list[str], list[str]]:
    kept = data.load("emoji")
    labels = {key: kept[key].astype(np.int64) for key in ("y", "style", "id")}
    return labels, kept["classes"].tolist(), kept["styles"].tolist()


def _first_of(style: str) -> int:
    kept, _, styles = _labels()
    rows = np.flatnonzero(kept["style"] == styles.index(style))
    assert np.array_equal(rows, np.arange(rows[0], rows[-1] + 1)), "a style's images lie together"
    return int(rows[0])


@cache
def _features(encoder: str, style: str, corruption: str, say: Say) -> F32:
    """Of all images, or of one style's under a corruption."""
    x = data.load("emoji")["x"]
    if not corruption:
        return features_of(encoder, "emoji", x, PIXELS, say)
    kept, _, styles = _labels()
    chosen = x[kept["style"] == styles.index(style)]
    name = f"emoji-{style}-{corruption}"
    return features_of(encoder, name, chosen, PIXELS, say, ((corruption, SEVERITY),))
