"""``import edgeadapt`` is light, and a device that runs loads neither torch nor onnx nor the host.
Which module may import which is held by the contracts in ``pyproject.toml``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import edgeadapt
from edgeadapt import errors


def is_inside(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after running ``code``."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_edgeadapt_is_light() -> None:
    modules = modules_after("import edgeadapt, edgeadapt.cli; edgeadapt.__version__")
    assert not modules & {
        "numpy",
        "onnxruntime",
        "msgspec",
        "safetensors",
        "cryptography",
        "sqlite3",
        "torch",
        "onnx",
    }


def test_opening_and_predicting_leaves_torch_and_onnx_out() -> None:
    code = """
import edgeadapt
from edgeadapt.demo.sample import bundle_path, load_sample
with edgeadapt.open(bundle_path()) as learner:
    seen = learner.observe(load_sample().x[:32])
    learner.label(seen.ids[0], seen.prediction.labels[0])
    learner.settle()
assert len(seen.prediction) == 32
"""
    modules = modules_after(code)
    assert "onnxruntime" in modules
    assert not modules & {"torch", "onnx", "onnxscript", "PIL"} and not any(
        is_inside(name, "edgeadapt.host") for name in modules
    )


def test_every_public_name_resolves() -> None:
    assert all(getattr(edgeadapt, name) is not None for name in (*edgeadapt.__all__, "open"))


def test_the_base_of_every_error_is_caught_by_its_public_name() -> None:
    named = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert (
        "EdgeadaptError" in edgeadapt.__all__ and edgeadapt.EdgeadaptError is errors.EdgeadaptError
    )
    assert all(
        issubclass(kind, edgeadapt.EdgeadaptError)
        for kind in named
        if not issubclass(kind, Warning)
    )


def test_folders_of_tests_are_folders_of_the_package() -> None:
    tests = Path(__file__).parent
    mirrored = {
        folder.relative_to(tests)
        for part in ("daemon", "device", "host")
        for folder in (tests / part).iterdir()
        if any(folder.glob("test_*.py"))
    }
    package = Path(edgeadapt.__file__).parent
    assert len(mirrored) > 20
    assert [folder for folder in mirrored if not (package / folder).is_dir()] == [
        Path("daemon/faults")  # whole daemons whose disk, clock or broker fails
    ]
