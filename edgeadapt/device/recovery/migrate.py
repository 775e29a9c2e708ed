"""``edgeadapt.migrate``: what was learned goes to another bundle, by the raw inputs that were kept.

A new encoder makes other features, so nothing that was learned fits as it is. The samples
themselves are encoded again and learned again, as if their labels came one after another; where
only the head or the class slots changed, their features are learned again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.device.commits.class_changes import add_classes
from edgeadapt.device.commits.commit_log import CommitLog
from edgeadapt.device.commits.evidence_sums import factory_state
from edgeadapt.device.commits.factory_samples import FactorySamples
from edgeadapt.device.commits.guard import GuardDecision, ValidationSet, judge
from edgeadapt.device.commits.holdout import HeldOut
from edgeadapt.device.commits.label_update import LabelUpdate
from edgeadapt.device.inference.live_state import LiveState
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import SOURCE
from edgeadapt.device.recovery.evidence_transfer import EvidenceTransfer, Selected
from edgeadapt.device.recovery.migration_report import ClassCarried, MigrationReport
from edgeadapt.device.recovery.rebuild import rebuild, tables_at
from edgeadapt.device.recovery.trust import Remembered, Trust, check_successor, identity
from edgeadapt.device.resources.budget import Budget, WriteRoom
from edgeadapt.device.resources.write_meter import Writes
from edgeadapt.device.storage.atomic_swap import clear, make_durable, put_in_place, sync
from edgeadapt.device.storage.features import rows_to_arrays
from edgeadapt.device.storage.folder import FILE_NAME
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.device.storage.snapshot_copy import copied
from edgeadapt.errors import InputError, StateError
from edgeadapt.paths import check_path
from edgeadapt.runtime import Runtime, open_runtime

_UNLIMITED = Budget(busy_fraction=1.0, memory_mib=1e9, write_mib_per_day=1e9)
_EVERYTHING = 1_000_000_000


def migrate(
    old_state: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | Bundle,
    *,
    out: str | os.PathLike[str] | None = None,
    trust: Trust = (),
    allow_older: bool = False,
    without_samples: bool = False,
    runtime: str | Runtime = "auto",
) -> MigrationReport:
    """Carry what a state folder has learned over to a bundle with another encoder, head or number
    of class slots.

    Args:
        old_state: the folder. It must not be in use, unless ``out`` is given.
        bundle: path of the new ``.edge`` file, or a bundle already read.
        out: a new folder for the new state; the old one is only read. Without it the new state
            takes the place of the old one in one step, and the old database is kept beside it.
        trust, allow_older: as for ``edgeadapt.open``.
        without_samples: carry the classes over, and no sample.
        runtime: ``"auto"``, a name, or a runtime object.

    Raises:
        StateError: the folder is in use, damaged, or keeps nothing that could be carried over.
        InputError: its raw inputs are not what the new encoder takes.
        CapacityError: too few class slots.
        BundleError: damaged, not trusted, or older. Nothing was changed.
    """
    folder = check_path(old_state, "old_state")
    opened = bundle if isinstance(bundle, Bundle) else read_bundle(bundle, trust=trust)  # type: ignore[arg-type]
    program = Program(opened, open_runtime(runtime) if isinstance(runtime, str) else runtime)
    migration = Migration(program, trust, allow_older, without_samples)
    if not (folder / FILE_NAME).is_file():
        raise StateError(f"{folder} is not a state folder: it has no {FILE_NAME}")
    if out is None:
        return migration.in_place(folder)
    with copied(folder) as copy:
        return migration.into(Path(out), copy, str(folder))


class Migration:
    """One migration. ``at`` is called after each step; tests stop the process there."""

    def __init__(
        self,
        program: Program,
        trust: Trust = (),
        allow_older: bool = False,
        without_samples: bool = False,
    ) -> None:
        self._program = program
        self._trust = trust
        self._allow_older = allow_older
        self._without_samples = without_samples
        self.at: Callable[[str], None] = lambda step: None

    def in_place(self, folder: Path) -> MigrationReport:
        """The new state replaces the old one."""
        old = Journal(folder)
        lock = None
        try:
            building = clear(folder)
            self.at("begun")
            if _opens_as_it_is(old, self._program):
                return self._nothing_to_do(old, str(folder))
            report, space = self._build(old, building, str(folder)), str(old.meta("space"))
            self.at("built")
            old.write_back()
            lock = old.keep_lock()  # the folder stays ours while the database is closed
            old.close()
            if report.outcome == "refused":
                clear(folder)
                return report
            kept = put_in_place(folder, space, self.at)
            return replace(report, kept=str(kept))
        except Exception:
            clear(folder)
            raise
        finally:
            old.close()
            if lock is not None:
                lock.release()

    def into(self, out: Path, copy: Path, name: str) -> MigrationReport:
        """The new state goes to a folder of its own, which appears when it is whole."""
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise StateError(
                f"{out} is there already: the new state needs a folder that is empty or not there"
            )
        old = Journal(copy)
        try:
            if _opens_as_it_is(old, self._program):
                return self._nothing_to_do(old, name)
            out.parent.mkdir(parents=True, exist_ok=True)
            building = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
            try:
                report = self._build(old, building, str(out))
                if report.outcome == "migrated":
                    make_durable(building / FILE_NAME)
                    os.rename(building, out)
                    sync(out.parent)
                return report
            finally:
                shutil.rmtree(building, ignore_errors=True)
        finally:
            old.close()

    def _nothing_to_do(self, old: Journal, name: str) -> MigrationReport:
        return MigrationReport(
            "nothing to do",
            name,
            _named(old),
            (self._program.manifest.name, self._program.manifest.space),
        )

    # -- building ----------------------------------------------------------------------------------
    def _build(self, old: Journal, folder: Path, name: str) -> MigrationReport:
        """The new state in ``folder``, closed."""
        program, manifest = self._program, self._program.manifest
        if old.meta("space") is None:
            raise StateError(
                f"{name} was never opened with a bundle: there is nothing to carry over"
            )
        remembered = check_successor(
            Remembered.read(old.meta),
            program.bundle,
            trust=self._trust,
            allow_older=self._allow_older,
        )
        by_features = old.meta("space") == manifest.space
        selected = self._selected(old, by_features, name)
        tables = tables_at(old, old.last_number())
        journal = Journal(folder)
        try:
            journal.writes = _Uncounted()
            journal.set_meta(
                {
                    **identity(manifest),
                    **remembered.as_meta(),
                    "migrated_from": str(old.meta("space")),
                }
            )
            state = _State(program, journal)
            names = [found for found in (tables["classes"] if tables else ()) if found is not None]
            if names:
                add_classes(state.log, names)
            self.at("classes")
            carrying = EvidenceTransfer(
                old,
                by_features,
                state.log,
                LabelUpdate(state.log, state.factory),
                state.factory,
                state.shipped,
                self.at,
            )
            carrying.carry(selected)
            verdict, classes = _judged(state, selected, carrying.refused)
            detail = {
                "from": _named(old)[0],
                "space": _named(old)[1][:12],
                "carried": sum(found.carried for found in classes),
            }
            state.log.record("migrate", "saved", detail, state.live.current, snapshot=True)
            journal.write_back()
        finally:
            journal.close()
        conditions = tuple(entry["name"] for entry in tables["domains"]) if tables else ()
        return MigrationReport(
            "migrated" if verdict.passed else "refused",
            name,
            _named(old),
            (manifest.name, manifest.space),
            verdict.why,
            by="features" if by_features else "raw inputs",
            converted=carrying.converted,
            classes=classes,
            accuracy=verdict.accuracy,
            conditions=conditions,
            commits=old.last_number(),
            decisions=len(old.decisions(_EVERYTHING)),
        )

    def _selected(self, old: Journal, by_features: bool, name: str) -> Selected:
        selected = Selected.of(old, by_features)
        if self._without_samples or not selected.rows:
            return Selected(selected.rows, frozenset())
        if not selected.usable:
            raise StateError(
                f"{name}: none of its {len(selected.rows)} labels has a raw input, and another"
                " encoder makes other features. Labels that come while a learner is open with"
                " Keep(raw_per_class=20) can be carried over (a learner that is given features has"
                " no inputs to keep); --without-samples (without_samples=True) carries the classes"
                " alone"
                if not by_features
                else (
                    f"{name}: the features of its {len(selected.rows)} labels have expired;"
                    " --without-samples (without_samples=True) carries the classes alone"
                )
            )
        if not by_features and not self._program.has_encoder:
            raise InputError(
                f"the bundle {self._program.manifest.name!r} has no encoder, it is given features:"
                f" the raw inputs that {name} keeps cannot become features of its space;"
                " --without-samples (without_samples=True) carries the classes alone"
            )
        return selected


class _State:
    """A new state under construction: a commit log without a learner around it."""

    def __init__(self, program: Program, journal: Journal) -> None:
        self.program, self.journal = program, journal
        self.shipped = factory_state(program)
        self.live = LiveState(self.shipped)
        self.factory = FactorySamples(program)
        held_out = HeldOut(
            journal,
            program.manifest.policy.learn.held_out_every,
            program.manifest.feature_dim,
            program.manifest.classes,
        )
        room = WriteRoom(_UNLIMITED, journal.writes)
        self.log = CommitLog(program, journal, held_out, self.live, room)


class _Uncounted(Writes):
    """A migration is asked for: what it writes is not taken from the labels of its day."""

    def add(self, count: int) -> None:
        return


def _opens_as_it_is(journal: Journal, program: Program) -> bool:
    """True if the bundle opens the state as it is."""
    if any(
        journal.meta(key) not in (None, value)
        for key, value in identity(program.manifest).items()
        if key != "input"
    ):
        return False
    try:
        rebuild(journal, program)
    except StateError:
        return False
    return True


def _judged(
    state: _State, selected: Selected, refused: dict[str, str]
) -> tuple[GuardDecision, tuple[ClassCarried, ...]]:
    """Paired tests of the new state against the bundle as shipped, and what became of each
    class.
    """
    held = [row for row in state.journal.evidence(where="status = 'held_out'") if row.has_features]
    sets = state.factory.sets(state.live.current)
    right: dict[str, NDArray[np.bool_]] = {}
    if held:
        z, taps, y, _, _ = rows_to_arrays(
            held, state.live.current.slots, state.program.manifest.feature_dim
        )
        judges = ValidationSet("held-out samples", z, taps, y, SOURCE)
        right = {
            "before": judges.correct(state.program, state.shipped),
            "after": judges.correct(state.program, state.live.current),
        }
        sets = [*sets, judges]
    verdict = judge(
        state.program, state.shipped, state.live.current, sets, state.program.manifest.policy.guard
    )
    status = {row.id: row.status for row in state.journal.evidence(narrow=True)}
    by_class: dict[str, list[EvidenceRow]] = {name: [] for name in state.live.current.slots}
    for row in selected.rows:
        by_class.setdefault(row.label, []).append(row)
    labels = np.array([row.label for row in held])
    answered = {
        name: {when: values[labels == name] for when, values in right.items()}
        for name in dict.fromkeys(labels.tolist())
    }
    return verdict, tuple(
        _class(
            name,
            name not in state.shipped.slots,
            rows,
            selected.usable,
            refused,
            status,
            answered.get(name, {}),
        )
        for name, rows in by_class.items()
    )


def _class(
    name: str,
    is_new: bool,
    rows: Sequence[EvidenceRow],
    usable: frozenset[int],
    refused: dict[str, str],
    status: dict[str, str],
    answered: dict[str, NDArray[np.bool_]],
) -> ClassCarried:
    """``answered``: which of its held-out samples were answered right, before and after."""
    now = [status.get(row.id, "") for row in rows]
    turned_away = [
        row.id
        for row, found in zip(rows, now, strict=True)
        if found in ("held", "vetoed", "withdrawn")
    ]
    reasons = tuple(
        dict.fromkeys(
            refused.get(sample, "taken back with later labels of the same source")
            for sample in turned_away
        )
    )
    before, after = (
        float(answered[when].mean()) if when in answered else None for when in ("before", "after")
    )
    return ClassCarried(
        name,
        is_new,
        len(rows),
        sum(row.seq in usable for row in rows),
        sum(found in ("learned", "held_out") for found in now),
        now.count("received"),
        len(turned_away),
        reasons,
        len(answered.get("after", ())),
        before,
        after,
    )


def _named(journal: Journal) -> tuple[str, str]:
    return str(journal.meta("bundle")), str(journal.meta("space"))


__all__ = ["MigrationReport", "migrate"]
