"""Classes that come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.evidence_change import counted, moves_of
from edgeadapt.device.commits.evidence_sums import by_commit, clear_class, finish, take_rows
from edgeadapt.device.commits.holdout import Split
from edgeadapt.device.storage.name_erasure import Names
from edgeadapt.errors import StateError, UnknownClassError
from edgeadapt.inputs import unknown_class_message


def add_classes(log: CommitLog, names: Sequence[str]) -> None:
    """Each gets a free slot; known names change nothing.

    Raises:
        CapacityError: every slot is in use.
    """
    live = candidate = log.live.current
    for name in names:
        candidate = candidate.with_class(name)
    if candidate is not live:
        new = ", ".join(name for name in dict.fromkeys(names) if name not in live.slots)
        log.record("add_class", "added", {"class": new}, candidate)


def remove_class(log: CommitLog, name: str) -> None:
    """Take back the class's field labels, clear its slot, free its name.

    Raises:
        UnknownClassError: no such class. StateError: it is the only one.
    """
    live, program, journal = log.live.current, log.program, log.journal
    if name not in live.slots:
        raise UnknownClassError(unknown_class_message(name, live.slots))
    if len(live.slots) == 1:
        raise StateError(f"{name!r} is the only class; a learner without classes cannot predict")
    rows = journal.evidence(
        where="label = ? AND status IN ('learned', 'held_out', 'held', 'received')",
        values=(name,),
    )
    split = Split(
        taken=tuple(r for r in rows if r.status == "learned"),
        gone=tuple(r for r in rows if r.status in ("learned", "held_out")),
    )
    log.labels_removed(frozenset(row.domain for row in rows))
    taken = take_rows(program, journal, live.tensors, by_commit(split.taken), live.slots)
    classes = tuple(None if holder == name else holder for holder in live.classes)
    tensors = program.derive(clear_class(program, taken, live.slots[name]), live.head, classes)
    is_ours = name not in program.manifest.classes and journal.forgot_since_added(name)
    log.record(
        "remove_class",
        "removed",
        {"class": name, "labels": len(rows)},
        finish(program, replace(counted(live, split, tensors), classes=classes, heads={})),
        moves=moves_of(split, withdrawn=tuple(r.seq for r in rows)),
        snapshot=True,
        # else a rollback gives it back
        unnamed=Names(classes=frozenset({name})) if is_ours else Names(),
    )
    log.held_out.accept(split)


__all__ = ["add_classes", "remove_class"]
