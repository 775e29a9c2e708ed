"""A compiled graph as two files that a device opens with ``edgeadapt.runtime.read_graph``; see
there for the format.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
from safetensors.numpy import save as encode
from torch import Tensor

from edgeadapt._durable import replace_file
from edgeadapt._saved_graph import KEY, Description
from edgeadapt.errors import CompileError
from edgeadapt.host.compile.session import array

if TYPE_CHECKING:
    from edgeadapt.host.compile.graph import CompiledGraph

_FILE_NAME = re.compile(r"[\w-][\w.-]*")


def save_graph(
    graph: CompiledGraph, path: str | Path, tensors: Mapping[str, Tensor] | None = None
) -> Path:
    """Write ``NAME.onnx`` and ``NAME.safetensors``.

    Args:
        graph: from the compiler.
        path: ``.../NAME.onnx``, or an existing folder, in which the files get the graph's name.
        tensors: values that the device shall start from instead of the examples: the state may have
            been compiled with a plausible example and start from zero.

    Returns:
        The path of the model.

    Raises:
        CompileError: a name that the graph does not use, or a value of another dtype or shape, or
            not finite; a path that ends otherwise.
    """
    file = Path(path)
    if file.is_dir():
        if not _FILE_NAME.fullmatch(graph.name):
            raise CompileError(
                f"{graph.name!r} is not a file name: give the path of the file, as"
                f" {file / 'NAME.onnx'}"
            )
        file = file / f"{graph.name}.onnx"
    if file.suffix != ".onnx":
        raise CompileError(f"{file}: give a path that ends in .onnx, or an existing folder")
    description = Description(
        name=graph.name,
        model_sha256=hashlib.sha256(graph.model).hexdigest(),
        ports=graph.ports,
        outputs=graph.outputs,
        reads=graph.reads,
        writes=graph.writes,
        frozen=graph.frozen,
        parity=graph.parity,
    )
    values = {name: array(value) for name, value in sorted(_values(graph, tensors or {}).items())}
    weights = encode(values, {KEY: msgspec.json.encode(description).decode()})
    # first: a crash in between leaves a pair that is refused by the hash
    replace_file(file.with_suffix(".safetensors"), weights)
    replace_file(file, graph.model)
    return file


def _values(graph: CompiledGraph, instead: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, value in instead.items():
        if name not in graph.values:
            raise CompileError(
                f"{graph.name}: uses no tensor {name!r}; it uses: {', '.join(graph.values)}"
            )
        wanted = graph.values[name]
        if value.dtype != wanted.dtype or value.shape != wanted.shape:
            raise CompileError(
                f"{graph.name}: {name} is {value.dtype}{list(value.shape)}, the graph takes"
                f" {wanted.dtype}{list(wanted.shape)}"
            )
    values = {**graph.values, **instead}
    for name, value in values.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CompileError(f"{graph.name}: {name} has values that are not finite")
    return values
