"""Arrows run one way: the device side never needs torch, onnx or the host, and ``import edgeadapt``
is light.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgeadapt"
DEVICE_SIDE = (
    "bundle",
    "dataset",
    "device",
    "placement",
    "daemon",
    "demo",
    "doctor",
    "exporters",
    "scenarios",
)
HOST_TOOLS = {"edgeadapt/sklearn.py"}  # for the host only, by name
FORBIDDEN = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "faiss",
    "edgeadapt.host",
    "edgeadapt_bench",
)


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, late imports included, those for type checkers not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = {
        id(node) for block in ast.walk(tree) if _is_type_checking(block) for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in checked:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_type_checking(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def is_inside(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def device_files() -> list[str]:
    """The device's folders, the files at the bottom, and the runtimes."""
    folders = [path for folder in DEVICE_SIDE for path in (PACKAGE / folder).rglob("*.py")]
    core = [path for path in PACKAGE.glob("*.py") if path.name != "cli.py"]
    names = (
        str(path.relative_to(ROOT))
        for path in (*folders, *core, *(ROOT / "runtimes").rglob("*.py"))
    )
    return sorted(name for name in names if name not in HOST_TOOLS)


@pytest.mark.parametrize("file", device_files())
def test_the_device_side_imports_neither_torch_nor_onnx_nor_the_host(file: str) -> None:
    wrong = [
        name for name in imported(ROOT / file) for module in FORBIDDEN if is_inside(name, module)
    ]
    assert not wrong


@pytest.mark.parametrize(
    "file", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "runtimes").rglob("*.py"))
)
def test_a_runtime_rests_on_the_protocol_alone(file: str) -> None:
    ours = [name for name in imported(ROOT / file) if is_inside(name, "edgeadapt")]
    wrong = [
        name
        for name in ours
        if not any(
            is_inside(name, f"edgeadapt.{module}") for module in ("runtime", "errors", "onnx_file")
        )
    ]
    assert not wrong


@pytest.mark.parametrize(
    "file", sorted(str(path.relative_to(ROOT)) for path in (PACKAGE / "placement").rglob("*.py"))
)
def test_placement_knows_no_runtime_and_no_learner(file: str) -> None:
    others = (
        "edgeadapt_onnxruntime",
        "edgeadapt_tensorrt",
        "edgeadapt.device",
        "edgeadapt.bundle",
        "edgeadapt.daemon",
        "edgeadapt.commands",
    )
    assert not [
        name for name in imported(ROOT / file) for module in others if is_inside(name, module)
    ]


@pytest.mark.parametrize(
    "file", sorted(str(path.relative_to(ROOT)) for path in (PACKAGE / "bundle").rglob("*.py"))
)
def test_the_bundle_knows_no_device(file: str) -> None:
    upward = ("edgeadapt.device", "edgeadapt.demo", "edgeadapt.commands", "edgeadapt.cli")
    assert not [name for name in imported(ROOT / file) for room in upward if is_inside(name, room)]


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
    import edgeadapt

    assert all(getattr(edgeadapt, name) is not None for name in (*edgeadapt.__all__, "open"))


def test_the_base_of_every_error_is_caught_by_its_public_name() -> None:
    import edgeadapt
    from edgeadapt import errors

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
