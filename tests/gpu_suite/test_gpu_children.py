"""A check that crashes, hangs, babbles or raises costs its own row, and the row says what
happened.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from edgeadapt_bench.gpu.gpu_check import Task, run
from edgeadapt_bench.harness.process import Clock, descendants, end

_CHECKS = """
import os, signal, sys, time
from edgeadapt_bench.gpu.gpu_check import NotHere, answer
from edgeadapt_bench.gpu.gpu_result import checked
from edgeadapt.errors import RuntimeUnavailable

def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def hang(): time.sleep(600)
def raises(): raise ValueError("the sum is off")
def absent(): raise NotHere("no such library; install it")
def refused(): raise RuntimeUnavailable("the device failed")
def well():
    print("a library prints")
    os.write(1, b"so does its C part\\n")
    return [checked("t", "well", True, "/home/somebody/secret/file.so")]

answer({"crash": crash, "hang": hang, "raises": raises, "absent": absent, "refused": refused,
    "well": well})
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "checks_that_end_badly.py").write_text(_CHECKS)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    )
    return "checks_that_end_badly"


@pytest.mark.parametrize(
    ("check", "state", "reason"),
    [
        ("crash", "failed", "killed by SIGSEGV"),
        ("hang", "failed", "no answer within 4 s"),
        ("raises", "failed", "ValueError: the sum is off"),
        ("absent", "not run", "no such library; install it"),
        ("refused", "failed", "RuntimeUnavailable: the device failed"),
        ("unknown", "failed", "KeyError: 'unknown'"),
    ],
)
def test_what_a_check_does_is_one_row(module: str, check: str, state: str, reason: str) -> None:
    started = time.monotonic()
    rows = run(Task("t", "the row", module, check, 4.0), Clock.of(60))
    assert [(row.part, row.name, row.state, row.reason, row.value) for row in rows] == [
        ("t", "the row", state, reason, None)
    ]
    assert time.monotonic() - started < 15


def test_what_libraries_print_is_no_answer_and_places_are_not_told(module: str) -> None:
    (row,) = run(Task("t", "the row", module, "well", 30.0), Clock.of(60))
    assert (row.name, row.state, row.reason) == ("well", "passed", ".../file.so")


def test_a_check_for_which_no_time_is_left_is_not_begun(module: str) -> None:
    (row,) = run(Task("t", "the row", module, "crash", 30.0), Clock.of(1))
    assert row.state == "not run" and "--limit" in row.reason


def test_a_process_that_is_ended_takes_those_it_started_with_it() -> None:
    code = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '600'], start_new_session=True);"
        " print(p.pid, flush=True); p.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        grandchild = int(json.loads(process.stdout.readline()))
        assert descendants(process.pid) == [grandchild]
        end(process)
    deadline = time.monotonic() + 10
    while _is_alive(grandchild) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(grandchild)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_longer_suite_waits_longer_for_each_check() -> None:
    assert Clock.of(540.0).left(150.0) == 150.0 and Clock.of(5400.0, 10.0).left(150.0) == 1500.0
    assert Clock.of(20.0, 10.0).left(150.0) <= 20.0
