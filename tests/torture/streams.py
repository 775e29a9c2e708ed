"""Hostile streams against a learner with a state folder: ``python streams.py [--turns 4000]``.

For each kind of hostility: no crash, only named errors, memory flat after a warm-up although the
learner publishes and grows, and at the end a learner that still predicts finite numbers and learns
from good labels.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import misuse
import numpy as np
from warm import learner, samples

from edgeadapt.device.learner import Learner
from edgeadapt.errors import EdgeadaptError
from edgeadapt.testing import inspect_state

TURNS = 4000
FLAT_MIB = 4.0  # growth over the second half of the turns
# observed first: samples that can still be labelled are kept up to a number, and memory is flat
# from there on
PENDING_BATCHES = 1700


@dataclass
class Hardship:
    """What one kind of stream did. Memory in MiB, resident, after half of the turns and after
    all.
    """

    kind: str
    turns: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    half_mib: float = 0.0
    end_mib: float = 0.0
    commits: int = 0
    problems: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def growth_mib(self) -> float:
        return self.end_mib - self.half_mib


def resident_mib() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Crashes(logging.Handler):
    """Errors of background work that had no name."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, entry: logging.LogRecord) -> None:
        self.seen.append(
            f"{entry.getMessage()}: {entry.exc_info[1]!r}" if entry.exc_info else entry.getMessage()
        )


def warm_up(opened: Learner, batches: int = PENDING_BATCHES) -> None:
    rng = np.random.default_rng(0)
    for number in range(batches):
        opened.observe(misuse.batch(rng)[0], stream="warm")
        if number % 100 == 0:
            opened.settle()
    opened.learn(*samples(40, [0, 1, 2, 3], 1), source="warm")
    opened.checkpoint()


def endure(kind: str, turns: int, seed: int, place: Path | None) -> Hardship:
    """One kind for so many turns; ``everything`` mixes them."""
    found, began, rng = Hardship(kind), time.monotonic(), np.random.default_rng(seed)
    acts = [act for act in misuse.KINDS if kind in (act.__name__, "everything")]
    crashes = Crashes()
    logging.getLogger("edgeadapt").addHandler(crashes)
    logging.getLogger("edgeadapt").propagate = False
    with (
        tempfile.TemporaryDirectory(dir=place) as scratch,
        learner(Path(scratch) / "state") as opened,
    ):
        warm_up(opened, min(PENDING_BATCHES, turns))
        for turn in range(turns):
            act = acts[int(rng.integers(len(acts)))]
            try:
                act(opened, rng)
                if turn % 20 == 0:
                    opened.settle()
            except EdgeadaptError as error:
                found.refused[type(error).__name__] = found.refused.get(type(error).__name__, 0) + 1
            except Exception as error:
                found.problems.append(f"{act.__name__}, turn {turn}: {error!r}")
            if turn % 200 == 199:
                opened.checkpoint()
            if turn == turns // 2:
                found.half_mib = resident_mib()
            found.turns += 1
        found.end_mib = resident_mib()
        found.problems += crashes.seen + recovered(opened)
        found.commits = inspect_state(opened).state.commit
    logging.getLogger("edgeadapt").removeHandler(crashes)
    if found.growth_mib > FLAT_MIB:
        found.problems.append(
            f"memory grew by {found.growth_mib:.1f} MiB over the last {turns // 2} turns"
        )
    found.wall_s = time.monotonic() - began
    return found


def recovered(opened: Learner) -> list[str]:
    """What is wrong with the learner afterwards."""
    x = samples(200, [0, 1, 2, 3], 5)[0]
    opened.settle()
    prediction, before = opened.predict(x), Counter(opened.counters()["evidence"])
    opened.learn(*samples(10, [0, 1, 2, 3], 6), source="afterwards")
    opened.settle()
    after = Counter(opened.counters()["evidence"])
    said = []
    if not np.isfinite(prediction.probs).all():
        said.append("predictions are not finite")
    if after["received"] or after.total() != before.total() + 10:
        said.append(f"ten labels made {dict(after)} of {dict(before)}")
    return said


def kinds() -> list[str]:
    return [*(act.__name__ for act in misuse.KINDS), "everything"]


HEADER = (
    f"{'stream':20}{'turns':>8}{'commits':>9}{'half MiB':>10}{'end MiB':>9}{'wall s':>8}  refused"
)


def line(h: Hardship) -> str:
    refused = ", ".join(f"{name} {count}" for name, count in sorted(h.refused.items()))
    return (
        f"{h.kind:20}{h.turns:8}{h.commits:9}{h.half_mib:10.1f}{h.end_mib:9.1f}{h.wall_s:8.1f} "
        f" {refused}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(kinds())}; all by default")
    parser.add_argument("--turns", type=int, default=TURNS, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--place", type=Path, help="folder for the states; the system's temporary one by default"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found: list[Hardship] = []
    if not options.json:
        print(HEADER, flush=True)
    for kind in options.kinds or kinds():
        found.append(endure(kind, options.turns, options.seed, options.place))
        if not options.json:
            print(
                "\n".join(
                    [line(found[-1]), *(f"  {problem}" for problem in found[-1].problems[:10])]
                ),
                flush=True,
            )
    if options.json:
        print(json.dumps([asdict(hardship) for hardship in found]))
    return int(any(hardship.problems for hardship in found))


if __name__ == "__main__":
    sys.exit(main())
