"""How often clean windows read as shifted, and how soon degraded ones do.

Every window of 32 goes through the learner's own ``shift_ratio`` on the factory encoder's
residuals. The baseline is the same statistic without classes (a window's mean against the factory
mean), with thresholds set by the same rule on the same windows.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import ShiftPolicy
from edgeadapt.demo.sample import KNOWN, NEW
from edgeadapt.device.commits.evidence_sums import factory_state
from edgeadapt.device.detection.window import shift_ratio, shift_ratio_of_mean
from edgeadapt.device.inference.program import Program
from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.runtime import open_runtime
from edgeadapt.scenarios.corruptions import REPORTING, corrupt
from edgeadapt_bench.datasets.image_dataset import (
    SEVERITY,
    ImageDataset,
    Say,
    bar,
    load_dataset,
    spread,
)
from edgeadapt_bench.datasets.lite0 import PIXELS, lite0_bundle, upscaled
from edgeadapt_bench.harness.measure import Row

Kind = Literal["random", "two", "one"]
KINDS: tuple[Kind, ...] = ("random", "two", "one")
BARRED = ("gaussian_noise", "defocus_blur", "fog", "contrast")
FALSE_ALARMS, DETECTION = 0.02, 0.95
_WITHIN = 4  # windows
_CALIBRATION_WINDOWS, _QUANTILE, _MARGIN = 3000, 0.995, 1.15  # of host.calibrate, which needs torch
_LARGEST_POOL = 3000
_LITE0_POOL, _LITE0_CALIBRATION = 1200, 600


@dataclass(frozen=True, eq=False)
class Looks:
    """A pool of images as the factory encoder sees it: residuals (N, R), predicted slots (N,),
    places (N, R), labels (N,).
    """

    residuals: NDArray[np.float32]
    slots: NDArray[np.int64]
    places: NDArray[np.float32]
    y: NDArray[np.int64]


class Gate:
    """The shift axis of a bundle, and its class-free twin in the same columns."""

    def __init__(
        self, program: Program, calibration: NDArray[Any], y: NDArray[np.int64], seed: int = 0
    ) -> None:
        self._program = program
        self._memory = factory_state(program)
        self.policy = program.manifest.policy.shift
        self._centre = self._memory.class_means[self._memory.class_counts > 0].mean(axis=0)
        self.class_free = {"all": self._calibrated(self.look(calibration, y), KINDS, seed)}
        self.class_free["random"] = self._calibrated(self.look(calibration, y), ("random",), seed)

    def look(self, x: NDArray[Any], y: NDArray[np.int64]) -> Looks:
        z, taps = self._program.encode(x)
        read = self._program.forward_head(z, taps, self._memory.tensors)
        slots = read.logits.argmax(axis=1)
        return Looks(read.residual, slots, read.residual + self._memory.class_means[slots], y)

    def ratio(self, looks: Looks, rows: NDArray[np.int64]) -> float:
        return shift_ratio(
            looks.residuals[rows], looks.slots[rows], self._memory.class_counts, self.policy
        )

    def class_free_ratio(self, looks: Looks, rows: NDArray[np.int64], policy: ShiftPolicy) -> float:
        certain = np.full(len(self._memory.class_counts), np.inf, np.float32)
        return shift_ratio_of_mean(
            looks.places[rows].mean(axis=0) - self._centre, looks.slots[rows], certain, policy
        )

    def _calibrated(self, looks: Looks, kinds: tuple[Kind, ...], seed: int) -> ShiftPolicy:
        rng = np.random.default_rng(seed)
        thresholds = []
        windows = {
            kind: [
                window_rows(looks.y, kind, self.policy.window, rng)
                for _ in range(_CALIBRATION_WINDOWS)
            ]
            for kind in kinds
        }
        for start, width in zip(
            np.cumsum([0, *self.policy.groups[:-1]]), self.policy.groups, strict=True
        ):
            columns = looks.places[:, start : start + width] - self._centre[start : start + width]
            found = [
                float(
                    np.quantile(
                        [
                            self.policy.window * np.square(columns[rows].mean(axis=0)).mean()
                            for rows in drawn
                        ],
                        _QUANTILE,
                    )
                )
                for drawn in windows.values()
            ]
            thresholds.append(_MARGIN * max(found))
        return msgspec.structs.replace(self.policy, thresholds=tuple(thresholds))


def window_rows(
    y: NDArray[np.int64], kind: Kind, size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """``size`` different rows of a pool: of any class, of two classes, or of one."""
    classes = np.unique(y)
    if kind == "random":
        pool = np.arange(len(y))
    else:
        pool = np.flatnonzero(
            np.isin(
                y, rng.choice(classes, min(len(classes), 2 if kind == "two" else 1), replace=False)
            )
        )
    rows: NDArray[np.int64] = rng.choice(pool, size, replace=len(pool) < size)
    return rows


def alarms(
    gate: Gate, looks: Looks, kind: Kind, windows: int, seed: int
) -> tuple[float, float, float]:
    """Share of windows that read as shifted: the gate, and the class-free statistic set on all
    kinds and on random ones.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    fired = []
    for _ in range(windows):
        rows = window_rows(looks.y, kind, gate.policy.window, rng)
        theirs = [
            gate.class_free_ratio(looks, rows, policy) > 1 for policy in gate.class_free.values()
        ]
        fired.append((gate.ratio(looks, rows) > 1, *theirs))
    mine, same, random = np.mean(fired, axis=0)
    return float(mine), float(same), float(random)


def detections(
    gate: Gate, looks: Looks, kind: Kind, streams: int, seed: int
) -> tuple[float, float]:
    """Share of streams of four windows in which the shift is confirmed: ``confirm_windows`` in a
    row, as the policy acts on.

    The gate, and the class-free statistic set on all kinds of windows.
    """
    rng = np.random.default_rng([seed, 7, KINDS.index(kind)])
    size = gate.policy.window
    found = []
    for _ in range(streams):
        rows = window_rows(looks.y, kind, _WITHIN * size, rng).reshape(_WITHIN, size)
        mine = [gate.ratio(looks, part) > 1 for part in rows]
        theirs = [gate.class_free_ratio(looks, part, gate.class_free["all"]) > 1 for part in rows]
        found.append([_in_a_row(fired, gate.policy.confirm_windows) for fired in (mine, theirs)])
    mean = np.mean(found, axis=0)
    return float(mean[0]), float(mean[1])


def _in_a_row(fired: list[bool], count: int) -> bool:
    return any(all(fired[i : i + count]) for i in range(len(fired) - count + 1))


def run_detection(
    data: str | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    say: Say = print,
    *,
    windows: int = 500,
    conditions: tuple[str, ...] = REPORTING,
    tuning: bool = False,
    lite0: bool = True,
) -> list[Row]:
    """False alarms, detection at severity 3, and what windows of new classes read.

    Args:
        data: see ``load_dataset``. seeds: windows and corruptions. windows: per kind and seed.
        conditions: shown.
        tuning: on the images and for the choices that are not reported.
        lite0: a foreign encoder beside it.
    """
    dataset = load_dataset(data, tuning=tuning)
    gate = Gate(dataset.program(), dataset.calibration.x, dataset.calibration.y)
    known = dataset.known()
    rows = _gate_rows("", gate, known.x, known.y, seeds, say, windows, conditions)
    if not tuning:
        rows += _new_class_rows(gate, dataset, seeds, say, windows)
    return rows + (_lite0_rows(dataset, seeds, say, windows) if lite0 else [])


def _gate_rows(
    prefix: str,
    gate: Gate,
    x: NDArray[Any],
    y: NDArray[np.int64],
    seeds: tuple[int, ...],
    say: Say,
    windows: int,
    conditions: tuple[str, ...],
) -> list[Row]:
    rows = []
    clean = gate.look(x, y)
    for kind in KINDS:
        seen = [alarms(gate, clean, kind, windows, seed) for seed in seeds]
        mine, same, random = (list(column) for column in zip(*seen, strict=True))
        say(
            f"{prefix}false alarms, {kind}: {spread(mine)}; class-free {spread(same)}, set on"
            f" random windows only {spread(random)}"
        )
        rows.append(
            bar(
                f"{prefix}false_alarms/{kind}",
                _mean(mine),
                "share",
                _mean(same),
                at_most=None if prefix else FALSE_ALARMS,
            )
        )
    for condition in conditions:
        seen_in: dict[Kind, list[tuple[float, float]]] = {"random": [], "one": []}
        for seed in seeds:
            picked = np.random.default_rng(seed).permutation(len(x))[:_LARGEST_POOL]
            looks = gate.look(corrupt(x[picked], condition, SEVERITY, seed), y[picked])
            for kind, found in seen_in.items():
                found.append(detections(gate, looks, kind, windows, seed))
        for kind, found in seen_in.items():
            mine, theirs = ([pair[i] for pair in found] for i in (0, 1))
            say(
                f"{prefix}detected within {_WITHIN} windows, {condition}, {kind}: {spread(mine)};"
                f" class-free {spread(theirs)}"
            )
            target = DETECTION if condition in BARRED and not prefix else None
            rows.append(
                bar(
                    f"{prefix}detection/{condition}/{kind}",
                    _mean(mine),
                    "share",
                    _mean(theirs),
                    at_least=target,
                )
            )
    return rows


def _new_class_rows(
    gate: Gate, dataset: ImageDataset, seeds: tuple[int, ...], say: Say, windows: int
) -> list[Row]:
    new = dataset.test.only(NEW)
    looks = gate.look(new.x, new.y)
    known = dataset.known()
    rows = np.random.default_rng(0).permutation(min(len(known), len(new)))
    mixed = gate.look(
        np.concatenate([known.x[rows], new.x[rows]]),
        np.concatenate([known.y[rows], len(KNOWN) + new.y[rows]]),
    )
    result = []
    for name, pool, kind in (
        ("random", looks, "random"),
        ("one", looks, "one"),
        ("half", mixed, "random"),
    ):
        seen = [alarms(gate, pool, kind, windows, seed) for seed in seeds]  # type: ignore[arg-type]
        say(f"windows of new classes that read as shift, {name}: {spread([s[0] for s in seen])}")
        result.append(
            bar(
                f"new_classes_read_as_shift/{name}",
                _mean([s[0] for s in seen]),
                "share",
                _mean([s[1] for s in seen]),
            )
        )
    return result


def _lite0_rows(dataset: ImageDataset, seeds: tuple[int, ...], say: Say, windows: int) -> list[Row]:
    known, held = dataset.known(), dataset.calibration
    picked = np.random.default_rng(0).permutation(len(known))[:_LITE0_POOL]
    held_rows = np.random.default_rng(1).permutation(len(held))[:_LITE0_CALIBRATION]
    with tempfile.TemporaryDirectory(prefix="edgeadapt-lite0-") as folder:
        try:
            bundle = lite0_bundle(dataset, Path(folder), say)
        except RuntimeUnavailable as error:
            say(f"lite0: skipped: {error}")
            return []
        gate = Gate(
            Program(bundle, open_runtime()), upscaled(held.x[held_rows], PIXELS), held.y[held_rows]
        )
        return _gate_rows(
            "lite0/",
            gate,
            upscaled(known.x[picked], PIXELS),
            known.y[picked],
            seeds,
            say,
            windows,
            BARRED,
        )


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
