"""The GPU suite without a GPU: no driver at all, or the fake CUDA and TensorRT of
``tests/runtimes/native`` in the checks' own processes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "tests" / "runtimes" / "native"
_SHIM = """
import os, sys
from fake_device import FakeDevice
from fake_tensorrt import make
sys.modules[__name__] = make("10.16.2.10", FakeDevice(os.environ["EDGEADAPT_CUDART"]))
"""


@pytest.fixture(scope="session")
def build_fake(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile the fake CUDA library, with lines of it replaced where a test wants a device that is
    wrong.
    """
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc): the fake CUDA library is built from fake_cudart.c")

    def build(*changes: tuple[str, str]) -> Path:
        text = (NATIVE / "fake_cudart.c").read_text()
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        folder = tmp_path_factory.mktemp("fake")
        source, library = folder / "fake.c", folder / "libfake_cudart.so"
        source.write_text(text)
        subprocess.run(
            [
                "cc",
                "-O1",
                "-w",
                "-shared",
                "-fPIC",
                "-fvisibility=hidden",
                "-o",
                library,
                source,
                "-lpthread",
            ],
            check=True,
            timeout=60,
        )
        return library

    return build


@pytest.fixture(scope="session")
def fake_library(build_fake: Callable[..., Path]) -> Path:
    return build_fake()


@pytest.fixture
def use_fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], None]:
    """Children find this library as driver and CUDA, and the fake TensorRT."""

    def use(library: Path) -> None:
        shim = tmp_path / "shim"
        shim.mkdir(exist_ok=True)
        (shim / "tensorrt.py").write_text(_SHIM)
        monkeypatch.setenv("EDGEADAPT_CUDART", str(library))
        monkeypatch.setenv("EDGEADAPT_LIBCUDA", str(library))
        monkeypatch.setenv(
            "PYTHONPATH",
            os.pathsep.join([str(shim), str(NATIVE), os.environ.get("PYTHONPATH", "")]),
        )

    return use


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEADAPT_LIBCUDA", "/nowhere/libcuda.so.1")
