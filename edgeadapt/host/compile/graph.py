"""``compile_step`` and ``compile_inference``, the entry points of the compiler: every graph is
checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ValueInfoProto
from torch import Tensor

from edgeadapt._saved_graph import Description
from edgeadapt.bundle.schema import Parity, PortSpec
from edgeadapt.errors import CompileError
from edgeadapt.host.compile.behaviour import ToyLoss, check_step
from edgeadapt.host.compile.cases import TRACED_SEED, MakePorts, Subject, parity_cases
from edgeadapt.host.compile.emit import emit
from edgeadapt.host.compile.graph_files import save_graph
from edgeadapt.host.compile.lint import DTYPES, lint
from edgeadapt.host.compile.parity import check_parity
from edgeadapt.host.compile.session import VERSION, open_session
from edgeadapt.host.compile.trace import Step, trace
from edgeadapt.runtime import NEXT

TRACED_BATCH = 8


@dataclass(frozen=True)
class CompiledGraph:
    """An ONNX model and what a manifest says about it."""

    name: str
    model: bytes
    ports: tuple[PortSpec, ...]  # only what the graph uses; None in a shape is the batch
    outputs: tuple[PortSpec, ...]  # without written tensors
    reads: tuple[str, ...]  # tensors that are inputs
    writes: tuple[str, ...]  # tensors that come out as ``<name>.next``
    frozen: tuple[str, ...]  # external initialisers at ``bundle:``
    nodes: int
    parity: Parity
    # examples of what is read, written or frozen
    values: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def save(self, path: str | Path, tensors: Mapping[str, Tensor] | None = None) -> Path:
        """Write ``NAME.onnx`` and ``NAME.safetensors``, which a device opens with
        ``edgeadapt.runtime.read_graph``.

        Args:
            path: ``.../NAME.onnx``, or an existing folder.
            tensors: values to start from instead of the examples.

        Returns:
            The path of the model.

        Raises:
            CompileError: see :func:`edgeadapt.host.compile.graph_files.save_graph`.
        """
        description = Description(
            name=self.name,
            model_sha256=hashlib.sha256(self.model).hexdigest(),
            ports=self.ports,
            outputs=self.outputs,
            reads=self.reads,
            writes=self.writes,
            frozen=self.frozen,
            parity=self.parity,
        )
        return save_graph(path, self.model, description, self.values, tensors or {})


def compile_step(
    name: str,
    fn: Step,
    make_ports: MakePorts,
    tensors: Mapping[str, Tensor],
    *,
    frozen: Iterable[str] = (),
    dynamic_batch: bool = True,
    batch: int = TRACED_BATCH,
    tolerance: float = 1e-4,
    toy_loss: ToyLoss = "warn",
) -> CompiledGraph:
    """Compile a learning step: gradient, optimiser and every other update inside one graph.

    Args:
        name: of the graph, for messages.
        fn: ``(ports, tensors) -> (outputs, new tensors)``, pure. It may take gradients with
            ``torch.func.grad``. An output called ``loss`` is expected to fall; a port called
            ``sample_weight`` is expected to silence the samples it is 0 for.
        make_ports: ``(generator, batch) -> example ports``; see :func:`compile_graph`.
        tensors: example values by name, state and frozen.
        frozen: names in ``tensors`` that never change: they are stored once and shared by graphs.
        dynamic_batch: leave the batch free. False fixes it to ``batch``; learning from one sample
            at a time is then ``batch=1``.
        batch: of the trace and of the checks.
        tolerance: largest error as a share of the change that a step makes.
        toy_loss: what happens if an output called ``loss`` is not halved by 50 steps on a separable
            toy problem: "warn" (a ``CompileWarning``), "refuse", or "accept", which does not try.

    Raises:
        CompileError: as :func:`compile_graph`, or the graph does not behave like a learning step.
    """
    return compile_graph(
        name,
        fn,
        make_ports,
        tensors,
        frozen=frozen,
        dynamic_batch=dynamic_batch,
        batch=batch,
        tolerance=tolerance,
        is_step=True,
        toy_loss=toy_loss,
    )


def compile_inference(
    name: str,
    fn: Step,
    make_ports: MakePorts,
    tensors: Mapping[str, Tensor],
    *,
    frozen: Iterable[str] | None = None,
    dynamic_batch: bool = True,
    batch: int = TRACED_BATCH,
    tolerance: float = 1e-4,
) -> CompiledGraph:
    """Compile a function that writes no tensor.

    Args:
        frozen: names in ``tensors`` that never change; by default all of them.

    The others are those of :func:`compile_step`.

    Raises:
        CompileError: as :func:`compile_graph`, or the function returns new tensors.
    """

    def read_only(
        ports: dict[str, Tensor], values: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        outputs, new = fn(ports, values)
        if new:
            raise CompileError(
                f"{name}: writes {sorted(new)[0]!r}, so it is a step: use compile_step"
            )
        return outputs, {}

    constants = tuple(tensors) if frozen is None else tuple(frozen)
    return compile_graph(
        name,
        read_only,
        make_ports,
        tensors,
        frozen=constants,
        dynamic_batch=dynamic_batch,
        batch=batch,
        tolerance=tolerance,
    )


def compile_graph(
    name: str,
    fn: Step,
    make_ports: MakePorts,
    tensors: Mapping[str, Tensor],
    *,
    frozen: Iterable[str] = (),
    dynamic_batch: bool = True,
    batch: int = TRACED_BATCH,
    tolerance: float = 1e-4,
    is_step: bool = False,
    check: bool = True,
    toy_loss: ToyLoss = "refuse",
) -> CompiledGraph:
    """Compile a pure torch function, step or not; what :func:`compile_step` and
    :func:`compile_inference` are made of.

    Args:
        name: of the graph, for messages.
        fn: ``(ports, tensors) -> (outputs, new tensors)``; it may take gradients
            (``torch.func.grad``).
        make_ports: ``(generator, batch) -> example ports``. Used for the trace and for every check,
            so examples should look like real ones; float ports are also tried at zero, at 30 times
            and with constant rows.
        tensors: example values by name, state and frozen. State should be a plausible state, not
            all zeros.
        frozen: names in ``tensors`` that become external initialisers with location ``bundle:``.
        dynamic_batch: leave the leading axis of batched ports free; otherwise the graph has exactly
            ``batch`` samples.
        batch: of the trace and of the checks; at least 2 when it is free.
        tolerance: largest error as a share of the change a step makes, or of the output.
        is_step: also check that the graph behaves like a learning step
            (:func:`edgeadapt.host.compile.behaviour.check_step`).
        toy_loss: as for :func:`compile_step`; steps of this package are refused.
        check: compare with torch. False only where the same graph was compared before.

    Raises:
        CompileError: the function is impure, has no translation, would be refused by an engine, or
            computes something else than torch.
    """
    frozen = tuple(frozen)
    _check_frozen(name, frozen, tensors)
    if dynamic_batch and batch < 2:
        raise CompileError(f"{name}: a free batch is traced at 2 samples or more, not at {batch}")
    subject = Subject(name, fn, make_ports, tensors, batch)
    batched = subject.batched
    ports = subject.ports(TRACED_SEED)
    traced = trace(name, fn, ports, tensors, batched if dynamic_batch else ())
    written = {key.removesuffix(NEXT) for key in traced.outputs if key.endswith(NEXT)}
    if overlap := sorted(written.intersection(frozen)):
        raise CompileError(f"{name}: writes the frozen tensor {overlap[0]!r}")
    graph = emit(traced, frozen)
    lint(name, graph.model)
    parity = Parity(
        cases=1,
        tolerance=tolerance,
        median_error=0.0,
        worst_error=0.0,
        onnxruntime=f"{VERSION} (not compared)",
    )
    if check:
        sessions = tuple(
            open_session(name, graph, tensors, optimised=optimised) for optimised in (False, True)
        )
        cases = parity_cases(
            make_ports,
            batched,
            batch,
            is_batch_free=bool(traced.batched),
            has_state=bool(graph.reads or graph.writes),
        )
        parity = check_parity(subject, graph, cases, sessions, tolerance)
        if is_step:
            check_step(subject, sessions, toy_loss)
    return CompiledGraph(
        name=name,
        model=graph.model.SerializeToString(),
        ports=_specs(graph.model.graph.input, graph.ports),
        outputs=_specs(graph.model.graph.output, graph.outputs),
        reads=graph.reads,
        writes=graph.writes,
        frozen=graph.frozen,
        nodes=len(graph.model.graph.node),
        parity=parity,
        values={
            key: tensors[key].detach()
            for key in dict.fromkeys((*graph.reads, *graph.writes, *graph.frozen))
        },
    )


def _check_frozen(name: str, frozen: tuple[str, ...], tensors: Mapping[str, Tensor]) -> None:
    if missing := [key for key in frozen if key not in tensors]:
        raise CompileError(f"{name}: the frozen tensor {missing[0]!r} has no value in tensors")


def _specs(values: Iterable[ValueInfoProto], names: tuple[str, ...]) -> tuple[PortSpec, ...]:
    found = {value.name: value.type.tensor_type for value in values}
    return tuple(
        PortSpec(
            name=key,
            dtype=DTYPES[found[key].elem_type],
            shape=tuple(
                dim.dim_value if dim.HasField("dim_value") else None for dim in found[key].shape.dim
            ),
        )
        for key in names
    )
