"""From an encoder and calibration data to a signed bundle with everything a device needs to keep
learning.
"""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

import edgeadapt
from edgeadapt.bundle import FACTORY, FROZEN, GUARD, Bundle, write_bundle
from edgeadapt.bundle.schema import (
    AdaptMode,
    AdaptorSpec,
    AdaptPolicy,
    GraphSpec,
    GrowthPolicy,
    GuardPolicy,
    LearnPolicy,
    Manifest,
    PolicySpec,
    PrecisionSpec,
    Provenance,
    SmoothPolicy,
    TriggerSpec,
    encoder_tensors,
    space_of,
)
from edgeadapt.errors import InputError
from edgeadapt.host.assembly import calibration as calibrate
from edgeadapt.host.assembly.composition import Composition, RoleGraph, compile_encoder
from edgeadapt.host.assembly.novelty_choice import choose_novelty, unseen_images
from edgeadapt.host.contracts import Arrays, FactoryData
from edgeadapt.host.data.class_numbers import class_names, class_numbers
from edgeadapt.host.encoders.base import Encoder
from edgeadapt.host.encoders.dispatch import Identity, as_encoder
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.exporting import cross_fitting
from edgeadapt.host.exporting.accuracy_estimate import accuracy_policy
from edgeadapt.host.exporting.settings import Settings
from edgeadapt.host.methods.projected_means import MOMENT
from edgeadapt.host.methods.residual_shift import ResidualShift
from edgeadapt.host.methods.ridge import Ridge
from edgeadapt.host.methods.slda import StreamingLDA
from edgeadapt.host.stress.card import Kind, StressCard, pool_for, stress_card
from edgeadapt.host.stress.strengths import STRENGTHS, Trial, best, card_of, milder, tried
from edgeadapt.runtime import Executable, GraphFile, open_runtime
from edgeadapt.scenarios.corruptions import TUNING, corrupt

Progress = Callable[[str], None]
_UNSEEN = 600  # held-out images that are turned into inputs no training showed
# inputs that go through the encoder at a time: activations of 256 images take a gigabyte
_ROWS = 32
_ROUTE_SAMPLES = 1500  # held-out samples per condition that the signature space is fitted on


def export(
    path: str | os.PathLike[str],
    encoder: Any,
    calibration: tuple[Any, Any],
    classes: Sequence[str] | None = None,
    *,
    groups: Sequence[Any] | None = None,
    private_key: bytes | None = None,
    progress: Progress | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Bundle:
    """Compile, calibrate, stress and write a bundle.

    Args:
        path: of the ``.edge`` file.
        encoder: ``nn.Module``, ``torch.export`` program, ONNX path, or ``host.Identity(dim)`` for
            feature vectors.
        calibration: inputs (N, ...) and labels (N,), class names or integers that index
            ``classes``; data the encoder was not trained on, at least five of each class. All of
            them teach; they also judge, each by what was fitted without it.
        classes: names of the known classes; by default those among the labels, sorted.
        groups: of every sample the recording, person, day or site it is from, two or more. No group
            lies on both sides of a judgement, and rows of a group are in the order of time: their
            windows set thresholds too. None: samples are independent.
        private_key: ed25519 PEM; the bundle is signed with it.
        progress: called with one line per stage; by default each goes to standard error with the
            seconds since the start.
        quiet: no line at all.
        settings: fields of ``Settings``.

    Returns:
        The bundle as a device will read it.

    Raises:
        InputError: calibration data or settings that do not fit.
        UnknownClassError: a label that is none of ``classes``.
        CompileError: a graph could not be compiled or checked.
    """
    say = _silent if quiet else progress or _to_stderr()
    try:
        chosen = Settings(**settings)
    except TypeError as error:
        raise InputError(
            f"unknown setting: {error}; settings are {', '.join(Settings.__dataclass_fields__)}"
        ) from error
    names = class_names(calibration[1]) if classes is None else tuple(str(name) for name in classes)
    chosen.check(names)
    x, y = _calibration_arrays(calibration, names)
    calibrate.check_counts(y, names)
    say(f"encoder: {len(x)} calibration samples of {len(names)} classes")
    source = as_encoder(
        encoder,
        x,
        colour=chosen.colour,
        range=chosen.range,
        resize=chosen.resize,
        feature=chosen.feature,
        taps=chosen.taps,
    )
    _say_encoder(source, say)
    maker = _BundleBuilder(source, x, y, _group_numbers(groups, len(y)), names, chosen, say)
    return maker.write(Path(path), private_key)


def _silent(line: str) -> None:
    """Says nothing."""


def _to_stderr() -> Progress:
    """What is being done, with the seconds since now."""
    started = time.perf_counter()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s  {line}", file=sys.stderr, flush=True)

    return say


def _say_encoder(encoder: Encoder, say: Progress) -> None:
    """Where the feature of a module is taken, and which batch-norms of it cannot adapt."""
    if isinstance(encoder, ModuleEncoder):
        say(f"encoder: the feature is {encoder.feature_from}, {encoder.dim} values")
        if encoder.left_frozen:
            listed = ", ".join(encoder.left_frozen[:5]) + (
                ", ..." if len(encoder.left_frozen) > 5 else ""
            )
            say(f"encoder: {len(encoder.left_frozen)} batch-norms stay as trained: {listed}")


def _calibration_arrays(
    calibration: tuple[Any, Any], classes: Sequence[str]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    x, y = np.asarray(calibration[0]), class_numbers(calibration[1], classes)
    if len(x) != len(y) or not len(y):
        raise InputError(
            f"calibration is (inputs (N, ...), labels (N,)), got {x.shape} and {y.shape}"
        )
    if x.dtype == np.float64:
        x = x.astype(np.float32)
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        raise InputError("calibration inputs have values that are not finite")
    return x, y


def _group_numbers(groups: Sequence[Any] | None, count: int) -> NDArray[np.int64] | None:
    """(N,) a number for every group, or None.

    Raises:
        InputError: not one group for each sample.
    """
    if groups is None:
        return None
    given = np.asarray(groups)
    if given.shape != (count,):
        raise InputError(
            f"groups names the group of each of {count} calibration samples, got shape"
            f" {given.shape}"
        )
    return np.unique(given, return_inverse=True)[1].astype(np.int64)


@dataclass(eq=False)
class _Made:
    """The methods around one label-free one. ``labelled`` graphs are empty until they are
    needed.
    """

    composition: Composition
    frozen: Arrays
    factory: Arrays
    values: dict[str, torch.Tensor]
    unlabelled: dict[str, RoleGraph]
    labelled: dict[str, RoleGraph] = field(default_factory=dict)


class _BundleBuilder:
    """One export in progress: stages in order, each leaving what the next needs."""

    def __init__(
        self,
        encoder: Encoder,
        x: NDArray[Any],
        y: NDArray[np.int64],
        groups: NDArray[np.int64] | None,
        classes: tuple[str, ...],
        settings: Settings,
        say: Progress,
    ) -> None:
        self.encoder = encoder
        self.x = x
        self.y = y
        self.groups = groups
        self.classes = classes
        self.settings = settings
        self.say = say
        self.adaptations = settings.adaptations(bool(encoder.norms))
        self.graphs: dict[str, RoleGraph] = {}
        self._made: dict[str, _Made] = {}
        self._load_encoder()
        say("calibrate: features, head, thresholds")
        self.z, self.taps = self._features(x)
        self.extra = self._calibrate()
        self.encode_graphs = dict(self.graphs)
        self._compose(self.adaptations[0])
        self.precisions = self._variants()

    def _compose(self, adaptation: str, *, is_trial: bool = False) -> None:
        """The methods with this label-free one among them, their factory values and graphs; made
        once for each.

        Args:
            is_trial: streams without labels are all that will run. The graphs that labels run are
                then those of the method before, where the bundle declares their tensors.
        """
        self.adaptation = adaptation
        made = self._made.get(adaptation) or self._new(adaptation)
        self.composition, self.frozen, self.factory = made.composition, made.frozen, made.factory
        if not made.labelled:
            before = next((other.labelled for other in self._made.values() if other.labelled), {})
            if (
                is_trial
                and before
                and all(_declares(made.composition, graph) for graph in before.values())
            ):
                self.graphs = self.encode_graphs | made.unlabelled | before
                return
            made.labelled = made.composition.compile_labelled(self.evidence, made.values, self.say)
        self.graphs = self.encode_graphs | made.unlabelled | made.labelled

    def _new(self, adaptation: str) -> _Made:
        settings = self.settings
        adaptors = settings.adaptor_family(self.evidence.dims, self.head, self.temperature)
        composition = Composition.of(
            self.encoder,
            self.head,
            self.score,
            self.sense,
            adaptation,
            adaptors,
            1.0 / self.temperature,
            settings.smooth,
            self.source,
        )
        if adaptors and not _preserves_space(composition):
            raise InputError(
                f"adapt = {adaptation!r} gives a condition a feature space of its own, and an"
                " adaptor is trained in the factory's; leave out adaptors"
            )
        frozen, factory = composition.values(self.evidence, self.extra)
        arrays = {**factory, **frozen}
        values = self.fitted.values | {
            name: torch.from_numpy(np.asarray(value, order="C")) for name, value in arrays.items()
        }
        unlabelled = composition.compile_unlabelled(self.evidence, values, self.say)
        made = self._made[adaptation] = _Made(composition, frozen, factory, values, unlabelled)
        return made

    def _load_encoder(self) -> None:
        self._encode: Executable | None = None
        self._runtime = open_runtime("onnxruntime")
        if self.settings.precisions and isinstance(self.encoder, Identity):
            raise InputError(
                f"precisions = {tuple(self.settings.precisions)} are of an encoder, and Identity"
                " has none; leave them out"
            )
        if not isinstance(self.encoder, Identity):
            self.say("compile: encode")
        compiled = compile_encoder(self.encoder)
        if compiled is not None:
            self.graphs["encode"] = compiled
            values = {name: self.encoder.frozen[name].numpy() for name in compiled.graph.frozen}
            self._encode = self._runtime.load(GraphFile("encode", compiled.graph.model, values))

    def _features(
        self, x: NDArray[Any], encode: Executable | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Features and taps by the very graph that ships, or by a variant of it, rounded to float16
        as evidence is.
        """
        run = encode or self._encode
        if run is None:
            z = x.reshape(len(x), -1).astype(np.float32)
            if z.shape[1] != self.encoder.dim:
                raise InputError(
                    f"Identity({self.encoder.dim}) takes feature vectors of width"
                    f" {self.encoder.dim}, got {z.shape[1]}"
                )
            return _stored(z), np.zeros((len(z), 0), np.float32)
        none = self._runtime.upload({})
        parts = [run({"x": x[i : i + _ROWS]}, none)[0] for i in range(0, len(x), _ROWS)]
        z = np.concatenate([p["z"] for p in parts])
        taps = (
            np.concatenate([p["taps"] for p in parts])
            if "taps" in parts[0]
            else np.zeros((len(z), 0), np.float32)
        )
        return _stored(z), _stored(taps)

    # -- calibration -------------------------------------------------------------------------------
    def _calibrate(self) -> Arrays:
        """Head, novelty score, thresholds, each judged by rows that it did not learn; then all of
        them from every row. Returns the signature space.
        """
        s = self.settings
        weight = calibrate.factory_weights(self.y, s.factory_count)
        data = self.evidence = FactoryData(self.z, self.taps, self.y, weight, s.class_slots)
        half = cross_fitting.folds_of(self.y, self.groups, 2, s.seed)
        first = data.rows(half == 0), data.rows(half == 1)
        chosen = s.chosen_head(
            data,
            first,
            cross_fitting.folds_of(self.y, self.groups, cross_fitting.FOLDS, s.seed),
            self.say,
        )
        self.head, self.sense, self.cross_fitted = chosen.head, ResidualShift(), chosen.logits
        self.source = (self.x, self.y, s.class_slots)
        parts = [
            calibrate.Part.of(self.head, self.sense, data, half == k, self.groups) for k in (1, 0)
        ]
        self.unseen_x = (
            unseen_images(self.x[parts[0].rows[:_UNSEEN]], s.seed)
            if self.encoder.input.dtype == "uint8"
            else None
        )
        unseen = self._features(self.unseen_x) if self.unseen_x is not None else None
        self.score, marks = choose_novelty(
            s.novelty_candidates(),
            self.head,
            self.sense,
            parts[0].evidence,
            parts[0].judge,
            unseen,
            s.seed,
            novelty_kib=s.novelty_kib,
        )
        parts = [part.with_score(self.score) for part in parts]
        self.part = parts[0]
        self.shift = calibrate.shift_policy(parts, self.encoder.signature, s.seed)
        self.novelty = calibrate.novelty_policy(self.score, parts, marks)
        self.fitted = calibrate.Fitted.of(self.head, self.sense, data).with_score(self.score, data)
        self.error = float((self.cross_fitted.argmax(axis=1) != self.y).mean())
        _, self.temperature = cross_fitting.log_loss(self.cross_fitted, self.y, len(self.classes))
        self.accuracy = accuracy_policy(
            self.cross_fitted[:, : len(self.classes)], self.y, self.shift.window, s.seed
        )
        self.calibration_error = cross_fitting.calibration_error(
            self.cross_fitted, self.y, len(self.classes), self.temperature
        )
        self.say(
            f"calibrate: cross-fitted accuracy {1 - self.error:.1%}, calibration error"
            f" {self.calibration_error:.3f}, novelty by {self.novelty.method}"
            f" ({self.novelty.judgement})"
        )
        return self._signature_space()

    def _signature_space(self) -> Arrays:
        """From clean data and the tuning corruptions, at three severities."""
        first, last = self.shift.signature
        some = slice(0, _ROUTE_SAMPLES)
        rows = self.part.rows[some]
        conditions = [self.fitted.places(self.z[rows], self.taps[rows])[:, first:last]]
        if self.encoder.input.dtype == "uint8":
            for name in TUNING:
                for severity in (1, 3, 5):
                    z, taps = self._features(
                        corrupt(self.x[rows], name, severity, self.settings.seed)
                    )
                    conditions.append(self.fitted.places(z, taps)[:, first:last])
        centre, projection = calibrate.route_projection(
            conditions, self.y[rows], self.shift.window, self.settings.seed
        )
        return {"route.centre": centre, "route.projection": projection}

    def _growth(self) -> GrowthPolicy:
        """The family, and how each member is trained."""
        from edgeadapt.host.methods.adaptors import training
        from edgeadapt.host.methods.scale_shift import ScaleShift

        candidates = []
        for adaptor in self.composition.adaptors:
            own = [
                spec
                for spec in adaptor.tensors(self.evidence.dims)
                if spec.kind == "parameter" and spec.persist != "never"
            ]
            how = training(adaptor)
            candidates.append(
                AdaptorSpec(
                    name=adaptor.name,
                    tensors=tuple(spec.name for spec in own),
                    learning_rate=how.learning_rate,
                    steps=how.steps,
                    batch=how.batch,
                    per_column=isinstance(adaptor, ScaleShift),
                )
            )
        return GrowthPolicy(candidates=tuple(candidates), adaptor_kib=self.settings.adaptor_kib)

    def _variants(self) -> tuple[PrecisionSpec, ...]:
        """Encoders in other precisions, each with thresholds of its own; their graphs join the
        others.
        """
        if not self.settings.precisions:
            return ()
        from edgeadapt.host.precision import Beside, make_variant

        base, part = self.graphs["encode"], self.part
        evidence_rows = np.setdiff1d(np.arange(len(self.y)), part.rows)
        beside = Beside(
            base,
            {name: self.frozen[name] for name in base.graph.frozen},
            self.encoder.input,
            self._runtime,
            self._features,
            part.fitted,
            self.score,
            self.shift,
            self.novelty,
            part.evidence,
            part.judge,
            self.x[evidence_rows],
            self.x[part.rows],
            self.unseen_x,
            self.encoder.signature,
            self.settings.seed,
        )
        found = []
        for precision in self.settings.precisions:
            self.say(f"compile: encode in {precision}")
            made, spec = make_variant(precision, beside, self.settings.precision_margin)  # type: ignore[arg-type]
            self.graphs[f"encode_{precision}"] = self.encode_graphs[f"encode_{precision}"] = made
            found.append(spec)
            report = spec.report
            self.say(
                f"  held-out accuracy {report.accuracy:.1%}, float32 {report.float32_accuracy:.1%},"
                f" equal answers {report.agreement:.1%}, feature error {report.median_error:.2g}"
            )
            if report.float32_accuracy - report.accuracy > self.settings.precision_margin:
                self.say(
                    f"  that is more than precision_margin = {self.settings.precision_margin:g},"
                    f" and {report.samples} held-out samples are too few to tell it from chance"
                )
        return tuple(found)

    def _guard(self) -> Arrays:
        """Samples that judge changes, and what each of them, being learned too, adds to its own
        logits: it is taken off again when they judge.
        """
        rows = np.concatenate(
            [
                np.flatnonzero(self.y == k)[: self.settings.guard_per_class]
                for k in range(len(self.classes))
            ]
        )
        own = (self.fitted.logits(self.z[rows]) - self.cross_fitted[rows])[:, : len(self.classes)]
        guard: Arrays = {
            "z": self.z[rows].astype(np.float16),
            "y": self.y[rows],
            "own": own.astype(np.float32),
            "weight": self.evidence.sample_weight[rows],
        }
        return guard | ({"taps": self.taps[rows].astype(np.float16)} if self.taps.shape[1] else {})

    def _weighted(self) -> tuple[str, ...]:
        """Sums of the head of which the factory's share may count more or less: those of heads that
        are solved for, not counted.
        """
        if not isinstance(self.head, (StreamingLDA, Ridge)):
            return ()
        return tuple(
            spec.name
            for spec in self.head.tensors(self.evidence.dims)
            if spec.kind == "evidence" and spec.name != MOMENT
        )

    def _unread(self) -> set[str]:
        """Tensors of the encoder that no graph takes, such as a classifier behind the feature: they
        do not travel.
        """
        taken = {
            name
            for made in self.graphs.values()
            for name in (*made.graph.frozen, *made.graph.writes)
        }
        return {name for name in self.frozen if name.startswith("encoder.")} - taken

    # -- the bundle --------------------------------------------------------------------------------
    def _manifest(self, adapt: AdaptPolicy) -> Manifest:
        s = self.settings
        graphs = tuple(
            GraphSpec(
                file=f"graphs/{name}.onnx",
                roles=made.roles,
                methods=made.methods,
                batch=None,
                ports=made.graph.ports,
                outputs=made.graph.outputs,
                reads=made.graph.reads,
                writes=made.graph.writes,
                frozen=made.graph.frozen,
                nodes=made.graph.nodes,
                parity=made.graph.parity,
                precision=made.precision,
            )
            for name, made in self.graphs.items()
        )
        encoders = [
            graph for graph in graphs if "encode" in graph.roles and graph.precision == "float32"
        ]
        made_by = [
            made.graph.model
            for made in self.graphs.values()
            if "encode" in made.roles and made.precision == "float32"
        ] or [self.encoder.name.encode()]
        unread = self._unread()
        kept = [name for name in self.frozen if name not in unread]
        space = space_of(
            *made_by, *(self.frozen[name].tobytes() for name in encoder_tensors(kept, encoders))
        )
        kinds = ("evidence", "derived", "parameter")
        tensors = tuple(
            msgspec.structs.replace(spec, space=space if spec.kind in kinds else "")
            for name, spec in self.composition.specs.items()
            if name not in unread
        )
        policy = PolicySpec(
            shift=self.shift,
            novelty=self.novelty,
            adapt=adapt,
            accuracy=self.accuracy,
            learn=LearnPolicy(
                method=self.head.name,
                factory_count=s.factory_count,
                temperature=self.temperature,
                weighted=self._weighted(),
            ),
            growth=self._growth(),
            smooth=SmoothPolicy(
                method=self.composition.smoother.name if self.composition.smoother else ""
            ),
            guard=GuardPolicy(
                factory_samples=len(self._guard()["y"]),
                source_error=float(np.clip(2 * self.error, 0.1, 0.5)),
            ),
        )
        provenance = Provenance(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            edgeadapt=edgeadapt.__version__,
            torch=str(torch.__version__),
            onnx=onnx.__version__,
            seed=s.seed,
            encoder=s.encoder_name or self.encoder.name,
            data=s.data_name,
            recipe=s.recipe_sha256,
        )
        return Manifest(
            name=s.name,
            version=s.version,
            classes=self.classes,
            class_slots=s.class_slots,
            domain_slots=s.domain_slots,
            feature_dim=self.z.shape[1],
            tap_dim=self.taps.shape[1],
            space=space,
            batches=s.batches,
            input=self.encoder.input,
            tensors=tensors,
            graphs=graphs,
            numerics=self.composition.numerics,
            policy=policy,
            precisions=self.precisions,
            provenance=provenance,
            triggers=(
                TriggerSpec(role="adapt", when="shift", min_gap_samples=self.shift.window),
                TriggerSpec(role="learn", when="label"),
            ),
        )

    def write(self, path: Path, private_key: bytes | None) -> Bundle:
        """Stress the configuration, let the card decide what adaptation may do, write the file."""
        card: dict[str, Any] = {
            "held_out_accuracy": 1 - self.error,
            "calibration_error": self.calibration_error,
            "novelty": self.novelty.alternatives,
        }
        adapt = AdaptPolicy(mode="off", reason="no label-free method in this bundle")
        if self.adaptation != "none":
            adapt = self._adapt("advise", "not stress-tested")
            if self.settings.stress:
                trials = self._stressed(card)
                chosen = best(trials)
                self._compose(chosen.method)
                card["stress"] = card_of(trials)
                adapt = self._adapt(chosen.mode, chosen.card.reason, chosen.strength)
        bundle = self._pack(path, adapt, card, private_key)
        self.say(
            f"wrote {path}: {bundle.bytes / 2**20:.2f} MiB, adapt = {adapt.mode} ({adapt.reason})"
        )
        return bundle

    def _stressed(self, card: dict[str, Any]) -> list[Trial]:
        """A card of every method that may be chosen, and of milder forms of those that do harm."""
        rows, seed = self.part.rows, self.settings.seed
        x, y = self.x[rows], self.y[rows]
        kind: Kind = "full" if self.settings.stress == "long" else "short"
        trials: list[Trial] = []
        pool = None
        with tempfile.TemporaryDirectory() as folder:
            for method in self.adaptations:
                self._compose(method, is_trial=True)

                def run(strength: float) -> StressCard:
                    nonlocal pool
                    self.say(f"stress: {self.adaptation} at strength {strength:g}")
                    trial = self._trial(Path(folder) / "trial.edge", card, strength)
                    pool = pool or pool_for(trial, x, y, seed)
                    return stress_card(trial, x, y, seed=seed, say=self.say, kind=kind, pool=pool)

                trials += tried(method, run, STRENGTHS if self.composition.can_shrink else (1.0,))
        return trials

    def _trial(self, path: Path, card: dict[str, Any], strength: float) -> Bundle:
        """The bundle that is stressed: made from one half of the samples, so that the other half
        are streams it never saw.
        """
        weights = dict(
            zip(
                (FROZEN, FACTORY),
                self.composition.values(self.part.evidence, self.extra),
                strict=True,
            )
        )
        judge = self.part.judge
        guard: Arrays = {"z": judge.z.astype(np.float16), "y": judge.y} | (
            {"taps": judge.taps.astype(np.float16)} if self.taps.shape[1] else {}
        )
        return self._pack(
            path,
            self._adapt("act", "stress trial", strength),
            card,
            None,
            {**weights, GUARD: guard},
        )

    def _adapt(self, mode: AdaptMode, reason: str, strength: float = 1.0) -> AdaptPolicy:
        preserves = _preserves_space(self.composition)
        home = milder(self.composition.home, strength)
        return AdaptPolicy(
            mode=mode,
            method=self.adaptation,
            strength=strength,
            steps=self.composition.steps,
            preserves_space=preserves,
            home=home,
            refresh_samples=2 * self.shift.window,
            reason=reason,
        )

    def _pack(
        self,
        path: Path,
        adapt: AdaptPolicy,
        card: dict[str, Any],
        private_key: bytes | None,
        weights: dict[str, Arrays] | None = None,
    ) -> Bundle:
        weights = weights or {FROZEN: self.frozen, FACTORY: self.factory, GUARD: self._guard()}
        unread = self._unread()
        weights = weights | {
            FROZEN: {name: value for name, value in weights[FROZEN].items() if name not in unread}
        }
        graphs = {f"graphs/{name}.onnx": made.graph.model for name, made in self.graphs.items()}
        return write_bundle(path, self._manifest(adapt), graphs, weights, card, private_key)


def _preserves_space(composition: Composition) -> bool:
    """What the method says of itself: do features of an adapted encoder mean what the factory's do?
    ``preserves_space``, by default True.
    """
    return bool(getattr(composition.constants or composition.features, "preserves_space", True))


def _declares(composition: Composition, made: RoleGraph) -> bool:
    """Whether every tensor of a graph is one of the composition's."""
    graph = made.graph
    return {*graph.reads, *graph.writes, *graph.frozen} <= composition.specs.keys()


def _stored(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """As evidence is stored: rounded to float16."""
    return values.astype(np.float16).astype(np.float32)


__all__ = ["Identity", "Settings", "export"]
