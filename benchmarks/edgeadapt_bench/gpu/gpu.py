"""The GPU suite: the CUDA layer, the adaptor step, a correction's cost, the shipped bundle and a
learner's day, on the card of this machine.

    python -m edgeadapt_bench.gpu.gpu --out FOLDER [--limit 540] [--quick] [--parts cudart,step,...]

Every check runs in a process of its own with a time limit. A row that cannot run says ``not run:
reason``; one that crashes or hangs says so, and the others go on. Without a GPU all of that holds
for every row that needs one. The result is a dated JSON file with a page made from it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgeadapt.doctor.finding import without_places
from edgeadapt.doctor.packages import installed
from edgeadapt.errors import InputError
from edgeadapt.scenarios.environment import machine, versions
from edgeadapt_bench.gpu import gpu_correction, gpu_device, gpu_parity, gpu_step
from edgeadapt_bench.gpu.gpu_check import Task, run
from edgeadapt_bench.gpu.gpu_result import (
    SCHEMA,
    Card,
    GpuRow,
    Result,
    failed,
    not_run,
    table,
    write,
)
from edgeadapt_bench.gpu.gpu_runtimes import CPU, GPU
from edgeadapt_bench.harness.measure import Row, Say
from edgeadapt_bench.harness.process import TIME_IS_UP, Clock, end

LIMIT_S = 540.0
PARTS = ("cudart", "step", "correction", "bundle", "story", "doctor")
_CHECK_S, _RUNTIME_S, _DOCTOR_S = 60.0, 150.0, 240.0
# of the whole, that the parts before must leave
_RESERVED_S = {"correction": 60.0, "bundle": 80.0, "story": 60.0, "doctor": 60.0}
_PACKAGES = (
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "nvidia-cuda-runtime",
    "nvidia-cuda-runtime-cu12",
    "triton",
    "cupy-cuda12x",
    "cupy-cuda13x",
)
_LAYER = "edgeadapt_bench.gpu.gpu_"
_CUDART = (
    ("memory", "device", "device memory, there and back"),
    ("memory", "pinned", "pinned memory, there and back"),
    ("memory", "mapped", "mapped memory, filled and copied by the device's address"),
    ("memory", "pool", "pool of buffers"),
    ("memory", "full", "out of memory"),
    ("memory", "arrays", "__cuda_array_interface__, our own memory"),
    ("order", "events", "two streams in the order of their events"),
    ("order", "priorities", "stream priorities"),
    ("order", "replay", "CUDA graph of copies and a fill, with changed contents"),
    ("order", "broken", "what cannot be recorded"),
)


def cudart(no_card: str, clock: Clock, quick: bool) -> list[GpuRow]:
    """The CUDA layer, then its rates."""
    tasks = [
        Task("cudart", name, f"{_LAYER}{module}", check, _CHECK_S)
        for module, check, name in _CUDART
    ]
    for library in ("torch", "cupy"):
        given = {"library": library}
        name = f"arrays of {library}"
        tasks.append(Task("cudart", name, f"{_LAYER}memory", "foreign", _CHECK_S, given))
    rates = f"{_LAYER}rates", "rates", _CHECK_S
    tasks.append(Task("cudart", "bandwidths and launches", *rates, {"quick": quick}))
    return _run(tasks, no_card, clock)


def correction(no_card: str, clock: Clock, plans: str, quick: bool) -> list[GpuRow]:
    def task(runtime: str) -> Task:
        given = {"runtime": runtime, "plans": plans, "quick": quick}
        name = f"with a correction in place on {runtime}"
        where = f"{_LAYER}correction", "correction"
        return Task("correction", name, *where, _RUNTIME_S, given)

    return _on_each(task, no_card, clock, f"<= {gpu_correction.TARGET:g}")


def bundle(no_card: str, clock: Clock, plans: str) -> list[GpuRow]:
    """Every graph on every runtime of the GPU; on the CPU they are what is compared with."""
    tasks = []
    for runtime in GPU:
        for file in gpu_parity.files():
            given = {"runtime": runtime, "file": file, "plans": plans}
            name = f"{file} on {runtime}"
            tasks.append(Task("bundle", name, f"{_LAYER}parity", "graph", _RUNTIME_S, given))
    return _run(tasks, no_card, clock, target=f"<= {gpu_parity.CLOSE:g}")


def story(no_card: str, clock: Clock, plans: str) -> list[GpuRow]:
    def task(runtime: str) -> Task:
        given = {"runtime": runtime, "plans": plans}
        name = f"a short day on {runtime}"
        return Task("story", name, f"{_LAYER}scenario", "story", _RUNTIME_S, given)

    return _on_each(task, no_card, clock, "")


def _on_each(task: Callable[[str], Task], no_card: str, clock: Clock, target: str) -> list[GpuRow]:
    """The CPU runs everywhere; it is what the others are read beside."""
    return run(task(CPU), clock) + _run([task(name) for name in GPU], no_card, clock, target)


def _run(tasks: Sequence[Task], no_card: str, clock: Clock, target: str = "") -> list[GpuRow]:
    if no_card:
        return [not_run(task.part, task.name, no_card, target) for task in tasks]
    return [row for task in tasks for row in run(task, clock)]


def doctor(clock: Clock) -> tuple[dict[str, Any] | None, str]:
    """What ``edgeadapt doctor --self-test --json -`` writes, or None and why."""
    seconds = clock.left(_DOCTOR_S)
    if seconds < 1:
        return None, TIME_IS_UP
    command = [
        sys.executable,
        "-c",
        "import sys; from edgeadapt.cli import main; sys.exit(main(sys.argv[1:]))",
        "doctor",
        "--self-test",
        "--json",
        "-",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            out, errors = running.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            end(running)  # with the runtimes that it tests
            return None, f"no answer within {seconds:.0f} s"
    try:
        said: dict[str, Any] = json.loads(out)
    except ValueError:
        return None, without_places(
            (errors.strip().splitlines() or [f"exit code {running.returncode}"])[-1]
        )
    return said, ""


def doctor_rows(examined: dict[str, Any] | None, reason: str) -> list[GpuRow]:
    """What the self-test says of each runtime."""
    if examined is None:
        return [failed("doctor", "doctor --self-test", reason)]
    made = []
    for one in examined["self_test"] or ():
        found = one["reason"] or ", ".join(
            f"{name} {latency['median_ms']:.2f} ms" for name, latency in one["latency"].items()
        )
        wrong = [f"{step['name']}: {step['found']}" for step in one["steps"] if not step["ok"]]
        made.append(
            GpuRow(
                "doctor",
                f"self-test on {one['runtime']}",
                one["result"],
                reason="; ".join(wrong) or found,
            )
        )
    return made


def measure(
    say: Say = print, *, limit_s: float = LIMIT_S, quick: bool = False, parts: Sequence[str] = PARTS
) -> Result:
    """Everything; never raises for what a row meets.

    Raises:
        InputError: no such part.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise InputError(f"no part called {unknown[0]!r}; parts: {', '.join(PARTS)}")
    # a longer suite waits longer for each check
    started, whole = time.monotonic(), Clock.of(limit_s, max(1.0, limit_s / LIMIT_S))
    card, reason = gpu_device.find()
    say(f"GPU: {card.name}, compute capability {card.capability}" if card else f"no GPU: {reason}")
    rows: list[GpuRow] = []
    facts: dict[str, Any] = {
        "no_card": without_places(reason),
        "limit_s": limit_s,
        "floor": (gpu_step.__doc__ or "").strip(),
    }
    examined: dict[str, Any] | None = None
    with tempfile.TemporaryDirectory(prefix="edgeadapt-plans-") as plans:
        for part in [part for part in PARTS if part in parts]:
            begun = time.monotonic()
            if part == "doctor":
                examined, reason = doctor(whole)
                made = doctor_rows(examined, reason)
            else:
                made = _part(
                    part,
                    facts["no_card"],
                    _leaving(whole, part, parts, limit_s),
                    plans,
                    quick,
                    rows,
                    say,
                )
            rows += made
            say(f"{part}: {len(made)} rows, {time.monotonic() - begun:.0f} s")
    seconds = round(time.monotonic() - started, 1)
    return Result(
        SCHEMA,
        time.strftime("%Y-%m-%d", time.gmtime()),
        card,
        quick,
        seconds,
        machine(),
        _versions(),
        rows,
        facts,
        examined,
    )


def _part(
    part: str,
    no_card: str,
    clock: Clock,
    plans: str,
    quick: bool,
    before: Sequence[GpuRow],
    say: Say,
) -> list[GpuRow]:
    if part == "cudart":
        return cudart(no_card, clock, quick)
    if part == "step":
        return gpu_step.rows(no_card, before, clock, say, quick=quick)
    if part == "correction":
        return correction(no_card, clock, plans, quick)
    return bundle(no_card, clock, plans) if part == "bundle" else story(no_card, clock, plans)


def _leaving(whole: Clock, part: str, parts: Sequence[str], limit_s: float) -> Clock:
    """The step, which takes longest, ends early enough for what comes after it."""
    later = PARTS[PARTS.index(part) + 1 :]
    reserved = sum(_RESERVED_S.get(name, 0.0) for name in later if name in parts)
    return Clock(whole.end - min(reserved, limit_s / 2), whole.patience)


def _versions() -> dict[str, str]:
    return {**versions(), **{name: number for name in _PACKAGES if (number := installed(name))}}


def run_gpu(
    data: str | None, say: Say, *, quick: bool = False, parts: Sequence[str] = PARTS
) -> list[Row]:
    """The suite for ``edgeadapt bench gpu``: the same rows, without a file of its own.

    Args:
        data: unused.
    """
    return [_as_row(row) for row in measure(say, quick=quick, parts=parts).rows]


def _as_row(row: GpuRow) -> Row:
    """A check that failed is a missed row; what did not run is reported and not judged."""
    name = f"{row.part}/{row.name}"
    if row.value is not None:
        bound = float(row.target.split()[1]) if row.target else None
        return Row(name, row.value, row.unit, None, bound, row.holds)
    if row.state == "failed":
        return Row(name, None, f"failed: {row.reason}", None, 1.0, False)
    return Row(name, None, f"not run: {row.reason}" if row.state == "not run" else "passed")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if nothing failed and no target was missed; what did not run is no failure."""
    parser = argparse.ArgumentParser(
        prog="edgeadapt_bench.gpu.gpu", description="Measure this machine's GPU, once."
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where the dated result goes; docs/measurements takes real cards only",
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT_S,
        metavar="S",
        help=f"seconds for everything (default: {LIMIT_S:g})",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few repetitions: whether it runs, not how fast"
    )
    parser.add_argument(
        "--parts", default=",".join(PARTS), metavar="P,...", help=f"some of {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--elsewhere",
        type=Path,
        metavar="FOLDER",
        help="where the result goes if --out does not take it",
    )
    args = parser.parse_args(arguments)
    try:
        result = measure(print, limit_s=args.limit, quick=args.quick, parts=args.parts.split(","))
    except InputError as error:
        parser.error(str(error))
    print(f"\n{table(result.rows)}\n")
    try:
        written = write(result, args.out)
    except InputError as error:
        if args.elsewhere is None:
            print(f"{error}; name another folder with --out")
            return 2
        print(f"{error}: the result goes to {args.elsewhere}")
        written = write(result, args.elsewhere)
    print("\n".join(f"written: {path}" for path in written))
    _sum_up(result.rows, result.card)
    return 1 if any(row.state == "failed" or row.holds is False for row in result.rows) else 0


def _sum_up(rows: Sequence[GpuRow], card: Card | None) -> None:
    counts = {
        state: sum(row.state == state for row in rows)
        for state in ("passed", "measured", "failed", "not run")
    }
    missed = sum(row.holds is False for row in rows)
    print(
        f"{', '.join(f'{count} {state}' for state, count in counts.items())}; {missed} targets"
        " missed"
    )
    if card is not None and card.is_fake:
        print("the GPU was a fake of the tests: no figure means anything")


if __name__ == "__main__":
    sys.exit(main())
