"""The ONNX file as it came: its one input, its features, and the comparison of the finished encoder
with it.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from torch import Tensor

from edgeadapt.bundle.schema import InputSpec, Parity
from edgeadapt.errors import CompileError, InputError
from edgeadapt.host.compile.cases import parity_cases
from edgeadapt.host.compile.emit import Emitted
from edgeadapt.host.compile.session import VERSION, open_session
from edgeadapt.host.encoders.base import example_input, to_images
from edgeadapt.host.encoders.onnx_input import Layout, PixelInput, layout_of

TOLERANCE = 1e-4
"""Largest difference to the original model, as a share of the largest feature value."""
WORST_WHERE_ROUNDED = 2e-2
"""The same where a quantised value may fall on the other side of a step."""

_BATCH = 4  # of the parity cases
# there an error of one bit can become a step
_ROUNDING = {"QuantizeLinear", "Round", "Floor", "Ceil"}


@dataclass(frozen=True)
class ModelInput:
    """The one input of a model."""

    name: str
    shape: tuple[int, ...]  # of one sample, as the model sees it
    batch: int | None  # None: free
    is_channels_last: bool = False
    pixels: PixelInput | None = None  # what happens in front of it
    is_uint8: bool = False

    @classmethod
    def of(cls, file: Path, graph: GraphProto, spec: InputSpec, layout: Layout = "") -> ModelInput:
        """The input, in the layout that is given, or that its shape or its first operators say."""
        values = inputs_of(graph)
        if len(values) != 1:
            names = ", ".join(v.name for v in values) or "none"
            raise InputError(
                f"{file}: an encoder takes one input, this model takes {len(values)} ({names});"
                " bind the others as constants"
            )
        value = values[0]
        kind, dims = value.type.tensor_type.elem_type, value.type.tensor_type.shape.dim
        sizes = [
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
            for dim in dims
        ]
        given = tuple(to_images(example_input(spec, 1), spec).shape[1:])
        label = (
            f"{file}: input {value.name!r} is {TensorProto.DataType.Name(kind)}"
            f" {[size or '?' for size in sizes]}"
        )
        if len(sizes) != len(given) + 1:
            raise InputError(
                f"{label}, of rank {len(sizes)}; calibration inputs give {len(given) + 1} axes, (B,"
                f" {str(given)[1:-1]})"
            )
        is_uint8 = kind == TensorProto.UINT8 and spec.dtype == "uint8"
        if kind != TensorProto.FLOAT and not is_uint8:
            raise InputError(
                f"{label}; a model that takes float32 is needed, the graph casts pixels itself"
            )
        last = (*given[1:], given[0]) if spec.layout in ("NHW", "NHWC", "NCHW") else given
        fitting = [
            s
            for s in dict.fromkeys((given, last))
            if all(size in (None, want) for size, want in zip(sizes[1:], s, strict=True))
        ]
        if len(fitting) > 1 or layout:
            wanted = layout or layout_of(graph.node, value.name)
            if not wanted:
                raise InputError(
                    f"{label}, which does not say where its channels are; give encoder.input.layout"
                    ' = "NCHW" or "NHWC"'
                )
            shape = last if wanted == "NHWC" else given
            if fitting and shape not in fitting:
                raise InputError(
                    f"{label}; encoder.input.layout = {layout!r} would be (B, {str(shape)[1:-1]})"
                )
            fitting = fitting and [shape]
        if fitting:
            return cls(
                value.name,
                fitting[0],
                sizes[0],
                is_channels_last=fitting[0] != given,
                is_uint8=is_uint8,
            )
        raise InputError(
            f"{label}; calibration inputs are (B, {str(given)[1:-1]}) when channels come first"
        )


class Original:
    """The original model up to the feature, in ONNX Runtime with the optimiser off."""

    def __init__(
        self, file: Path, original: ModelProto, port: ModelInput, spec: InputSpec, feature: str
    ) -> None:
        self._file, self._port, self._spec, self._feature = file, port, spec, feature
        model = ModelProto()
        model.CopyFrom(original)
        cut_at(model.graph, feature)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        try:
            if feature != port.name:
                self._session = onnxruntime.InferenceSession(
                    model.SerializeToString(), options, providers=["CPUExecutionProvider"]
                )
        except Exception as error:  # the native errors have no common base
            raise InputError(
                f"{file}: ONNX Runtime {VERSION} refuses the model: {error}"
            ) from error

    def __call__(self, x: Tensor) -> NDArray[np.float32]:
        """Features (B, D), in pieces of the model's batch where that is fixed."""
        images = to_images(x, self._spec).numpy()
        images = images if self._port.pixels is None else self._port.pixels.applied(images)
        images = np.ascontiguousarray(
            np.moveaxis(images, 1, -1) if self._port.is_channels_last else images
        )
        step = self._port.batch or len(images)
        pad = np.concatenate([images, images[:1].repeat(-len(images) % step, 0)])
        return np.concatenate([self._run(pad[at : at + step]) for at in range(0, len(pad), step)])[
            : len(images)
        ]

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        value = images
        if self._feature != self._port.name:
            try:
                value = self._session.run(
                    [self._feature],
                    {self._port.name: images.astype(np.uint8) if self._port.is_uint8 else images},
                )[0]
            except Exception as error:
                raise InputError(
                    f"{self._file}: the model fails on calibration-shaped inputs {images.shape}:"
                    f" {error}"
                ) from error
        if value.dtype != np.float32 or value.ndim < 2 or len(value) != len(images):
            kind = f"{value.dtype} {value.shape}"
            raise InputError(
                f"{self._file}: the feature {self._feature!r} is {kind} for {len(images)} inputs;"
                " name another: feature='...'"
            )
        return value.mean(axis=(2, 3)) if value.ndim == 4 else value.reshape(len(value), -1)


def compare(
    file: Path,
    emitted: Emitted,
    frozen: dict[str, Tensor],
    reference: Original,
    spec: InputSpec,
    port: ModelInput,
) -> Parity:
    """The graph against the original model, with ONNX Runtime's optimiser off and on, at several
    batch sizes.
    """
    cases = parity_cases(
        lambda generator, batch: {"x": example_input(spec, batch, generator)},
        ("x",),
        _BATCH,
        is_batch_free=True,
    )
    sessions = [
        open_session(file.name, emitted, frozen, optimised=optimised) for optimised in (False, True)
    ]
    errors: list[float] = []
    for case in cases:
        want = reference(case.ports["x"])
        for session in sessions:
            try:
                got = session(case.ports, {})["z"].numpy()
            except CompileError as error:
                raise InputError(f"{file}: {_fixed(port)}: {first_line(error)}") from error
            if got.shape != want.shape:
                raise InputError(
                    f"{file}: {_fixed(port)}: {len(case.ports['x'])} inputs give features"
                    f" {got.shape}"
                )
            if not np.array_equal(np.isfinite(got), np.isfinite(want)):
                raise CompileError(
                    f"{file}: {case.label}: finite in one of the original and the encoder, not in"
                    " the other"
                )
            errors.append(
                float(
                    np.nan_to_num(np.abs(got - want)).max()
                    / (np.abs(np.nan_to_num(want)).max() + 1e-12)
                )
            )
    median, worst = statistics.median(errors), max(errors)
    rounds = _ROUNDING.intersection(node.op_type for node in emitted.model.graph.node)
    if median > TOLERANCE or worst > (WORST_WHERE_ROUNDED if rounds else TOLERANCE):
        raise CompileError(
            f"{file}: the encoder differs from the original by {worst:.1e} of its features,"
            f" tolerance {TOLERANCE:.0e}"
        )
    return Parity(
        cases=len(cases),
        tolerance=TOLERANCE,
        median_error=median,
        worst_error=worst,
        onnxruntime=VERSION,
    )


def _fixed(port: ModelInput) -> str:
    size = (
        f", its input is fixed to {port.batch}; export it with a free batch axis"
        if port.batch
        else ""
    )
    return f"the model does not take any batch size{size}"


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def inputs_of(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def leading_to(graph: GraphProto, name: str) -> list[NodeProto]:
    """The nodes a value is computed from, in order."""
    needed, found = {name}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            found.append(node)
            needed.update(node.input)
            needed.update(
                read
                for a in node.attribute
                for inner in (*a.graphs, a.g)
                for n in inner.node
                for read in n.input
            )
    return found[::-1]


def cut_at(graph: GraphProto, output: str) -> None:
    """Keep only what leads to one value, and make it the only output."""
    nodes = leading_to(graph, output)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.output[:]
    graph.output.append(onnx.helper.make_empty_tensor_value_info(output))
