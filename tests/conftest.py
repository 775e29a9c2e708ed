"""Fixtures that many folders use: the shipped bundle, one runtime, a learner on both.

A device has no torch: without it the host's tests are left out, and pytest's header says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Shell
from learner_steps import Opener

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.runtime import Runtime, open_runtime

# module -> folders of tests that build their graphs with it
_NEEDS = {"torch": ("host",), "onnx": ("host", "bundle")}
_missing = [module for module in _NEEDS if importlib.util.find_spec(module) is None]
collect_ignore = sorted(
    {str(Path(__file__).parent / folder) for module in _missing for folder in _NEEDS[module]}
)


def pytest_report_header() -> list[str]:
    left_out = {folder for module in _missing for folder in _NEEDS[module]}
    return (
        [f"without {', '.join(_missing)}: tests/{', tests/'.join(sorted(left_out))} left out"]
        if _missing
        else []
    )


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return read_bundle(bundle_path())


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    """One engine for all learners, as ``open`` allows: graphs load once."""
    return open_runtime()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def opened(bundle: Bundle, runtime: Runtime) -> Iterator[Opener]:
    """Open a bundle, by default the shipped one; what is still open at the end is closed."""
    learners: list[Learner] = []

    def opener(state: Path | None = None, **settings: Any) -> Learner:
        settings.setdefault("budget", Budget(busy_fraction=1.0))
        learners.append(
            open_learner(settings.pop("bundle", bundle), state=state, runtime=runtime, **settings)
        )
        return learners[-1]

    yield opener
    for learner in learners:
        learner.close()


@pytest.fixture
def learner(opened: Opener) -> Learner:
    return opened()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command line in this process: what it prints, and the exit code it has to have."""
    return Shell(capsys)
