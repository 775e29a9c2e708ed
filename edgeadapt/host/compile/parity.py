"""Does the exported graph compute what torch computes?

An error is judged relative to the size of the change a step makes (of the output, where nothing is changed), on many inputs,
with the optimiser of ONNX Runtime off and on, and over a chain of steps in which both feed back their own state. Where an
error is larger than the tolerance, float64 decides: a graph that is about as close to it as torch's float32 is right, and the
step is ill-conditioned. A rectifier or an arg-max may flip on a boundary: then the median must hold and the worst stay small.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from edgeadapt.bundle.schema import Parity
from edgeadapt.errors import CompileError
from edgeadapt.host.compile.cases import Case, MakePorts, draw
from edgeadapt.host.compile.emit import Emitted
from edgeadapt.host.compile.session import VERSION, Session
from edgeadapt.host.compile.trace import Step
from edgeadapt.runtime import NEXT

Run = Callable[[dict[str, Tensor], dict[str, Tensor]], "dict[str, Tensor] | None"]

WORST_AT_KINKS = 2e-2
CHAIN_STEPS = 6
_ARBITER_FACTOR = 4.0
_CHAIN_FACTOR = 10.0  # errors of a chain add up
_ULP = 2 * torch.finfo(torch.float32).eps
_KINKS = {
    "Relu", "LeakyRelu", "PRelu", "Clip", "Max", "Min", "Abs", "Sign", "Where", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Equal", "ArgMax", "ArgMin", "TopK", "MaxPool", "ReduceMax", "ReduceMin", "Round", "Floor", "Ceil", "HardSigmoid", "HardSwish",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """The largest error of one run, as a share of the change, and whether float64 excuses it."""

    error: float
    where: str
    is_excused: bool = False


def run_torch(fn: Step, ports: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs and ``.next`` tensors of the function itself, on copies."""
    out, new = fn({k: v.clone() for k, v in ports.items()}, {k: v.clone() for k, v in tensors.items()})
    return {k: v.detach() for k, v in {**out, **{key + NEXT: value for key, value in new.items()}}.items()}


def run_float64(fn: Step, ports: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The same in float64, constants and casts inside the function included; None where torch cannot."""
    try:
        with _Double():
            return run_torch(fn, _doubled(ports), _doubled(tensors))
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def check_parity(
    name: str, graph: Emitted, fn: Step, cases: list[Case], tensors: Mapping[str, Tensor], sessions: tuple[Session, ...],
    make_ports: MakePorts, batch: int, tolerance: float,
) -> Parity:  # fmt: skip
    """Compare a graph with its function on every case at every optimiser setting, then in a chain.

    Raises:
        CompileError: names the output, the case, the error and the optimiser setting.
    """
    findings: list[Finding] = []
    kinks = {node.op_type for node in graph.model.graph.node} & _KINKS
    for case in cases:
        start = case.state(tensors, graph.reads)
        want = run_torch(fn, case.ports, start)
        if case.label == "the traced input":
            _require_finite(name, want)
        exact: dict[str, Tensor] | None = None
        for optimised, session in enumerate(sessions):
            got = session(case.ports, start)
            label = f"{case.label}, ONNX Runtime optimiser {'on' if optimised else 'off'}"
            finding = _compare(name, want, got, start, label, has_ties=case.has_ties)
            if case.is_degenerate and kinks:
                finding = Finding(0.0, label)
            if finding.error > tolerance:
                exact = exact or run_float64(fn, case.ports, start)
                finding = _arbitrate(finding, want, got, exact)
            findings.append(finding)
    if graph.writes:
        findings.append(_chain(name, fn, tensors, sessions[-1], make_ports, batch, tolerance))
    _judge(name, findings, tolerance, has_kinks=bool(kinks))
    errors = [finding.error for finding in findings]
    return Parity(
        cases=len(cases), tolerance=tolerance, median_error=statistics.median(errors), worst_error=max(errors),
        arbiter="float64" if any(f.is_excused for f in findings) else "float32", onnxruntime=VERSION,
    )  # fmt: skip


def _judge(name: str, findings: list[Finding], tolerance: float, *, has_kinks: bool) -> None:
    failing = [f for f in findings if f.error > tolerance and not f.is_excused]
    if not failing:
        return
    worst = max(failing, key=lambda f: f.error)
    if has_kinks and worst.error <= WORST_AT_KINKS and statistics.median(f.error for f in findings) <= tolerance:
        return
    raise CompileError(
        f"{name}: ONNX Runtime differs from torch: {worst.where}: error {worst.error:.1e} of the change, tolerance {tolerance:.0e}, "
        f"in {len(failing)} of {len(findings)} runs. Likely causes: a wrong decomposition, a value baked in by Python, "
        "an epsilon below 1e-6, or an ill-conditioned formula"
    )


def _compare(
    name: str, want: Mapping[str, Tensor], got: Mapping[str, Tensor], old: Mapping[str, Tensor], label: str, *, has_ties: bool = False
) -> Finding:
    worst = Finding(0.0, label)
    for key, value in want.items():
        have = got[key]
        if have.shape != value.shape or have.dtype != value.dtype:
            raise CompileError(
                f"{name}: {key} on {label}: {have.dtype}{list(have.shape)} from ONNX Runtime, {value.dtype}{list(value.shape)} from torch"
            )
        error = _error(key, value, have, old, has_ties)
        if error is None:
            raise CompileError(f"{name}: {key} on {label}: finite in one of torch and ONNX Runtime, not in the other")
        if error > worst.error:
            worst = Finding(error, f"{key} on {label}")
    return worst


def _error(key: str, want: Tensor, got: Tensor, old: Mapping[str, Tensor], has_ties: bool) -> float | None:
    """Share of the change; of elements for discrete outputs; None where finiteness differs."""
    if want.numel() == 0:
        return 0.0
    is_state = key.endswith(NEXT)
    if not want.is_floating_point() and not is_state:
        return 0.0 if has_ties else (want != got).double().mean().item()
    a, b = got.double(), want.double()
    finite = torch.isfinite(b)
    if not torch.equal(finite, torch.isfinite(a)):
        return None
    start = old[key.removesuffix(NEXT)].double() if is_state else torch.zeros_like(b)
    a, b, start = (torch.where(finite, v, 0.0) for v in (a, b, start))
    rounding = _ULP * torch.maximum(b.abs(), start.abs()) if want.is_floating_point() else torch.zeros_like(b)
    excess = ((a - b).abs() - rounding).clamp(min=0).max().item()
    change = (b - start).abs().max().item() + 1e-6 * b.abs().max().item() + 1e-12
    return excess / change


def _arbitrate(finding: Finding, want: Mapping[str, Tensor], got: Mapping[str, Tensor], exact: Mapping[str, Tensor] | None) -> Finding:
    if exact is None:
        return finding
    for key, truth in exact.items():
        if not want[key].is_floating_point():
            if not torch.equal(want[key], got[key]):
                return finding
            continue
        finite = torch.isfinite(want[key]) & torch.isfinite(truth)
        ours, theirs = ((torch.where(finite, v.double() - truth.double(), 0.0)).abs().max().item() if truth.numel() else 0.0
                        for v in (got[key], want[key]))  # fmt: skip
        scale = torch.where(finite, truth.double(), 0.0).abs().max().item() if truth.numel() else 0.0
        if ours > _ARBITER_FACTOR * theirs + _ULP * scale:
            return finding
    return Finding(finding.error, finding.where, is_excused=True)


def _chain(
    name: str, fn: Step, tensors: Mapping[str, Tensor], session: Session, make_ports: MakePorts, batch: int, tolerance: float
) -> Finding:
    """Torch and ONNX Runtime each feed back their own state; the error is a share of the change since the start."""
    steps = [draw(make_ports, 100 + step, batch) for step in range(CHAIN_STEPS)]
    want = _follow(lambda ports, state: run_torch(fn, ports, state), steps, tensors)
    got = _follow(session, steps, tensors)
    assert want is not None and got is not None
    finding = _compare(name, want, got, tensors, f"a chain of {CHAIN_STEPS} steps")
    finding = Finding(finding.error / _CHAIN_FACTOR, finding.where)
    if finding.error > tolerance:
        finding = _arbitrate(finding, want, got, _follow(lambda ports, state: run_float64(fn, ports, state), steps, tensors))
    return finding


def _follow(run: Run, steps: list[dict[str, Tensor]], tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The ``.next`` tensors after a chain; None where ``run`` gives None."""
    state, last = dict(tensors), dict[str, Tensor]()
    for ports in steps:
        values = run(ports, state)
        if values is None:
            return None
        last = {key: value for key, value in values.items() if key.endswith(NEXT)}
        state.update({key.removesuffix(NEXT): value for key, value in last.items()})
    return last


def _require_finite(name: str, values: Mapping[str, Tensor]) -> None:
    for key, value in values.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CompileError(f"{name}: {key} is not finite on the traced input, in torch already")


def _doubled(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.double() if value.dtype == torch.float32 else value for key, value in values.items()}


class _Double(TorchDispatchMode):
    """Every float32 tensor and every request for one becomes float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_lift, (args, kwargs or {}))
        return tree_map(_lift, func(*args, **kwargs))


def _lift(value: Any) -> Any:
    if value is torch.float32:
        return torch.float64
    return value.to(torch.float64) if isinstance(value, Tensor) and value.dtype == torch.float32 else value
