"""A GPU that is not there: the fake CUDA library, the fake TensorRT on it, and a runtime that
believes both.
"""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # tiny_models
collect_ignore = (
    []
    if __import__("importlib.util").util.find_spec("onnx")
    else [path.name for path in HERE.glob("test_*.py")]
)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from fake_device import FakeDevice

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc): the fake CUDA library is built from fake_cudart.c")
    path = tmp_path_factory.mktemp("fake") / "libfake_cudart.so"
    subprocess.run(
        [
            compiler,
            "-O1",
            "-shared",
            "-fPIC",
            "-fvisibility=hidden",
            "-o",
            path,
            HERE / "fake_cudart.c",
            "-lpthread",
        ],
        check=True,
        timeout=60,
    )
    return FakeDevice(str(path))


@pytest.fixture
def device(library: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The fake device, fresh; a test ends with an error if anything was done that a GPU leaves
    undefined.
    """
    from edgeadapt_tensorrt import _arena

    gc.collect()
    library.reset()
    monkeypatch.setenv("EDGEADAPT_CUDART", library.path)
    monkeypatch.setenv("EDGEADAPT_LIBCUDA", library.path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    put = _arena.Arena.put

    def put_poisoned(arena: _arena.Arena, block: _arena.Block) -> None:
        """What goes back to the pool is poison at once: whoever still reads it is found."""
        window = library.view(block.address, block.size)
        if window is not None:
            window[:] = 0xCD
        put(arena, block)

    monkeypatch.setattr(_arena.Arena, "put", put_poisoned)
    yield library
    count, text = library.violations()
    assert not count, f"{count} violations, the last: {text}"


@pytest.fixture
def tensorrt(device: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Install the fake of a version as ``tensorrt``."""
    from fake_tensorrt import make

    def install(version: str) -> Any:
        module = make(version, device)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        return module

    return install


@pytest.fixture
def trt(tensorrt: Callable[[str], Any]) -> Any:
    return tensorrt("10.16.2.10")


@pytest.fixture
def runtime(trt: Any) -> Any:
    from edgeadapt_tensorrt import TensorRT

    return TensorRT(cache=None, chunk_mib=1)
