"""What the journal holds, row by row: an evidence row, what a commit did with such rows, and the
commit itself.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.storage.name_erasure import Names
from edgeadapt.errors import StateError

Tensors = Mapping[str, NDArray[Any]]
Met = Literal["factory", "shifted", "adapted"]
"""How a sample was met: by the factory encoder in a clear or in a shifted stream, or by an encoder
adapted to a condition.
"""


@dataclass(frozen=True, eq=False)
class EvidenceRow:
    """One labelled sample as it was, or will be, learned. ``seq`` is 0 until the journal has given
    one.
    """

    id: str
    source: str
    stream: str
    domain: str
    time: float
    label: str
    weight: float
    space: str
    # features of the factory encoder under the factory condition: they may move its class means
    is_factory: bool
    features: NDArray[np.float16]
    status: str = "received"
    commit_number: int | None = None
    seq: int = 0
    draw: int = 0
    met: Met = "factory"
    receipt: bytes = b""
    # a person vouches for the label: it is not held for contradicting the head
    trusted: bool = False

    @property
    def has_features(self) -> bool:
        return self.features.size > 0


@dataclass(frozen=True, eq=False)
class RawInput:
    """An input as the encoder took it, kept beside its evidence row so that another encoder can
    take it again.
    """

    seq: int
    value: NDArray[Any]


ANSWER = "answer"
"""The kind of a row among the decisions that says what a question was about; its label is the
evidence row's, so that it is corrected, withdrawn and forgotten there."""


@dataclass(frozen=True)
class AskedSample:
    """A question that is being answered; ``is_random``: drawn, not chosen for its doubt."""

    sample: str
    stream: str
    domain: str
    predicted: str
    is_random: bool

    def encode(self) -> str:
        about = {"id": self.sample, "predicted": self.predicted, "random": self.is_random}
        return json.dumps(about)


@dataclass(frozen=True)
class FieldAnswer:
    """A question, what was predicted when it was asked, and the label that it has now."""

    stream: str
    domain: str
    predicted: str
    label: str
    is_random: bool

    @property
    def is_right(self) -> bool:
        return self.predicted == self.label


@dataclass(frozen=True)
class RowTransitions:
    """What a commit did with evidence rows, by ``seq``, in the order in which it was done: first
    taken, then added.

    Attributes:
        taken: subtracted from the evidence, as (commit that had added them, rows).
        added: learned.
        held_out: accepted as judges.
        withdrawn, held, vetoed: not learned, or not any more.
        expired: deleted for their age.
        emptied: only their features were.
        base: statuses of all accepted rows, as (status, commit, rows), in place of the commits
            before this one that were compacted.
    """

    taken: tuple[tuple[int, tuple[int, ...]], ...] = ()
    added: tuple[int, ...] = ()
    held_out: tuple[int, ...] = ()
    withdrawn: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    vetoed: tuple[int, ...] = ()
    expired: tuple[int, ...] = ()
    emptied: tuple[int, ...] = ()
    base: tuple[tuple[str, int, tuple[int, ...]], ...] = ()

    def encode(self) -> str:
        return json.dumps({name: value for name, value in self.__dict__.items() if value})

    @classmethod
    def decode(cls, text: str) -> RowTransitions:
        """Raises ValueError, TypeError or KeyError where the text is not what ``encode`` wrote."""
        found = json.loads(text)
        names = ("added", "held_out", "withdrawn", "held", "vetoed", "expired", "emptied")
        flat = {name: tuple(map(int, found.pop(name, ()))) for name in names}
        taken = tuple((int(n), tuple(map(int, rows))) for n, rows in found.pop("taken", ()))
        base = tuple((str(s), int(n), tuple(map(int, r))) for s, n, r in found.pop("base", ()))
        if found:
            raise ValueError(
                f"a commit says {sorted(found)[0]!r} about its rows, which this version does not"
                " know"
            )
        return cls(taken=taken, base=base, **flat)

    def needs(self) -> set[int]:
        """Rows that a replay reads."""
        return {*self.added, *(seq for _, rows in self.taken for seq in rows)}

    def statuses(self) -> dict[int, str]:
        """New status of each row that has one after this commit."""
        found = dict.fromkeys(self.added, "learned") | dict.fromkeys(self.held_out, "held_out")
        for status in ("withdrawn", "held", "vetoed"):
            found |= dict.fromkeys(getattr(self, status), status)
        return found


@dataclass(frozen=True, eq=False)
class CommitRow:
    """What one transaction records about a change."""

    number: int
    kind: str
    outcome: str
    detail: Mapping[str, Any]
    moves: RowTransitions
    tables: str
    tensors: Tensors
    digest: str = ""


@dataclass(frozen=True, eq=False)
class CommitChanges:
    """What a commit changes beside the statuses of its rows.

    Attributes:
        statuses: earlier statuses by seq that are restored, with the commit they date from; the
            commit's moves come after them.
        receipts: by seq. weights: by seq, of rows that no commit has learned before.
        deleted: rows that are forgotten, with their raw inputs.
        emptied: rows that lose features and raw input.
        rewritten: new tensors of earlier snapshots.
        relieved: what is left of the tensors of earlier commits.
        unnamed: taken out of the history where nothing else names them after this.
    """

    statuses: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    receipts: Mapping[int, bytes] = field(default_factory=dict)
    weights: Mapping[int, float] = field(default_factory=dict)
    deleted: Collection[int] = ()
    emptied: Collection[int] = ()
    rewritten: Mapping[int, Tensors] = field(default_factory=dict)
    relieved: Mapping[int, Tensors] = field(default_factory=dict)
    unnamed: Names = field(default_factory=Names)


Accepted = dict[int, tuple[str, int]]
"""seq -> (``learned`` or ``held_out``, the commit that made it so)."""


@dataclass(frozen=True)
class Step:
    """The part of a commit that says which rows are accepted after it. ``to``: where a rollback
    went back to; None for other commits.
    """

    number: int
    to: int | None
    moves: RowTransitions


def accepted_at(
    steps: Sequence[Step], numbers: Iterable[int], only: Collection[int] | None = None
) -> dict[int, Accepted]:
    """Which rows were learned or held out after each of these commits.

    Args:
        steps: from the journal's first commit on.
        numbers: commits; 0 is the factory.
        only: rows that matter, all by default.

    Raises:
        StateError: a rollback went back to a commit that is not there.
    """
    wanted = set(numbers)
    targets = {step.to for step in steps if step.to is not None}
    found: Accepted = {}
    at: dict[int, Accepted] = {0: {}} if 0 in targets | wanted else {}
    for step in steps:
        if step.moves.base:
            found = {
                seq: (status, number)
                for status, number, rows in step.moves.base
                for seq in rows
                if only is None or seq in only
            }
        elif step.to is not None:
            if step.to not in at:
                raise StateError(
                    f"the journal is damaged: commit {step.number} went back to commit {step.to},"
                    " which is not there"
                )
            found = dict(at[step.to])
        for seq, status in step.moves.statuses().items():
            if only is not None and seq not in only:
                continue
            if status in ("learned", "held_out"):
                found[seq] = (status, step.number)
            else:
                found.pop(seq, None)
        if step.number in targets or step.number in wanted:
            at[step.number] = dict(found)
    return {number: at[number] for number in wanted if number in at}
