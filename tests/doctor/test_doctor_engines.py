"""TensorRT and ONNX Runtime as the doctor's children meet them: modules that stand in for builds
that are not here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from machine_folders import DRIVER, HAS_COMPILER, compile_library, lay_out

from edgeadapt.doctor import accelerator, packages
from edgeadapt.doctor.board import read_board
from edgeadapt.doctor.machine import Machine

TENSORRT = """
__version__ = "{version}"
class Logger:
    ERROR = 1
    def __init__(self, level): pass
class Runtime:
    def __init__(self, logger): {runtime}
class Builder: pass
"""
ORT = """
import sys, numpy as np
__version__ = "{version}"
def get_available_providers(): return {providers}
class InferenceSession:
    def __init__(self, model, providers):
        self.ran = providers[0]
        if self.ran in {unloadable}:
            sys.stderr.write(
                "[ONNXRuntimeError] : 1 : FAIL : Failed to load library "
                "/home/ada/capi/libonnxruntime_providers_tensorrt.so with error: "
                "libnvinfer.so.10: cannot open shared object file: No such file or directory\\n"
            )
            self.ran = "CPUExecutionProvider"
    def get_providers(self): return [self.ran]
    def run(self, names, feeds): return [{answer}]
"""
Place = Callable[[Machine, str, str], Machine]


@pytest.fixture
def beside(tmp_path: Path) -> Place:
    """A machine whose children find a module of this text before any other."""

    def place(machine: Machine, module: str, text: str) -> Machine:
        from dataclasses import replace

        folder = tmp_path / "modules"
        package = folder / module
        (package / "capi").mkdir(parents=True)
        (package / "__init__.py").write_text(text)
        return replace(
            machine,
            environment={
                "PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", "")))
            },
        )

    return place


def ort(
    version: str = "1.32.0",
    providers: tuple[str, ...] = ("CPUExecutionProvider",),
    unloadable: tuple[str, ...] = (),
    answer: str = "feeds['x'] * 2",
) -> str:
    return ORT.format(
        version=version, providers=list(providers), unloadable=list(unloadable), answer=answer
    )


# -- ONNX Runtime ----------------------------------------------------------------------------------
def test_the_onnxruntime_that_is_here_adds_on_its_cpu() -> None:
    found = packages.onnxruntime(Machine())
    assert found[0].state in ("ok", "note") and "CPU" in found[0].found and not found[0].stops


def test_a_provider_that_is_listed_and_does_not_load_is_named_with_what_it_lacks(
    tmp_path: Path, beside: Place
) -> None:
    machine = lay_out(
        "pc",
        tmp_path / "root",
        {f"/usr/lib/x86_64-linux-gnu/libnvinfer.so.{number}": "" for number in (10, 11)},
    )
    machine = beside(
        machine,
        "onnxruntime",
        ort(
            providers=("TensorrtExecutionProvider", "CPUExecutionProvider"),
            unloadable=("TensorrtExecutionProvider",),
        ),
    )
    (
        tmp_path / "modules" / "onnxruntime" / "capi" / "libonnxruntime_providers_tensorrt.so"
    ).write_bytes(b"\x7fELF\0libnvinfer.so.10\0libnvonnxparser.so.10\0")
    core, provider = packages.onnxruntime(machine)
    assert core.state == "ok" and core.found == "1.32.0, runs on CPU"
    assert provider.found == "Tensorrt is listed and does not load: no libnvinfer.so.10"
    assert provider.why.startswith(
        "This build is linked with libnvinfer.so.10, and libnvinfer.so.11 is here."
    )
    assert "tensorrt-cu13==10.*" in provider.todo


def test_on_a_board_the_advice_is_a_build_for_the_board(tmp_path: Path, beside: Place) -> None:
    machine = beside(
        lay_out("orin nano", tmp_path / "root"),
        "onnxruntime",
        ort(
            providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
            unloadable=("CUDAExecutionProvider",),
        ),
    )
    assert "Jetson AI Lab" in packages.onnxruntime(machine)[1].todo


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ort(version="1.20.1"), "1.23 or newer"),
        (ort(answer="feeds['x']"), "1 + 1, 2 + 2 = [1.0, 2.0]"),
        ("raise ImportError('libc is too old')", "libc is too old"),
        ("import os\nos.abort()", "killed by SIGABRT"),
        (ort(providers=("AzureExecutionProvider",)), "it has no CPU provider"),
    ],
)
def test_an_onnxruntime_that_cannot_compute_stops_everything(
    tmp_path: Path, beside: Place, text: str, words: str
) -> None:
    (found,) = packages.onnxruntime(beside(lay_out("pc", tmp_path / "root"), "onnxruntime", text))
    assert found.stops and words in found.found


def test_runtimes_and_the_bundle_that_ships_are_asked_in_a_child() -> None:
    assert (
        packages.runtimes(Machine())[0].state == "ok"
        and "onnxruntime" in packages.runtimes(Machine())[0].found
    )
    (found,) = packages.bundle(Machine())
    assert found.state == "ok" and found.found.startswith("fashion.edge opens and predicts (")


# -- TensorRT --------------------------------------------------------------------------------------
def tensorrt(machine: Machine, has_driver: bool = True) -> accelerator.Finding:
    return accelerator.tensorrt(machine, read_board(machine), has_driver)[0]


def test_tensorrt_is_not_imported_without_a_driver(tmp_path: Path, beside: Place) -> None:
    mark = tmp_path / "imported"
    machine = beside(
        lay_out("orin nano", tmp_path / "root"),
        "tensorrt",
        f"open({str(mark)!r}, 'w')\n" + TENSORRT.format(version="10.3.0", runtime="pass"),
    )
    assert "was not loaded" in tensorrt(machine, has_driver=False).found and not mark.exists()
    assert tensorrt(machine).state == "ok" and mark.exists()


@pytest.mark.parametrize(
    ("text", "state", "words"),
    [
        (TENSORRT.format(version="10.3.0", runtime="pass"), "ok", "10.3.0"),
        (TENSORRT.format(version="11.4.0.106", runtime="pass"), "note", "JetPack 6.2 brings 10.3"),
        (
            TENSORRT.format(version="10.3.0", runtime="import os; os.kill(os.getpid(), 11)"),
            "broken",
            "killed by SIGSEGV",
        ),
        (
            "raise ImportError('libnvonnxparser.so.11: cannot open shared object file')",
            "broken",
            "libnvonnxparser.so.11",
        ),
        ("raise ModuleNotFoundError('No module named tensorrt')", "missing", "No module named"),
    ],
)
def test_tensorrt_is_imported_in_a_child_and_held_against_jetpack(
    tmp_path: Path, beside: Place, text: str, state: str, words: str
) -> None:
    found = tensorrt(beside(lay_out("orin nano", tmp_path / "root"), "tensorrt", text))
    assert found.state == state and words in found.found, found
    if state == "missing":  # 10.3.0 lies among the system's libraries
        assert (
            "TensorRT 10.3.0 is installed" in found.why and "--system-site-packages" in found.todo
        )


def test_python_and_library_of_two_versions_are_told_apart(tmp_path: Path, beside: Place) -> None:
    machine = lay_out(
        "pc",
        tmp_path / "root",
        {
            "/usr/lib/x86_64-linux-gnu/libnvinfer.so.10.9.0": "",
            "/usr/lib/x86_64-linux-gnu/libnvinfer.so.10.16.1": "",
        },
    )
    found = tensorrt(beside(machine, "tensorrt", TENSORRT.format(version="10.9.0", runtime="pass")))
    assert found.state == "note" and "the system's library is 10.16.1" in found.found


# -- together --------------------------------------------------------------------------------------
@pytest.mark.skipif(not HAS_COMPILER, reason="needs gcc")
def test_a_board_with_everything_has_a_gpu(tmp_path: Path, beside: Place) -> None:
    machine = beside(
        lay_out("orin nano", tmp_path / "root"),
        "tensorrt",
        TENSORRT.format(version="10.3.0", runtime="pass"),
    )
    compile_library(
        DRIVER % ("return 0;", 12060, "Orin", 8, 7),
        machine.path("/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1"),
    )
    states = {finding.name: finding.state for finding in accelerator.accelerators(machine)}
    assert states == {"driver": "ok", "cuda": "missing", "tensorrt": "ok"}
