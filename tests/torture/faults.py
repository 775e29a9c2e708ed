"""Every I/O call of a life fails once in every way: ``python faults.py [journal] [learner]``, see
``--help``.

For each mode and each N the life is lived in a forked process in which the N-th call suffers. Then
the folder is judged as the crash left it: the content is that before or after a transaction,
nothing acknowledged is missing, SQLite's own check is content, a reopened subject says what an
unharmed one says in that state, and goes on to where the unharmed one ended.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faulty_journals import InPlace, Unsynced
from io_shim import DEADLY, Mode, Shim, rerun_under_shim
from journal_life import JournalLife
from stored import difference, is_beginning_of, stored_after_crash, stored_in
from victim import End, Golden, Life, end_of, in_child, live

MODES = tuple(mode for mode in Mode if mode is not Mode.OFF)
FIRST = 40  # calls that a short run takes all: those of opening


@dataclass
class Tally:
    """Outcomes per mode, and what went wrong."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def cases(self) -> int:
        return sum(sum(counts.values()) for counts in self.outcomes.values())


def place() -> str | None:
    """Memory where there is some: a fault is in the calls, not in the disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def record(life: Life, shim: Shim) -> Golden:
    """The life without a fault, twice: once only counted, once looked at after every
    transaction.
    """
    with tempfile.TemporaryDirectory(dir=place()) as scratch:
        counted = Path(scratch) / "counted"

        def count() -> tuple[int, int]:
            shim.watch(counted)
            subject = life.open(counted)
            for _, step in life.steps:
                step(subject)
            life.close(subject)
            return shim.calls, shim.reads

        status, counts = in_child(count)
        if status:
            raise RuntimeError(f"{life.name} does not get through its own steps: {counts}")
        golden = Golden(*counts)
        folder = Path(scratch) / "state"
        subject = life.open(folder)

        def note() -> None:
            golden.states.append(stored_in(folder))
            shutil.copytree(folder, Path(scratch) / f"state-{len(golden.states)}")

        note()
        life.journal_of(subject).at = lambda step: note() if step == "after_commit" else None
        golden.reached, looks = [0], [life.look(subject)]
        for _, step in life.steps:
            step(subject)
            golden.reached.append(len(golden.states) - 1)
            looks.append(life.look(subject))
        life.close(subject)
        golden.recalled = [
            life.recall(Path(scratch) / f"state-{number + 1}")
            for number in range(len(golden.states))
        ]
        if looks != [golden.recalled[state][0] for state in golden.reached]:
            raise RuntimeError(
                f"a reopened {life.name} says something else than the one that was never closed"
            )
    return golden


def judge(life: Life, golden: Golden, folder: Path, end: End) -> str:
    """What is wrong with what a life left, empty if nothing."""
    low = golden.reached[end.acknowledged - 1] if end.acknowledged else 0
    high = (
        golden.reached[end.acknowledged]
        if end.acknowledged < len(golden.reached)
        else len(golden.states) - 1
    )
    found, checked = stored_after_crash(folder)
    if checked != "ok":
        return f"corrupt: {checked}"
    if not end.acknowledged and is_beginning_of(found, golden.states[0]):
        at = 0
    elif found in golden.states[low : high + 1]:
        at = low + golden.states[low : high + 1].index(found)
    elif found in golden.states[:low]:
        return f"lost: {golden.states.index(found)} of {low} acknowledged transactions are there"
    else:
        return f"mixed: {difference(found, golden.states[low])}"
    if life.recall(folder) != golden.recalled[at]:
        return f"forgetful: reopened after transaction {at} it does not say what it should"
    done = end.acknowledged - 1 if at == low else end.acknowledged
    wrong = life.go_on(folder, max(0, done), golden.states[-1])
    return f"astray: after it went on, {wrong}" if wrong else ""


def case(life: Life, shim: Shim, golden: Golden, fault: tuple[Mode, int, int]) -> tuple[str, str]:
    """(outcome, problem) of one life under one fault."""
    mode = fault[0]
    with tempfile.TemporaryDirectory(dir=place()) as scratch:
        folder = Path(scratch) / "state"
        end = end_of(lambda acknowledge: live(life, shim, folder, fault, golden, acknowledge))
        is_dead = mode in DEADLY and end.status < 0
        if not end.problem:
            status, said = in_child(lambda: judge(life, golden, folder, end))
            end.problem = said if not status else f"judging failed ({status}): {said}"
    if end.problem:
        return (
            "failed",
            (
                f"{life.name}, {mode.name} at {fault[1]} (seed {fault[2]}; {end.where};"
                f" acknowledged {end.acknowledged}): {end.problem}"
            ),
        )
    return (
        (
            "killed"
            if is_dead
            else "refused"
            if end.refusals
            else "absorbed"
            if end.fired
            else "not reached"
        ),
        "",
    )


def faults(
    golden: Golden, modes: Sequence[Mode], sample: int | None, first: int, seed: int
) -> Iterator[tuple[Mode, int, int]]:
    """All of them; or the first calls and a seeded sample of so many of the others. Two power cuts:
    nothing or something survives.
    """
    rng = random.Random(seed)
    for mode in modes:
        last = golden.reads if mode is Mode.READ_EIO else golden.calls
        numbers = list(range(1, last + 1))
        if sample is not None:
            numbers = numbers[:first] + sorted(
                rng.sample(numbers[first:], min(sample, max(0, last - first)))
            )
        for number in numbers:
            yield mode, number, 0
            if mode is Mode.POWER:
                yield mode, number, number + seed


def torture(
    life: Life,
    shim: Shim,
    modes: Sequence[Mode] = MODES,
    sample: int | None = None,
    first: int = FIRST,
    seed: int = 1,
) -> tuple[Golden, Tally]:
    started = time.monotonic()
    tally = Tally()
    golden = record(life, shim)
    for fault in faults(golden, modes, sample, first, seed):
        outcome, problem = case(life, shim, golden, fault)
        tally.outcomes.setdefault(fault[0].name, Counter())[outcome] += 1
        if problem:
            tally.problems.append(problem)
    tally.wall_s = time.monotonic() - started
    return golden, tally


def table(outcomes: Mapping[str, Mapping[str, int]]) -> str:
    """Mode by outcome."""
    names = ("killed", "refused", "absorbed", "not reached", "failed")
    lines = [f"{'mode':10}" + "".join(f"{name:>13}" for name in names)]
    lines += [
        f"{mode:10}" + "".join(f"{counts.get(name, 0):13}" for name in names)
        for mode, counts in outcomes.items()
    ]
    return "\n".join(lines)


def stop_the_clock() -> None:
    """A life that is lived twice writes the same twice: when something happened, and whether it
    took long enough for a snapshot.
    """
    time.time = lambda: 1_700_000_000.0
    time.perf_counter = lambda: 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "lives",
        nargs="*",
        default=["journal", "learner"],
        help="journal, learner (both by default), or one of faulty_journals.py",
    )
    parser.add_argument(
        "--modes",
        default=",".join(mode.name for mode in MODES),
        help="comma-separated; all by default",
    )
    parser.add_argument(
        "--sample", type=int, help="besides the first calls only so many of the others, per mode"
    )
    parser.add_argument(
        "--first", type=int, default=FIRST, help="how many calls a sample takes all"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rerun_under_shim()
    stop_the_clock()
    shim, failed, said = Shim(), False, {}
    for name in options.lives:
        golden, tally = torture(
            life_called(name),
            shim,
            [Mode[m] for m in options.modes.split(",")],
            options.sample,
            options.first,
            options.seed,
        )
        failed |= bool(tally.problems)
        said[name] = {
            "calls": golden.calls,
            "reads": golden.reads,
            "cases": tally.cases,
            "outcomes": tally.outcomes,
            "problems": tally.problems,
            "wall_s": tally.wall_s,
        }
        if not options.json:
            print(
                f"{name}: {golden.calls} calls, {golden.reads} reads, {tally.cases} cases in"
                f" {tally.wall_s:.0f} s\n{table(tally.outcomes)}"
            )
            print("\n".join(tally.problems[:20]), flush=True)
    if options.json:
        print(json.dumps(said))
    return int(failed)


def life_called(name: str) -> Life:
    if name == "learner":
        from learner_life import LearnerLife  # loads the engine

        return LearnerLife()
    lives = (JournalLife, Unsynced, InPlace)
    return {life.name: life for life in lives}[name]()


if __name__ == "__main__":
    sys.exit(main())
