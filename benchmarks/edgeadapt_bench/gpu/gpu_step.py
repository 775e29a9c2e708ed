"""The adaptor step on this card: every system held against float64, then timed in turns, beside
torch eager and beside the floor.

The *floor* of a step at batch B is what no implementation on this card goes below without keeping
state in the chip between steps:

    floor(B) = launch + (2 S + X(B)) / bandwidth

``launch``: one empty CUDA graph, from the call until the host knows that it is done, as measured in
this run. ``S``: bytes of parameters and velocity, which are read once and written once; gradients
are not materialised, nor are activations. ``X(B)``: bytes of the inputs, read once. ``bandwidth``:
of a copy on the device, each byte counted for its read and its write, as measured in this run.
Arithmetic is taken to be free.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeadapt.scenarios.environment import machine
from edgeadapt_bench.gpu import gpu_reference
from edgeadapt_bench.gpu.gpu_check import NOT_HERE, unmeasured
from edgeadapt_bench.gpu.gpu_rates import LAUNCH, ON_THE_DEVICE
from edgeadapt_bench.gpu.gpu_result import GpuRow, measured, not_run
from edgeadapt_bench.gpu.gpu_step_runtime import COUNTED
from edgeadapt_bench.harness.measure import Say
from edgeadapt_bench.harness.process import Clock
from edgeadapt_bench.harness.step_race import Effort, Entrant, Race, Timing

PART = "step"
BATCHES = (32, 8, 1)  # the one with targets first, in case time runs out
OVER_FLOOR, OVER_EAGER = 1.5, 5.0
EAGER, BEST = "torch eager", "TensorRT"
_JUDGED = 32
_LOAD_S, _TURN_S = 180.0, 60.0
_MIB_OF_A_SYSTEM = 2048  # a torch with its CUDA context; on a board GPU and CPU share it
_BENCH = "edgeadapt_bench.gpu.gpu_step_"


@dataclass(frozen=True)
class System:
    """Who takes the step.

    Attributes:
        command: module and arguments.
        needs: a package that has to be installed.
        is_gpu: it needs the card.
        is_ours: it has our tensors, and counts copies.
    """

    name: str
    command: tuple[str, ...]
    needs: str = "numpy"
    is_gpu: bool = True
    is_ours: bool = False


FULL, QUICK = Effort(12, 200), Effort(3, 16)


def systems(plans: Path) -> list[System]:
    """All of them, in the order of the table."""
    ours = {
        "ONNX Runtime on the CPU": "onnxruntime",
        "ONNX Runtime, CUDA": "onnxruntime-cuda",
        "ONNX Runtime, TensorRT": "onnxruntime-tensorrt",
        BEST: "tensorrt",
        "TensorRT, inputs from the host": "tensorrt, inputs from the host",
        "TensorRT, no CUDA graphs": "tensorrt, no CUDA graphs",
    }
    return [
        System("numpy on the CPU", (f"{_BENCH}arrays", "numpy"), is_gpu=False),
        System("torch eager on the CPU", (f"{_BENCH}torch", "cpu"), "torch", is_gpu=False),
        System(EAGER, (f"{_BENCH}torch", "eager"), "torch"),
        System("torch.compile", (f"{_BENCH}torch", "compile"), "torch"),
        System("torch, CUDA graph", (f"{_BENCH}torch", "graph"), "torch"),
        System("CuPy", (f"{_BENCH}arrays", "cupy"), "cupy"),
        *(
            System(
                name,
                (f"{_BENCH}runtime", system, str(plans)),
                is_gpu=not name.endswith("CPU"),
                is_ours=True,
            )
            for name, system in ours.items()
        ),
    ]


def floor_us(batch: int, launch_us: float, bandwidth_gb_s: float) -> float:
    """Microseconds; the formula is the module's."""
    inputs = batch * (gpu_reference.WIDTH * 4 + 8)
    return launch_us + 1e-3 * (2 * gpu_reference.state_bytes() + inputs) / bandwidth_gb_s


def rows(
    no_card: str,
    rates: Sequence[GpuRow],
    clock: Clock,
    say: Say,
    *,
    quick: bool,
    only: Sequence[System] | None = None,
    batches: Sequence[int] = BATCHES,
    at_once: int = 0,
) -> list[GpuRow]:
    """Everything about the step.

    Args:
        no_card: why there is no GPU; empty if there is one.
        rates: rows of :mod:`edgeadapt_bench.gpu.gpu_rates`, for the floor.
        only: these systems instead of all.
        at_once: how many processes may live beside each other; by default one for every 2 GiB of
            the machine's memory.
    """
    effort = QUICK if quick else FULL
    at_once = at_once or max(3, machine()["memory_mib"] // _MIB_OF_A_SYSTEM)
    found = {row.name: row.value for row in rates if row.value is not None}
    made: list[GpuRow] = []
    with tempfile.TemporaryDirectory(prefix="edgeadapt-gpu-") as scratch:
        folder = Path(scratch)
        entered = list(only) if only is not None else systems(folder / "plans")
        absent = {
            system.name: reason for system in entered if (reason := _why_not(system, no_card))
        }
        entrants = [_entrant(system) for system in entered if system.name not in absent]
        # the CPU is for comparison, and slow
        blocks = {
            system.name: effort.block if system.is_gpu else max(8, effort.block // 4)
            for system in entered
        }
        with Race(say, clock, load_s=_LOAD_S, turn_s=_TURN_S) as race:
            for batch in batches:
                where = folder / f"batch-{batch}"
                reference = gpu_reference.write(where, batch)
                shown: dict[str, tuple[Timing, Timing | None]] = {}  # and eager's, of its heat
                started: set[str] = set()
                for heat in _heats(entrants, at_once):
                    started |= set(race.load(heat, where))
                    timings = race.run(reference, effort.rounds, blocks)
                    eager = timings.get(EAGER)
                    shown = {name: (timing, eager) for name, timing in timings.items()} | shown
                floor = (
                    floor_us(batch, found[LAUNCH], found[ON_THE_DEVICE])
                    if LAUNCH in found and ON_THE_DEVICE in found
                    else None
                )
                made += _of_batch(batch, entered, shown, {**absent, **race.absent}, floor, no_card)
                for name in started & set(race.absent):
                    del race.absent[name]  # failed on the way: the next batch size begins again
    return made


def _heats(entrants: Sequence[Entrant], at_once: int) -> list[list[Entrant]]:
    """All at once where memory allows it; else groups, each with torch eager, so that a ratio is
    always of systems that took turns.
    """
    eager = [entrant for entrant in entrants if entrant.name == EAGER]
    others = [entrant for entrant in entrants if entrant.name != EAGER]
    size = max(1, at_once - len(eager))
    return [[*eager, *others[at : at + size]] for at in range(0, len(others), size)] or [eager]


def _entrant(system: System) -> Entrant:
    module, *arguments = system.command
    return Entrant(
        system.name,
        (sys.executable, "-m", module, *arguments),
        named=gpu_reference.named if system.is_ours else dict,
    )


def _why_not(system: System, no_card: str) -> str:
    """A reason that needs no process to find."""
    if system.is_gpu and no_card:
        return f"{NOT_HERE}{no_card}"
    if importlib.util.find_spec(system.needs) is None:
        return f"{NOT_HERE}{system.needs} is not installed in this Python"
    return ""


def _of_batch(
    batch: int,
    entered: Sequence[System],
    shown: Mapping[str, tuple[Timing, Timing | None]],
    absent: Mapping[str, str],
    floor: float | None,
    no_card: str,
) -> list[GpuRow]:
    made = []
    if floor is not None:
        made.append(
            measured(
                PART,
                f"batch {batch}: the floor",
                floor,
                "us",
                found="one launch, and state and inputs once through memory",
            )
        )
    else:
        reason = no_card or "bandwidth and launch cost of this card were not measured"
        made.append(not_run(PART, f"batch {batch}: the floor", reason))
    for system in entered:
        name = f"batch {batch}: {system.name}"
        if system.name not in shown:
            reason = absent[system.name].removeprefix(f"{system.name}: ")
            made.append(unmeasured(PART, name, reason))
            made += _ratios(name, system, "it was not timed", batch)
            continue
        timing, eager = shown[system.name]
        spread = timing.spread_us()
        made.append(measured(PART, name, timing.median_us, "us", spread, found=_remark(timing)))
        if system.is_gpu:
            made += _measured_ratios(name, system, timing, eager, floor, batch)
        copies = timing.facts.get("copies")
        if copies is not None:
            name = f"{name}, tensors copied over the host in {COUNTED} steps"
            told = f"{copies['uploads']} uploads, {copies['downloads']} downloads"
            count = float(sum(copies.values()))
            made.append(measured(PART, name, count, "copies", at_most=0, found=told))
    return made


def _measured_ratios(
    name: str, system: System, timing: Timing, eager: Timing | None, floor: float | None, batch: int
) -> list[GpuRow]:
    is_judged = system.name == BEST and batch == _JUDGED
    made = []
    if system.name != EAGER:
        faster = f"{name}, times faster than {EAGER}"
        if eager is not None:
            least = OVER_EAGER if is_judged else None
            ratio, spread = timing.times(eager)
            made.append(measured(PART, faster, ratio, "x", spread, at_least=least))
        else:
            target = f">= {OVER_EAGER:g}" if is_judged else ""
            made.append(not_run(PART, faster, f"{EAGER} was not timed", target))
    if floor is not None:
        low, high = (value / floor for value in timing.spread_us())
        over, most = timing.median_us / floor, OVER_FLOOR if is_judged else None
        made.append(measured(PART, f"{name}, over the floor", over, "x", (low, high), at_most=most))
    return made


def _ratios(name: str, system: System, reason: str, batch: int) -> list[GpuRow]:
    """What has a target is named even where it cannot be said."""
    if system.name != BEST or batch != _JUDGED:
        return []
    return [
        not_run(PART, f"{name}, times faster than {EAGER}", reason, f">= {OVER_EAGER:g}"),
        not_run(PART, f"{name}, over the floor", reason, f"<= {OVER_FLOOR:g}"),
        not_run(PART, f"{name}, tensors copied over the host in {COUNTED} steps", reason, "<= 0"),
    ]


def _remark(timing: Timing) -> str:
    graphs = timing.facts.get("graphs")
    parts = [
        f"{timing.distance:.0e} of the way off float64",
        f"inputs {timing.facts.get('inputs', 'in place')}",
        "" if graphs is None else f"{graphs} CUDA graphs",
    ]
    return ", ".join(filter(None, parts))
