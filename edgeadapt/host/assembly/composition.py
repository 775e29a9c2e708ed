"""How methods become the graphs of a bundle: one for features, one that reads, one that learns, one
that adapts.

``correct``, ``predict``, ``novelty`` and ``shift`` share a graph, because at batch 1 every call
counts; the same file answers all four roles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from edgeadapt.bundle.schema import NumericSpec, Precision, TensorSpec
from edgeadapt.host.assembly.adaptor_graphs import compile_adaptor
from edgeadapt.host.assembly.examples import Examples, Ports
from edgeadapt.host.compile import CompiledGraph, compile_graph
from edgeadapt.host.contracts import (
    Adapts,
    AdaptsEncoder,
    AdaptsFeatures,
    Adjusts,
    Arrays,
    Corrects,
    Derives,
    FactoryData,
    GivesReceipts,
    Head,
    Learns,
    Scores,
    class_moment,
)
from edgeadapt.host.contracts import frozen as frozen_spec
from edgeadapt.host.encoders.base import Encoder, example_input
from edgeadapt.host.encoders.dispatch import Identity
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.heads.nearest_mean import NearestMean
from edgeadapt.host.methods.heads.projected_means import KeepsMeans
from edgeadapt.host.methods.label_free.feature_space.lame import Lame
from edgeadapt.host.methods.residual_shift import ResidualShift

_FEW = 4  # inputs of a compiler's check that runs an encoder: the cases count, not their size
_READ_ROLES = ("correct", "predict", "novelty", "shift")


@dataclass(frozen=True)
class RoleGraph:
    """A compiled graph, the roles it answers and the methods inside it."""

    graph: CompiledGraph
    roles: tuple[Any, ...]
    methods: tuple[str, ...]
    precision: Precision = "float32"


def compile_encoder(encoder: Encoder) -> RoleGraph | None:
    """The role ``encode``; None for feature vectors."""
    if isinstance(encoder, Identity):
        return None
    if isinstance(encoder, ModuleEncoder):
        graph = compile_graph(
            "encode",
            lambda ports, t: (encoder.encode(ports, t), {}),
            lambda g, b: {"x": example_input(encoder.input, b, g)},
            encoder.frozen,
            frozen=tuple(encoder.frozen),
        )
    else:
        graph = encoder.graph()  # type: ignore[attr-defined]
    return RoleGraph(graph, ("encode",), (encoder.name,))


@dataclass(frozen=True, eq=False)
class Weights:
    """Declared tensors of a bundle, and values of those that have one before anything is learned.

    Attributes:
        specs: every tensor by name.
        frozen, factory: values of the frozen tensors, and of the others.
    """

    specs: dict[str, TensorSpec]
    frozen: Arrays
    factory: Arrays


@dataclass(frozen=True, eq=False)
class Composition:
    """The methods of one bundle.

    Attributes:
        head, score, sense: roles predict and learn, novelty, shift.
        label_free: the method without labels, if there is one: it corrects features and answers, or
            changes constants of the encoder.
        adaptors: the family that a condition may train one of.
        smoother: role smooth, if the bundle has it.
    """

    encoder: Encoder
    head: Head
    score: Scores
    sense: ResidualShift
    label_free: AdaptsFeatures | AdaptsEncoder | None = None
    adaptors: tuple[Adapts, ...] = ()
    smoother: Lame | None = None

    def declared(self, name: str, default: Any) -> Any:
        """What the label-free method says of itself: ``steps``, ``home``, ``can_shrink``,
        ``preserves_space``; see ``contracts.AdaptsEncoder``.
        """
        return getattr(self.label_free, name, default)

    @property
    def numerics(self) -> tuple[NumericSpec, ...]:
        own = self.score.numerics() if isinstance(self.score, Derives) else []
        return (*self.head.numerics(), *self.sense.numerics(), *own)

    def weights(self, data: FactoryData, extra: Arrays) -> Weights:
        """Every tensor, and its frozen or factory value.

        Args:
            data: factory evidence. extra: frozen tensors that no method declares (signature space).
        """
        frozen: Arrays = {
            name: value.numpy() for name, value in self.encoder.frozen.items()
        } | extra
        factory: Arrays = {}
        specs: dict[str, TensorSpec] = {}
        if isinstance(self.label_free, AdaptsEncoder):
            frozen |= {name: value.numpy() for name, value in self.label_free.frozen.items()}
        for method in (
            self.head,
            self.sense,
            self.score,
            self.label_free,
            self.smoother,
            *self.adaptors,
        ):
            if method is None:
                continue
            values = method.factory(data)
            for spec in method.tensors(data.dims):
                specs[spec.name] = spec
                starts_at_zero = spec.kind == "parameter" and spec.persist == "never"
                if spec.name in values and not starts_at_zero:
                    (frozen if spec.kind == "frozen" else factory)[spec.name] = values[spec.name]
        for name, value in frozen.items():
            specs.setdefault(name, frozen_spec(name, tuple(value.shape)))
        return Weights(specs, frozen, factory)

    # -- the functions behind the roles ------------------------------------------------------------
    def _corrected(self, t: Ports, z: Tensor) -> Tensor:
        return self.label_free.correct(t, z) if isinstance(self.label_free, Corrects) else z

    def read(self, ports: Ports, t: Ports, adaptor: Adapts | None = None) -> tuple[Ports, Ports]:
        """Correction, then the adaptor if there is one, then head and score; residuals are of what
        came from the encoder.
        """
        z = ports["z"]
        taps = ports.get("taps", z[:, :0])
        embedding = self._corrected(t, z)
        embedding = embedding if adaptor is None else adaptor.correct(t, embedding)
        logits = self.head.predict(t, embedding)
        if isinstance(self.label_free, Adjusts):
            logits = self.label_free.adjust(t, embedding, logits)
        score = self.score.novelty(t, embedding, taps, logits)
        return {
            "embedding": embedding,
            "logits": logits,
            "score": score,
            "residual": self.sense.shift(t, z, taps, logits),
        }, {}

    def learn(self, ports: Ports, t: Ports) -> tuple[Ports, Ports]:
        z, y, weight = ports["z"], ports["y"], ports["sample_weight"]
        taps = ports.get("taps", z[:, :0])
        # the class means of the factory condition learn from that condition alone
        here = weight * ports["is_factory"]
        learned = self.head.learn(t, self._corrected(t, z), taps, y, weight)
        if isinstance(self.head, KeepsMeans):  # prototypes that only novelty and distances read
            learned |= self.head.learn_means(t, z, y, here)
        elif not isinstance(self.head, NearestMean):
            learned["mean.moment"] = t["mean.moment"] + class_moment(
                z, y, here, t["mean.moment"].shape[1]
            )
        if isinstance(self.score, Learns):
            learned |= self.score.learn(t, z, taps, y, here)
        outputs = (
            {"receipt": self.head.receipt(t, self._corrected(t, z))}
            if isinstance(self.head, GivesReceipts)
            else {}
        )
        return outputs, {**learned, **self.sense.learn(t, z, taps, y, here)}

    # -- compiling ---------------------------------------------------------------------------------
    def compile_unlabelled(
        self, examples: Examples, say: Callable[[str], None]
    ) -> dict[str, RoleGraph]:
        """The graphs that a stream without labels runs: read, smooth and adapt."""
        say("compile: correct + predict + novelty + shift")
        read = examples.compile("read", self.read, examples.features)
        graphs = {"read": RoleGraph(read, _READ_ROLES, self._read_methods)}
        if self.smoother is not None:
            say(f"compile: smooth ({self.smoother.name})")
            graphs["smooth"] = self._compile_smooth(self.smoother, examples)
        if isinstance(self.label_free, AdaptsEncoder):
            say(f"compile: adapt ({self.label_free.name}), refold")
            graphs |= self._compile_constants(self.label_free, examples)
        elif self.label_free is not None:
            say(f"compile: adapt ({self.label_free.name})")
            graphs["adapt"] = _compile_features(self.label_free, examples)
        return graphs

    def compile_labelled(
        self, examples: Examples, say: Callable[[str], None]
    ) -> dict[str, RoleGraph]:
        """The graphs that labels run: learn, redeem, and three of each adaptor."""

        def labelled(generator: torch.Generator, batch: int) -> Ports:
            y = examples.labels(generator, batch)
            return {
                **examples.features(generator, batch),
                "y": y,
                "sample_weight": torch.rand(batch, generator=generator) + 0.5,
                "is_factory": torch.ones(batch),
            }

        say("compile: learn")
        learn = examples.compile("learn", self.learn, labelled, is_step=True)
        graphs = {"learn": RoleGraph(learn, ("learn",), (self.head.name, self.sense.name))}
        for adaptor in self.adaptors:
            say(f"compile: adaptor {adaptor.name}")
            momentum = {
                spec.name: torch.zeros(spec.shape)
                for spec in adaptor.tensors(examples.data.dims)
                if spec.name not in examples.tensors
            }
            made = compile_adaptor(
                adaptor,
                self.read,
                self.head.predict,
                replace(examples, tensors=examples.tensors | momentum),
            )
            graphs[f"read_{adaptor.name}"] = RoleGraph(
                made.read, _READ_ROLES, (*self._read_methods, adaptor.name)
            )
            graphs[f"fit_{adaptor.name}"] = RoleGraph(made.fit, ("fit",), (adaptor.name,))
            graphs[f"probe_{adaptor.name}"] = RoleGraph(made.probe, ("probe",), (adaptor.name,))
        if isinstance(self.head, GivesReceipts):
            say("compile: redeem")
            graphs["redeem"] = _compile_redeem(self.head, examples)
        return graphs

    @property
    def _read_methods(self) -> tuple[str, ...]:
        return (self.head.name, self.score.name, self.sense.name)

    def _compile_smooth(self, method: Lame, examples: Examples) -> RoleGraph:
        def answered(generator: torch.Generator, batch: int) -> Ports:
            z = examples.features(generator, batch)["z"]
            return {
                "logits": self.head.predict(examples.tensors, z),
                "z": z,
                "sample_weight": torch.ones(batch),
            }

        graph = examples.compile(
            "smooth",
            lambda p, t: (
                {"smoothed": method.smooth(t, p["z"], p["logits"], p["sample_weight"])},
                {},
            ),
            answered,
        )
        return RoleGraph(graph, ("smooth",), (method.name,))

    def _compile_constants(self, method: AdaptsEncoder, examples: Examples) -> dict[str, RoleGraph]:
        width = int(getattr(method, "noise_width", 0))

        def inputs(generator: torch.Generator, batch: int) -> Ports:
            ports = {
                "x": example_input(self.encoder.input, batch, generator),
                "sample_weight": torch.ones(batch),
            }
            return ports | ({"noise": torch.randn(width, generator=generator)} if width else {})

        adapt = examples.compile("adapt", method.adapt, inputs, is_step=True, batch=_FEW)
        graphs = {"adapt": RoleGraph(adapt, ("adapt",), (method.name,))}
        # statistics stay tensors: a second encoder reads them, and nothing is folded
        if getattr(method, "is_unfolded", False):
            unfolded = examples.compile(
                "encode_unfolded",
                lambda p, t: (method.encode(p, t), {}),  # type: ignore[attr-defined]
                lambda g, b: {"x": inputs(g, b)["x"]},
            )
            return graphs | {"encode_unfolded": RoleGraph(unfolded, ("encode",), (method.name,))}
        own = tuple(name for name in examples.frozen if name in method.frozen)
        refold = replace(examples, frozen=own).compile("refold", method.refold, lambda g, b: {})
        return graphs | {"refold": RoleGraph(refold, ("derive",), (method.name,))}


def _compile_features(method: AdaptsFeatures, examples: Examples) -> RoleGraph:
    def weighted(generator: torch.Generator, batch: int) -> Ports:
        return {"z": examples.features(generator, batch)["z"], "sample_weight": torch.ones(batch)}

    graph = examples.compile(
        "adapt", lambda p, t: method.adapt(t, p["z"], p["sample_weight"]), weighted, is_step=True
    )
    return RoleGraph(graph, ("adapt",), (method.name,))


def _compile_redeem(head: GivesReceipts, examples: Examples) -> RoleGraph:
    def receipts(generator: torch.Generator, batch: int) -> Ports:
        receipt = head.receipt(examples.tensors, examples.features(generator, batch)["z"])
        y = examples.labels(generator, batch)
        return {"receipt": receipt, "y": y, "sample_weight": torch.ones(batch)}

    graph = examples.compile(
        "redeem",
        lambda p, t: ({}, head.redeem(t, p["receipt"], p["y"], p["sample_weight"])),
        receipts,
        is_step=True,
    )
    return RoleGraph(graph, ("redeem",), (head.name,))
