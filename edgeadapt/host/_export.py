"""From an encoder and calibration data to a signed bundle with everything a device needs to keep learning."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

import edgeadapt
from edgeadapt.bench.corruptions import TUNING, corrupt
from edgeadapt.bundle import FACTORY, FROZEN, GUARD, Bundle, write_bundle
from edgeadapt.bundle._space import encoder_tensors
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
    space_of,
)  # fmt: skip
from edgeadapt.errors import InputError
from edgeadapt.host import calibrate
from edgeadapt.host.accuracy_estimate import accuracy_policy
from edgeadapt.host.composition import Composition, RoleGraph, compile_encoder
from edgeadapt.host.encoders import Identity, as_encoder
from edgeadapt.host.encoding import Encoder
from edgeadapt.host.methods.base import Arrays, FactoryData
from edgeadapt.host.methods.residual_shift import ResidualShift
from edgeadapt.host.settings import Settings
from edgeadapt.host.stress import Kind, stress_card
from edgeadapt.runtime import Executable, GraphFile, open_runtime

Progress = Callable[[str], None]
_UNSEEN = 600  # held-out images that are turned into inputs no training showed
_ROUTE_SAMPLES = 1500  # held-out samples per condition that the signature space is fitted on


def export(
    path: str | os.PathLike[str], encoder: Any, calibration: tuple[Any, Any], classes: Sequence[str], *,
    private_key: bytes | None = None, progress: Progress | None = None, **settings: Any,
) -> Bundle:  # fmt: skip
    """Compile, calibrate, stress and write a bundle.

    Args:
        path: of the ``.edge`` file.
        encoder: ``nn.Module``, ``torch.export`` program, ONNX path, or ``host.Identity(dim)`` for feature vectors.
        calibration: inputs (N, ...) and integer labels (N,) that index ``classes``; data the encoder was not trained on, at least
            ten of each class. They become factory evidence, thresholds and guard samples.
        classes: names of the known classes.
        private_key: ed25519 PEM; the bundle is signed with it.
        progress: called with one line per stage.
        settings: fields of ``Settings``.

    Returns:
        The bundle as a device will read it.

    Raises:
        InputError: calibration data or settings that do not fit. CompileError: a graph could not be compiled or checked.
    """
    say = progress or (lambda line: None)
    try:
        chosen = Settings(**settings)
    except TypeError as error:
        raise InputError(f"unknown setting: {error}; settings are {', '.join(Settings.__dataclass_fields__)}") from error
    names = tuple(str(name) for name in classes)
    chosen.check(names)
    x, y = _calibration_arrays(calibration, len(names))
    say(f"encoder: {len(x)} calibration samples of {len(names)} classes")
    source = as_encoder(encoder, x, colour=chosen.colour, range=chosen.range, resize=chosen.resize, feature=chosen.feature, taps=chosen.taps)
    maker = _Maker(source, x, y, names, chosen, say)
    return maker.write(Path(path), private_key)


def _calibration_arrays(calibration: tuple[Any, Any], classes: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    x, y = np.asarray(calibration[0]), np.asarray(calibration[1])
    if y.ndim != 1 or len(x) != len(y) or not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"calibration is (inputs (N, ...), integer labels (N,)), got {x.shape} and {y.dtype} {y.shape}")
    if len(y) == 0 or y.min() < 0 or y.max() >= classes:
        raise InputError(f"calibration labels index the {classes} classes, got {y.min() if len(y) else 'none'}..{y.max() if len(y) else 'none'}")
    if x.dtype == np.float64:
        x = x.astype(np.float32)
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        raise InputError("calibration inputs have values that are not finite")
    return x, y.astype(np.int64)


class _Maker:
    """One export in progress: stages in order, each leaving what the next needs."""

    def __init__(self, encoder: Encoder, x: NDArray[Any], y: NDArray[np.int64], classes: tuple[str, ...], settings: Settings, say: Progress) -> None:
        self.encoder, self.x, self.y, self.classes, self.settings, self.say = encoder, x, y, classes, settings, say
        self.adaptation = settings.adaptation(bool(encoder.norms))
        self.graphs: dict[str, RoleGraph] = {}
        self._load_encoder()
        say("calibrate: features, head, thresholds")
        self.z, self.taps = self._features(x)
        extra = self._calibrate()
        self.composition = Composition.of(encoder, self.head, self.score, self.sense, self.adaptation, settings.adaptor_family(self.evidence.dims, self.head, self.temperature), 1.0 / self.temperature, settings.smooth, self.source)
        if self.composition.adaptors and not self._preserves_space():
            raise InputError(f"adapt = {self.adaptation!r} gives a condition a feature space of its own, and an adaptor is trained in the factory's; leave out adaptors")
        self.frozen, self.factory = self.composition.values(self.evidence, extra)
        arrays = {**self.factory, **self.frozen}
        values = {**self.fitted.values, **{name: torch.from_numpy(np.asarray(value, order="C")) for name, value in arrays.items()}}
        self.graphs |= self.composition.compile(self.judge, values, say)
        self.precisions = self._variants()

    def _load_encoder(self) -> None:
        self._encode: Executable | None = None
        self._runtime = open_runtime("onnxruntime")
        if self.settings.precisions and isinstance(self.encoder, Identity):
            raise InputError(f"precisions = {tuple(self.settings.precisions)} are of an encoder, and Identity has none; leave them out")
        compiled = compile_encoder(self.encoder)
        if compiled is not None:
            self.say("compile: encode")
            self.graphs["encode"] = compiled
            values = {name: self.encoder.frozen[name].numpy() for name in compiled.graph.frozen}
            self._encode = self._runtime.load(GraphFile("encode", compiled.graph.model, values))

    def _features(self, x: NDArray[Any], encode: Executable | None = None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Features and taps by the very graph that ships, or by a variant of it, rounded to float16 as evidence is."""
        run = encode or self._encode
        if run is None:
            z = x.reshape(len(x), -1).astype(np.float32)
            if z.shape[1] != self.encoder.dim:
                raise InputError(f"Identity({self.encoder.dim}) takes feature vectors of width {self.encoder.dim}, got {z.shape[1]}")
            return _stored(z), np.zeros((len(z), 0), np.float32)
        none = self._runtime.upload({})
        parts = [run({"x": x[i : i + 256]}, none)[0] for i in range(0, len(x), 256)]
        z = np.concatenate([p["z"] for p in parts])
        taps = np.concatenate([p["taps"] for p in parts]) if "taps" in parts[0] else np.zeros((len(z), 0), np.float32)
        return _stored(z), _stored(taps)

    # -- calibration ----------------------------------------------------------------------------------
    def _data(self, rows: NDArray[np.int64]) -> FactoryData:
        weight = calibrate.factory_weights(self.y[rows], self.settings.factory_count)
        return FactoryData(self.z[rows], self.taps[rows], self.y[rows], weight, self.settings.class_slots)

    def _calibrate(self) -> Arrays:
        """Head, novelty score, thresholds; returns the signature space."""
        s = self.settings
        split = calibrate.split_rows(self.y, self.classes, s.seed)
        self.evidence, self.judge, self.judge_rows = self._data(split.evidence), self._data(split.held_out), split.held_out
        self.source = (self.x[split.evidence], self.y[split.evidence], s.class_slots)
        self.head, self.sense = s.chosen_head(self.evidence, self.judge, self.say), ResidualShift()
        self.unseen_x = calibrate.unseen_images(self.x[self.judge_rows[:_UNSEEN]], s.seed) if self.encoder.input.dtype == "uint8" else None
        unseen = self._features(self.unseen_x) if self.unseen_x is not None else None
        self.score, marks = calibrate.choose_novelty(s.novelty_candidates(), self.head, self.sense, self.evidence, self.judge, unseen, s.seed, novelty_kib=s.novelty_kib)
        self.fitted = calibrate.Fitted.of(self.head, self.sense, self.evidence).with_score(self.score, self.evidence)
        logits = self.fitted.logits(self.judge.z)
        self.error = float((logits.argmax(axis=1) != self.judge.y).mean())
        self.shift = calibrate.shift_policy(self.fitted, self.judge.z, self.judge.taps, self.judge.y, self.encoder.signature, s.seed)
        self.novelty = calibrate.novelty_policy(self.score, self.fitted, self.judge, marks)
        self.temperature = calibrate.temperature(logits, self.judge.y, len(self.classes))
        self.accuracy = accuracy_policy(logits[:, : len(self.classes)], self.judge.y, self.shift.window, s.seed)
        self.say(f"calibrate: held-out accuracy {1 - self.error:.1%}, novelty by {self.novelty.method} (AUROC {self.novelty.auroc:.2f} on held-out classes and unseen images, the lower)")
        return self._signature_space()

    def _signature_space(self) -> Arrays:
        """From clean data and the tuning corruptions, at three severities."""
        first, last = self.shift.signature
        some = slice(0, _ROUTE_SAMPLES)
        rows = self.judge_rows[some]
        conditions = [self.fitted.places(self.judge.z[some], self.judge.taps[some])[:, first:last]]
        if self.encoder.input.dtype == "uint8":
            for name in TUNING:
                for severity in (1, 3, 5):
                    z, taps = self._features(corrupt(self.x[rows], name, severity, self.settings.seed))
                    conditions.append(self.fitted.places(z, taps)[:, first:last])
        centre, projection = calibrate.route_projection(conditions, self.judge.y[some], self.shift.window, self.settings.seed)
        return {"route.centre": centre, "route.projection": projection}

    def _growth(self) -> GrowthPolicy:
        """The family, and how each member is trained."""
        from edgeadapt.host.methods.adaptors import training
        from edgeadapt.host.methods.scale_shift import ScaleShift

        candidates = []
        for adaptor in self.composition.adaptors:
            own = [spec for spec in adaptor.tensors(self.evidence.dims) if spec.kind == "parameter" and spec.persist != "never"]
            how = training(adaptor)
            candidates.append(AdaptorSpec(name=adaptor.name, tensors=tuple(spec.name for spec in own), learning_rate=how.learning_rate, steps=how.steps, batch=how.batch, per_column=isinstance(adaptor, ScaleShift)))
        return GrowthPolicy(candidates=tuple(candidates), adaptor_kib=self.settings.adaptor_kib)

    def _variants(self) -> tuple[PrecisionSpec, ...]:
        """Encoders in other precisions, each with thresholds of its own; their graphs join the others."""
        if not self.settings.precisions:
            return ()
        from edgeadapt.host.precision import Beside, make_variant

        base, evidence_rows = self.graphs["encode"], calibrate.split_rows(self.y, self.classes, self.settings.seed).evidence
        beside = Beside(
            base, {name: self.frozen[name] for name in base.graph.frozen}, self.encoder.input, self._runtime, self._features, self.fitted, self.score, self.shift,
            self.novelty, self.evidence, self.judge, self.x[evidence_rows], self.x[self.judge_rows], self.unseen_x, self.encoder.signature, self.settings.seed,
        )  # fmt: skip
        found = []
        for precision in self.settings.precisions:
            self.say(f"compile: encode in {precision}")
            made, spec = make_variant(precision, beside, self.settings.precision_margin)  # type: ignore[arg-type]
            self.graphs[f"encode_{precision}"] = made
            found.append(spec)
            report = spec.report
            self.say(f"  held-out accuracy {report.accuracy:.1%}, float32 {report.float32_accuracy:.1%}, equal answers {report.agreement:.1%}, feature error {report.median_error:.2g}")
            if report.float32_accuracy - report.accuracy > self.settings.precision_margin:
                self.say(f"  that is more than precision_margin = {self.settings.precision_margin:g}, and {report.samples} held-out samples are too few to tell it from chance")
        return tuple(found)

    def _guard(self) -> Arrays:
        rows = np.concatenate([np.flatnonzero(self.judge.y == k)[: self.settings.guard_per_class] for k in range(len(self.classes))])
        guard: Arrays = {"z": self.judge.z[rows].astype(np.float16), "y": self.judge.y[rows]}
        return guard | ({"taps": self.judge.taps[rows].astype(np.float16)} if self.taps.shape[1] else {})

    # -- the bundle -----------------------------------------------------------------------------------
    def _manifest(self, adapt: AdaptPolicy) -> Manifest:
        s = self.settings
        graphs = tuple(
            GraphSpec(file=f"graphs/{name}.onnx", roles=made.roles, methods=made.methods, batch=None, ports=made.graph.ports, outputs=made.graph.outputs,
                      reads=made.graph.reads, writes=made.graph.writes, frozen=made.graph.frozen, nodes=made.graph.nodes, parity=made.graph.parity, precision=made.precision)
            for name, made in self.graphs.items()
        )  # fmt: skip
        encoders = [graph for graph in graphs if "encode" in graph.roles and graph.precision == "float32"]
        made_by = [made.graph.model for made in self.graphs.values() if "encode" in made.roles and made.precision == "float32"] or [self.encoder.name.encode()]
        space = space_of(*made_by, *(self.frozen[name].tobytes() for name in encoder_tensors(self.frozen, encoders)))
        kinds = ("evidence", "derived", "parameter")
        tensors = tuple(msgspec.structs.replace(spec, space=space if spec.kind in kinds else "") for spec in self.composition.specs.values())
        policy = PolicySpec(
            shift=self.shift, novelty=self.novelty, adapt=adapt, accuracy=self.accuracy,
            learn=LearnPolicy(method=self.head.name, factory_count=s.factory_count, temperature=self.temperature),
            growth=self._growth(), smooth=SmoothPolicy(method=self.composition.smoother.name if self.composition.smoother else ""),
            guard=GuardPolicy(factory_samples=len(self._guard()["y"]), source_error=float(np.clip(2 * self.error, 0.1, 0.5))),
        )  # fmt: skip
        provenance = Provenance(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), edgeadapt=edgeadapt.__version__,
            torch=str(torch.__version__), onnx=onnx.__version__, seed=s.seed, encoder=s.encoder_name or self.encoder.name, data=s.data_name,
            recipe=s.recipe_sha256,
        )  # fmt: skip
        return Manifest(
            name=s.name, version=s.version, classes=self.classes, class_slots=s.class_slots, domain_slots=s.domain_slots, feature_dim=self.z.shape[1],
            tap_dim=self.taps.shape[1], space=space, batches=s.batches, input=self.encoder.input, tensors=tensors, graphs=graphs,
            numerics=self.composition.numerics, policy=policy, precisions=self.precisions, provenance=provenance,
            triggers=(TriggerSpec(role="adapt", when="shift", min_gap_samples=self.shift.window), TriggerSpec(role="learn", when="label")),
        )  # fmt: skip

    def write(self, path: Path, private_key: bytes | None) -> Bundle:
        """Stress the configuration, let the card decide what adaptation may do, write the file."""
        card: dict[str, Any] = {"held_out_accuracy": 1 - self.error, "novelty": self.novelty.alternatives}
        adapt = AdaptPolicy(mode="off", reason="no label-free method in this bundle")
        if self.adaptation != "none":
            adapt = self._adapt("advise", "not stress-tested")
            if self.settings.stress:
                with tempfile.TemporaryDirectory() as folder:
                    trial = self._pack(Path(folder) / "trial.edge", self._adapt("act", "stress trial"), card, None)
                    rows = self.judge_rows
                    kind: Kind = "short" if self.settings.stress == "short" else "full"
                    stress = stress_card(trial, self.x[rows], self.y[rows], seed=self.settings.seed, say=self.say, kind=kind)
                card["stress"] = stress.as_dict()
                adapt = self._adapt(stress.mode, stress.reason)
        bundle = self._pack(path, adapt, card, private_key)
        self.say(f"wrote {path}: {bundle.bytes / 2**20:.2f} MiB, adapt = {adapt.mode} ({adapt.reason})")
        return bundle

    def _adapt(self, mode: AdaptMode, reason: str) -> AdaptPolicy:
        preserves = self._preserves_space()
        return AdaptPolicy(mode=mode, method=self.adaptation, steps=self.composition.steps, preserves_space=preserves, home=self.composition.home, refresh_samples=2 * self.shift.window, reason=reason)

    def _preserves_space(self) -> bool:
        """What the method says of itself: do features of an adapted encoder mean what the factory's do? ``preserves_space``, by default True."""
        return bool(getattr(self.composition.constants or self.composition.features, "preserves_space", True))

    def _pack(self, path: Path, adapt: AdaptPolicy, card: dict[str, Any], private_key: bytes | None) -> Bundle:
        weights = {FROZEN: self.frozen, FACTORY: self.factory, GUARD: self._guard()}
        graphs = {f"graphs/{name}.onnx": made.graph.model for name, made in self.graphs.items()}
        return write_bundle(path, self._manifest(adapt), graphs, weights, card, private_key)


def _stored(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """As evidence is stored: rounded to float16."""
    return values.astype(np.float16).astype(np.float32)


__all__ = ["Identity", "Settings", "export"]
