"""Durable changes. Each is the same sentence: compute a candidate, make sure it is good, record it, publish it.

The order is fixed: the candidate is a new ``Memory`` and the live one is untouched; the guard may veto; one SQLite transaction
makes it durable; one assignment publishes it. A kill at any point leaves the state before or the state after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import GUARD
from edgeadapt.device.evidence import HeldOut
from edgeadapt.device.guard import GuardSet, Verdict, judge
from edgeadapt.device.journal import CommitRow, EvidenceRow, Journal
from edgeadapt.device.memory import SOURCE, Domain, Memory
from edgeadapt.device.program import Program
from edgeadapt.device.resume import (
    apply_rows,
    clear_class,
    correction_read,
    domain_blob,
    finish,
    rebuild,
    snapshot_of,
    statuses_at,
    tables_at,
)  # fmt: skip
from edgeadapt.device.suspicion import Suspicion
from edgeadapt.errors import StateError, UnknownClassError
from edgeadapt.inputs import unknown_class_message
from edgeadapt.results import Receipt

_REPLAY_S, _REPLAY_BYTES = 2.0, 64 << 20  # a snapshot is due when a replay would cost more


class Transactions:
    """Every change to the durable state. Called by the worker only, one at a time."""

    def __init__(
        self, program: Program, journal: Journal, held_out: HeldOut, live: Callable[[], Memory], publish: Callable[[Memory], None]
    ) -> None:
        self._program, self._journal, self._held_out = program, journal, held_out
        self._live, self._publish = live, publish
        self._factory_set = self._factory_guard()
        self._suspicion = Suspicion(program, journal, held_out)
        self._replay_s, self._replay_bytes = 0.0, 0
        self._write_s = 0.0

    def _factory_guard(self) -> list[GuardSet]:
        if not any(member == GUARD for member in self._program.manifest.members):
            return []
        values = self._program.bundle.weights(GUARD)
        z = np.ascontiguousarray(values["z"], np.float32)
        taps = np.ascontiguousarray(values["taps"], np.float32) if "taps" in values else np.zeros((len(z), 0), np.float32)
        y = values["y"].astype(np.int64)
        return [GuardSet("factory samples", z, taps, y, SOURCE, np.unique(y))] if len(y) else []

    def _factory_sets(self, live: Memory) -> list[GuardSet]:
        """Samples of the factory's classes that are still where the factory put them; a freed slot may hold another class."""
        factory = self._program.manifest.classes
        kept = np.array([slot for slot, name in enumerate(factory) if live.classes[slot] == name], np.int64)
        result = []
        for whole in self._factory_set:
            rows = np.isin(whole.y, kept)
            if rows.any():
                result.append(replace(whole, z=whole.z[rows], taps=whole.taps[rows], y=whole.y[rows], slots=np.intersect1d(whole.y, kept)))
        return result

    @property
    def write_s(self) -> float:
        """Seconds spent in the journal so far."""
        return self._write_s

    # -- the four steps -------------------------------------------------------------------------------
    def _record(
        self, kind: str, outcome: str, detail: Mapping[str, Any], candidate: Memory, *, rows: Sequence[EvidenceRow] = (),
        statuses: Mapping[str, str] | None = None, deleted: Sequence[str] = (), tensors: Mapping[str, NDArray[Any]] | None = None,
        snapshot: bool = False, rewritten: Mapping[int, Mapping[str, NDArray[Any]]] | None = None,
    ) -> Memory:  # fmt: skip
        """One transaction, then one assignment."""
        candidate = replace(candidate, commit=self._journal.last_number() + 1)
        started = time.perf_counter()
        due = snapshot or self._replay_s > _REPLAY_S or self._replay_bytes > _REPLAY_BYTES
        row = CommitRow(candidate.commit, kind, outcome, detail, tuple(r.id for r in rows), candidate.tables(), tensors or {})
        self._journal.commit(
            row, statuses=statuses, deleted=deleted, rewritten=rewritten, snapshot=snapshot_of(self._program, candidate) if due else None
        )
        self._write_s += time.perf_counter() - started
        if due:
            self._replay_s, self._replay_bytes = 0.0, 0
        self._publish(candidate)
        return candidate

    # -- labels ---------------------------------------------------------------------------------------
    def learn(self, rows: Sequence[EvidenceRow]) -> Verdict:
        """Learn received rows of one source and one domain, or record why not."""
        live = self._live()
        started = time.perf_counter()
        source, domain = rows[0].source, rows[0].domain
        detail: dict[str, Any] = {"source": source, "domain": domain, "labels": len(rows)}
        orphans = {r.label for r in rows} - live.slots.keys()  # a class may have gone while the label waited
        if orphans:
            why = f"the class {min(orphans)!r} is gone"
            rows = [r for r in rows if r.label in orphans]
            self._record("learn", "vetoed", {**detail, "labels": len(rows), "why": why}, live, rows=rows, statuses={r.id: "vetoed" for r in rows})
            return Verdict(why)
        doubt = self._suspicion.of(live, rows)
        if doubt:
            self._record("learn", "held", {**detail, "why": doubt}, live, rows=rows, statuses={r.id: "held" for r in rows})
            return Verdict(doubt)
        learned, held = self._held_out.split(rows)
        correction = correction_read(self._program, domain, live)
        tensors = self._program.derive(apply_rows(self._program, live.tensors, learned, live.slots, correction))
        candidate = finish(self._program, replace(live, tensors=tensors, labels=live.labels + len(rows)))
        verdict = judge(self._program, live, candidate, [*self._factory_sets(live), *self._held_out.sets(live.slots)], self._program.manifest.policy.guard)
        if not verdict.passed:
            self._record("learn", "vetoed", {**detail, "why": verdict.why}, live, rows=rows, statuses={r.id: "vetoed" for r in rows})
            return verdict
        self._replay_s += time.perf_counter() - started
        self._replay_bytes += sum(r.features.nbytes for r in learned)
        statuses = {r.id: "learned" for r in learned} | {r.id: "held_out" for r in held}
        blob = self._program.runtime.download(correction)
        detail |= {"learned": len(learned), "held_out": len(held)} | {f"accuracy on {name}": round(after, 3) for name, _, after in verdict.accuracy}
        self._record("learn", "learned", detail, candidate, rows=[*learned, *held], statuses=statuses, tensors=blob)
        self._held_out.accept(learned, held)
        return verdict

    # -- classes --------------------------------------------------------------------------------------
    def add_classes(self, names: Sequence[str]) -> None:
        live = candidate = self._live()
        for name in names:
            candidate = candidate.with_class(name)
        if candidate is not live:
            self._record("add_class", "added", {"class": ", ".join(n for n in dict.fromkeys(names) if n not in live.slots)}, candidate)

    def remove_class(self, name: str) -> None:
        """Take back the class's field labels, clear its slot, free its name."""
        live = self._live()
        if name not in live.slots:
            raise UnknownClassError(unknown_class_message(name, live.slots))
        if len(live.slots) == 1:
            raise StateError(f"{name!r} is the only class; a learner without classes cannot predict")
        rows = self._journal.evidence(where="label = ? AND status IN ('learned', 'held_out', 'held', 'received')", values=(name,))
        learned = [r for r in rows if r.status == "learned"]
        tensors = clear_class(self._program, self._subtracted(live, learned), live.slots[name])
        classes = tuple(None if holder == name else holder for holder in live.classes)
        candidate = finish(self._program, replace(live, tensors=self._program.derive(tensors), classes=classes, labels=live.labels - _counted(rows)))
        self._record(
            "remove_class", "removed", {"class": name, "labels": len(rows)}, candidate,
            rows=rows, statuses={r.id: "withdrawn" for r in rows}, snapshot=True,
        )  # fmt: skip
        self._restore_held_out()

    # -- forgetting and going back --------------------------------------------------------------------
    def _subtracted(self, memory: Memory, rows: Sequence[EvidenceRow]) -> Any:
        tensors = memory.tensors
        for domain in sorted({r.domain for r in rows}):
            group = [r for r in rows if r.domain == domain]
            tensors = apply_rows(self._program, tensors, group, memory.slots, correction_read(self._program, domain, memory), sign=-1.0)
        return tensors

    def forget(self, rows: Sequence[EvidenceRow], pending: int, unreachable: Sequence[str]) -> Receipt:
        """Delete rows, subtract what was learned from them, rewrite retained snapshots."""
        live = self._live()
        learned = [r for r in rows if r.status == "learned" and r.label in live.slots]
        tensors = self._program.derive(self._subtracted(live, learned)) if learned else live.tensors
        candidate = finish(self._program, replace(live, tensors=tensors, labels=live.labels - _counted(rows)))
        rewritten = self._rewritten_snapshots(rows, live)
        reasons = list(unreachable)
        if correction_read(self._program, SOURCE, live) and any(r.domain != SOURCE for r in learned):
            reasons.append("learned through a correction that has moved since: subtracted under today's correction")
        self._record(
            "forget", "forgotten", {"rows": len(rows), "subtracted": len(learned)}, candidate,
            deleted=[r.id for r in rows], snapshot=True, rewritten=rewritten,
        )  # fmt: skip
        self._restore_held_out()
        return Receipt(len(rows) + pending, len(learned), len(rewritten), tuple(reasons))

    def out_of_reach(self) -> tuple[str, ...]:
        """Why forgetting cannot reach everything that was ever learned here."""
        horizon = self._journal.horizon()
        return (f"rows of before commit {horizon} have expired: what was learned from them cannot be told apart any more",) if horizon else ()

    def expire(self, before: float) -> int:
        """Drop rows that are older than they may be kept. What was learned from them stays in the sums; a snapshot stands in for them."""
        rows = self._journal.evidence(where="time < ? AND status != 'received'", values=(before,))
        if rows:
            self._record("expire", "saved", {"rows": len(rows)}, self._live(), deleted=[r.id for r in rows], snapshot=True)
            self._restore_held_out()
        return len(rows)

    def _rewritten_snapshots(self, rows: Sequence[EvidenceRow], live: Memory) -> dict[int, dict[str, NDArray[Any]]]:
        """Snapshots without these rows, withdrawn ones included: an old snapshot still holds what was taken back later."""
        result = {}
        commits = self._journal.commits()
        for number in self._journal.snapshot_numbers():
            statuses = statuses_at([c for c in commits if c.number <= number])
            inside = [r for r in rows if statuses.get(r.id) == "learned"]
            found, tables = self._journal.snapshot(number), tables_at(self._journal, number)
            if not inside or found is None or tables is None:
                continue
            values = found[1]
            kept = {name: values[name] for name in self._program.checkpointed}
            old = replace(live, tensors=self._program.runtime.upload(kept).over(live.tensors), classes=tuple(tables["classes"]))
            subtracted = self._subtracted(old, inside)
            result[number] = values | self._program.runtime.download(subtracted, list(kept))
        return result

    def rollback(self, to: int | None) -> int:
        """Back to the state after commit ``to``; the one before the last change by default."""
        live = self._live()
        target = self._change_before(live.commit) if to is None else to
        if not 0 <= target < max(live.commit, 1) or (target > 0 and not self._journal.commits(target - 1, target)):
            raise StateError(f"cannot roll back to commit {target}: the last is {live.commit}")
        if target < self._journal.horizon():
            raise StateError(f"cannot roll back to commit {target}: rows of before commit {self._journal.horizon()} have expired (Keep.features_days)")
        then = statuses_at(self._journal.commits(0, target))
        now = {r.id: r.status for r in self._journal.evidence(where="status IN ('learned', 'held_out', 'withdrawn')")}
        changed = {sample: then.get(sample, "withdrawn") for sample, status in now.items() if then.get(sample, "withdrawn") != status}
        undone = sum(status == "withdrawn" for status in changed.values())
        candidate = replace(
            rebuild(self._journal, self._program, target),
            labels=len(then.keys() & now.keys()), domain_serial=live.domain_serial,  # a name is never used for two conditions
        )  # fmt: skip
        self._record("rollback", "rolled back", {"to": target, "labels": undone}, candidate, statuses=changed, snapshot=True)
        self._restore_held_out()
        return target

    def _restore_held_out(self) -> None:
        self._held_out.restore(self._journal.evidence(where="status IN ('learned', 'held_out')"))

    def _change_before(self, number: int) -> int:
        """The commit before the last one that changed the state: vetoes and checkpoints are stepped over."""
        for commit in reversed(self._journal.commits()):
            if commit.number <= number and commit.outcome not in ("vetoed", "held", "saved"):
                return commit.number - 1
        raise StateError("nothing was changed yet: there is nothing to roll back")

    # -- domains --------------------------------------------------------------------------------------
    def save_domains(self, kind: str = "checkpoint", detail: Mapping[str, Any] | None = None, *, force: bool = False) -> None:
        """Make the tensors of conditions durable, if any moved since the last time."""
        live = self._live()
        moved = [d for d in live.domains.values() if d.tensors is not d.saved]
        if not moved and not force:
            return
        blob: dict[str, NDArray[Any]] = {}
        candidate = live
        for domain in moved:
            blob |= domain_blob(self._program, domain)
            candidate = candidate.with_domain(replace(domain, saved=domain.tensors))
        self._record(kind, "saved", {"domains": sorted(d.name for d in moved), **(detail or {})}, candidate, tensors=blob)

    def confirm_domain(self, domain: Domain, detail: Mapping[str, Any]) -> None:
        """What the answers made of a provisional domain."""
        saved = replace(domain, saved=domain.tensors)
        outcome = "opened" if domain.kind == "condition" else "is new classes"
        self._record("domain", outcome, {"domain": domain.name, **detail}, self._live().with_domain(saved), tensors=domain_blob(self._program, saved))


def _counted(rows: Sequence[EvidenceRow]) -> int:
    """Rows that ``Memory.labels`` counts."""
    return sum(r.status in ("learned", "held_out") for r in rows)
