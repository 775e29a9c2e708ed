"""State folders that earlier versions wrote still open, with everything in them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_files import GOLDEN

from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.storage import schema as journal_schema
from edgeadapt.device.storage.journal import FILE_NAME, SCHEMA_VERSION, Journal
from edgeadapt.testing import inspect_state

BUNDLE = GOLDEN / "vectors.edge"
VERSIONS = sorted(folder.name for folder in GOLDEN.glob("v*") if folder.is_dir())


@pytest.fixture(params=VERSIONS)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any], Any]:
    """A copy of a kept state folder, what was in it, and what it predicted."""
    source = GOLDEN / str(request.param)
    (tmp_path / "state").mkdir()
    shutil.copy(source / FILE_NAME, tmp_path / "state")
    return (
        tmp_path / "state",
        json.loads((source / "expected.json").read_text()),
        np.load(source / "probe.npz"),
    )


def opened(folder: Path, **settings: Any) -> Learner:
    return open_learner(BUNDLE, state=folder, **settings)


def test_there_is_a_kept_folder_of_every_version() -> None:
    assert [f"v{number}" for number in range(1, SCHEMA_VERSION + 1)] == VERSIONS


def test_it_opens_with_all_it_knew_and_predicts_as_it_did(
    kept: tuple[Path, dict[str, Any], Any],
) -> None:
    folder, expected, probe = kept
    with opened(folder, freeze=True) as learner:
        assert inspect_state(learner).journal.meta("schema") == str(SCHEMA_VERSION)
        assert (
            list(learner.classes) == expected["classes"]
            and learner.counters()["evidence"] == expected["evidence"]
        )
        assert learner.domains() == expected["domains"]
        assert [[c.number, c.kind, c.outcome] for c in reversed(learner.history(100))] == expected[
            "history"
        ]
        # the folder was written on another machine
        np.testing.assert_allclose(
            learner.predict(probe["x"]).probs, probe["probs"], rtol=1e-4, atol=1e-6
        )


def test_it_learns_on_goes_back_and_forgets(kept: tuple[Path, dict[str, Any], Any]) -> None:
    folder, _, probe = kept
    with opened(folder) as learner:
        learner.settle()
        assert "received" not in learner.counters()["evidence"]
        taught = learner.predict(probe["x"]).probs
        number = learner.history(1)[0].number
        learner.learn(probe["x"][:20], learner.predict(probe["x"][:20]).labels, source="today")
        learner.settle()
        assert learner.rollback(number) == number
        np.testing.assert_array_equal(learner.predict(probe["x"]).probs, taught)
        assert learner.forget(source="line 1").removed == 55
        digest = learner.digest()
    with opened(folder) as again:
        assert again.digest() == digest
        for target in (1, 6):
            assert again.rollback(target) == target


def test_a_migration_that_is_stopped_leaves_the_earlier_version_which_the_next_start_migrates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(GOLDEN / "v1" / FILE_NAME, tmp_path)
    migrate = journal_schema.migrate

    def stopped(db: sqlite3.Connection, written: int) -> None:
        migrate(db, written)
        raise OSError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(journal_schema, "migrate", stopped)
        with pytest.raises(OSError, match="the power went"):
            Journal(tmp_path)
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == ("1",)
    with opened(tmp_path, freeze=True) as learner:
        assert learner.counters()["evidence"]["received"] == 7
