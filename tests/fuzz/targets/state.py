"""The same file under a learner: it is refused when it is opened, or everything can be asked,
learned, forgotten and undone.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from edgeadapt.device.learner import Learner
from edgeadapt.device.storage.journal import FILE_NAME
from edgeadapt.errors import EdgeadaptError, StateError
from edgeadapt.testing import inspect_state
from fuzz import shipped
from fuzz.target import Execute, Target
from fuzz.targets.journal import is_past_header, mutate, shipped_states


def prepare(scratch: Path) -> Execute:
    def execute(data: bytes) -> None:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        try:
            (folder / FILE_NAME).write_bytes(data)
            learner = shipped.opened(folder)
            try:
                _use(learner)
            finally:
                _close(learner)
        finally:
            shutil.rmtree(folder)

    return execute


def _use(learner: Learner) -> None:
    x, names = shipped.clean()
    refused: list[EdgeadaptError] = []
    for call in (
        learner.settle,
        learner.history,
        learner.decisions,
        learner.counters,
        learner.digest,
        learner.domains,
        lambda: learner.questions(3),
        lambda: learner.observe(x[:4], stream="cam"),
        lambda: learner.learn(x[:2], names[:2], source="eve"),
        learner.settle,
        lambda: learner.forget(source="eve"),
        lambda: learner.forget(source="ann"),
        learner.rollback,
        lambda: learner.remove_class("Coat"),
        learner.checkpoint,
    ):
        try:
            call()
        except EdgeadaptError as error:
            refused.append(error)
        assert np.isfinite(learner.predict(x[:2]).probs).all(), "it answers with what is no number"
    if refused:
        raise StateError(
            f"opened, then {len(refused)} calls were refused: {refused[0]}"
        ) from refused[0]


def _close(learner: Learner) -> None:
    try:
        learner.close()
    except EdgeadaptError:
        pass  # a state that cannot be written is let go all the same
    finally:
        inspect_state(learner).journal.close()


_MODULES = (
    "edgeadapt.device.recovery.rebuild",
    "edgeadapt.device.storage.database",
    "edgeadapt.device.storage.evidence_table",
    "edgeadapt.device.storage.commit_table",
    "edgeadapt.device.storage.rows",
    "edgeadapt.device.commits.holdout",
    "edgeadapt.device.recovery.label_removal",
    "edgeadapt.device.recovery.retention",
    "edgeadapt.device.recovery.rollback",
    "edgeadapt.device.recovery.label_selection",
    "edgeadapt.device.commits.commit_log",
    "edgeadapt.device.commits.evidence_change",
    "edgeadapt.device.commits.label_guard",
    "edgeadapt.device.commits.label_update",
    "edgeadapt.device.learner",
)
TARGET = Target(
    "state",
    shipped_states,
    mutate,
    prepare,
    (EdgeadaptError,),
    is_past_header,
    _MODULES,
    share=4,
    memory_mib=512,
    seconds=30.0,
)
