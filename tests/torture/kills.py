"""SIGKILL at random moments, again and again: ``python kills.py [--kills 1000]``.

A run lives through a deterministic source (``source.py``) in one state folder. It is killed at
random moments, half of them steered to moments inside a transaction, and resumes where the journal
says it is. After every kill nothing that was acknowledged is missing and nothing is half there; at
the end tensors, evidence and predictions are bit for bit those of a run that was never killed.

When a snapshot is taken depends on how long a replay takes here; and a rollback that steps over
forgotten labels gives other last bits from another snapshot, because forgetting subtracts from it.
So that is fixed per run: sources with rollbacks take a snapshot only where a change needs one (even
seeds), those without after every commit (odd seeds).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import pickle
import random
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import source
from warm import learner, samples, warm_up

from edgeadapt.device.commits import commit_log
from edgeadapt.device.learner import Learner
from edgeadapt.device.storage.journal import Journal
from edgeadapt.testing import inspect_state

LIFE_S = 0.1  # a kill comes within so many seconds of opening
EARLY = 0.15  # share of kills that do not wait for that
STEERED = 0.5  # share of kills that wait for a transaction
KILLS_PER_RUN = 100
_OPENING, _LIVING, _INSIDE, _COMMITTING = range(4)


class Board:
    """What a process says in shared memory: readable after it was killed."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 32)

    def __getitem__(self, place: int) -> int:
        return int(struct.unpack_from("q", self._shared, 8 * place)[0])

    def __setitem__(self, place: int, value: int) -> None:
        struct.pack_into("q", self._shared, 8 * place, value)


_PHASE, _DURABLE, _SETTLED = range(3)  # places on the board: what it is doing, events done


@dataclass
class Result:
    """What kills did. ``inside`` counts those inside a transaction, ``committing`` those of them
    while it was being committed.
    """

    kills: int = 0
    inside: int = 0
    committing: int = 0
    opening: int = 0
    events: int = 0
    runs: int = 0
    problems: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def share_inside(self) -> float:
        return self.inside / max(1, self.kills)


def mark_transactions(board: Board) -> None:
    """From BEGIN to the return of COMMIT the board says so."""
    transaction = Journal._transaction

    @contextlib.contextmanager
    def marked(journal: Journal) -> Iterator[Any]:
        before = board[_PHASE]
        try:
            with transaction(journal) as db:
                board[_PHASE] = _INSIDE
                yield db
        finally:
            board[_PHASE] = before

    Journal._transaction = marked  # type: ignore[assignment,method-assign]


def live(folder: Path, seed: int, until: int, board: Board) -> None:
    """Open, judge what was found, and go through the source from there."""
    board[_PHASE] = _OPENING
    mark_transactions(board)
    opened = learner(folder)
    wrong = source.missing_or_mixed(folder, seed, board[_DURABLE], board[_SETTLED])
    if wrong:
        raise AssertionError(wrong)
    inspect_state(opened).journal.at = lambda step: (
        board.__setitem__(_PHASE, _COMMITTING) if step == "before_commit" else None
    )
    board[_PHASE] = _LIVING
    opened.settle()
    begins = source.next_event(folder)
    # a kill may have come before the word
    board[_DURABLE], board[_SETTLED] = max(board[_DURABLE], begins), max(board[_SETTLED], begins)
    for number in range(begins, until):

        def durable(number: int = number) -> None:
            board[_DURABLE] = max(board[_DURABLE], number + 1)

        source.act(opened, seed, number, durable)
        board[_SETTLED] = max(board[_SETTLED], number + 1)
    opened.close()


def fix_snapshots(seed: int) -> None:
    commit_log._REPLAY_S = commit_log._LONGEST_REPLAY_S = -1.0 if seed % 2 else 1e9


def started(act: Any) -> tuple[int, int]:
    """(pid, reading end) of a child that pickles what ``act`` returns, or the traceback with exit
    status 1.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            said, status = act(), 0
        except BaseException:
            said, status = traceback.format_exc(), 1
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(said, pipe)
        os._exit(status)
    os.close(writing)
    return child, reading


def ended(child: int, reading: int) -> tuple[int, Any]:
    """(exit status, what it said) once it is gone."""
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, pickle.loads(said) if said else None


def kill_at_random(child: int, board: Board, rng: random.Random) -> None:
    is_steered, is_early = rng.random() < STEERED, rng.random() < EARLY
    given_up = time.monotonic() + 5.0
    while not is_early and board[_PHASE] != _LIVING and time.monotonic() < given_up:
        time.sleep(0.001)
    time.sleep(rng.uniform(0.0, LIFE_S))
    if is_steered:
        while board[_PHASE] < _INSIDE and time.monotonic() < given_up:
            pass
        landing = time.perf_counter() + rng.uniform(0.0, 0.001)
        while time.perf_counter() < landing:
            pass
    os.kill(child, signal.SIGKILL)


def contents(folder: Path) -> dict[str, Any]:
    """What must be equal: everything checkpointed, the evidence without random ids, and what is
    predicted.
    """
    probe = samples(64, [0, 1, 2, 3, 4, 5], 99)[0]
    with learner(folder, freeze=True) as opened:
        rows = Counter(
            (
                r.source,
                r.label,
                r.status,
                r.weight,
                r.features.tobytes(),
                r.domain,
                r.stream,
                r.is_factory,
                r.met,
                r.draw,
            )
            for r in inspect_state(opened).journal.evidence()
        )
        check = inspect_state(opened).journal._db.execute("PRAGMA integrity_check").fetchone()[0]
        tensors = {name: value.tobytes() for name, value in tensors_of(opened).items()}
        return {
            "check": check,
            "classes": opened.classes,
            "labels": inspect_state(opened).state.labels,
            "evidence": rows,
            "probs": opened.predict(probe).probs.tobytes(),
            **tensors,
        }


def tensors_of(opened: Learner) -> dict[str, Any]:
    return dict(inspect_state(opened).program.checkpoint(inspect_state(opened).state.tensors))


def run(seed: int, kills: int, result: Result, place: Path) -> None:
    """One folder, so many kills, and the comparison with a run that was never killed."""
    fix_snapshots(seed)
    rng, board, folder = random.Random(seed), Board(), place / f"killed-{seed}"
    done = 0
    while done < kills:
        board[_PHASE] = _OPENING
        child, reading = started(lambda: live(folder, seed, 1 << 30, board))
        kill_at_random(child, board, rng)
        status, said = ended(child, reading)
        if status != -signal.SIGKILL:
            result.problems.append(
                f"seed {seed}, after {done} kills and {board[_DURABLE]} events: {said}"
            )
            return
        done += 1
        result.kills += 1
        result.inside += board[_PHASE] >= _INSIDE
        result.committing += board[_PHASE] == _COMMITTING
        result.opening += board[_PHASE] == _OPENING
    until = board[_DURABLE] + 3
    result.events += until
    result.runs += 1
    unharmed, fresh = place / f"unharmed-{seed}", Board()
    for name, act in (
        ("last life", lambda: live(folder, seed, until, board)),
        ("unkilled run", lambda: live(unharmed, seed, until, fresh)),
    ):
        status, said = ended(*started(act))
        if status:
            result.problems.append(f"seed {seed}, {name}: {said or status}")
            return
    (_, killed), (_, whole) = (
        ended(*started(lambda: contents(folder))),
        ended(*started(lambda: contents(unharmed))),
    )
    if not isinstance(killed, dict) or not isinstance(whole, dict):
        result.problems.append(
            f"seed {seed}, comparing: {killed if not isinstance(killed, dict) else whole}"
        )
        return
    unequal = [name for name in whole if killed.get(name) != whole[name]]
    if unequal or killed["check"] != "ok":
        rows = killed["evidence"] - whole["evidence"], whole["evidence"] - killed["evidence"]
        few = [
            [(row[0], row[1], row[2], count) for row, count in list(part.items())[:4]]
            for part in rows
        ]
        result.problems.append(
            f"seed {seed}, after {until} events: {', '.join(unequal)} differ from an unkilled run;"
            f" rows only here {few[0]}, only there {few[1]}"
        )


def torture(
    kills: int, seed: int = 1, per_run: int = KILLS_PER_RUN, place: Path | None = None
) -> Result:
    began, result = time.monotonic(), Result()
    warm_up()
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        for number, left in enumerate(range(kills, 0, -per_run)):
            run(seed + number, min(per_run, left), result, Path(scratch))
    result.wall_s = time.monotonic() - began
    return result


def report(result: Result) -> str:
    return (
        f"{result.kills} kills in {result.runs} runs of {result.events} events:"
        f" {result.share_inside:.0%} inside a transaction ({result.committing} in its commit),"
        f" {result.opening} while opening; {sum('lost' in p for p in result.problems)} lost,"
        f" {sum('mixed' in p for p in result.problems)} mixed, {len(result.problems)} problems;"
        f" {result.wall_s:.0f} s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--per-run", type=int, default=KILLS_PER_RUN)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--place", type=Path, help="folder for the states; the system's temporary one by default"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    result = torture(options.kills, options.seed, options.per_run, options.place)
    print(
        json.dumps(asdict(result) | {"share_inside": result.share_inside})
        if options.json
        else "\n".join([report(result), *result.problems])
    )
    return int(bool(result.problems))


if __name__ == "__main__":
    sys.exit(main())
