"""What the journal holds, row by row: an evidence row, what a commit did with such rows, and the commit itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Met = Literal["factory", "shifted", "adapted"]
"""How a sample was met: by the factory encoder in a clear or in a shifted stream, or by an encoder adapted to a condition."""


@dataclass(frozen=True, eq=False)
class EvidenceRow:
    """One labelled sample as it was, or will be, learned. ``seq`` is 0 until the journal has given one."""

    id: str
    source: str
    stream: str
    domain: str
    time: float
    label: str
    weight: float
    space: str
    is_factory: bool  # features of the factory encoder under the factory condition: they may move its class means
    features: NDArray[np.float16]
    status: str = "received"
    commit_number: int | None = None
    seq: int = 0
    draw: int = 0
    met: Met = "factory"
    receipt: bytes = b""

    @property
    def has_features(self) -> bool:
        return self.features.size > 0


@dataclass(frozen=True, eq=False)
class RawInput:
    """An input as the encoder took it, kept beside its evidence row so that another encoder can take it again."""

    seq: int
    value: NDArray[Any]


@dataclass(frozen=True)
class Moves:
    """What a commit did with evidence rows, by ``seq``, in the order in which it was done: first taken, then added.

    Attributes:
        taken: subtracted from the evidence, as (commit that had added them, rows). added: learned. held_out: accepted as judges.
        withdrawn, held, vetoed: not learned, or not any more.
        base: statuses of all accepted rows, as (status, commit, rows), in place of the commits before this one that were compacted.
    """

    taken: tuple[tuple[int, tuple[int, ...]], ...] = ()
    added: tuple[int, ...] = ()
    held_out: tuple[int, ...] = ()
    withdrawn: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    vetoed: tuple[int, ...] = ()
    base: tuple[tuple[str, int, tuple[int, ...]], ...] = ()

    def encode(self) -> str:
        return json.dumps({name: value for name, value in self.__dict__.items() if value})

    @classmethod
    def decode(cls, text: str) -> Moves:
        """Raises ValueError, TypeError or KeyError where the text is not what ``encode`` wrote."""
        found = json.loads(text)
        flat = {name: tuple(int(seq) for seq in found.pop(name, ())) for name in ("added", "held_out", "withdrawn", "held", "vetoed")}
        taken = tuple((int(number), tuple(int(seq) for seq in rows)) for number, rows in found.pop("taken", ()))
        base = tuple((str(status), int(number), tuple(int(seq) for seq in rows)) for status, number, rows in found.pop("base", ()))
        if found:
            raise ValueError(f"a commit says {sorted(found)[0]!r} about its rows, which this version does not know")
        return cls(taken=taken, base=base, **flat)

    def statuses(self) -> dict[int, str]:
        """New status of each row that has one after this commit."""
        found: dict[int, str] = {}
        for status, rows in (("learned", self.added), ("held_out", self.held_out), ("withdrawn", self.withdrawn), ("held", self.held), ("vetoed", self.vetoed)):
            found |= dict.fromkeys(rows, status)
        return found


@dataclass(frozen=True, eq=False)
class CommitRow:
    """What one transaction records about a change."""

    number: int
    kind: str
    outcome: str
    detail: Mapping[str, Any]
    moves: Moves
    tables: str
    tensors: Mapping[str, NDArray[Any]]
    digest: str = ""


Accepted = dict[int, tuple[str, int]]
"""seq -> (``learned`` or ``held_out``, the commit that made it so)."""


def accepted_after(commits: Sequence[CommitRow]) -> Accepted:
    """Which rows taught or judged after these commits, the first of which is the journal's first."""
    found: Accepted = {}
    at: dict[int, Accepted] = {}
    targets = {commit.detail["to"] for commit in commits if commit.kind == "rollback"}
    if 0 in targets:
        at[0] = {}
    for commit in commits:
        if commit.moves.base:
            found = {seq: (status, number) for status, number, rows in commit.moves.base for seq in rows}
        if commit.kind == "rollback":
            found = dict(at[commit.detail["to"]])
        for seq, status in commit.moves.statuses().items():
            if status in ("learned", "held_out"):
                found[seq] = (status, commit.number)
            else:
                found.pop(seq, None)
        if commit.number in targets:
            at[commit.number] = dict(found)
    return found


__all__ = ["Accepted", "CommitRow", "EvidenceRow", "Met", "Moves", "RawInput", "accepted_after"]
