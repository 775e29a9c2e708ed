"""Environments of peers: pinned, made on demand, and a reason where one cannot be made. No network:
nothing is installed here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
from edgeadapt_bench.steps import steps
from edgeadapt_bench.steps.peers import environments

from edgeadapt.errors import RuntimeUnavailable

SCRIPTS = sorted(
    path
    for path in environments.HERE.glob("*.py")
    if path.name not in ("__init__.py", "environments.py")
)
TINY = """
import sys
sys.path.insert(0, sys.argv[1])
from job_server import serve
from step_protocol import steps_of
import numpy as np

class Halving:
    facts = {"size": 3}
    def __init__(self, material):
        self.material = material
        self.reset()
    def reset(self):
        self.a = self.material.start["a"].copy()
    def step(self, index):
        print("a library that prints")
        self.a = self.a * 0.5 + self.material.at(index)["x"]
        return float(self.a.sum())
    def parameters(self):
        if not np.isfinite(self.a).all():
            raise ValueError("a is not finite")
        return {"a": self.a}

serve(steps_of(Halving))
"""


def test_every_package_of_every_environment_is_pinned() -> None:
    named = {peer.environment for peer in environments.PEERS} | {
        peer.builder[0] for peer in environments.PEERS if peer.builder
    }
    assert named == set(environments.PYTHONS)
    for name in named:
        lines = (environments.HERE / "requirements" / f"{name}.txt").read_text().split()
        assert lines and all(line.count("==") == 1 for line in lines), name


def test_every_script_of_a_peer_is_there() -> None:
    used = {peer.script for peer in environments.PEERS} | {
        peer.builder[1] for peer in environments.PEERS if peer.builder
    }
    assert used <= {path.name for path in SCRIPTS}


def test_a_machine_without_a_fitting_python_says_which_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(environments.PYTHONS, "jax", ("2.6",))
    with pytest.raises(
        RuntimeUnavailable,
        match=r"needs Python 2\.6 with its venv module, and none is on this machine",
    ):
        environments.python_of("jax", tmp_path, print)


def test_packages_that_cannot_be_installed_leave_a_reason_and_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        environments.PYTHONS, "litert", (f"{sys.version_info[0]}.{sys.version_info[1]}",)
    )
    for name, value in (
        ("PIP_FIND_LINKS", str(tmp_path)),
        ("PIP_CONFIG_FILE", "/dev/null"),
        ("PIP_NO_INDEX", "1"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(
        RuntimeUnavailable, match=r"the packages of litert cannot be installed: .*ai-edge-litert"
    ):
        environments.python_of("litert", tmp_path / "cache", lambda line: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_peer_that_cannot_be_made_is_reported_once_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def refuse(environment: str, cache: Path, say: object) -> Path:
        tried.append(environment)
        raise RuntimeUnavailable(f"no network for {environment}")

    monkeypatch.setattr(environments, "python_of", refuse)
    told: list[str] = []
    failed: dict[str, str] = {}
    assert steps.peer_entrants(tmp_path, told.append, failed) == []
    assert failed["jax"] == "no network for jax" and set(failed) == {
        peer.name for peer in environments.PEERS
    }
    assert len(told) == len(environments.PEERS)
    count = len(tried)
    assert steps.peer_entrants(tmp_path, told.append, failed) == [] and len(tried) == count


def test_a_process_answers_each_command_with_one_line_whatever_its_libraries_print(
    tmp_path: Path,
) -> None:
    (tmp_path / "system.py").write_text(TINY)
    (tmp_path / "settings.json").write_text("{}")
    np.savez(tmp_path / "start.npz", a=np.full(2, 8.0, np.float32))
    np.savez(tmp_path / "inputs.npz", x=np.array([1.0, 2.0], np.float32))
    commands = [
        {"do": "time", "steps": 1},
        {"do": "load", "folder": str(tmp_path)},
        {"do": "follow", "first": 0, "steps": 3, "file": str(tmp_path / "end.npz")},
        {"do": "time", "steps": 4},
        {"do": "dance"},
    ]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "system.py"), str(environments.PROTOCOL)],
        input="".join(json.dumps(c) + "\n" for c in commands),
        capture_output=True,
        text=True,
        check=True,
    )
    early, loaded, followed, timed, unknown = map(json.loads, done.stdout.splitlines())
    assert early == {"error": "RuntimeError: nothing is loaded"} and unknown == {
        "error": "KeyError: 'dance'"
    }
    assert loaded["facts"] == {"size": 3} and loaded["done_at"] > 0
    assert followed["losses"] == [10.0, 9.0, 6.5]  # 8 -> 5 -> 4.5 -> 3.25, the inputs in turn
    assert np.array_equal(np.load(tmp_path / "end.npz")["a"], np.full(2, 3.25, np.float32))
    assert len(timed["seconds"]) == 4 and timed["peak_mib"] > 5
    assert "a library that prints" in done.stderr
