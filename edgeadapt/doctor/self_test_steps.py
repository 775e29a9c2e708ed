"""What a self-test does: the bundle that ships, on one runtime, from opening to a restart."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.doctor.report import Latency, Run, Step
from edgeadapt.runtime import Runtime, open_runtime

NEW = "Bag"  # a class that the bundle does not know
_CHECKED, _LABELS, _SHOWN = 256, 12, 4
# of known samples; of samples of the new class after a dozen labels
_ACCURATE, _LEARNED = 0.85, 0.5
_CLOSE = 1e-3  # largest difference of embeddings from the CPU's, as a share of their largest value
_CALLS, _WARM, _BATCH = 60, 10, 1


class SelfTest:
    """Steps in order; each leaves what the next one needs."""

    def __init__(self, runtime: Runtime, folder: Path) -> None:
        sample, rng = load_sample(), np.random.default_rng(0)
        known, new = sample.rows(KNOWN, rng)[:_CHECKED], sample.rows((NEW,), rng)
        self._x, self._names = sample.x[known], np.array(CLASSES)[sample.y[known]]
        self._lesson, self._exam = sample.x[new[:_LABELS]], sample.x[new[_LABELS : _LABELS + 64]]
        self._runtime, self._folder = runtime, folder

    def run(self, name: str, keep: Path | None, like: Path | None) -> Run:
        started = time.perf_counter()
        with self._open() as learner:
            open_ms = 1000 * (time.perf_counter() - started)
            seen = learner.predict(self._x)
            steps = [
                Step("open", True, f"{len(learner.classes)} classes"),
                self._predict(seen),
                self._learn(learner),
                self._roll_back(learner, seen),
            ]
            self._learn(learner)
            digest, after = learner.digest(), learner.predict(self._exam).probs
        steps.append(self._restart(digest, after))
        if keep is not None:
            np.save(keep, seen.embedding)
        if like is not None:
            steps.append(_same_numbers(seen.embedding, np.load(like)))
        result: Any = "passed" if all(step.ok for step in steps) else "failed"
        probs = np.round(seen.probs[:_SHOWN].astype(float), 6).tolist()
        return Run(name, result, "", round(open_ms, 3), steps, self._latency(), probs)

    def _open(self) -> Learner:
        return open_learner(
            bundle_path(), self._folder, runtime=self._runtime, policy=Policy(new_classes="add")
        )

    def _predict(self, seen: Any) -> Step:
        accuracy = float(np.mean(np.array(seen.labels) == self._names))
        is_sound = bool(
            np.isfinite(seen.probs).all() and np.allclose(seen.probs.sum(axis=1), 1, atol=1e-4)
        )
        return Step(
            "predict",
            is_sound and accuracy >= _ACCURATE,
            f"{accuracy:.3f} of {len(self._x)} right, {_ACCURATE} expected",
        )

    def _learn(self, learner: Learner) -> Step:
        before = _share(learner, self._exam)
        for sample in learner.observe(self._lesson).ids:
            learner.label(sample, NEW)
        learner.settle()
        share = _share(learner, self._exam)
        return Step(
            "learn",
            before < _LEARNED <= share,
            f"a class of {_LABELS} labels: {before:.2f} of others like it known before, {share:.2f}"
            " after",
        )

    def _roll_back(self, learner: Learner, first: Any) -> Step:
        learner.rollback(0)
        now = learner.predict(self._x)
        is_back = now.classes == first.classes and bool(np.array_equal(now.probs, first.probs))
        return Step(
            "roll back",
            is_back,
            "the same probabilities as at first" if is_back else "not what it was",
        )

    def _restart(self, digest: str, probs: Any) -> Step:
        with self._open() as learner:
            is_same = learner.digest() == digest and bool(
                np.array_equal(learner.predict(self._exam).probs, probs)
            )
        return Step(
            "restart",
            is_same,
            "the same state and the same answers" if is_same else "not what was left",
        )

    def _latency(self) -> dict[str, Latency]:
        """Of single samples; labels become durable in the folder for temporary files, which may be
        memory.
        """
        frames = [self._x[i : i + _BATCH] for i in range(_WARM + _CALLS)]
        with self._open() as learner:
            program = Program(learner.bundle, self._runtime)
            ids: list[str] = []

            def observe(frame: Any) -> None:
                ids.extend(learner.observe(frame).ids)

            timed = {
                "encode": _median(program.encode, frames),
                "predict": _median(learner.predict, frames),
                "observe": _median(observe, frames),
            }
            names = dict(zip(ids, self._names.tolist(), strict=False))
            timed["label"] = _median(lambda sample: learner.label(sample, names[sample]), ids)
            learner.settle()
        return timed


def _share(learner: Learner, x: Any) -> float:
    return float(np.mean(np.array(learner.predict(x).labels) == NEW))


def _same_numbers(found: Any, wanted: Any) -> Step:
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    return Step(
        "same numbers",
        error <= _CLOSE,
        f"embeddings differ from the CPU's by {error:.1e} of the largest, {_CLOSE:.0e} allowed",
    )


def _median(call: Callable[[Any], object], values: list[Any]) -> Latency:
    spent = []
    for number, value in enumerate(values):
        started = time.perf_counter()
        call(value)
        if number >= _WARM:
            spent.append(time.perf_counter() - started)
    return Latency(round(1000 * float(np.median(spent)), 4), len(spent), _BATCH)


def run_self_test(arguments: Sequence[str]) -> Run:
    """``RUNTIME [PROVIDER] [--keep F.npy] [--like F.npy]``: with ``--like`` embeddings are held
    against those of the CPU, which ``--keep`` wrote. A bundle carries no vectors to compare with.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("runtime")
    parser.add_argument("provider", nargs="?")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--like", type=Path)
    args = parser.parse_args(arguments)
    options = {"providers": (args.provider, "CPUExecutionProvider")} if args.provider else {}
    name = f"{args.runtime}:{args.provider}" if args.provider else args.runtime
    with tempfile.TemporaryDirectory(prefix="edgeadapt-doctor-") as folder:
        test = SelfTest(open_runtime(args.runtime, **options), Path(folder) / "state")
        return test.run(name, args.keep, args.like)


__all__ = ["run_self_test"]
