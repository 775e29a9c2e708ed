"""Where the CUDA runtime library is found, and what a real one says; how many tensors crossed
between host and device.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeadapt_tensorrt import DeviceError, _cudart
from edgeadapt_tensorrt._cudart import NAMES, VARIABLE, CudaRuntime
from tiny_models import step_graph

from edgeadapt.errors import RuntimeUnavailable


@pytest.fixture
def wheels(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``nvidia/`` as pip fills it, for CUDA releases that no machine has."""
    for folder, name in (
        ("cuda_runtime", "libcudart.so.98"),
        ("cu99", "libcudart.so.99"),
        ("cublas", "libcublas.so.99"),
    ):
        place = tmp_path / "nvidia" / folder / "lib" / name
        place.parent.mkdir(parents=True)
        shutil.copy(library.path, place)
    monkeypatch.setattr(_cudart, "NAMES", ("libcudart.so.99", "libcudart.so.98"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    return tmp_path / "nvidia"


def test_the_library_of_a_wheel_is_found_the_newest_first(wheels: Path) -> None:
    assert CudaRuntime().path == str(wheels / "cu99" / "lib" / "libcudart.so.99")
    shutil.rmtree(wheels / "cu99")
    found = CudaRuntime()
    assert (
        found.path == str(wheels / "cuda_runtime" / "lib" / "libcudart.so.98")
        and found.version() == "12.6"
    )
    assert "nvidia" not in sys.modules


def test_a_library_that_is_named_is_used_or_refused_and_no_other(
    wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = wheels / "cuda_runtime" / "lib" / "libcudart.so.98"
    monkeypatch.setenv(VARIABLE, str(named))
    assert CudaRuntime().path == str(named)
    monkeypatch.setenv(VARIABLE, "/nowhere/libcudart.so")
    with pytest.raises(RuntimeUnavailable, match="nowhere"):
        CudaRuntime()


def test_one_that_is_newer_than_the_driver_is_passed_over_unless_it_is_named(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer, source = wheels / "cu99" / "lib" / "libcudart.so.99", tmp_path / "newer.c"
    source.write_text(
        (Path(__file__).parent / "fake_cudart.c")
        .read_text()
        .replace(
            "cudaRuntimeGetVersion(int *out) { *out = 12060",
            "cudaRuntimeGetVersion(int *out) { *out = 13000",
        )
    )
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", newer, source, "-lpthread"], check=True, timeout=60
    )
    assert CudaRuntime().path == str(wheels / "cuda_runtime" / "lib" / "libcudart.so.98")
    assert CudaRuntime(str(newer)).version() == "13.0"
    shutil.rmtree(wheels / "cuda_runtime")
    with pytest.raises(RuntimeUnavailable, match="is of CUDA 13, and the driver speaks CUDA 12"):
        CudaRuntime()


def test_without_any_the_error_says_what_to_install(wheels: Path) -> None:
    shutil.rmtree(wheels)
    with pytest.raises(
        RuntimeUnavailable,
        match=(
            r"no CUDA runtime library \(libcudart\.so\.99.*libcudart\.so\.98.*pip install"
            r" nvidia-cuda-runtime.*EDGEADAPT_CUDART"
        ),
    ):
        CudaRuntime()


def test_a_real_library_has_every_function_and_names_a_missing_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    try:
        cuda = CudaRuntime()
    except RuntimeUnavailable as error:
        pytest.skip(f"no real CUDA runtime library: {error}")
    assert cuda.version().split(".")[0] in {name.rpartition(".")[2] for name in NAMES}
    if not any(os.path.exists(f"/dev/{name}") for name in ("nvidiactl", "nvgpu", "nvhost-gpu")):
        with pytest.raises(
            DeviceError, match=r"cudaSetDevice failed: cudaError(InsufficientDriver|NoDevice)"
        ):
            cuda.use()


def test_uploads_and_downloads_are_counted_and_a_step_makes_none(runtime: Any) -> None:
    step = runtime.load(step_graph([256, 64]))
    state = runtime.upload({"W.w": np.zeros((256, 64), np.float32), "W.v": np.zeros(3, np.float32)})
    crossed = runtime.transfers
    assert (crossed.uploads.count, crossed.uploads.nbytes, crossed.downloads.count) == (
        2,
        256 * 64 * 4 + 12,
        0,
    )
    for _ in range(20):
        state = step({}, state)[1].over(state)
    assert (crossed.uploads.count, crossed.downloads.count) == (2, 0)
    runtime.download(state, ["W.w"])
    state["W.w"].numpy()
    assert (crossed.downloads.count, crossed.downloads.nbytes) == (2, 2 * 256 * 64 * 4) and repr(
        crossed.downloads
    ) == "2 copies, 131072 bytes"
