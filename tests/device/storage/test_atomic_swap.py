"""A migrated state takes the place of the old one in one step, or is a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import killed_migrations
import pytest
from golden_files import GOLDEN
from killed_migrations import STEPS
from learner_steps import Opener
from migration_state import RAW, digest

from edgeadapt.bundle import Bundle
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.recovery.migrate import Migration, migrate
from edgeadapt.errors import StateError
from edgeadapt.runtime import Runtime


def test_the_old_state_is_kept_beside_the_new_one_and_opens_as_it_was(
    old: Path, second: Bundle, bundle: Bundle, runtime: Runtime, tmp_path: Path
) -> None:
    was = digest(old, bundle, runtime)
    report = migrate(old, second, runtime=runtime)
    assert Path(report.kept) == old / f"learner.{bundle.manifest.space[:12]}.db"
    assert sorted(p.name for p in old.iterdir()) == sorted(
        ["learner.db", "learner.lock", Path(report.kept).name]
    )
    (tmp_path / "kept").mkdir()
    shutil.copy(report.kept, tmp_path / "kept" / "learner.db")
    assert digest(tmp_path / "kept", bundle, runtime) == was


def test_with_out_the_old_state_is_only_read_even_while_it_is_in_use(
    taught: Path, old: Path, second: Bundle, runtime: Runtime, opened: Opener, tmp_path: Path
) -> None:
    learner = opened(old, keep=RAW)
    with pytest.raises(StateError, match=f"in use by the process with pid {os.getpid()}"):
        migrate(old, second, runtime=runtime)
    was = {p.name: p.read_bytes() for p in old.iterdir() if p.suffix != ".db-shm"}
    report = migrate(old, second, out=tmp_path / "new", runtime=runtime)
    assert {p.name: p.read_bytes() for p in old.iterdir() if p.suffix != ".db-shm"} == was
    assert report.state == str(tmp_path / "new") and report.kept == ""
    assert "Bag" in opened(tmp_path / "new", bundle=second).classes
    assert "Bag" in learner.classes
    with pytest.raises(StateError, match="there already"):
        migrate(old, second, out=tmp_path / "new", runtime=runtime)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_an_error_at_any_step_leaves_the_old_state_or_the_new_one_and_nothing_else(
    taught: Path, bundle: Bundle, second: Bundle, runtime: Runtime, tmp_path: Path
) -> None:
    for step, _ in (STEPS[1], *STEPS[4:]):
        folder = Path(shutil.copytree(taught, tmp_path / step))

        def at(name: str, step: str = step) -> None:
            if name == step:
                raise OSError(28, "No space left on device")

        migration = Migration(Program(second, runtime))
        migration.at = at
        with pytest.raises((OSError, StateError), match="No space left"):
            migration.in_place(folder)
        assert not (folder / "learner.migrating").exists() and not list(folder.glob("*-wal"))
        assert set(
            open_learner(
                second if step in ("renamed", "cleared") else bundle,
                state=folder,
                runtime=runtime,
                keep=RAW,
            ).classes
        ) >= {"Bag"}


def test_a_kill_at_any_step_leaves_the_old_state_or_the_new_one(
    taught: Path, bundle: Bundle, second: Bundle, runtime: Runtime, tmp_path: Path
) -> None:
    unkilled = Path(shutil.copytree(taught, tmp_path / "unkilled"))
    was = digest(unkilled, bundle, runtime)
    Migration(Program(second, runtime)).in_place(unkilled)
    will_be = digest(unkilled, second, runtime)
    folders = [Path(shutil.copytree(taught, tmp_path / f"{step}-{count}")) for step, count in STEPS]
    cases = [
        {"state": str(folder), "step": step, "count": count}
        for folder, (step, count) in zip(folders, STEPS, strict=True)
    ]
    answers = subprocess.run(
        [sys.executable, killed_migrations.__file__, str(GOLDEN / "second.edge")],
        input="".join(json.dumps(case) + "\n" for case in cases),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout.split()
    assert [int(answer) for answer in answers] == [-signal.SIGKILL] * len(STEPS)
    for folder, (step, _) in zip(folders, STEPS, strict=True):
        is_new = step in ("renamed", "cleared")
        assert digest(folder, second if is_new else bundle, runtime) == (
            will_be if is_new else was
        ), step
        again = migrate(folder, second, runtime=runtime)
        assert again.outcome == ("nothing to do" if is_new else "migrated")
        assert digest(folder, second, runtime) == will_be, step
        assert sorted(p.name for p in folder.iterdir()) == sorted(
            ["learner.db", "learner.lock", f"learner.{bundle.manifest.space[:12]}.db"]
        ), step
