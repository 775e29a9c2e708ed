"""Does the exported graph compute what torch computes?

An error is judged relative to the size of the change a step makes (of the output, where nothing is
changed), on many inputs and states, with the optimiser of ONNX Runtime off and on, and over a chain
of steps in which both feed back their own state. An error that is larger than the tolerance is
excused only where torch's own result is that uncertain at that input
(:mod:`edgeadapt.host.compile.condition`): a rectifier on its boundary, an ill-conditioned
formula.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from edgeadapt.bundle.schema import Parity
from edgeadapt.errors import CompileError
from edgeadapt.host.compile.cases import Case, Subject
from edgeadapt.host.compile.condition import NOISE, Conditioning, in_float64
from edgeadapt.host.compile.emit import Emitted
from edgeadapt.host.compile.packed import Sizes, apart, packed_vectors
from edgeadapt.host.compile.session import VERSION, Session
from edgeadapt.host.compile.trace import Step
from edgeadapt.runtime import NEXT

Run = Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]

CHAIN_STEPS = 6
MOVED_STEPS = 3
_CHAIN_FACTOR = 10.0  # errors of a chain add up


@dataclass(frozen=True)
class Finding:
    """The largest error of one run as a share of the change, and how to tell whether the function
    itself is that uncertain there.
    """

    error: float
    where: str
    is_excused: Callable[[], bool]


def run_torch(
    fn: Step,
    ports: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    frozen: Collection[str] = (),
) -> dict[str, Tensor]:
    """Outputs and ``.next`` tensors of the function itself, on copies; ``frozen``, which a traced
    function does not write to, as they are.
    """
    out, new = fn(
        {k: v.clone() for k, v in ports.items()},
        {k: v if k in frozen else v.clone() for k, v in tensors.items()},
    )
    return {
        k: v.detach()
        for k, v in {**out, **{key + NEXT: value for key, value in new.items()}}.items()
    }


def run_float64(
    fn: Step, ports: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """The same in float64, constants and casts inside the function included; None where torch
    cannot.
    """
    return in_float64(lambda: run_torch(fn, ports, tensors))


def check_parity(
    subject: Subject,
    graph: Emitted,
    cases: list[Case],
    sessions: tuple[Session, ...],
    tolerance: float,
) -> Parity:
    """Compare a graph with its function on every case at every optimiser setting, then in a chain.

    Raises:
        CompileError: names the output, the case, the error and the optimiser setting.
    """
    name, fn, tensors = subject.name, subject.fn, subject.tensors
    findings: list[Finding] = []
    vectors = packed_vectors(graph.model, tensors)
    moved = dict(tensors)
    # velocities and moments of an example are often 0, which hides how a step reads them
    if graph.writes:
        steps = [subject.ports(50 + step) for step in range(MOVED_STEPS)]
        moved |= {
            key.removesuffix(NEXT): value
            for key, value in _follow(partial(run_torch, fn), steps, tensors).items()
        }
    for case in cases:
        start = case.state(moved if case.has_moved else tensors, graph.reads)
        want = apart(_want(name, fn, case, start, graph.frozen), vectors)
        if case.label == "the traced input":
            _require_finite(name, want)
        conditioning = Conditioning(want, partial(_run_apart, fn, case.ports, start, vectors))
        for optimised, session in enumerate(sessions):
            got = apart(session(case.ports, start), vectors)
            error, where = _compare(
                name,
                want,
                got,
                apart(start, vectors),
                f"{case.label}, ONNX Runtime optimiser {'on' if optimised else 'off'}",
                case.has_ties,
            )
            findings.append(Finding(error, where, partial(conditioning.explains, got)))
    if graph.writes:
        findings.append(_chain(subject, sessions[-1], vectors))
    failing = sorted((f for f in findings if f.error > tolerance), key=lambda f: -f.error)
    if wrong := next((f for f in failing if not f.is_excused()), None):
        raise CompileError(
            f"{name}: ONNX Runtime differs from torch: {wrong.where}: error {wrong.error:.1e} of"
            f" the change, tolerance {tolerance:.0e}, exceeded in {len(failing)} of {len(findings)}"
            " runs, and rounding does not explain it. Likely causes: a wrong decomposition, a"
            " value baked in by Python, or an epsilon below 1e-6"
        )
    errors = [finding.error for finding in findings]
    return Parity(
        cases=len(cases),
        tolerance=tolerance,
        median_error=statistics.median(errors),
        worst_error=max(errors),
        arbiter="float64" if failing else "float32",
        onnxruntime=VERSION,
    )


def _want(
    name: str, fn: Step, case: Case, start: Mapping[str, Tensor], frozen: Collection[str]
) -> dict[str, Tensor]:
    try:
        return run_torch(fn, case.ports, start, frozenset(frozen))
    except Exception as error:
        lines = str(error).splitlines()
        raise CompileError(
            f"{name}: torch itself fails on {case.label}:"
            f" {lines[0] if lines else type(error).__name__}. A function whose batch is free must"
            " take any; otherwise compile with dynamic_batch=False"
        ) from error


def _compare(
    name: str,
    want: Mapping[str, Tensor],
    got: Mapping[str, Tensor],
    old: Mapping[str, Tensor],
    label: str,
    has_ties: bool = False,
) -> tuple[float, str]:
    """The largest error and where it is."""
    worst = (0.0, label)
    for key, value in want.items():
        have = got[key]
        if have.shape != value.shape or have.dtype != value.dtype:
            raise CompileError(
                f"{name}: {key} on {label}: {have.dtype}{list(have.shape)} from ONNX Runtime,"
                f" {value.dtype}{list(value.shape)} from torch"
            )
        error = _error(key, value, have, old, has_ties)
        if error is None:
            raise CompileError(
                f"{name}: {key} on {label}: finite in one of torch and ONNX Runtime, not in the"
                " other"
            )
        worst = max(worst, (error, f"{key} on {label}"))
    return worst


def _error(
    key: str, want: Tensor, got: Tensor, old: Mapping[str, Tensor], has_ties: bool
) -> float | None:
    """Share of the change; of elements for discrete outputs; None where finiteness differs."""
    if want.numel() == 0:
        return 0.0
    is_state = key.endswith(NEXT)
    if not want.is_floating_point() and not is_state:
        return 0.0 if has_ties else (want != got).double().mean().item()
    a, b = got.double(), want.double()
    finite = torch.isfinite(b)
    if any(
        not torch.equal(is_such(a), is_such(b))
        for is_such in (torch.isnan, torch.isposinf, torch.isneginf)
    ):
        return None
    start = old[key.removesuffix(NEXT)].double() if is_state else torch.zeros_like(b)
    a, b, start = (torch.where(finite, v, 0.0) for v in (a, b, start))
    rounding = (
        NOISE * torch.maximum(b.abs(), start.abs())
        if want.is_floating_point()
        else torch.zeros_like(b)
    )
    excess = ((a - b).abs() - rounding).clamp(min=0).max().item()
    change = (b - start).abs().max().item() + 1e-6 * b.abs().max().item() + 1e-12
    return excess / change


def _run_apart(
    fn: Step, ports: Mapping[str, Tensor], tensors: Mapping[str, Tensor], vectors: Sizes
) -> dict[str, Tensor]:
    return apart(run_torch(fn, ports, tensors), vectors)


def _chain(subject: Subject, session: Session, vectors: Sizes) -> Finding:
    """Torch and ONNX Runtime each feed back their own state; the error is a share of the change
    since the start.
    """
    tensors, steps = subject.tensors, [subject.ports(100 + step) for step in range(CHAIN_STEPS)]

    def evaluate() -> dict[str, Tensor]:
        return apart(_follow(partial(run_torch, subject.fn), steps, tensors), vectors)

    want, got = evaluate(), apart(_follow(session, steps, tensors), vectors)
    error, where = _compare(
        subject.name, want, got, apart(tensors, vectors), f"a chain of {CHAIN_STEPS} steps"
    )
    return Finding(
        error / _CHAIN_FACTOR, where, partial(Conditioning(want, evaluate).explains, got)
    )


def _follow(
    run: Run, steps: list[dict[str, Tensor]], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The ``.next`` tensors after a chain."""
    state, last = dict(tensors), dict[str, Tensor]()
    for ports in steps:
        last = {key: value for key, value in run(ports, state).items() if key.endswith(NEXT)}
        state.update({key.removesuffix(NEXT): value for key, value in last.items()})
    return last


def _require_finite(name: str, values: Mapping[str, Tensor]) -> None:
    for key, value in values.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CompileError(f"{name}: {key} is not finite on the traced input, in torch already")
