"""A compiled graph as two files that a device opens with ``edgeadapt.runtime.read_graph``; see
there for the format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from safetensors.numpy import save as encode
from torch import Tensor

from edgeadapt._durable import replace_file
from edgeadapt._saved_graph import KEY, Description
from edgeadapt.errors import CompileError
from edgeadapt.host.compile.session import array

_FILE_NAME = re.compile(r"[\w-][\w.-]*")


def save_graph(
    path: str | Path,
    model: bytes,
    description: Description,
    values: Mapping[str, Tensor],
    instead: Mapping[str, Tensor],
) -> Path:
    """Write ``NAME.onnx`` and ``NAME.safetensors``.

    Args:
        path: ``.../NAME.onnx``, or an existing folder, in which the files get the graph's name.
        model: ONNX, from the compiler.
        description: of that model.
        values: examples of what it reads, writes or holds frozen.
        instead: values that the device shall start from instead of the examples: the state may
            have been compiled with a plausible example and start from zero.

    Returns:
        The path of the model.

    Raises:
        CompileError: a name that the graph does not use, or a value of another dtype or shape, or
        not finite; a path that ends otherwise.
    """
    file, name = Path(path), description.name
    if file.is_dir():
        if not _FILE_NAME.fullmatch(name):
            raise CompileError(
                f"{name!r} is not a file name: give the path of the file, as {file / 'NAME.onnx'}"
            )
        file = file / f"{name}.onnx"
    if file.suffix != ".onnx":
        raise CompileError(f"{file}: give a path that ends in .onnx, or an existing folder")
    arrays = {key: array(value) for key, value in sorted(_values(name, values, instead).items())}
    weights = encode(arrays, {KEY: msgspec.json.encode(description).decode()})
    # first: a crash in between leaves a pair that is refused by the hash
    replace_file(file.with_suffix(".safetensors"), weights)
    replace_file(file, model)
    return file


def _values(
    graph: str, examples: Mapping[str, Tensor], instead: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    for name, value in instead.items():
        if name not in examples:
            raise CompileError(f"{graph}: uses no tensor {name!r}; it uses: {', '.join(examples)}")
        wanted = examples[name]
        if value.dtype != wanted.dtype or value.shape != wanted.shape:
            raise CompileError(
                f"{graph}: {name} is {value.dtype}{list(value.shape)}, the graph takes"
                f" {wanted.dtype}{list(wanted.shape)}"
            )
    values = {**examples, **instead}
    for name, value in values.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CompileError(f"{graph}: {name} has values that are not finite")
    return values
