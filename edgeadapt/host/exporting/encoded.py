"""First stage of an export: the encoder as the graph that ships, and the features it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt.host.assembly.composition import RoleGraph, compile_encoder
from edgeadapt.host.encoders.base import Encoder
from edgeadapt.host.encoders.dispatch import Identity
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.exporting.samples import Samples
from edgeadapt.host.exporting.settings import Settings
from edgeadapt.runtime import Executable, GraphFile, Runtime, open_runtime

Progress = Callable[[str], None]
Features = tuple[NDArray[np.float32], NDArray[np.float32]]
# inputs that go through the encoder at a time: activations of 256 images take a gigabyte
_ROWS = 32


@dataclass(frozen=True, eq=False)
class EncoderGraph:
    """An encoder, its graph and what runs it; ``compiled`` and ``run`` are None for feature
    vectors.
    """

    encoder: Encoder
    runtime: Runtime
    compiled: RoleGraph | None
    run: Executable | None

    def features(self, x: NDArray[Any], run: Executable | None = None) -> Features:
        """Features (N, D) and taps (N, T) by the very graph that ships, or by a variant of it,
        rounded to float16 as evidence is.
        """
        run = run or self.run
        if run is None:
            z = x.reshape(len(x), -1).astype(np.float32)
            if z.shape[1] != self.encoder.dim:
                raise InputError(
                    f"Identity({self.encoder.dim}) takes feature vectors of width"
                    f" {self.encoder.dim}, got {z.shape[1]}"
                )
            return _stored(z), np.zeros((len(z), 0), np.float32)
        none = self.runtime.upload({})
        parts = [run({"x": x[i : i + _ROWS]}, none)[0] for i in range(0, len(x), _ROWS)]
        z = np.concatenate([part["z"] for part in parts])
        if "taps" not in parts[0]:
            return _stored(z), np.zeros((len(z), 0), np.float32)
        return _stored(z), _stored(np.concatenate([part["taps"] for part in parts]))


@dataclass(frozen=True, eq=False)
class Encoded:
    """Samples with their features z (N, D) and taps (N, T)."""

    samples: Samples
    settings: Settings
    say: Progress
    graph: EncoderGraph
    z: NDArray[np.float32]
    taps: NDArray[np.float32]

    @property
    def encoder(self) -> Encoder:
        return self.graph.encoder


def encode(encoder: Encoder, samples: Samples, settings: Settings, say: Progress) -> Encoded:
    """Compile the encoder, and run every sample through its graph.

    Raises:
        InputError: feature vectors of another width, or with ``precisions``.
        CompileError: the graph could not be compiled or checked.
    """
    if isinstance(encoder, ModuleEncoder):
        say(f"encoder: the feature is {encoder.feature_from}, {encoder.dim} values")
        if still := encoder.left_frozen:
            listed = ", ".join(still[:5]) + (", ..." if len(still) > 5 else "")
            say(f"encoder: {len(still)} batch-norms stay as trained: {listed}")
    settings.adaptations(bool(encoder.norms))  # raises where the method and the encoder do not fit
    runtime = open_runtime("onnxruntime")
    if isinstance(encoder, Identity):
        if settings.precisions:
            raise InputError(
                f"precisions = {tuple(settings.precisions)} are of an encoder, and Identity has"
                " none; leave them out"
            )
    else:
        say("compile: encode")
    run = None
    compiled = compile_encoder(encoder)
    if compiled is not None:
        values = {name: encoder.frozen[name].numpy() for name in compiled.graph.frozen}
        run = runtime.load(GraphFile("encode", compiled.graph.model, values))
    say("calibrate: features, head, thresholds")
    graph = EncoderGraph(encoder, runtime, compiled, run)
    return Encoded(samples, settings, say, graph, *graph.features(samples.x))


def _stored(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """As evidence is stored: rounded to float16."""
    return values.astype(np.float16).astype(np.float32)
