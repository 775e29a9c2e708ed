"""Which TensorRT versions document the operators of a graph: ``python tools/tensorrt_operators.py
SOURCE ...``.

A source is a bundle ``F.edge``, a model ``F.onnx``, an operator's name, or a page ``F.md`` whose
rows are kept. Prints the table of docs/tensorrt.md from the data that lint uses, ``trt_ops.json``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from onnx import ModelProto

from edgeadapt.bundle import read_bundle
from edgeadapt.host.compile.lint import operator_table

_VERSIONS = {"10.1": "supported_10_1", "11.1": "supported", "RTX 1.7": "trt_rtx_1_7_parser"}
_OURS = ("FP32", "INT32", "INT64", "INT8", "BOOL")  # types that our graphs compute in


def operators(model: bytes) -> set[str]:
    """Operator names of an ONNX model."""
    return {node.op_type for node in ModelProto.FromString(model).graph.node}


def table(names: Iterable[str]) -> str:
    """Markdown: one row per operator, with the versions that support it and the types they take in
    11.1.
    """
    return "\n".join(_rows(names))


def _rows(names: Iterable[str]) -> Iterator[str]:
    yield f"| operator | {' | '.join(_VERSIONS)} | types |"
    yield "|---|" + ":-:|" * len(_VERSIONS) + "---|"
    for name in sorted(set(names)):
        row = operator_table().get(name, {"dtypes": []})
        answers = ("yes" if row.get(key) else "**no**" for key in _VERSIONS.values())
        yield (
            f"| {name} | {' | '.join(answers)} |"
            f" {', '.join(kind for kind in _OURS if kind in row['dtypes']) or 'any'} |"
        )


def main(sources: Sequence[str]) -> None:
    """Print the table for bundles, models, the rows that a page has already, and operators by
    name.
    """
    print(table(name for source in sources for name in _names(Path(source))))


def _names(source: Path) -> set[str]:
    if source.suffix == ".onnx":
        return operators(source.read_bytes())
    if source.suffix == ".md":
        return set(
            re.findall(
                r"^\| (\w+) \| (?:yes|\*\*no)", source.read_text(encoding="utf-8"), re.MULTILINE
            )
        )
    if not source.suffix:
        return {source.name}
    bundle = read_bundle(source)
    return set().union(*(operators(bundle.graph(spec.file)) for spec in bundle.manifest.graphs))


if __name__ == "__main__":
    main(sys.argv[1:])
