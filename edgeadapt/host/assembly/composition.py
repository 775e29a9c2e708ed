"""How methods become the graphs of a bundle: one for features, one that reads, one that learns, one
that adapts.

``correct``, ``predict``, ``novelty`` and ``shift`` share a graph, because at batch 1 every call
counts; the same file answers all four roles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edgeadapt.bundle.schema import AdaptPolicy, NumericSpec, Precision, TensorSpec
from edgeadapt.host.assembly.adaptor_graphs import compile_adaptor
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
from edgeadapt.host.encoders.base import Encoder, example_input
from edgeadapt.host.encoders.dispatch import Identity
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.lame import Lame
from edgeadapt.host.methods.nearest_mean import NearestMean
from edgeadapt.host.methods.projected_means import KeepsMeans
from edgeadapt.host.methods.residual_shift import ResidualShift

Ports = dict[str, Tensor]
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


@dataclass(eq=False)
class Composition:
    """The methods of one bundle.

    Attributes:
        head, score, sense: roles predict and learn, novelty, shift.
        features, constants: the label-free method, at most one of them: it corrects features and
            answers, or constants of the encoder.
        adaptors: the family that a condition may grow one of.
        smoother: role smooth, if the bundle has it.
    """

    encoder: Encoder
    head: Head
    score: Scores
    sense: ResidualShift
    features: AdaptsFeatures | None = None
    constants: AdaptsEncoder | None = None
    adaptors: tuple[Adapts, ...] = ()
    smoother: Lame | None = None
    specs: dict[str, TensorSpec] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        head: Head,
        score: Scores,
        sense: ResidualShift,
        method: AdaptsEncoder | AdaptsFeatures | None,
        adaptors: Sequence[Adapts] = (),
        smoother: Lame | None = None,
    ) -> Composition:
        """``method``: the label-free one."""
        if hasattr(method, "refold"):
            return cls(encoder, head, score, sense, None, method, tuple(adaptors), smoother)
        return cls(encoder, head, score, sense, method, None, tuple(adaptors), smoother)

    @property
    def steps(self) -> int:
        """Calls of the label-free method per refresh."""
        return int(getattr(self.constants or self.features, "steps", 1))

    @property
    def home(self) -> float:
        """How near to the classes the label-free method must bring inputs, as a share of where they
        are: ``AdaptPolicy.home``.
        """
        return float(getattr(self.constants or self.features, "home", AdaptPolicy().home))

    @property
    def can_shrink(self) -> bool:
        """The label-free method has milder forms: ``AdaptPolicy.strength``."""
        return bool(getattr(self.constants or self.features, "can_shrink", False))

    @property
    def numerics(self) -> tuple[NumericSpec, ...]:
        own = self.score.numerics() if isinstance(self.score, Derives) else []
        return (*self.head.numerics(), *self.sense.numerics(), *own)

    def values(self, data: FactoryData, extra: Arrays) -> tuple[Arrays, Arrays]:
        """Frozen and factory values of every tensor; fills ``specs``.

        Args:
            data: factory evidence. extra: frozen tensors that no method declares (signature space).
        """
        frozen: Arrays = {
            name: value.numpy() for name, value in self.encoder.frozen.items()
        } | extra
        factory: Arrays = {}
        if self.constants is not None:
            frozen |= {name: value.numpy() for name, value in self.constants.frozen.items()}
        for method in (
            self.head,
            self.sense,
            self.score,
            self.features,
            self.constants,
            self.smoother,
            *self.adaptors,
        ):
            if method is None:
                continue
            values = method.factory(data)
            for spec in method.tensors(data.dims):
                self.specs[spec.name] = spec
                starts_at_zero = spec.kind == "parameter" and spec.persist == "never"
                if spec.name in values and not starts_at_zero:
                    (frozen if spec.kind == "frozen" else factory)[spec.name] = values[spec.name]
        for name, value in frozen.items():
            self.specs.setdefault(
                name,
                TensorSpec(
                    name=name,
                    dtype="float32",
                    shape=tuple(value.shape),
                    kind="frozen",
                    persist="never",
                ),
            )
        return frozen, factory

    # -- the functions behind the roles ------------------------------------------------------------
    def _corrected(self, t: Ports, z: Tensor) -> Tensor:
        return self.features.correct(t, z) if isinstance(self.features, Corrects) else z

    def read(self, ports: Ports, t: Ports, adaptor: Adapts | None = None) -> tuple[Ports, Ports]:
        """Correction, then the adaptor if there is one, then head and score; residuals are of what
        came from the encoder.
        """
        z = ports["z"]
        taps = ports.get("taps", z[:, :0])
        embedding = self._corrected(t, z)
        embedding = embedding if adaptor is None else adaptor.correct(t, embedding)
        logits = self.head.predict(t, embedding)
        if isinstance(self.features, Adjusts):
            logits = self.features.adjust(t, embedding, logits)
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
    def compile(
        self, judge: FactoryData, values: Ports, say: Callable[[str], None]
    ) -> dict[str, RoleGraph]:
        """Every graph but the encoder's, checked on features of samples that made no evidence.

        Args:
            judge: held-out calibration features. values: a plausible value of every tensor.
        """
        return self.compile_unlabelled(judge, values, say) | self.compile_labelled(
            judge, values, say
        )

    def compile_unlabelled(
        self, judge: FactoryData, values: Ports, say: Callable[[str], None]
    ) -> dict[str, RoleGraph]:
        """Those of ``compile`` that a stream without labels runs: read, smooth and adapt."""
        tensors, frozen, features = self._examples(judge, values)
        say("compile: correct + predict + novelty + shift")
        read = compile_graph("read", self.read, features, tensors, frozen=frozen)
        graphs = {"read": RoleGraph(read, _READ_ROLES, self._read_methods)}
        if self.smoother is not None:
            say(f"compile: smooth ({self.smoother.name})")
            graphs["smooth"] = self._compile_smooth(self.smoother, features, tensors, frozen)
        if self.features is not None:
            say(f"compile: adapt ({self.features.name})")
            graphs["adapt"] = self._compile_features(self.features, features, tensors, frozen)
        if self.constants is not None:
            say(f"compile: adapt ({self.constants.name}), refold")
            graphs |= self._compile_constants(self.constants, tensors, frozen)
        return graphs

    def compile_labelled(
        self, judge: FactoryData, values: Ports, say: Callable[[str], None]
    ) -> dict[str, RoleGraph]:
        """Those of ``compile`` that labels run: learn, redeem, and three of each adaptor."""
        tensors, frozen, features = self._examples(judge, values)
        classes = len(judge.classes)

        def labelled(generator: torch.Generator, batch: int) -> Ports:
            y = torch.randint(0, classes, (batch,), generator=generator)
            return {
                **features(generator, batch),
                "y": y,
                "sample_weight": torch.rand(batch, generator=generator) + 0.5,
                "is_factory": torch.ones(batch),
            }

        say("compile: learn")
        learn = compile_graph("learn", self.learn, labelled, tensors, frozen=frozen, is_step=True)
        graphs = {"learn": RoleGraph(learn, ("learn",), (self.head.name, self.sense.name))}
        for adaptor in self.adaptors:
            say(f"compile: adaptor {adaptor.name}")
            momentum = {
                spec.name: torch.zeros(spec.shape)
                for spec in self.specs.values()
                if spec.name.startswith(f"{adaptor.name}.") and spec.name not in tensors
            }
            made = compile_adaptor(
                adaptor, self.read, self.head.predict, features, tensors | momentum, frozen, classes
            )
            graphs[f"read_{adaptor.name}"] = RoleGraph(
                made.read, _READ_ROLES, (*self._read_methods, adaptor.name)
            )
            graphs[f"fit_{adaptor.name}"] = RoleGraph(made.fit, ("fit",), (adaptor.name,))
            graphs[f"probe_{adaptor.name}"] = RoleGraph(made.probe, ("probe",), (adaptor.name,))
        if isinstance(self.head, GivesReceipts):
            say("compile: redeem")
            graphs["redeem"] = self._compile_redeem(self.head, features, tensors, frozen, classes)
        return graphs

    @property
    def _read_methods(self) -> tuple[str, ...]:
        return (self.head.name, self.score.name, self.sense.name)

    def _examples(
        self, judge: FactoryData, values: Ports
    ) -> tuple[Ports, tuple[str, ...], Callable[..., Ports]]:
        """Values of the declared tensors, the names of frozen ones, and ports with features of the
        judge's samples.
        """
        tensors = {name: values[name] for name in self.specs if name in values}
        frozen = tuple(name for name, spec in self.specs.items() if spec.kind == "frozen")

        def features(generator: torch.Generator, batch: int) -> Ports:
            rows = torch.randint(0, len(judge.y), (batch,), generator=generator).numpy()
            ports = {"z": torch.from_numpy(judge.z[rows].copy())}
            return ports | (
                {"taps": torch.from_numpy(judge.taps[rows].copy())} if judge.dims.taps else {}
            )

        return tensors, frozen, features

    def _compile_redeem(
        self,
        head: GivesReceipts,
        features: Callable[..., Ports],
        tensors: Ports,
        frozen: tuple[str, ...],
        classes: int,
    ) -> RoleGraph:
        def receipts(generator: torch.Generator, batch: int) -> Ports:
            receipt = head.receipt(tensors, features(generator, batch)["z"])
            y = torch.randint(0, classes, (batch,), generator=generator)
            return {"receipt": receipt, "y": y, "sample_weight": torch.ones(batch)}

        graph = compile_graph(
            "redeem",
            lambda p, t: ({}, head.redeem(t, p["receipt"], p["y"], p["sample_weight"])),
            receipts,
            tensors,
            frozen=frozen,
            is_step=True,
        )
        return RoleGraph(graph, ("redeem",), (head.name,))

    def _compile_smooth(
        self, method: Lame, features: Callable[..., Ports], tensors: Ports, frozen: tuple[str, ...]
    ) -> RoleGraph:
        def answered(generator: torch.Generator, batch: int) -> Ports:
            z = features(generator, batch)["z"]
            return {
                "logits": self.head.predict(tensors, z),
                "z": z,
                "sample_weight": torch.ones(batch),
            }

        graph = compile_graph(
            "smooth",
            lambda p, t: (
                {"smoothed": method.smooth(t, p["z"], p["logits"], p["sample_weight"])},
                {},
            ),
            answered,
            tensors,
            frozen=frozen,
        )
        return RoleGraph(graph, ("smooth",), (method.name,))

    def _compile_features(
        self,
        method: AdaptsFeatures,
        features: Callable[..., Ports],
        tensors: Ports,
        frozen: tuple[str, ...],
    ) -> RoleGraph:
        def weighted(generator: torch.Generator, batch: int) -> Ports:
            return {"z": features(generator, batch)["z"], "sample_weight": torch.ones(batch)}

        graph = compile_graph(
            "adapt",
            lambda p, t: method.adapt(t, p["z"], p["sample_weight"]),
            weighted,
            tensors,
            frozen=frozen,
            is_step=True,
        )
        return RoleGraph(graph, ("adapt",), (method.name,))

    def _compile_constants(
        self, method: AdaptsEncoder, tensors: Ports, frozen: tuple[str, ...]
    ) -> dict[str, RoleGraph]:
        width = int(getattr(method, "noise_width", 0))

        def inputs(generator: torch.Generator, batch: int) -> Ports:
            ports = {
                "x": example_input(self.encoder.input, batch, generator),
                "sample_weight": torch.ones(batch),
            }
            return ports | ({"noise": torch.randn(width, generator=generator)} if width else {})

        adapt = compile_graph(
            "adapt", method.adapt, inputs, tensors, frozen=frozen, is_step=True, batch=_FEW
        )
        # statistics stay tensors: a second encoder reads them, and nothing is folded
        if getattr(method, "is_unfolded", False):
            unfolded = compile_graph(
                "encode_unfolded",
                lambda p, t: (method.encode(p, t), {}),
                lambda g, b: {"x": inputs(g, b)["x"]},
                tensors,
                frozen=frozen,  # type: ignore[attr-defined]
            )
            return {
                "adapt": RoleGraph(adapt, ("adapt",), (method.name,)),
                "encode_unfolded": RoleGraph(unfolded, ("encode",), (method.name,)),
            }
        held = tuple(name for name in frozen if name in method.frozen)
        refold = compile_graph("refold", method.refold, lambda g, b: {}, tensors, frozen=held)
        return {
            "adapt": RoleGraph(adapt, ("adapt",), (method.name,)),
            "refold": RoleGraph(refold, ("derive",), (method.name,)),
        }
