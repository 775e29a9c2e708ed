"""An encoder in float16 and int8 beside float32: what it costs in answers, in novelty and in the
shift axis, and what it gains in time and bytes.

The encoder is the one that ships, exported again with every precision for each seed: splits, scales
of activations and thresholds are drawn anew. Every figure of a variant has float32's beside it, on
the same images, windows and, for times, in the same minute. Times are of ONNX Runtime on this CPU
and say nothing about an engine on a GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.bundle.schema import Precision
from edgeadapt.demo.sample import KNOWN, NEW
from edgeadapt.device.commits.evidence_sums import factory_memory
from edgeadapt.device.detection.window import shift_ratio
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.errors import InputError
from edgeadapt.host.assembly.novelty_choice import auroc
from edgeadapt.host.data.images import ImageData
from edgeadapt.runtime import open_runtime
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt_bench.datasets.image_dataset import SAMPLE, SEVERITY, ImageDataset, load_dataset
from edgeadapt_bench.harness.measure import Row, Say, at_least, at_most, paired
from edgeadapt_bench.shift.detection import BARRED, KINDS, window_rows

SEEDS = (0, 1, 2)
MARGIN, FALSE_ALARMS = 0.01, 0.02
_REFOLDED = ("brightness", "contrast")  # conditions for which the encoder is re-folded
_ADAPTED = 64  # images of a condition that it is re-folded from
_LIMIT = {False: 10_000, True: 600}  # images, quick
_WINDOWS = {False: 500, True: 60}
_ROUNDS = {False: 40, True: 3}

Found = dict[str, float]


@dataclass(frozen=True, eq=False)
class Looks:
    """What a precision says of some images: answers (N,), novelty (N,), residuals (N, R)."""

    slots: NDArray[np.int64]
    score: NDArray[np.float32]
    residual: NDArray[np.float32]


class Subject:
    """A bundle in one precision."""

    def __init__(self, bundle: Bundle, precision: Precision) -> None:
        self.program = Program(bundle, open_runtime("onnxruntime"), precision)
        self.memory: LearnerState = factory_memory(self.program)
        self._tensors = self.program.factory_domain().over(self.memory.tensors)

    def look(self, x: NDArray[np.uint8]) -> Looks:
        read = self.program.read(*self.program.encode(x), self._tensors)
        return Looks(read.logits.argmax(axis=1), read.score, read.residual)

    def alarms(self, looks: Looks, windows: Sequence[NDArray[np.int64]]) -> float:
        """Share of windows above the thresholds of this precision."""
        policy = self.program.manifest.policy.shift
        return float(
            np.mean(
                [
                    shift_ratio(
                        looks.residual[rows], looks.slots[rows], self.memory.class_counts, policy
                    )
                    > 1
                    for rows in windows
                ]
            )
        )

    def refolded(self, x: NDArray[np.uint8], y: NDArray[np.int64]) -> float:
        """Accuracy on all images but the first, from which the encoder was re-folded; nan for a
        bundle that does not.
        """
        if not self.program.adapts_encoder:
            return float("nan")
        written = self.program.adapt(self._tensors, x[:_ADAPTED], np.ones(_ADAPTED, np.float32))[1]
        tensors = written.over(self._tensors)
        features = self.program.encode(x[_ADAPTED:], self.program.refold(tensors))
        return float(
            (self.program.read(*features, tensors).logits.argmax(axis=1) == y[_ADAPTED:]).mean()
        )


def run_precision(
    data: str | None,
    say: Say,
    *,
    quick: bool = False,
    networks: bool = False,
    bundle: str | None = None,
) -> list[Row]:
    """Every precision of a bundle, by default of the encoder that ships.

    Args:
        networks: encoders of other networks instead, without a bundle.
        bundle: path of a bundle with precisions that takes these images; without it one is exported
            for each seed.
    """
    dataset = load_dataset(SAMPLE if quick and data is None else data)
    if networks:
        from edgeadapt_bench.precision.precision_networks import network_rows

        return network_rows(dataset, say, quick)
    seeds = (0,) if quick or bundle else SEEDS
    held: list[tuple[Bundle, dict[str, Found]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            subject = (
                read_bundle(Path(bundle))
                if bundle
                else _exported(dataset, Path(folder) / f"{seed}.edge", seed, say)
            )
            if not subject.manifest.precisions:
                raise InputError(
                    f"{subject.path} has no encoder but the float32 one; export it with precisions"
                    " (docs/precision.md)"
                )
            if subject.manifest.input.shape != dataset.test.x.shape[1:] or not set(KNOWN) <= set(
                subject.manifest.classes
            ):
                raise InputError(
                    f"{subject.path} does not take images of {dataset.source} or does not know"
                    " their classes"
                )
            say(f"precision: seed {seed}: answers, novelty, windows")
            held.append(
                (subject, _answers(subject, dataset.known(), dataset.test.only(NEW).x, seed, quick))
            )
        rows = _answer_rows([found for _, found in held])
        rows += _size_rows(held[0][0])
        say("precision: times, each variant in turns with float32")
        rows += _time_rows(held[0][0], dataset.known().x, quick)
    return rows


def _exported(dataset: ImageDataset, path: Path, seed: int, say: Say) -> Bundle:
    from edgeadapt.host import export
    from edgeadapt_bench.shift.shift_encoders import rebuilt

    say(f"precision: seed {seed}: exporting the encoder that ships with float16 and int8")
    images = dataset.calibration
    chosen = {
        "novelty": dataset.bundle.manifest.policy.novelty.method,
        "stress": False,
        "precisions": ("float16", "int8"),
        "precision_margin": 1.0,
    }
    return export(
        path,
        rebuilt(dataset.bundle),
        (images.x, images.y),
        images.classes,
        name="precision",
        seed=seed,
        **chosen,
    )


def precisions_of(bundle: Bundle) -> tuple[Precision, ...]:
    return ("float32", *(spec.precision for spec in bundle.manifest.precisions))


def _answers(
    bundle: Bundle, known: ImageData, new: NDArray[np.uint8], seed: int, quick: bool
) -> dict[str, Found]:
    """Figures by precision, on images of known classes and images of none."""
    slot = {name: place for place, name in enumerate(bundle.manifest.classes)}
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(known.y))[: _LIMIT[quick]]
    x, y = known.x[rows], np.array([slot[known.classes[k]] for k in known.y[rows]])
    strange = new[rng.permutation(len(new))[: _LIMIT[quick]]]
    size = bundle.manifest.policy.shift.window
    windows = [window_rows(y, kind, size, rng) for kind in KINDS for _ in range(_WINDOWS[quick])]
    drifted = {
        name: corrupt(x, name, SEVERITY, seed) for name in dict.fromkeys((*BARRED, *_REFOLDED))
    }
    found: dict[str, Found] = {}
    answers: dict[str, NDArray[np.int64]] = {}
    for precision in precisions_of(bundle):
        subject = Subject(bundle, precision)
        looks = subject.look(x)
        answers[precision] = looks.slots
        found[precision] = {
            "accuracy": float((looks.slots == y).mean()),
            "equal answers": float((looks.slots == answers["float32"]).mean()),
            "novelty AUROC, unknown classes": auroc(looks.score, subject.look(strange).score),
            "clean windows that alarm": subject.alarms(looks, windows),
            "shifted windows found": float(
                np.mean(
                    [
                        subject.alarms(subject.look(drifted[name]), windows[: _WINDOWS[quick]])
                        for name in BARRED
                    ]
                )
            ),
            "accuracy re-folded": float(
                np.mean([subject.refolded(drifted[name], y) for name in _REFOLDED])
            ),
        }
    return found


def _answer_rows(found: Sequence[Mapping[str, Found]]) -> list[Row]:
    rows = []
    for precision in found[0]:
        for figure in found[0][precision]:
            values = [seed[precision][figure] for seed in found]
            if not np.isfinite(values).all():
                continue
            mean = float(np.mean(values))
            base = float(np.mean([seed["float32"][figure] for seed in found]))
            unit = (
                "share"
                if len(values) == 1
                else f"share, {min(values):.4f} to {max(values):.4f} over {len(values)} seeds"
            )
            name, baseline = f"{figure}/{precision}", None if precision == "float32" else base
            if precision != "float32" and figure.startswith("accuracy"):
                rows.append(at_least(name, mean, unit, base - MARGIN, baseline))
            elif figure == "clean windows that alarm":
                rows.append(at_most(name, mean, unit, FALSE_ALARMS, baseline))
            else:
                rows.append(Row(name, mean, unit, baseline))
    return rows


def _size_rows(bundle: Bundle) -> list[Row]:
    members = bundle.manifest.members
    sizes = {
        precision: members[spec.file].bytes / 1024
        for precision in precisions_of(bundle)
        if (spec := bundle.manifest.encoder(precision))
    }
    rows = [
        Row(
            f"graph of the encoder/{precision}",
            size,
            "KiB in the bundle, weights shared",
            None if precision == "float32" else sizes["float32"],
        )
        for precision, size in sizes.items()
    ]
    return [*rows, Row("the bundle", bundle.bytes / 1024, "KiB")]


def _time_rows(bundle: Bundle, images: NDArray[np.uint8], quick: bool) -> list[Row]:
    """Median milliseconds per call, float32 in turns beside it; three times, for the spread of the
    ratio.
    """
    programs = {
        precision: Program(bundle, open_runtime("onnxruntime"), precision)
        for precision in precisions_of(bundle)
    }
    rows = []
    for precision, program in programs.items():
        if precision == "float32":
            continue
        for batch in bundle.manifest.batches:
            x = images[:batch]
            times = []
            for _ in SEEDS:
                own, base = paired(
                    lambda _, p=program, x=x: p.encode(x),
                    lambda _, p=programs["float32"], x=x: p.encode(x),
                    _ROUNDS[quick],
                    block=8,
                )  # type: ignore[misc]
                times.append((1e3 * float(np.median(own)), 1e3 * float(np.median(base))))
            ratios = [own / base for own, base in times]
            own_ms, base_ms = (
                float(np.median([pair[place] for pair in times])) for place in (0, 1)
            )
            rows.append(
                Row(
                    f"encode at batch {batch}/{precision}",
                    own_ms,
                    f"ms, {min(ratios):.2f} to {max(ratios):.2f} of float32",
                    base_ms,
                )
            )
    return rows
