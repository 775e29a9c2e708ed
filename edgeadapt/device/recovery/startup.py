"""From a state folder and a bundle to where learning left off; or a refusal before anything has
changed.
"""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass

from safetensors import SafetensorError

from edgeadapt.bundle import Bundle
from edgeadapt.bundle.schema import Precision
from edgeadapt.device.commits.holdout import HeldOut
from edgeadapt.device.detection.policy import Keep
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.recovery.rebuild import rebuild_timed
from edgeadapt.device.recovery.trust import Remembered, Trust, check_successor, identity
from edgeadapt.device.resources.budget import Budget
from edgeadapt.device.storage.journal import Journal
from edgeadapt.errors import EdgeadaptError, StateError
from edgeadapt.runtime import Runtime

_REMEDY = "edgeadapt migrate OLD_STATE NEW.edge"


@dataclass(frozen=True, eq=False)
class StartupState:
    """A journal with what follows from it.

    Attributes:
        replay_s: seconds that replaying the commits since the last snapshot took.
        raw_per_class: raw inputs to keep of every class.
    """

    journal: Journal
    program: Program
    memory: LearnerState
    held_out: HeldOut
    replay_s: float
    raw_per_class: int


def open_state(
    state: str | os.PathLike[str] | None,
    bundle: Bundle,
    runtime: Runtime,
    budget: Budget,
    keep: Keep,
    trust: Trust,
    allow_older: bool,
    precision: Precision = "float32",
) -> StartupState:
    """Open or create a state folder, with a bundle that may follow the one it was last opened with.

    Raises:
        StateError, BundleError, BudgetError, RuntimeUnavailable: see ``edgeadapt.open``.
    """
    journal = Journal(state)
    manifest = bundle.manifest
    try:
        admitted = _admit(journal, bundle, trust, allow_older)  # before the runtime parses a graph
        program = Program(bundle, runtime, precision)
        program.check_precision()
        budget.require_memory(dict(program.nbytes()))
        memory, replay_s = rebuild_timed(journal, program)
        held_out = HeldOut(
            journal, manifest.policy.learn.held_out_every, manifest.feature_dim, manifest.classes
        )
        if journal.meta("clock") is None:
            admitted = {**(admitted or {}), "clock": repr(journal.last_time() or time.time())}
        # last: a bundle that cannot be opened after all must not make the one before it look old
        if admitted is not None:
            journal.set_meta(admitted)
        return StartupState(
            journal, program, memory, held_out, replay_s, _raw_per_class(journal, keep)
        )
    except (
        sqlite3.DatabaseError,
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
    ) as error:
        journal.close()
        if isinstance(error, EdgeadaptError):
            raise
        raise StateError(
            f"the journal in {journal.folder} is damaged: {error}; restore the folder from a copy,"
            " or open an empty one"
        ) from error
    except BaseException:
        journal.close()
        raise


def _admit(
    journal: Journal, bundle: Bundle, trust: Trust, allow_older: bool
) -> dict[str, str] | None:
    """What binds the folder to this bundle, if that is new; refuses a bundle that must not follow
    the last one, or that is of another kind.
    """
    meta, folder = journal.meta, journal.folder
    seen, here = Remembered.read(meta), identity(bundle.manifest)
    now = check_successor(seen, bundle, trust=trust, allow_older=allow_older)
    there = {key: meta(key) for key in here}
    if there["space"] not in (None, here["space"]):
        raise StateError(
            f"{folder} was learned in another feature space (bundle {meta('bundle')!r}, space"
            f" {str(there['space'])[:12]}; this bundle {bundle.manifest.name!r}, space"
            f" {here['space'][:12]}): {_REMEDY}"
        )
    # its factory evidence would lie in the slots of other classes
    if there["factory"] not in (None, here["factory"]):
        raise StateError(
            f"{folder} was learned with a bundle of other factory classes ({there['factory']}; this"
            f" bundle has {here['factory']}): {_REMEDY}"
        )
    if there["stored"] not in (None, here["stored"]):
        raise StateError(
            f"{folder} was learned with a bundle that stores other tensors; this one has another"
            f" head or other settings: {_REMEDY}"
        )
    return None if now == seen and there == here else {**here, **now.as_meta()}


def _raw_per_class(journal: Journal, keep: Keep) -> int:
    """As this opening says, or else as the last one did that said so."""
    known = journal.meta("raw_per_class")
    if keep.raw_per_class is None:
        return int(known or 0)
    if known != str(keep.raw_per_class):
        journal.set_meta({"raw_per_class": str(keep.raw_per_class)})
    return keep.raw_per_class
