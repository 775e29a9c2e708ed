"""A state folder of many evidence rows, learned through the public learner; and how long it takes
to open it, healthy or after a kill.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.bundle import read_bundle
from edgeadapt.device.detection.policy import Keep
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import InputError
from edgeadapt.results import Receipt
from edgeadapt_bench.datasets.vectors import Crowd
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.process import MeasuringProcess, in_child

SOURCES = 10
_TOGETHER = 64  # labels per call, one commit
FREE = Budget(busy_fraction=1.0, memory_mib=4096, write_mib_per_day=1e6)


def open_free(bundle: str | Path, state: str | Path | None) -> Learner:
    """A learner whose worker may always work, and that keeps every row."""
    return open_learner(bundle, state=state, budget=FREE, keep=Keep(rows=1_000_000))


def teach(learner: Learner, crowd: Crowd, rows: int, rng: np.random.Generator) -> None:
    """Learn ``rows`` right labels of all the crowd's classes; ``SOURCES`` sources take turns."""
    for number, begin in enumerate(range(0, rows, _TOGETHER)):
        slots = rng.integers(0, len(crowd.names), min(_TOGETHER, rows - begin))
        learner.learn(
            None, crowd.labels(slots), features=crowd.draw(slots, rng), source=source_name(number)
        )
        learner.settle()


def source_name(number: int) -> str:
    return f"line {number % SOURCES}"


def grow(bundle: str, state: str, rows: int, classes: int) -> dict[str, Any]:
    """Add classes up to ``classes`` and learn ``rows`` labels; bytes of the folder, evidence by
    status, seconds.

    Raises:
        InputError: fewer than nine tenths of them were learned or held out.
    """
    started = time.perf_counter()
    crowd = Crowd.of(read_bundle(Path(bundle)), classes)
    with open_free(bundle, state) as learner:
        for name in crowd.names:
            learner.add_class(name)
        teach(learner, crowd, rows, np.random.default_rng(0))
        counters = learner.counters()
    evidence = counters["evidence"]
    if evidence.get("learned", 0) + evidence.get("held_out", 0) < 0.9 * rows:
        raise InputError(
            f"most of {rows} labels were to be learned, and the journal says {evidence}"
        )
    return {
        "bytes": folder_bytes(state),
        "evidence": evidence,
        "seconds": time.perf_counter() - started,
    }


def folder_bytes(folder: str | Path) -> int:
    return sum(path.stat().st_size for path in Path(folder).iterdir())


def open_time(bundle: str, state: str | None, is_cold: bool = False) -> dict[str, Any]:
    """Seconds of ``open``, of interpreter and imports before it, and until labels that waited are
    learned.

    Args:
        state: None opens the bundle alone. is_cold: the kernel drops the journal's pages first.
    """
    imported = _since_start()
    if is_cold and state is not None:
        for path in Path(state).iterdir():
            _drop_pages(path)
    started = time.perf_counter()
    learner = open_free(bundle, state)
    opened = time.perf_counter() - started
    learner.settle()
    caught_up = time.perf_counter() - started
    evidence = learner.counters()["evidence"]
    learner.close()
    return {"open": opened, "caught_up": caught_up, "imports": imported, "evidence": evidence}


def _since_start() -> float:
    """Seconds since this process began: the interpreter and its imports, to a hundredth."""
    born = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf(
        "SC_CLK_TCK"
    )
    return time.clock_gettime(time.CLOCK_BOOTTIME) - born


def _drop_pages(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def learn_on(bundle: str, state: str, classes: int) -> dict[str, Any]:
    """Open, then learn beside the answer until killed: sixteen labels at a time, without waiting
    for the worker.
    """
    crowd = Crowd.of(read_bundle(Path(bundle)), classes)
    learner = open_free(bundle, state)
    rng = np.random.default_rng(os.getpid())

    def learn() -> None:
        while True:
            slots = rng.integers(0, len(crowd.names), 16)
            learner.learn(
                None, crowd.labels(slots), features=crowd.draw(slots, rng), source="until killed"
            )
            while learner.counters()["backlog"] > 8:
                time.sleep(0.001)

    threading.Thread(target=learn, daemon=True).start()
    return {}


def recovery_times(bundle: str, state: str, classes: int, kills: int) -> list[dict[str, Any]]:
    """``open_time`` after each of ``kills`` SIGKILLs, sent at seeded moments while the process
    learned.
    """
    rng = np.random.default_rng(9)
    times = []
    for _ in range(kills):
        with MeasuringProcess.of_module(__name__) as process:
            process.ask("learn_on", bundle=bundle, state=state, classes=classes)
            time.sleep(float(rng.uniform(0.2, 0.8)))
            process.kill()
        times.append(in_child(__name__, "open_time", bundle=bundle, state=state))
    return times


def undo_times(
    bundle: str, state: str, ids_of: int = 100, commits_back: int = 100
) -> dict[str, Any]:
    """Seconds of ``digest``, of going back one change and ``commits_back`` changes, and of
    forgetting an id, ``ids_of`` ids and a source.

    The state is another one afterwards.
    """
    crowd = Crowd.of(read_bundle(Path(bundle)), 1)
    rng = np.random.default_rng(3)
    with open_free(bundle, state) as learner:

        def newest() -> tuple[str, ...]:
            slots = np.zeros(ids_of + 1, np.int64)
            ids = learner.learn(
                None,
                crowd.labels(slots),
                features=crowd.draw(slots, rng),
                source="to be taken back",
            )
            learner.settle()
            return ids

        spent: dict[str, Any] = {}

        def clock(name: str, call: Callable[[], Any]) -> None:
            started = time.perf_counter()
            done = call()
            spent[name] = time.perf_counter() - started
            if isinstance(done, Receipt):
                spent[f"{name}/rows"] = done.removed

        clock("digest", learner.digest)
        newest()
        clock("rollback", learner.rollback)
        learned = [
            commit.number
            for commit in learner.history(4 * commits_back)
            if commit.outcome == "learned"
        ]
        clock(
            "rollback_far", lambda: learner.rollback(learned[min(commits_back, len(learned) - 1)])
        )
        ids = newest()
        clock("forget_1", lambda: learner.forget(ids=ids[:1]))
        clock("forget_ids", lambda: learner.forget(ids=ids[1:]))
        clock("forget_source", lambda: learner.forget(source=source_name(0)))
    return spent


JOBS = {"grow": grow, "open_time": open_time, "learn_on": learn_on, "undo_times": undo_times}

if __name__ == "__main__":
    serve(JOBS)
