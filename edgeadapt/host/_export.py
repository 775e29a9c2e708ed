"""From an encoder and calibration data to a signed bundle with everything a device needs to keep learning."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

import edgeadapt
from edgeadapt.bench.corruptions import TUNING, corrupt
from edgeadapt.bundle import FACTORY, FROZEN, GUARD, Bundle, write_bundle
from edgeadapt.bundle.schema import (
    AdaptPolicy,
    GraphSpec,
    GuardPolicy,
    InputSpec,
    LearnPolicy,
    Manifest,
    PolicySpec,
    Provenance,
    TensorSpec,
    TriggerSpec,
    space_of,
)  # fmt: skip
from edgeadapt.errors import InputError
from edgeadapt.host import calibrate
from edgeadapt.host.compile import CompiledGraph, compile_graph
from edgeadapt.host.encoders import Encoder, Identity, ModuleEncoder, as_encoder, example_input
from edgeadapt.host.methods.base import Arrays, FactoryData, Head, Scores, class_moment
from edgeadapt.host.methods.feature_shift import FeatureShift
from edgeadapt.host.methods.nearest_mean import NearestMean
from edgeadapt.host.methods.norm_statistics import NormStatistics
from edgeadapt.host.methods.novelty import Cosine, Mahalanobis, NearestNeighbours, VirtualLogit
from edgeadapt.host.methods.residual_shift import ResidualShift
from edgeadapt.host.methods.ridge import Ridge
from edgeadapt.runtime import GraphFile, open_runtime

Progress = Callable[[str], None]
HEADS = {"ridge": Ridge, "nearest_mean": NearestMean}
NOVELTY = {"cosine": Cosine, "knn": NearestNeighbours, "vim": VirtualLogit, "mahalanobis": Mahalanobis}
ADAPTATIONS = ("auto", "norm_statistics", "feature_shift", "none")


@dataclass(frozen=True)
class Settings:
    """What a user may choose; the defaults were chosen on validation streams.

    Attributes:
        name: of the bundle. seed: of splits and simulated windows.
        class_slots, domain_slots: capacity, fixed at export.
        head: ``ridge`` or ``nearest_mean``. random_features: width for the ridge; -1 chooses 512 below 64 dimensions, else none.
        penalty, balance: of the ridge head, see ``methods/ridge.py``; chosen on training images of classes held out of the encoder.
        novelty: ``auto`` (by held-out classes) or a score's name.
        adapt: ``auto`` (norm statistics if the encoder has batch-norms, else feature shift) or a method's name.
        stress: run the stress streams and let them decide whether adaptation may act; without them it only advises.
        factory_count: labels that all factory samples of a class together weigh as much as.
        guard_per_class: factory samples per class that travel in the bundle to judge changes.
        colour, range, resize, feature, taps: see ``host.encoders.as_encoder``.
    """

    name: str = "model"
    seed: int = 0
    class_slots: int = 32
    domain_slots: int = 8
    batches: tuple[int, ...] = (1, 8, 32)
    head: str = "ridge"
    random_features: int = -1
    penalty: float = 1e-2
    balance: float = 1.45
    novelty: str = "auto"
    adapt: str = "auto"
    stress: bool = True
    factory_count: float = 25.0
    guard_per_class: int = 50
    colour: str | None = None
    range: tuple[float, float] | None = None
    resize: str | None = None
    feature: str | None = None
    taps: Sequence[str] | None = None
    encoder_name: str = ""
    data_name: str = ""
    recipe_sha256: str = ""

    def check(self, classes: Sequence[str]) -> None:
        for key, value, allowed in (("head", self.head, tuple(HEADS)), ("novelty", self.novelty, ("auto", *NOVELTY)), ("adapt", self.adapt, ADAPTATIONS)):
            if value not in allowed:
                raise InputError(f"{key} is one of {', '.join(allowed)}, got {value!r}")
        if len(classes) > self.class_slots:
            raise InputError(f"{len(classes)} classes do not fit into class_slots = {self.class_slots}")


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
        self.graphs: dict[str, CompiledGraph] = {}
        self.roles: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {}
        self.frozen: Arrays = {name: value.numpy() for name, value in encoder.frozen.items()}
        self.runtime = open_runtime("onnxruntime")
        self._compile_encoder()
        self.say("calibrate: features, head, thresholds")
        self.z, self.taps = self.features(x)
        self._calibrate()
        self._compile_methods()

    # -- encoder --------------------------------------------------------------------------------------
    def _compile_encoder(self) -> None:
        if isinstance(self.encoder, Identity):
            return
        self.say("compile: encode")
        encoder = self.encoder
        if isinstance(encoder, ModuleEncoder):
            graph = compile_graph(
                "encode", lambda ports, t: (encoder.encode(ports, t), {}), lambda g, b: {"x": example_input(encoder.input, b, g)},
                encoder.frozen, frozen=tuple(encoder.frozen),
            )  # fmt: skip
        else:
            graph = encoder.graph()  # type: ignore[attr-defined]
        self._add("encode", graph, ("encode",), (encoder.name,))

    def _add(self, name: str, graph: CompiledGraph, roles: tuple[Any, ...], methods: tuple[str, ...]) -> None:
        self.graphs[name], self.roles[name] = graph, (roles, methods)

    def features(self, x: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Features and taps by the very graph that ships, rounded to float16 as evidence is."""
        if isinstance(self.encoder, Identity):
            z = x.reshape(len(x), -1).astype(np.float32)
            if z.shape[1] != self.encoder.dim:
                raise InputError(f"Identity({self.encoder.dim}) takes feature vectors of width {self.encoder.dim}, got {z.shape[1]}")
            return z.astype(np.float16).astype(np.float32), np.zeros((len(z), 0), np.float32)
        graph = self.graphs["encode"]
        run = self.runtime.load(GraphFile("encode", graph.model, {n: self.frozen[n] for n in graph.frozen}))
        parts = [run({"x": x[i : i + 256]}, self.runtime.upload({}))[0] for i in range(0, len(x), 256)]
        z = np.concatenate([p["z"] for p in parts])
        taps = np.concatenate([p["taps"] for p in parts]) if "taps" in parts[0] else np.zeros((len(z), 0), np.float32)
        return z.astype(np.float16).astype(np.float32), taps.astype(np.float16).astype(np.float32)

    # -- calibration ----------------------------------------------------------------------------------
    def _data(self, rows: NDArray[np.int64]) -> FactoryData:
        weight = calibrate.factory_weights(self.y[rows], self.settings.factory_count)
        return FactoryData(self.z[rows], self.taps[rows], self.y[rows], weight, self.settings.class_slots)

    def _calibrate(self) -> None:
        s = self.settings
        split = calibrate.split_rows(self.y, self.classes, s.seed)
        self.evidence, self.judge = self._data(split.evidence), self._data(split.held_out)
        self.judge_rows = split.held_out
        self.head: Head = self._head()
        self.sense = ResidualShift()
        scores: list[Scores] = [make() for make in NOVELTY.values()] if s.novelty == "auto" else [NOVELTY[s.novelty]()]
        self.score, marks = calibrate.choose_novelty(scores, self.head, self.sense, self.evidence, self.judge, s.seed)
        self.corrector = FeatureShift()
        fitted = calibrate.Fitted.of(self.head, self.sense, self.evidence, {**self.score.factory(self.evidence), **self.corrector.factory(self.evidence)})
        self.fitted = fitted
        logits = fitted.logits(self.judge.z)
        self.error = float((logits.argmax(axis=1) != self.judge.y).mean())
        self.shift = calibrate.shift_policy(fitted, self.judge.z, self.judge.taps, self.judge.y, self.encoder.signature, s.seed)
        self.novelty = calibrate.novelty_policy(self.score, fitted, self.judge.z, self.judge.y, marks)
        self.temperature = calibrate.temperature(logits, self.judge.y, len(self.classes))
        self._route()
        self.say(f"calibrate: held-out accuracy {1 - self.error:.1%}, novelty by {self.novelty.method} (AUROC {self.novelty.auroc:.2f} on held-out classes)")

    def _head(self) -> Head:
        s = self.settings
        if s.head == "nearest_mean":
            return NearestMean()
        width = (512 if self.z.shape[1] < 64 else 0) if s.random_features < 0 else s.random_features
        return Ridge(penalty=s.penalty, balance=s.balance, random_features=width, seed=s.seed)

    def _route(self) -> None:
        """Signature space from clean data and the tuning corruptions, at three severities."""
        first, last = self.shift.signature
        rows = self.judge_rows[:1500]
        conditions = [self.fitted.places(self.judge.z[:1500], self.judge.taps[:1500])[:, first:last]]
        if self.encoder.input.dtype == "uint8":
            for name in TUNING:
                for severity in (1, 3, 5):
                    z, taps = self.features(corrupt(self.x[rows], name, severity, self.settings.seed))
                    conditions.append(self.fitted.places(z, taps)[:, first:last])
        centre, projection = calibrate.route_projection(conditions, self.judge.y[:1500], self.shift.window, self.settings.seed)
        self.frozen |= {"route.centre": centre, "route.projection": projection}

    # -- graphs ---------------------------------------------------------------------------------------
    def _adaptation(self) -> str:
        wanted = self.settings.adapt
        has_norms = bool(self.encoder.norms)
        if wanted == "norm_statistics" and not has_norms:
            raise InputError("adapt = 'norm_statistics' needs an encoder with batch-norm layers; this one has none")
        return ("norm_statistics" if has_norms else "feature_shift") if wanted == "auto" else wanted

    def _compile_methods(self) -> None:
        self.method = self._adaptation()
        self.specs = self._specs()
        values = {**self.fitted.values, **{name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in self.frozen.items()}}
        frozen = tuple(s.name for s in self.specs if s.kind == "frozen")
        dims = self.evidence.dims
        is_correcting = self.method == "feature_shift"

        def corrected(t: Any, z: Tensor) -> Tensor:
            return self.corrector.correct(t, z) if is_correcting else z

        def read(ports: dict[str, Tensor], t: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            z = ports["z"]
            taps = ports.get("taps", z[:, :0])
            embedding = corrected(t, z)
            logits = self.head.predict(t, embedding)
            score = self.score.novelty(t, embedding, logits)
            return {"embedding": embedding, "logits": logits, "score": score, "residual": self.sense.shift(t, z, taps, logits)}, {}

        def learn(ports: dict[str, Tensor], t: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            z, y, weight = ports["z"], ports["y"], ports["sample_weight"]
            taps = ports.get("taps", z[:, :0])
            here = weight * ports["is_factory"]  # the class means of the factory condition learn from that condition alone
            head = self.head.learn(t, corrected(t, z), taps, y, weight)
            if isinstance(self.head, Ridge):
                head["mean.moment"] = t["mean.moment"] + class_moment(z, y, here, t["mean.moment"].shape[1])
            return {}, {**head, **self.sense.learn(t, z, taps, y, here)}

        def features(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
            rows = torch.randint(0, len(self.judge.y), (batch,), generator=generator).numpy()
            ports = {"z": torch.from_numpy(self.judge.z[rows].copy())}
            return ports | ({"taps": torch.from_numpy(self.judge.taps[rows].copy())} if dims.taps else {})

        def labelled(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
            y = torch.randint(0, len(self.classes), (batch,), generator=generator)
            return {**features(generator, batch), "y": y, "sample_weight": torch.rand(batch, generator=generator) + 0.5, "is_factory": torch.ones(batch)}

        tensors = {s.name: values[s.name] for s in self.specs if s.name in values}
        methods = (self.head.name, self.score.name, self.sense.name)
        self.say("compile: correct + predict + novelty + shift, learn")
        self._add("read", compile_graph("read", read, features, tensors, frozen=frozen), ("correct", "predict", "novelty", "shift"), methods)
        self._add("learn", compile_graph("learn", learn, labelled, tensors, frozen=frozen, is_step=True), ("learn",), (self.head.name, self.sense.name))
        self._compile_adapt(tensors, frozen)

    def _compile_adapt(self, tensors: dict[str, Tensor], frozen: tuple[str, ...]) -> None:
        if self.method == "none":
            return
        self.say(f"compile: adapt ({self.method})")
        if self.method == "feature_shift":
            graph = compile_graph(
                "adapt", lambda p, t: self.corrector.adapt(t, p["z"], p["sample_weight"]),
                lambda g, b: {"z": torch.randn(b, self.evidence.dims.features, generator=g), "sample_weight": torch.ones(b)},
                tensors, frozen=frozen, is_step=True,
            )  # fmt: skip
            self._add("adapt", graph, ("adapt",), ("feature_shift",))
            return
        encoder, norms = self.encoder, self.norms
        assert norms is not None
        images = lambda g, b: {"x": example_input(encoder.input, b, g), "sample_weight": torch.ones(b)}  # noqa: E731
        self._add("adapt", compile_graph("adapt", norms.adapt, images, tensors, frozen=frozen, is_step=True), ("adapt",), (norms.name,))
        refold = compile_graph("refold", norms.refold, lambda g, b: {}, tensors, frozen=tuple(norms.frozen))
        self._add("refold", refold, ("derive",), (norms.name,))

    def _specs(self) -> list[TensorSpec]:
        """Every tensor of every method once, and its factory value."""
        dims = self.evidence.dims
        self.factory: Arrays = {}
        methods: list[Any] = [self.head, self.sense, self.score]
        self.norms = NormStatistics(self.encoder) if self.method == "norm_statistics" else None  # type: ignore[arg-type]
        if self.method == "feature_shift":
            methods.append(self.corrector)
        if self.norms is not None:
            methods.append(self.norms)
            self.frozen |= {name: value.numpy() for name, value in self.norms.frozen.items()}
        specs: dict[str, TensorSpec] = {}
        for method in methods:
            values = method.factory(self.evidence)
            for spec in method.tensors(dims):
                specs[spec.name] = spec
                if spec.name in values:
                    (self.frozen if spec.kind == "frozen" else self.factory)[spec.name] = values[spec.name]
        for name, value in self.frozen.items():
            specs.setdefault(name, TensorSpec(name=name, dtype="float32", shape=tuple(value.shape), kind="frozen", persist="never"))
        if self.norms is not None:
            self.fitted.values.update({name: torch.from_numpy(self.factory[name]) for name in ("norm.mean", "norm.variance")})
            self.fitted.values.update({name: torch.from_numpy(self.frozen[name]) for name in self.norms.frozen})
        return list(specs.values())

    # -- the bundle -----------------------------------------------------------------------------------
    def manifest(self, adapt: AdaptPolicy) -> Manifest:
        s = self.settings
        encode = self.graphs.get("encode")
        space = space_of(encode.model if encode else self.encoder.name.encode(), *(self.frozen[n].tobytes() for n in sorted(self.encoder.frozen)))
        tensors = tuple(msgspec.structs.replace(spec, space=space if spec.kind in ("evidence", "derived", "parameter") else "") for spec in self.specs)
        graphs = tuple(
            GraphSpec(file=f"graphs/{name}.onnx", roles=self.roles[name][0], methods=self.roles[name][1], batch=None, ports=g.ports, outputs=g.outputs,
                      reads=g.reads, writes=g.writes, frozen=g.frozen, nodes=g.nodes, parity=g.parity)
            for name, g in self.graphs.items()
        )  # fmt: skip
        policy = PolicySpec(
            shift=self.shift, novelty=self.novelty, adapt=adapt,
            learn=LearnPolicy(method=self.head.name, factory_count=s.factory_count, temperature=self.temperature),
            guard=GuardPolicy(factory_samples=len(self._guard()["y"]), source_error=float(np.clip(2 * self.error, 0.1, 0.5))),
        )  # fmt: skip
        provenance = Provenance(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), edgeadapt=edgeadapt.__version__, torch=str(torch.__version__),
            onnx=onnx.__version__, seed=s.seed, encoder=s.encoder_name or self.encoder.name, data=s.data_name, recipe=s.recipe_sha256,
        )  # fmt: skip
        return Manifest(
            name=s.name, classes=self.classes, class_slots=s.class_slots, domain_slots=s.domain_slots, feature_dim=self.z.shape[1],
            tap_dim=self.taps.shape[1], space=space, batches=s.batches, input=self.encoder.input, tensors=tensors, graphs=graphs,
            numerics=(*self.head.numerics(), *self.sense.numerics()),
            triggers=(TriggerSpec(role="adapt", when="shift", min_gap_samples=self.shift.window), TriggerSpec(role="learn", when="label")),
            policy=policy, provenance=provenance,
        )  # fmt: skip

    def _guard(self) -> Arrays:
        rows = np.concatenate([np.flatnonzero(self.judge.y == k)[: self.settings.guard_per_class] for k in range(len(self.classes))])
        guard: Arrays = {"z": self.judge.z[rows].astype(np.float16), "y": self.judge.y[rows]}
        return guard | ({"taps": self.judge.taps[rows].astype(np.float16)} if self.taps.shape[1] else {})

    def write(self, path: Path, private_key: bytes | None) -> Bundle:
        weights = {FROZEN: {s.name: self.frozen[s.name] for s in self.specs if s.kind == "frozen"}, FACTORY: self.factory, GUARD: self._guard()}
        graphs = {f"graphs/{name}.onnx": g.model for name, g in self.graphs.items()}
        card: dict[str, Any] = {"held_out_accuracy": 1 - self.error, "novelty": self.novelty.alternatives}
        adapt = AdaptPolicy(mode="off", method="", reason="no label-free method in this bundle")
        if self.method != "none":
            adapt = AdaptPolicy(mode="advise", method=self.method, refresh_samples=2 * self.shift.window, reason="not stress-tested")
            if self.settings.stress and self.encoder.input.dtype == "uint8":
                from edgeadapt.host.stress import stress_card

                trial = write_bundle(path, self.manifest(replace_mode(adapt, "act", "stress trial")), graphs, weights, card)
                rows = self.judge_rows
                stress = stress_card(trial, self.x[rows], self.y[rows], seed=self.settings.seed, say=self.say)
                card["stress"] = stress.as_dict()
                adapt = replace_mode(adapt, stress.mode, stress.reason)
        bundle = write_bundle(path, self.manifest(adapt), graphs, weights, card, private_key)
        self.say(f"wrote {path}: {bundle.bytes / 2**20:.2f} MiB, adapt = {adapt.mode} ({adapt.reason})")
        return bundle


def replace_mode(adapt: AdaptPolicy, mode: Any, reason: str) -> AdaptPolicy:
    return msgspec.structs.replace(adapt, mode=mode, reason=reason)


__all__ = ["InputSpec", "Settings", "export"]
