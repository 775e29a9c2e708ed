"""A state folder that somebody edited: refused by name when it is opened or where it matters, and
never waited for.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.storage.journal import FILE_NAME
from edgeadapt.errors import BundleError, EdgeadaptError, InputError, StateError
from edgeadapt.testing import inspect_state
from fuzz import shipped
from fuzz.limits import within
from fuzz.targets.journal import shipped_states

_ENDLESS = (
    "AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS key, x AS"
    " value, x AS seq, x AS number FROM c"
)


@pytest.fixture(scope="module")
def written() -> bytes:
    """A state with labels of two sources, a class of its own, a condition and a rollback."""
    return shipped_states()[1]


@pytest.fixture
def folder(tmp_path: Path, written: bytes) -> Path:
    (tmp_path / FILE_NAME).write_bytes(written)
    return tmp_path


def edit(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints=ON")
        for statement in statements:
            db.execute(statement)


@pytest.mark.parametrize(
    "statements",
    [
        ("DROP TABLE meta", f"CREATE VIEW meta {_ENDLESS}"),
        ("DROP TABLE evidence", f"CREATE VIEW evidence {_ENDLESS}"),
        ("CREATE VIEW extra AS SELECT * FROM evidence",),
        ("CREATE TRIGGER t AFTER INSERT ON evidence BEGIN DELETE FROM commits; END",),
        ("CREATE TABLE extra (a)",),
        ("DROP TABLE decisions",),
        (
            "DROP TABLE snapshots",
            "CREATE TABLE snapshots (commit_number INTEGER PRIMARY KEY, tensors)",
        ),
        ("ALTER TABLE evidence ADD COLUMN extra INTEGER",),
        ("UPDATE meta SET value = '99' WHERE key = 'schema'",),
        ("UPDATE snapshots SET tensors = x'00'",),
        ("UPDATE commits SET tables = '[' WHERE number = (SELECT max(number) FROM commits)",),
        ('UPDATE commits SET rows = \'{"added": ["x"]}\'',),
    ],
    ids=[
        "endless meta",
        "endless evidence",
        "view",
        "trigger",
        "table",
        "no decisions",
        "loose snapshots",
        "column",
        "version",
        "snapshot",
        "tables",
        "rows",
    ],
)
def test_an_edited_state_is_refused_when_it_is_opened_and_left_as_it_was(
    statements: tuple[str, ...], folder: Path
) -> None:
    edit(folder, *statements)
    for _ in range(2):
        with pytest.raises(StateError, match=r"damaged|journal schema|class slots|does not fit"):
            within(10.0, lambda: shipped.opened(folder))


@pytest.fixture
def calls() -> dict[str, Callable[[Learner], Any]]:
    x, names = shipped.clean()
    return {
        "digest": lambda learner: learner.digest(),
        "history": lambda learner: learner.history(),
        "forget": lambda learner: learner.forget(source="ann"),
        "learn": lambda learner: (learner.learn(x[:2], names[:2]), learner.settle()),
        "rollback": lambda learner: learner.rollback(),
        "checkpoint": lambda learner: learner.checkpoint(),
        "remove": lambda learner: learner.remove_class("Coat"),
    }


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE evidence SET features = x'003c'",
        "UPDATE evidence SET features = x'003c003c' WHERE seq % 2",
        "UPDATE evidence SET features = x'00'",
        "UPDATE evidence SET label = 'nobody'",
        "UPDATE evidence SET weight = 9e999",
        "UPDATE evidence SET draw = -1",
        "UPDATE commits SET detail = 'x' WHERE number = 1",
        "UPDATE commits SET detail = '{\"to\": 99}' WHERE kind = 'rollback'",
        "UPDATE commits SET detail = '{\"to\": 1}' WHERE kind = 'rollback'",
        "DELETE FROM commits WHERE number = 2",
        "DELETE FROM snapshots",
        "UPDATE commits SET kind = 'rollback'",
        "UPDATE snapshots SET commit_number = commit_number + 100",
        "UPDATE commits SET number = number + 1000000",
        "UPDATE meta SET value = 'vetoed' WHERE key != 'schema'",
        "DELETE FROM evidence",
        "DELETE FROM commits",
    ],
)
def test_a_state_that_contradicts_itself_raises_nothing_but_named_errors_and_answers_all_the_same(
    statement: str, folder: Path, calls: dict[str, Callable[[Learner], Any]]
) -> None:
    edit(folder, statement)

    def use() -> None:
        try:
            learner = shipped.opened(folder)
        except StateError:
            return
        try:
            for call in calls.values():
                try:
                    call(learner)
                except EdgeadaptError:
                    continue
                finally:
                    assert np.isfinite(learner.predict(shipped.clean()[0][:2]).probs).all()
        finally:
            try:
                learner.close()
            except EdgeadaptError:
                inspect_state(learner).journal.close()

    within(20.0, use)


@pytest.fixture(scope="module")
def learner() -> Iterator[Learner]:
    with shipped.opened() as opened:
        yield opened


_ODD: list[Any] = [
    None,
    3,
    2**70,
    0.5,
    b"a",
    ["a", 3],
    [["a"]],
    {"a": 1},
    {"a"},
    "\ud800",
    object(),
]


@pytest.mark.parametrize("value", _ODD, ids=lambda value: type(value).__name__)
def test_what_is_no_id_source_stream_or_class_name_is_refused(value: Any, learner: Learner) -> None:
    x, names = shipped.clean()
    sample = learner.observe(x[:1]).ids[0]
    refused = [
        lambda: learner.label(value, names[:1]),
        lambda: learner.withdraw(value),
        lambda: learner.label(sample, "Coat", source=value),
        lambda: learner.learn(x[:1], "Coat", source=value),
        lambda: learner.observe(x[:1], stream=value),
        lambda: learner.predict(x[:1], stream=value),
        lambda: learner.is_pending(value),
        lambda: learner.remove_class(value),
        lambda: learner.add_class(value),
    ]
    before = learner.counters()["evidence"]
    for call in refused:
        with pytest.raises((InputError, KeyError)):
            call()
    assert learner.counters()["evidence"] == before and learner.is_pending(sample)


@pytest.mark.parametrize(
    "value",
    [-1, 0.5, 2**70, "x", [], {}, None, True, float("nan")],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_limit_is_refused(value: Any, learner: Learner) -> None:
    for call in (learner.history, learner.decisions, learner.questions):
        with pytest.raises(InputError, match="a limit is a whole number"):
            call(value)
    for moment in ({"before": value}, {"after": value}):
        if not isinstance(value, (int, float)) and value is not None:
            with pytest.raises(InputError, match="number"):
                learner.forget(**moment)


def test_a_bundle_that_is_refused_halfway_leaves_no_thread_and_no_lock(tmp_path: Path) -> None:
    """Its guard file is read late: when the state folder is locked and the worker may be there."""
    pytest.importorskip("onnx")
    from safetensors.numpy import load, save

    from edgeadapt.bundle import GUARD
    from fuzz.seeds import repaired
    from fuzz.targets.stranger import members

    guard = {name: value.copy() for name, value in load(members()[GUARD]).items()}
    guard["z"][0, 0] = np.nan
    (tmp_path / "bad.edge").write_bytes(repaired(members() | {GUARD: save(guard)}))
    threads = threading.active_count()
    for _ in range(2):
        with pytest.raises(BundleError, match="z has values that are not finite"):
            open_learner(tmp_path / "bad.edge", state=tmp_path / "state", runtime=shipped.runtime())
        assert threading.active_count() == threads
    shipped.opened(tmp_path / "state").close()
