from __future__ import annotations

from pathlib import Path

import pytest
import tiny_bundle as tiny

from edgeadapt.bundle import write_bundle
from edgeadapt.bundle.signature import generate_key


@pytest.fixture(scope="session")
def keys() -> tuple[bytes, str]:
    return generate_key()


@pytest.fixture(scope="session")
def unsigned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unsigned") / "tiny.edge"
    write_bundle(path, tiny.manifest(), tiny.graphs(), tiny.weights(), tiny.CARD)
    return path


@pytest.fixture(scope="session")
def signed(tmp_path_factory: pytest.TempPathFactory, keys: tuple[bytes, str]) -> Path:
    path = tmp_path_factory.mktemp("signed") / "tiny.edge"
    write_bundle(path, tiny.manifest(), tiny.graphs(), tiny.weights(), tiny.CARD, keys[0])
    return path
