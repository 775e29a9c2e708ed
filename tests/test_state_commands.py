"""``edgeadapt migrate`` and ``edgeadapt replay``: exit codes, what they print, and JSON that
parses.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_files import GOLDEN
from test_docs import DOCS, run_page

import edgeadapt
from edgeadapt import cli
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample

SECOND = str(GOLDEN / "second.edge")
BUNDLE = str(bundle_path())


class Shell:
    """Runs ``edgeadapt ...`` in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.error = ""

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        found = cli.main([str(a) for a in arguments])
        out, self.error = self._capture.readouterr()
        assert found == code, (found, self.error)
        assert "Traceback" not in self.error
        return out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def images(names: tuple[str, ...], first: int, last: int) -> tuple[Any, list[str]]:
    sample = load_sample()
    rows = np.concatenate(
        [np.flatnonzero(sample.y == CLASSES.index(name))[first:last] for name in names]
    )
    return sample.x[rows], [CLASSES[i] for i in sample.y[rows]]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Known classes, then bags, then known classes once more."""
    state = tmp_path_factory.mktemp("taught") / "state"
    with edgeadapt.open(BUNDLE, state=state, keep=edgeadapt.Keep(raw_per_class=15)) as learner:
        learner.add_class("Bag")
        for names, first, last in ((KNOWN, 0, 5), (("Bag",), 0, 20), (KNOWN, 5, 10)):
            learner.learn(*images(names, first, last), source=f"{names[0]} {first}")
            learner.settle()
    return state


@pytest.fixture
def state(taught: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(taught, tmp_path / "state"))


def test_migrate_prints_what_became_of_every_class(run: Shell, state: Path) -> None:
    out = run("migrate", state, SECOND)
    assert "'fashion' (space " in out and "-> 'second' (space " in out
    assert "Bag: 15 of 20 labels carried over, 5 could not be, held-out 0% -> " in out
    assert (
        "the old state is kept as" in out
        and "what could not be carried over has no raw input" in out
    )
    assert "nothing to do" in run("migrate", state, SECOND)


def test_migrate_speaks_json_and_leaves_the_old_state_alone_with_out(
    run: Shell, state: Path, tmp_path: Path
) -> None:
    found = json.loads(run("migrate", state, SECOND, "--out", tmp_path / "new", "--json"))
    assert (found["outcome"], found["by"], found["kept"]) == ("migrated", "raw inputs", "")
    assert {c["name"]: (c["carried"], c["lost"]) for c in found["classes"]}["Bag"] == (15, 5)
    assert "equal" in run("replay", tmp_path / "new", "--bundle", SECOND)
    assert "equal" in run("replay", state, "--bundle", BUNDLE)


def test_what_migrate_refuses_has_its_exit_code(run: Shell, state: Path, tmp_path: Path) -> None:
    run("migrate", tmp_path / "absent", SECOND, code=4)
    run("migrate", state, tmp_path / "absent.edge", code=3)
    with closing(sqlite3.connect(state / "learner.db")) as db, db:
        db.execute("DELETE FROM raw")
    run("migrate", state, SECOND, code=4)
    assert "Keep(raw_per_class=20)" in run.error
    assert "Bag: 0 of 20 labels carried over" in run("migrate", state, SECOND, "--without-samples")


def test_replay_says_where_with_what_and_whether_it_is_equal(run: Shell, state: Path) -> None:
    out = run("replay", state, "--bundle", BUNDLE)
    assert "runtime onnxruntime" in out and f"edgeadapt {edgeadapt.__version__}" in out
    assert (
        "from the factory, commit by commit: 4 of 4 recorded digests equal" in out
        and out.endswith("  equal\n")
    )
    found = json.loads(run("replay", state, "--bundle", BUNDLE, "--json", "--to", "2"))
    assert (found["verdict"], found["upto"], found["difference"], found["first_different"]) == (
        "equal",
        2,
        0.0,
        None,
    )
    assert found["machine"]["architecture"] and found["versions"]["onnxruntime"]


def test_a_state_that_is_not_what_its_journal_says_is_1(run: Shell, state: Path) -> None:
    with closing(sqlite3.connect(state / "learner.db")) as db, db:
        db.execute("UPDATE evidence SET weight = 3.0 WHERE label = 'Bag'")
    out = run("replay", state, "--bundle", BUNDLE, code=1)
    assert "first other digest: commit 3 (learn: learned), different" in out
    run("replay", state, "--bundle", SECOND, code=4)
    run("replay", state, "--bundle", BUNDLE, "--to", "9", code=4)


def test_bisect_by_data_of_your_own(run: Shell, state: Path, tmp_path: Path) -> None:
    x, names = images((*KNOWN, "Bag"), 200, 240)
    np.savez(tmp_path / "judge.npz", x=x, y=np.array(names))
    with edgeadapt.open(BUNDLE, state=state) as learner:
        learner.remove_class("Trouser")  # a seventh of the answers
        learner.add_class("Sneaker")
    found = json.loads(
        run(
            "replay",
            state,
            "--bundle",
            BUNDLE,
            "--bisect",
            "--data",
            tmp_path / "judge.npz",
            "--good",
            "4",
            "--json",
        )
    )
    assert (found["culprit"], found["kind"], found["samples"]) == (5, "remove_class", 280)
    assert found["before"] - found["after"] > 0.1 and found["advice"] == [
        "learner.rollback(to=4) goes back to before it; later labels are withdrawn"
    ]
    course = run(
        "replay", state, "--bundle", BUNDLE, "--bisect", "--data", tmp_path / "judge.npz", "--all"
    )
    assert (
        all(f"  commit {number}: " in course for number in range(7))
        and "commit 5 (remove_class: removed" in course
    )


def test_bisect_without_a_fall_says_so(run: Shell, state: Path) -> None:
    assert "no fall by more than 1.00%" in run("replay", state, "--bundle", BUNDLE, "--bisect")
    run("replay", state, "--bundle", BUNDLE, "--bisect", "--to", "0", code=4)


def test_options_of_bisect_need_it(run: Shell, state: Path) -> None:
    run("replay", state, "--bundle", BUNDLE, "--all", code=2)
    assert "belong to --bisect" in run.error
    run("replay", state, "--bundle", BUNDLE, "--bisect", "--data", state, code=2)


def test_the_page_about_the_state_folder_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_page(DOCS / "state.md", capsys) == 5
