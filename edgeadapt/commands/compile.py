"""``compile``: a step in a Python file becomes a checked graph. torch loads here, when the command
is called.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeadapt.commands._arguments import count, share
from edgeadapt.commands._step_file import read_step
from edgeadapt.errors import CompileError, InputError
from edgeadapt.runtime import GraphFile, Port, Signature, open_runtime

if TYPE_CHECKING:
    from edgeadapt.host.compile import CompiledGraph

_OPENED = 5  # sessions, of which the median counts


def compile_file_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "step",
        metavar="STEP.py:NAME",
        help=(
            "a function (ports, tensors) -> (outputs, new), or one that makes it, as"
            " edgeadapt.host.gradient_step does"
        ),
    )
    parser.add_argument(
        "--example",
        metavar="[FILE.py:]NAME",
        help="(generator, batch) -> example ports (default: make_ports or example of STEP.py)",
    )
    parser.add_argument(
        "--tensors",
        metavar="[FILE.py:]NAME|F.safetensors",
        help="the tensors by name, or a function that gives them (default: tensors of STEP.py)",
    )
    parser.add_argument(
        "--frozen",
        metavar="A.B,C.*",
        help="tensors that never change (default: frozen of STEP.py; with --inference, all)",
    )
    parser.add_argument(
        "--batch", type=_batch, metavar="N|free", help="samples in a call (default: free)"
    )
    parser.add_argument(
        "--tolerance",
        type=share,
        default=1e-4,
        help="largest error as a share of the change a step makes (default: 1e-4)",
    )
    parser.add_argument(
        "--accept-loss",
        action="store_true",
        help="say nothing of a loss that does not halve on the toy problem",
    )
    parser.add_argument("--inference", action="store_true", help="the function writes no tensor")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="F.onnx",
        help="write the graph there, and its values beside it as F.safetensors",
    )
    parser.add_argument("--json", action="store_true")


def _batch(text: str) -> int | None:
    return None if text == "free" else count(text)


def compile_file(args: argparse.Namespace) -> int:
    """Compile, write what ``--out`` names, and print what came out."""
    from edgeadapt.host.compile import compile_inference, compile_step

    if args.out:
        _require_place(args.out)
    step = read_step(args.step, example=args.example, tensors=args.tensors, frozen=args.frozen)
    compile_ = compile_inference if args.inference else compile_step
    settings: dict[str, Any] = {"tolerance": args.tolerance, "dynamic_batch": args.batch is None}
    if args.batch is not None:
        settings["batch"] = args.batch
    if step.frozen is not None:
        settings["frozen"] = step.frozen
    if args.accept_loss and not args.inference:
        settings["toy_loss"] = "accept"
    start = time.perf_counter()
    try:
        graph = compile_(step.name, step.fn, step.make_ports, step.tensors, **settings)
    except CompileError as error:  # the step is this command's input, and it was refused
        raise InputError(str(error)) from error
    report = _Report.of(graph, time.perf_counter() - start, args.out)
    if args.out:
        graph.save(args.out)
    print(json.dumps(asdict(report), indent=2) if args.json else "\n".join(report.lines()))
    return 0


def _require_place(out: Path) -> None:
    """Refuse before the work what would fail after it."""
    if out.suffix != ".onnx":
        raise InputError(
            f"--out {out}: give a path that ends in .onnx; the values are written beside it as"
            " .safetensors"
        )
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.absolute().parent} does not exist")


@dataclass(frozen=True)
class _Report:
    """What ``--json`` prints. Bytes are of the model file, of the tensors that change, and of those
    that do not.
    """

    name: str
    nodes: int
    model_bytes: int
    state_bytes: int
    frozen_bytes: int
    ports: tuple[Port, ...]
    outputs: tuple[Port, ...]
    reads: tuple[Port, ...]
    writes: tuple[Port, ...]
    frozen: tuple[str, ...]
    parity: dict[str, Any]
    compile_s: float
    open_ms: float
    file: str | None

    @classmethod
    def of(cls, graph: CompiledGraph, seconds: float, out: Path | None) -> _Report:
        sizes = {name: value.numel() * value.element_size() for name, value in graph.values.items()}
        frozen_bytes = sum(sizes[name] for name in graph.frozen)
        signature, open_ms = _open(graph)
        return cls(
            name=graph.name,
            nodes=graph.nodes,
            model_bytes=len(graph.model),
            state_bytes=sum(sizes.values()) - frozen_bytes,
            frozen_bytes=frozen_bytes,
            ports=signature.ports,
            outputs=signature.outputs,
            reads=signature.reads,
            writes=signature.writes,
            frozen=graph.frozen,
            parity=msgspec.to_builtins(graph.parity),
            compile_s=round(seconds, 3),
            open_ms=round(open_ms, 3),
            file=str(out) if out else None,
        )

    def lines(self) -> Iterator[str]:
        yield (
            f"{self.name}: {self.nodes} nodes, compiled in {self.compile_s:.1f} s; a device opens"
            f" it in {self.open_ms:.1f} ms"
        )
        for label in ("ports", "outputs", "reads", "writes"):
            for index, port in enumerate(getattr(self, label)):
                shape = ", ".join("batch" if size is None else str(size) for size in port.shape)
                yield f"  {'' if index else label:<9}{port.name} {port.dtype}[{shape}]"
        for index, name in enumerate(self.frozen):
            yield f"  {'' if index else 'frozen':<9}{name}"
        yield (
            f"  bytes    model {self.model_bytes:,}, state {self.state_bytes:,}, frozen"
            f" {self.frozen_bytes:,}"
        )
        parity = self.parity
        yield (
            f"  parity   ok: {parity['cases']} cases against {parity['arbiter']} in onnxruntime "
            f"{parity['onnxruntime']}: median error {parity['median_error']:.1e} of the change, "
            f"worst {_worst(parity['worst_error'], parity['tolerance'])}"
        )
        if self.file:
            yield f"wrote {self.file} and {Path(self.file).with_suffix('.safetensors')}"


def _worst(error: float, tolerance: float) -> str:
    """Above the tolerance, torch itself is that uncertain there: else nothing was compiled."""
    if error <= tolerance:
        return f"{error:.1e}, within the tolerance {tolerance:.0e}"
    return (
        f"{error:.1e}, above the tolerance {tolerance:.0e} only where torch's own float32 result "
        "is as far from float64: not counted against the graph"
    )


def _open(graph: CompiledGraph) -> tuple[Signature, float]:
    """The graph as a device sees it, and the median milliseconds that opening it takes here."""
    from edgeadapt.host.compile.session import array

    file = GraphFile(
        graph.name, graph.model, {name: array(graph.values[name]) for name in graph.frozen}
    )
    taken = []
    for _ in range(_OPENED):
        runtime = open_runtime()  # a new one each time: a runtime remembers what it loaded
        start = time.perf_counter()
        executable = runtime.load(file)
        taken.append(1000 * (time.perf_counter() - start))
    return executable.signature, statistics.median(taken)
