"""Which known condition is a window? Hypervector bundles per condition (EAR, reconstructed) beside
the signatures that ship.

Each condition is met on four windows of 32 and then asked for on windows of random classes, of two
classes and of one. The signature has the class mix that each condition's own encoder predicts, as
the learner does it; bundles see factory features and taps. Merging is judged on pairs of memories:
two of one condition, or of two. Its threshold comes from the tuning corruptions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import GUARD
from edgeadapt.device.commits.evidence_sums import factory_state
from edgeadapt.device.detection.domain_router import RoutingProjection
from edgeadapt.device.detection.hypervector_bundles import ClassSums, ConditionBundle, similarity_of
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import DomainPrototypes, LearnerState
from edgeadapt.device.numerics.hypervectors import project
from edgeadapt.runtime import Executable
from edgeadapt.scenarios.corruptions import REPORTING, TUNING, corrupt
from edgeadapt_bench.datasets.image_dataset import CONDITIONS, SEVERITY, ImageDataset
from edgeadapt_bench.harness.measure import Row, Say
from edgeadapt_bench.shift.detection import KINDS, Kind, window_rows

WINDOW, MEMORY = 32, 128  # samples of a window, and of what a condition was met on
WIDTH = 256
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Condition:
    """A pool of images under one condition: factory view, hypervectors by kind, and the encoder
    adapted on its first samples.
    """

    projected: F64
    slots: I64
    y: I64
    codes: dict[str, F32]
    x: NDArray[np.uint8]
    encoder: Executable | None
    adapted_slots: dict[str, I64]


def run_routing(dataset: ImageDataset, say: Say, *, quick: bool = False) -> list[Row]:
    """Shares of windows that are sent to the condition they come from, and how well same and
    different conditions are told apart.
    """
    program = dataset.program()
    rows = []
    for conditions in (CONDITIONS,) if quick else (CONDITIONS, REPORTING):
        routed: dict[tuple[str, Kind], list[float]] = {}
        for seed in (0,) if quick else (0, 1, 2):
            met = _meet(program, dataset, conditions, seed, 200 if quick else 400)
            for kind in KINDS:
                for router, share in _routed(met, kind, 10 if quick else 100, seed).items():
                    routed.setdefault((router, kind), []).append(share)
        for (router, kind), shares in routed.items():
            say(
                f"routing among {len(conditions)}, {router}, windows of {kind}:"
                f" {np.mean(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"
            )
            rows.append(
                Row(
                    f"routing_{len(conditions)}/{router}/{kind}",
                    float(np.mean(shares)),
                    "share",
                    float(np.mean(routed["signature", kind])),
                )
            )
    return rows + _merge_rows(program, dataset, say, quick)


def _meet(
    program: Program,
    dataset: ImageDataset,
    conditions: tuple[str, ...],
    seed: int,
    count: int,
    *,
    adapted: bool = True,
) -> dict[str, Condition]:
    known = dataset.known()
    rows = np.random.default_rng([seed, 3]).permutation(len(known))[:count]
    memory, projected = factory_state(program), RoutingProjection(program)
    seen: dict[str, Condition] = {}
    for name in conditions:
        x = corrupt(known.x[rows], name, SEVERITY, seed)
        z, taps = program.encode(x)
        read = program.forward_head(z, taps, memory.tensors)
        slots = read.logits.argmax(axis=1)
        seen[name] = Condition(
            projected.of(read.residual, slots, memory),
            slots,
            known.y[rows],
            _codes(z, taps, program),
            x,
            _adapted(program, memory, x) if adapted else None,
            {},
        )
    for name, target in seen.items() if adapted else ():
        for condition in seen.values():
            z, taps = program.encode(condition.x, target.encoder)
            condition.adapted_slots[name] = program.forward_head(
                z, taps, memory.tensors
            ).logits.argmax(axis=1)
    return seen


def _adapted(program: Program, memory: LearnerState, x: NDArray[np.uint8]) -> Executable | None:
    """The encoder after one refresh on the first 64 images of the condition, as a device would have
    it.
    """
    if not program.adapts_encoder:
        return None
    _, written = program.adapt(
        program.factory_domain().over(memory.tensors), x[:64], np.ones(64, np.float32)
    )
    return program.refold(written.over(program.factory_domain()))


def _codes(z: F32, taps: F32, program: Program) -> dict[str, F32]:
    """Hypervectors of features and taps, each levelled by the factory guard's root mean square; of
    early taps alone; and their signs.
    """
    guard = program.bundle.weights(GUARD)
    guard_z, guard_taps = guard["z"].astype(np.float32), guard["taps"].astype(np.float32)
    levelled = [
        part / np.sqrt(np.square(reference).sum(axis=1).mean())
        for part, reference in ((z, guard_z), (taps, guard_taps))
    ]
    both = project(np.concatenate(levelled, axis=1), WIDTH, seed=0)
    early = taps - guard_taps.mean(axis=0)
    return {
        "bundle": both,
        "bundle_of_taps": project(early, WIDTH, seed=0),
        "bundle_1_bit": np.where(both >= 0, np.float32(1), np.float32(-1)),
    }


def _routed(met: dict[str, Condition], kind: Kind, windows: int, seed: int) -> dict[str, float]:
    """Share of windows that each router routes right."""
    names = list(met)
    slots = 1 + max(int(c.slots.max()) for c in met.values())
    first = slice(0, MEMORY)
    signatures = {
        n: (
            DomainPrototypes.empty(slots, c.projected.shape[1]).extended(
                c.projected[first], c.adapted_slots[n][first]
            )
        )
        for n, c in met.items()
    }
    bundles = {
        code: {
            n: ConditionBundle.empty(slots, WIDTH).extended(c.codes[code][first], c.slots[first])
            for n, c in met.items()
        }
        for code in next(iter(met.values())).codes
    }
    rng = np.random.default_rng([seed, KINDS.index(kind), 5])
    hits: dict[str, list[bool]] = {}
    for own in names:
        condition = met[own]
        # (conditions, N)
        similar = {
            code: np.stack([of[n].similarity(condition.codes[code]) for n in names])
            for code, of in bundles.items()
        }
        for _ in range(windows):
            rows = MEMORY + window_rows(condition.y[MEMORY:], kind, WINDOW, rng)
            gaps = [
                signatures[n].distance(condition.projected[rows], condition.adapted_slots[n][rows])
                for n in names
            ]
            found = {"signature": names[int(np.argmin(gaps))]}
            for code, of in bundles.items():
                means = similar[code][:, rows].mean(axis=1)
                found[code] = names[
                    int(
                        np.argmax(
                            [
                                of[n].standardised_of(float(mean))
                                for n, mean in zip(names, means, strict=True)
                            ]
                        )
                    )
                ]
                found[f"{code}_unstandardised"] = names[int(np.argmax(means))]
            for router, where in found.items():
                hits.setdefault(router, []).append(where == own)
    return {router: float(np.mean(right)) for router, right in hits.items()}


# -- merging ---------------------------------------------------------------------------------------
def _merge_rows(program: Program, dataset: ImageDataset, say: Say, quick: bool) -> list[Row]:
    """Balanced accuracy of "these two are one condition", by signature and by bundle, at the
    threshold that was best on tuning corruptions.
    """
    memories: dict[str, Callable[[Condition, slice, int], ClassSums]] = {
        "signature": (
            lambda c, part, slots: DomainPrototypes.empty(slots, c.projected.shape[1]).extended(
                c.projected[part], c.slots[part]
            )
        ),
        "bundle": (
            lambda c, part, slots: ConditionBundle.empty(slots, WIDTH).extended(
                c.codes["bundle"][part], c.slots[part]
            )
        ),
    }
    count = 2 * MEMORY if quick else 1000
    tuning, reported = (
        _meet(program, dataset, chosen, 7, count, adapted=False)
        for chosen in ((TUNING[:2], CONDITIONS[:2]) if quick else (TUNING, REPORTING))
    )
    rows = []
    for name, make in memories.items():
        same, other = _similarities(tuning, make)
        threshold = _threshold(same, other)
        same, other = _similarities(reported, make)
        merged = float(np.mean(np.array(same) >= threshold))
        kept = float(np.mean(np.array(other) < threshold))
        say(
            f"merging by {name}: threshold {threshold:.3f}, {merged:.1%} of same conditions merged,"
            f" {kept:.1%} of different ones kept apart"
        )
        rows.append(Row(f"merging/{name}/threshold", threshold, "cosine"))
        rows += [
            Row(f"merging/{name}/same_merged", merged, "share"),
            Row(f"merging/{name}/different_kept_apart", kept, "share"),
        ]
    return rows


def _similarities(
    met: dict[str, Condition], make: Callable[[Condition, slice, int], ClassSums]
) -> tuple[list[float], list[float]]:
    """Similarities of memories of one condition, and of two; each memory is made of samples of its
    own.
    """
    slots = 1 + max(int(c.slots.max()) for c in met.values())
    parts = [
        slice(start, start + MEMORY)
        for start in range(0, len(next(iter(met.values())).y) - MEMORY + 1, MEMORY)
    ]
    made = {
        name: [make(condition, part, slots) for part in parts] for name, condition in met.items()
    }
    same = [
        similarity_of(kept[i], kept[j])[0]
        for kept in made.values()
        for i in range(len(parts))
        for j in range(i)
    ]
    other = [
        similarity_of(made[a][i], made[b][i - 1])[0]
        for a in met
        for b in met
        if a < b
        for i in range(len(parts))
    ]
    return same, other


def _threshold(same: list[float], other: list[float]) -> float:
    """Where the mean of both shares of right answers is largest."""
    candidates = np.unique(same + other)
    right = [np.mean(np.array(same) >= c) + np.mean(np.array(other) < c) for c in candidates]
    return float(candidates[int(np.argmax(right))])
