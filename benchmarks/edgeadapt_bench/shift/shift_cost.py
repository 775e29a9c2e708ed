"""What adapting costs, as multiples of plain inference by the same engine: time by turns in one
process, memory in processes of their own.

Published methods run in torch and are held against torch; the learner against ONNX Runtime with the
same encoder and head. What imports torch is loaded where it is used: the learner's measuring
process must not have it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import Learner
from edgeadapt.runtime import open_runtime
from edgeadapt.scenarios.environment import resident_mib
from edgeadapt.scenarios.orders import batches
from edgeadapt_bench.datasets.image_dataset import BATCH, open_quick
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.measure import Say, paired
from edgeadapt_bench.harness.process import in_child

if TYPE_CHECKING:
    from edgeadapt_bench.shift.shift_baselines import Maker, ShiftMethod
    from edgeadapt_bench.shift.shift_dataset import ShiftDataset
    from edgeadapt_bench.shift.shift_streams import Stream

PLAIN = "plain"


@dataclass(frozen=True)
class LearnerCost:
    """Of one batch of 32, in plain inferences unless the name says otherwise; processor time,
    ``between`` by the clock.

    Attributes:
        observe: with its background work, when nothing is adapted.
        refresh: when a correction is computed too; its own part is ``refresh_ms``.
        whole: over the stream.
        between: ``predict`` adapted over ``predict`` of a learner that never adapts; the same of
            resident memory, and in MiB.
        one_heap: ``between_memory`` where glibc has one heap for all threads
            (``MALLOC_ARENA_MAX=1``): a worker's own keeps what it freed.
        peak: memory with refreshes over plain inference.
    """

    observe: float
    refresh: float
    refresh_ms: float
    refresh_batches: float
    whole: float
    between: float
    between_memory: float
    between_mib: float
    one_heap: float
    peak: float
    plain_ms: float


@dataclass(frozen=True)
class Costs:
    """Multiples of plain inference per contender; ``ours`` apart."""

    ours: LearnerCost
    time: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)


def costs(
    dataset: ShiftDataset,
    stream: Stream,
    makers: dict[str, Maker],
    say: Say,
    *,
    rounds: int = 4,
    children: bool = True,
) -> Costs:
    """Measure all methods on a stream that is shifted, shuffled."""
    spent = {name: _multiple(dataset, stream, make(), rounds) for name, make in makers.items()}
    for name, value in spent.items():
        say(f"time, {name}: {value:.2f} x plain inference")
    with tempfile.TemporaryDirectory(prefix="edgeadapt-shift-") as folder:
        memory = _memories(dataset, stream, list(makers), Path(folder)) if children else {}
    for name, value in memory.items():
        say(
            f"memory, {name}: {value:.1f}"
            if name.endswith("_mib")
            else f"memory, {name}: {value:.3f} x"
        )
    ours = learner_cost(dataset.acting, stream.x, rounds=rounds, memory=memory)
    say(
        f"time, edgeadapt: {ours.whole:.2f} x plain inference under shift, {ours.observe:.2f} x"
        f" without a refresh, {ours.between:.3f} x between refreshes against the factory; a refresh"
        f" takes {ours.refresh_ms:.1f} ms, {ours.refresh_batches:.1f} plain batches of {BATCH}"
    )
    return Costs(ours, spent, {name: value for name, value in memory.items() if name in makers})


def learner_cost(
    bundle: Bundle, x: NDArray[np.uint8], *, rounds: int, memory: dict[str, float] | None = None
) -> LearnerCost:
    """The learner beside the bare encoder and head, turn by turn.

    Its own work is counted in processor time of all its threads: what a single core would take, and
    what a busy machine does not change.
    """
    program = Program(bundle, open_runtime())
    plain = _plain(program)
    observed: dict[bool, list[float]] = {False: [], True: []}
    bare: list[float] = []
    with open_quick(bundle) as learner, open_quick(bundle, Policy(adapt="off")) as factory:
        done = 0
        for rows in batches(len(x) // BATCH * BATCH, BATCH):
            started = time.process_time()
            learner.observe(x[rows])
            learner.settle()
            middle = time.process_time()
            plain(x[rows])
            bare.append(time.process_time() - middle)
            before, done = done, int(learner.counters()["refreshes"])
            observed[done > before].append(middle - started)
        parts = [x[rows] for rows in batches(len(x) // BATCH * BATCH, BATCH)]
        adapted, unadapted = paired(
            lambda i: learner.predict(parts[i % len(parts)]),
            lambda i: factory.predict(parts[i % len(parts)]),
            10 * rounds,
            block=8,
        )
    one = float(np.median(bare))
    quiet = float(np.median(observed[False]))
    busy = float(np.median(observed[True])) if observed[True] else quiet
    whole = (len(observed[False]) * quiet + len(observed[True]) * busy) / (len(bare) * one)
    measured = (
        (memory or {}).get(name, float("nan"))
        for name in ("between", "between_mib", "one_heap", "peak")
    )
    return LearnerCost(
        quiet / one,
        busy / one,
        1e3 * (busy - quiet),
        (busy - quiet) / one,
        whole,
        float(np.median(adapted) / np.median(unadapted)),
        *measured,
        1e3 * one,
    )


def _plain(program: Program) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    held = program.runtime.download(program.factory(), ("head.weight",))["head.weight"]

    def run(x: NDArray[np.uint8]) -> NDArray[Any]:
        slots: NDArray[Any] = (program.encode(x)[0] @ held[:-1] + held[-1]).argmax(axis=1)
        return slots

    return run


def _multiple(dataset: ShiftDataset, stream: Stream, method: ShiftMethod, rounds: int) -> float:
    """Features are part of every inference: a method that works on them pays for torch's encoder
    and for itself.
    """
    import torch

    from edgeadapt_bench.shift.shift_baselines import Normed, images

    parts = [(stream.x[rows], dataset.program.encode(stream.x[rows])[0]) for rows in stream.parts()]
    encoder = dataset.encoder

    def plain(i: int) -> object:
        with torch.no_grad():
            return dataset.head.logits(encoder(images(parts[i % len(parts)][0])).numpy())

    own, bare = paired(lambda i: method.predict(*parts[i % len(parts)]), plain, rounds, block=4)
    multiple = float(np.median(own) / np.median(bare))
    return multiple if isinstance(getattr(method, "network", None), Normed) else 1.0 + multiple


# -- memory, in processes of their own -------------------------------------------------------------
def _memories(
    dataset: ShiftDataset, stream: Stream, names: list[str], folder: Path
) -> dict[str, float]:
    import torch

    torch.save(dataset.basis, folder / "basis.pt")
    frames, path = folder / "frames.npy", str(dataset.acting.path)
    np.save(frames, stream.x[: 8 * stream.batch])
    shared = {"frames": str(frames)}
    peaks = {
        name: in_child(
            __name__,
            "published",
            name=name,
            basis=str(folder / "basis.pt"),
            batch=stream.batch,
            **shared,
        )["peak"]
        for name in (PLAIN, *names)
    }
    one_heap = {"MALLOC_ARENA_MAX": "1"}
    ours, factory = (
        in_child(__name__, "learner", bundle=path, adapts=adapts, **shared)
        for adapts in (True, False)
    )
    lean, lean_factory = (
        in_child(__name__, "learner", environment=one_heap, bundle=path, adapts=adapts, **shared)
        for adapts in (True, False)
    )
    bare = in_child(__name__, "bare", bundle=path, **shared)
    own = {
        "between": ours["between"] / factory["between"],
        "between_mib": ours["between"],
        "one_heap": lean["between"] / lean_factory["between"],
        "peak": ours["peak"] / bare["peak"],
    }
    return {name: peaks[name] / peaks[PLAIN] for name in names} | own


def _published(name: str, basis: str, batch: int, frames: str) -> dict[str, Any]:
    import torch

    from edgeadapt_bench.shift.shift_baselines import PUBLISHED, STEPPED, images, makers

    torch.set_num_threads(1)
    given = torch.load(basis, weights_only=False)  # the parent's own file
    x = np.load(frames)
    if name == PLAIN:
        with torch.no_grad():
            for rows in batches(len(x), batch):
                given.head.logits(given.encoder(images(x[rows])).numpy())
        return {"peak": peak_mib()}
    rates = {key: rates[-1] for key, (_, rates) in STEPPED.items() if rates[-1] != PUBLISHED[key]}
    method = makers(given, rates)[name]()
    for rows in batches(len(x), batch):
        with torch.no_grad():
            z = (
                np.zeros((0, 0), np.float32)
                if hasattr(method, "network")
                else given.encoder(images(x[rows])).numpy()
            )
        method.predict(x[rows], z)
    return {"peak": peak_mib()}


def _learner(bundle: str, frames: str, adapts: bool) -> dict[str, Any]:
    """Peak over the stream, and the peak while it only predicts after it."""
    x = np.load(frames)
    with open_quick(read_bundle(bundle), None if adapts else Policy(adapt="off")) as learner:
        for rows in batches(len(x), BATCH):
            learner.observe(x[rows])
            learner.settle()
        peak, between = peak_mib(), peak_while(lambda: _predict_all(learner, x))
        return {"peak": peak, "between": between, "refreshes": int(learner.counters()["refreshes"])}


def _predict_all(learner: Learner, x: NDArray[np.uint8]) -> None:
    for rows in batches(len(x), BATCH):
        learner.predict(x[rows])


def _bare(bundle: str, frames: str) -> dict[str, Any]:
    plain, x = _plain(Program(read_bundle(bundle), open_runtime())), np.load(frames)
    for rows in batches(len(x), BATCH):
        plain(x[rows])
    return {"peak": peak_mib()}


def peak_mib() -> float:
    """Largest resident size of this process so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


def peak_while(run: Callable[[], object]) -> float:
    """Largest resident size while ``run`` runs; where the kernel does not let the mark be reset,
    the resident size after it.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        run()
        return resident_mib()
    run()
    return peak_mib()


JOBS = {"published": _published, "learner": _learner, "bare": _bare}

if __name__ == "__main__":
    serve(JOBS)
