"""The maker's number of a bundle, from the setting to the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeadapt import host
from edgeadapt.bundle import read_bundle
from edgeadapt.errors import InputError
from edgeadapt.host.exporting.settings import Settings


def test_the_version_that_a_maker_gives_is_in_the_bundle(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    x = (rng.standard_normal((120, 8)) + 4.0 * y[:, None]).astype(np.float32)
    host.export(
        tmp_path / "a.edge",
        host.Identity(8),
        (x, y),
        ["ok", "scratch"],
        name="lines",
        version=7,
        random_features=0,
        stress=False,
    )
    manifest = read_bundle(tmp_path / "a.edge").manifest
    assert (manifest.name, manifest.version) == ("lines", 7)


@pytest.mark.parametrize("version", [0, -1, 1.0, True, "2", 2**53])
def test_a_version_that_is_not_a_number_that_grows_is_refused(version: object) -> None:
    with pytest.raises(InputError, match=r"version is a whole number from 1 to 2\*\*53 - 1, got"):
        Settings(version=version).check(["ok"])  # type: ignore[arg-type]
    assert Settings().version == 1
