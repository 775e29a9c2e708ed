from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from golden_files import GOLDEN
from migration_state import RAW, teach_three_sources

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.runtime import Runtime


@pytest.fixture(scope="session")
def vectors() -> Bundle:
    """Feature vectors of four factory classes; ``feature_vectors.samples`` makes more of them."""
    return read_bundle(GOLDEN / "vectors.edge")


@pytest.fixture(scope="session")
def open_vectors(
    vectors: Bundle, runtime: Runtime
) -> Callable[..., AbstractContextManager[Learner]]:
    return partial(open_learner, vectors, runtime=runtime)


# -- to be migrated --------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def second() -> Bundle:
    """Another encoder, which knows the same six classes."""
    return read_bundle(GOLDEN / "second.edge")


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, runtime: Runtime) -> Path:
    """A state folder with raw inputs, learned with the shipped bundle; copy it."""
    folder = tmp_path_factory.mktemp("taught") / "state"
    with open_learner(bundle, state=folder, runtime=runtime, keep=RAW) as learner:
        teach_three_sources(learner)
    return folder


@pytest.fixture
def old(taught: Path, tmp_path: Path) -> Path:
    """A copy of it, to be migrated."""
    return Path(shutil.copytree(taught, tmp_path / "state"))
