"""Short forms of the torture suite: every way an I/O call can fail, kills at random moments,
hostile streams. ``make torture`` is the long one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TORTURE = Path(__file__).parents[2] / "torture"
needs_a_compiler = pytest.mark.skipif(
    shutil.which("cc") is None,
    reason="the fault shim is compiled, and this machine has no C compiler named cc",
)

WRITES = """
import sqlite3, sys, tempfile
from pathlib import Path
from io_shim import Mode, Shim, rerun_under_shim
rerun_under_shim()
shim = Shim()
with tempfile.TemporaryDirectory() as place:
    shim.watch(Path(place))
    db = sqlite3.connect(Path(place) / "some.db", isolation_level=None)
    for statement in ("PRAGMA journal_mode=WAL", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"):
        db.execute(statement)
    calls = shim.calls
    shim.arm(Mode.FULL, calls + 1)
    try:
        db.execute("INSERT INTO t VALUES (2)")
        said = "nothing"
    except sqlite3.OperationalError as error:
        said = str(error)
    shim.lift()
    db.execute("INSERT INTO t VALUES (3)")
    rows = [row[0] for row in db.execute("SELECT a FROM t")]
    print(calls, shim.reads, shim.fired, said, rows, sep="|")
"""


def interpreters() -> list[str]:
    """This Python, and others on this machine: their SQLite may be another, linked in another
    way.
    """
    found = {os.path.realpath(sys.executable): sys.executable}
    for path in filter(
        None, map(shutil.which, ("python3.10", "python3.11", "python3.12", "python3.13", "python3"))
    ):
        has_sqlite = (
            subprocess.run(
                [path, "-c", "import sqlite3, sys; sys.exit(sys.version_info < (3, 10))"],
                capture_output=True,
            ).returncode
            == 0
        )
        if has_sqlite:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def said_by(part: str, *arguments: str) -> Any:
    """What one part of the suite found."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    made = subprocess.run(
        [sys.executable, str(TORTURE / f"{part}.py"), *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        env=variables,
    )
    assert made.stdout, made.stderr
    return json.loads(made.stdout.splitlines()[-1])


@needs_a_compiler
def test_the_shim_sees_what_sqlite_writes_and_a_full_disk_is_felt_and_passes() -> None:
    for interpreter in interpreters():
        made = subprocess.run(
            [interpreter, "-c", WRITES], capture_output=True, text=True, cwd=TORTURE
        )
        assert made.returncode == 0, (interpreter, made.stderr)
        calls, reads, fired, said, rows = made.stdout.strip().split("|")
        assert int(calls) >= 20 and int(reads) >= 1 and int(fired) >= 1, (interpreter, made.stdout)
        assert (said, rows) == ("database or disk is full", "[1, 3]"), interpreter


@needs_a_compiler
def test_a_journal_that_dies_at_any_call_is_the_one_before_or_the_one_after_the_change() -> None:
    found = said_by(
        "faults", "journal", "--modes", "KILL,TORN,POWER", "--first", "40", "--sample", "4"
    )["journal"]
    assert found["problems"] == [] and found["calls"] > 400
    assert found["outcomes"] == {
        "KILL": {"killed": 44},
        "TORN": {"killed": 44},
        "POWER": {"killed": 88},
    }


@needs_a_compiler
def test_a_journal_whose_calls_fail_refuses_by_name_and_goes_on_when_they_work_again() -> None:
    found = said_by(
        "faults",
        "journal",
        "--modes",
        "EIO,ENOSPC,SHORT,FULL,READ_EIO",
        "--first",
        "0",
        "--sample",
        "14",
    )["journal"]
    assert found["problems"] == [] and found["reads"] > 200
    assert (
        min(found["outcomes"][mode]["refused"] for mode in ("EIO", "ENOSPC", "FULL", "READ_EIO"))
        >= 8
    )
    assert found["outcomes"]["SHORT"]["absorbed"] >= 8


@needs_a_compiler
def test_a_learner_whose_calls_fail_serves_on_refuses_by_name_and_learns_again() -> None:
    found = said_by(
        "faults",
        "learner",
        "--sample",
        "5",
        "--first",
        "0",
        "--modes",
        "KILL,EIO,FULL,TORN,POWER,READ_EIO",
    )["learner"]
    assert found["problems"] == []
    assert (
        found["outcomes"]["KILL"]["killed"] == found["outcomes"]["TORN"]["killed"] == 5
        and found["outcomes"]["POWER"]["killed"] == 10
    )
    assert found["outcomes"]["FULL"]["refused"] >= 3


@needs_a_compiler
@pytest.mark.parametrize(
    ("life", "mode", "match"), [("unsynced", "POWER", "lost"), ("in place", "KILL", "mixed")]
)
def test_a_journal_that_keeps_less_than_it_promises_is_found_out(
    life: str, mode: str, match: str
) -> None:
    """The faults find what they are there for."""
    found = said_by("faults", life, "--modes", mode, "--first", "0", "--sample", "24")[life]
    assert found["outcomes"][mode]["failed"] >= 1
    assert any(match in problem for problem in found["problems"])


def test_killed_again_and_again_nothing_is_lost_and_the_end_is_that_of_an_unkilled_run() -> None:
    found = said_by("kills", "--kills", "20", "--per-run", "10")
    assert found["problems"] == [] and found["kills"] == 20 and found["runs"] == 2
    assert found["inside"] >= 3 and found["events"] >= 10


def test_hostile_streams_are_refused_by_name_and_leave_a_learner_that_learns() -> None:
    found = said_by(
        "streams",
        "not_numbers",
        "wrong_types",
        "clock_jumps",
        "changing_classes",
        "everything",
        "--turns",
        "60",
    )
    assert [problem for hardship in found for problem in hardship["problems"]] == []
    refused = {hardship["kind"]: hardship["refused"] for hardship in found}
    assert refused["not_numbers"] == {"InputError": 60}
    assert (
        refused["wrong_types"]["InputError"] >= 30
        and refused["changing_classes"]["CapacityError"] >= 5
    )
    assert min(hardship["commits"] for hardship in found) >= 1


@pytest.mark.slow
def test_every_call_of_a_journal_fails_in_every_way() -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler named cc")
    found = said_by("faults", "journal")["journal"]
    assert found["problems"] == [] and found["cases"] == 8 * found["calls"] + found["reads"]


@pytest.mark.slow
def test_a_thousand_kills() -> None:
    found = said_by("kills", "--kills", "1000")
    assert found["problems"] == [] and found["share_inside"] >= 0.3
