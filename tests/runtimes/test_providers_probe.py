"""Why a GPU's provider does not compute here: drivers and builds that are not here, in place of
which stand small libraries and modules.
"""

from __future__ import annotations

import ctypes.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from edgeadapt_onnxruntime import CudaRuntime, TensorrtRuntime, _probe, _provider_child
from edgeadapt_onnxruntime._probe import CAUSES, ask, require, sentence
from edgeadapt_onnxruntime._providers import CUDA, TENSORRT
from edgeadapt_onnxruntime._wheels import Machine, tensorrt_wheel, this_machine, wheel

import edgeadapt.runtime
from edgeadapt import cli
from edgeadapt.errors import RuntimeUnavailable

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")

PC, SERVER = Machine("x86_64"), Machine("aarch64")
ORIN_6 = Machine("aarch64", 36, "Orin")
ORIN_7 = Machine("aarch64", 39, "Orin")
THOR = Machine("aarch64", 38, "Thor")

DRIVER = """
int cuInit(unsigned flags) {{ return {code}; }}
int cuDeviceGetCount(int *count) {{ *count = {count}; return 0; }}
int cuDeviceGetAttribute(int *value, int attribute, int device) {{
    *value = attribute == 75 ? 8 : 7;
    return 0;
}}
"""
ORT = """
__version__, cuda_version = "1.31.1", "13.0"
def get_available_providers(): return {providers}
class InferenceSession:
    def __init__(self, model, providers, provider_options, enable_fallback):
        assert provider_options == [{{"device_id": "{device}"}}] and enable_fallback == 0
        self.asked = providers[0]
    def get_providers(self): return {ran}
    def run(self, names, feeds): {run}
"""
RUN = "return [feeds['x'] * 2]"


@dataclass
class Build:
    """What a machine has, in a folder."""

    folder: Path

    def onnxruntime(
        self,
        providers: tuple[str, ...] = (TENSORRT, CUDA),
        ran: str = "[self.asked]",
        run: str = RUN,
        device: int = 0,
    ) -> Build:
        (self.folder / "onnxruntime" / "capi").mkdir(parents=True)
        (self.folder / "onnxruntime" / "__init__.py").write_text(
            ORT.format(providers=list(providers), ran=ran, run=run, device=device)
        )
        for name in ("shared", "cuda", "tensorrt"):
            self.library(f"onnxruntime/capi/libonnxruntime_providers_{name}.so")
        return self

    def driver(self, code: int = 0, count: int = 1) -> Build:
        return self.library("libcuda.so.1", DRIVER.format(code=code, count=count))

    def library(self, place: str, source: str = "int nothing;", needs: str = "") -> Build:
        """A shared library; ``needs`` is the name of one that it is linked with and that is not
        here.
        """
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        code, absent = self.folder / "source.c", self.folder / (needs or "none")
        code.write_text(source)
        linked = [str(absent)] if needs else []
        if needs:
            subprocess.run(
                ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{needs}", "-o", absent, code],
                check=True,
                timeout=60,
            )
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-w", "-Wl,--no-as-needed", "-o", path, code, *linked],
            check=True,
            timeout=60,
        )
        absent.unlink(missing_ok=True)
        return self

    def file(self, place: str, text: str = "") -> Build:
        (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / place).write_text(text)
        return self


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Children look into this folder before any other, for modules and for libraries."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setattr(_probe, "_passed", {})
    return Build(tmp_path)


def lay_out(build: Build, cause: str) -> str:
    """A machine on which ``cause`` stands in the way; the provider to ask for."""
    cuda = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
    trt = "onnxruntime/capi/libonnxruntime_providers_tensorrt.so"
    if cause == "import":
        build.file("onnxruntime/__init__.py", "raise ImportError('libc is too old')")
    elif cause == "no driver":
        build.onnxruntime().file("libcuda.so.1")
    elif cause in ("driver refused", "no device"):
        build.onnxruntime().driver(code=803 if cause == "driver refused" else 0, count=0)
    elif cause in ("not built", "overwritten"):
        build.onnxruntime(providers=("CPUExecutionProvider",))
        if cause == "overwritten":
            build.file(
                "onnxruntime_gpu-1.31.1.dist-info/METADATA",
                "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n",
            )
    elif cause == "no library":
        build.onnxruntime().driver().library(cuda, needs="libcublasLt.so.99")
    elif cause == "broken library":
        build.onnxruntime().driver().library(cuda, "extern int absent; int *wanted = &absent;")
    elif cause == "no tensorrt":
        build.onnxruntime().driver().library(trt, needs="libnvinfer.so.99")
    elif cause == "other tensorrt":
        build.onnxruntime().driver().library(trt, needs="libnvinfer.so.10").file(
            "tensorrt_libs/__init__.py"
        ).file("tensorrt_libs/libnvinfer.so.11")
    elif cause == "fell back":
        build.onnxruntime(ran="['CPUExecutionProvider']").driver()
    elif cause == "crashed":
        build.onnxruntime(run="import os; os.abort()").driver()
    else:
        texts = {
            "wrong numbers": "return [feeds['x']]",
            "failed": "raise RuntimeError('out of memory')",
            "no kernel": (
                "raise RuntimeError('CUDA error 209: no kernel image is available for execution on"
                " the device')"
            ),
        }
        build.onnxruntime(run=texts[cause]).driver()
    return TENSORRT if "tensorrt" in cause else CUDA


WORDS = {
    "import": ("cannot be imported: libc is too old", "reinstall"),
    "not built": (
        "onnxruntime 1.31.1 was built without the CUDA provider",
        "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    ),
    "overwritten": (
        "a CPU build of onnxruntime lies over it",
        "pip uninstall -y onnxruntime onnxruntime-gpu",
    ),
    "no driver": ("libcuda.so.1 does not load", "install NVIDIA's driver if there is a card"),
    "driver refused": ("cuInit says 803", "restart"),
    "no device": ("does not see the GPU: 0 here, number 0 wanted", "CUDA_VISIBLE_DEVICES"),
    "no library": ("libcublasLt.so.99 is missing", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    "broken library": ("undefined symbol: absent", "reinstall onnxruntime-gpu"),
    "no tensorrt": ("libnvinfer.so.99 is missing", "pip install 'tensorrt-cu13==99.*'"),
    "other tensorrt": (
        "it is linked with libnvinfer.so.10, and libnvinfer.so.11 is here",
        "pip install 'tensorrt-cu13==10.*'; a newer TensorRT does not serve",
    ),
    "no kernel": ("has no code for a GPU of compute capability 8.7", "onnxruntime-gpu"),
    "fell back": ("then computes with CPUExecutionProvider", "edgeadapt doctor"),
    "wrong numbers": ("1 + 1, 2 + 2 = [1.0, 2.0]", "do not use it"),
    "failed": ("the CUDA provider fails: out of memory", "edgeadapt doctor"),
    "crashed": ("killed by SIGABRT", "do not fit each other"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_found_and_said_in_one_line_with_what_to_do(build: Build, cause: str) -> None:
    provider = lay_out(build, cause)
    if cause == "no tensorrt" and ctypes.util.find_library("nvinfer"):
        pytest.skip("a TensorRT is here")
    if cause == "not built" and _provider_child._is_installed("onnxruntime-gpu"):
        pytest.skip("onnxruntime-gpu is here")
    said = ask(provider)
    line = sentence(said, provider, PC)
    assert (said["cause"], all(word in line for word in WORDS[cause])) == (cause, True), (
        said,
        line,
    )
    assert "\n" not in line and "{" not in line and "None" not in line


def test_of_a_failure_cuda_s_own_words_are_kept(build: Build) -> None:
    """ONNX Runtime raises the place in its source, and writes what CUDA said to standard error."""
    build.onnxruntime(
        run=(
            "import sys; print('x CUDA failure 35: driver is insufficient ; GPU=-1 ; hostname=vm',"
            " file=sys.stderr); raise RuntimeError('info.cc:63')"
        )
    ).driver()
    assert ask(CUDA)["detail"] == "CUDA failure 35: driver is insufficient"


def test_a_provider_that_computes_passes_and_is_asked_once(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.onnxruntime().driver()
    for provider in (CUDA, TENSORRT):
        assert require(provider) == f"{provider} computes on GPU 0, compute capability 8.7"
    monkeypatch.setattr(_probe, "ask", lambda *_: pytest.fail("asked again"))
    assert "8.7" in require(CUDA)


def test_a_second_gpu_is_the_one_that_is_asked(build: Build) -> None:
    build.onnxruntime(device=1).driver(count=2)
    assert ask(CUDA, 1)["cause"] == "" and ask(CUDA, 2)["cause"] == "no device"


def test_a_failure_is_asked_again(build: Build) -> None:
    build.onnxruntime().driver(code=803)
    with pytest.raises(RuntimeUnavailable, match="cuInit says 803"):
        require(CUDA)
    build.driver()
    assert "computes on GPU 0" in require(CUDA)


def test_a_driver_that_hangs_is_an_answer(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    build.onnxruntime(run="import time; time.sleep(60)").driver()
    monkeypatch.setattr(_probe, "LIMIT_S", 3.0)
    assert ask(CUDA) == {"cause": "crashed", "detail": "no answer within 3 s"}


def test_libraries_that_came_by_pip_are_loaded_first(build: Build) -> None:
    """The provider is linked with a TensorRT that lies where only pip puts it."""
    trt = "onnxruntime/capi/libonnxruntime_providers_tensorrt.so"
    build.onnxruntime().driver().library(trt, needs="libnvinfer.so.10").file(
        "tensorrt_libs/__init__.py"
    )
    source = build.file("nvinfer.c", "int nothing;").folder
    place = source / "tensorrt_libs" / "libnvinfer.so.10"
    subprocess.run(
        [
            "gcc",
            "-shared",
            "-fPIC",
            "-Wl,-soname,libnvinfer.so.10",
            "-o",
            place,
            source / "nvinfer.c",
        ],
        check=True,
        timeout=60,
    )
    assert ask(TENSORRT)["cause"] == ""
    place.unlink()
    assert ask(TENSORRT)["cause"] in ("no tensorrt", "other tensorrt")


@pytest.mark.parametrize("runtime", [CudaRuntime, TensorrtRuntime])
def test_a_runtime_does_not_open_where_its_provider_does_not_compute(
    build: Build, runtime: type[CudaRuntime]
) -> None:
    build.onnxruntime().driver(code=100)
    for attempt in (runtime.probe, runtime):
        with pytest.raises(RuntimeUnavailable, match="cuInit says 100"):
            attempt()


def test_the_gpu_that_was_asked_for_must_be_there(build: Build) -> None:
    build.onnxruntime().driver(count=1)
    for runtime in (CudaRuntime, TensorrtRuntime):
        with pytest.raises(RuntimeUnavailable, match="1 here, number 1 wanted"):
            runtime(device_id=1)


def test_both_have_a_name_that_users_know(
    build: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registered = re.findall(
        r'^(\S+) = "(edgeadapt_onnxruntime:\w+)"$',
        (ROOT / "pyproject.toml").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    entries = [EntryPoint(name, value, "edgeadapt.runtimes") for name, value in registered]
    assert {entry.name: entry.load().name for entry in entries} == {
        name: name for name in ("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt")
    }
    monkeypatch.setattr(edgeadapt.runtime, "entry_points", lambda group: entries)
    build.onnxruntime().driver(code=803)
    for name in ("onnxruntime-cuda", "onnxruntime-tensorrt"):
        with pytest.raises(RuntimeUnavailable, match="cuInit says 803"):
            edgeadapt.runtime.open_runtime(name)
    assert edgeadapt.runtime.open_runtime().name == "onnxruntime"
    assert cli.main(["runtimes"]) == 0
    cpu, cuda, tensorrt = capsys.readouterr().out.splitlines()
    assert re.match(r"onnxruntime +ok +onnxruntime [0-9.]+, built with .*CPUExecutionProvider", cpu)
    assert re.match(
        r"onnxruntime-cuda +not available +NVIDIA's driver is here and does not start: cuInit says"
        r" 803\. To do: restart",
        cuda,
    )
    assert tensorrt.startswith("onnxruntime-tensorrt not available") and cuda.index(
        "NVIDIA"
    ) == tensorrt.index("NVIDIA") == cpu.index("onnxruntime", 20)


# -- what to do, by machine ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (PC, "onnxruntime-gpu[cuda,cudnn]"),
        (ORIN_6, "jp6/cu129"),
        (ORIN_7, "CMAKE_CUDA_ARCHITECTURES=87"),
        (THOR, "CMAKE_CUDA_ARCHITECTURES=110"),
        (Machine("aarch64", 35, "Orin"), "stay on the CPU"),
        (Machine("aarch64", 35, "Xavier"), "stay on the CPU"),
    ],
)
def test_the_wheel_is_that_of_the_machine(machine: Machine, words: str) -> None:
    said: dict[str, Any] = {"cause": "not built", "version": "1.32.0"}
    assert words in wheel(machine) and sentence(said, CUDA, machine).endswith(wheel(machine))
    assert words in (ROOT / "docs" / "onnxruntime_gpu.md").read_text(encoding="utf-8"), (
        "the page says the same"
    )


def test_an_arm_server_has_no_tensorrt_provider_on_pypi() -> None:
    assert "no TensorRT provider" in sentence(
        {"cause": "not built", "version": "1.31.1"}, TENSORRT, SERVER
    )
    assert tensorrt_wheel(ORIN_6) == wheel(ORIN_6) and "onnxruntime-gpu[cuda" in wheel(SERVER)


def test_on_a_board_libraries_come_from_its_jetpack() -> None:
    assert "nvidia-jetpack" in sentence(
        {"cause": "no library", "detail": "libcudnn.so.9"}, CUDA, ORIN_6
    )
    assert "apt-get install libnvinfer10" in sentence(
        {"cause": "no tensorrt", "detail": "libnvinfer.so.10", "wants": "libnvinfer.so.10"},
        TENSORRT,
        ORIN_6,
    )
    assert "--runtime nvidia" in sentence({"cause": "no driver"}, CUDA, ORIN_6)


def test_a_board_is_known_by_its_files(tmp_path: Path) -> None:
    assert (this_machine(tmp_path).l4t, this_machine(tmp_path).chip) == (0, "")
    for place, text in (
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1"),
        ("proc/device-tree/compatible", "nvidia,p3768-0000\0nvidia,tegra234\0"),
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    assert (this_machine(tmp_path).l4t, this_machine(tmp_path).chip) == (36, "Orin")
