from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clothes import Opener
from unmigrated import RAW, teach

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.runtime import Runtime, open_runtime


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
    """Open the shipped bundle; what is still open at the end is closed."""
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


# -- to be migrated --------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def second() -> Bundle:
    """Another encoder, which knows the same six classes."""
    return read_bundle(Path(__file__).parent / "golden" / "second.edge")


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, runtime: Runtime) -> Path:
    """A state folder with raw inputs, learned with the shipped bundle; copy it."""
    folder = tmp_path_factory.mktemp("taught") / "state"
    with open_learner(bundle, state=folder, runtime=runtime, keep=RAW) as learner:
        teach(learner)
    return folder


@pytest.fixture
def old(taught: Path, tmp_path: Path) -> Path:
    """A copy of it, to be migrated."""
    return Path(shutil.copytree(taught, tmp_path / "state"))
