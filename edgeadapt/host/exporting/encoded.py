"""First stage of an export: the encoder as the graph that ships, and calibration data by it."""

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
from edgeadapt.host.exporting.settings import Settings
from edgeadapt.runtime import Executable, GraphFile, Runtime, open_runtime

Progress = Callable[[str], None]
# inputs that go through the encoder at a time: activations of 256 images take a gigabyte
_ROWS = 32


@dataclass(frozen=True, eq=False)
class Calibration:
    """Labelled samples: inputs (N, *input), class numbers (N,), the number of each sample's group
    (N,) or None, and the names of the classes.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Calibration data as features.

    Attributes:
        graph: that ships; None for feature vectors. run: the same, loaded.
        z, taps: (N, D), (N, T), rounded to float16 as evidence is.
    """

    encoder: Encoder
    data: Calibration
    settings: Settings
    runtime: Runtime
    graph: RoleGraph | None
    run: Executable | None
    z: NDArray[np.float32]
    taps: NDArray[np.float32]

    def features(
        self, x: NDArray[Any], run: Executable | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """z (N, D) and taps (N, T) of inputs by the graph that ships, or by a variant of it."""
        return _features(self.encoder, self.runtime, run or self.run, x)


def encode(encoder: Encoder, data: Calibration, settings: Settings, say: Progress) -> Encoded:
    """Compile the encoder, and take calibration data through it.

    Raises:
        InputError: precisions of an encoder that there is none of, or features of another width.
        CompileError: the encoder could not be compiled or checked.
    """
    if settings.precisions and isinstance(encoder, Identity):
        raise InputError(
            f"precisions = {tuple(settings.precisions)} are of an encoder, and Identity has none;"
            " leave them out"
        )
    if not isinstance(encoder, Identity):
        say("compile: encode")
    runtime, graph = open_runtime("onnxruntime"), compile_encoder(encoder)
    run = None
    if graph is not None:
        values = {name: encoder.frozen[name].numpy() for name in graph.graph.frozen}
        run = runtime.load(GraphFile("encode", graph.graph.model, values))
    say("calibrate: features, head, thresholds")
    z, taps = _features(encoder, runtime, run, data.x)
    return Encoded(encoder, data, settings, runtime, graph, run, z, taps)


def _features(
    encoder: Encoder, runtime: Runtime, run: Executable | None, x: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if run is None:
        z = x.reshape(len(x), -1).astype(np.float32)
        if z.shape[1] != encoder.dim:
            raise InputError(
                f"Identity({encoder.dim}) takes feature vectors of width {encoder.dim}, got"
                f" {z.shape[1]}"
            )
        return _stored(z), np.zeros((len(z), 0), np.float32)
    none = runtime.upload({})
    parts = [run({"x": x[i : i + _ROWS]}, none)[0] for i in range(0, len(x), _ROWS)]
    z = np.concatenate([p["z"] for p in parts])
    if "taps" not in parts[0]:
        return _stored(z), np.zeros((len(z), 0), np.float32)
    return _stored(z), _stored(np.concatenate([p["taps"] for p in parts]))


def _stored(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """As evidence is stored: rounded to float16."""
    return values.astype(np.float16).astype(np.float32)


__all__ = ["Calibration", "Encoded", "Progress", "encode"]
