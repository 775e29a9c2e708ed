"""The one call, on a machine without a GPU, and what it carries."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest
from edgeadapt_bench.gpu.gpu_result import markdown

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "gpu"
RUN, CARRY = HERE / "run_all.sh", HERE / "carry.sh"


def call(script: Path, *arguments: str, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [script, *arguments],
        env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
@pytest.mark.parametrize("script", [RUN, CARRY], ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    done = subprocess.run(
        ["shellcheck", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], str]:
    """What the script says, and what it writes, without a driver."""
    folder = tmp_path_factory.mktemp("out")
    said = call(
        RUN,
        "--quick",
        "--out",
        str(folder),
        "--parts",
        "cudart,step,bundle,story",
        EDGEADAPT_LIBCUDA="/nowhere/libcuda.so.1",
    )
    (data,), (page,) = folder.glob("*.json"), folder.glob("*.md")
    assert data.name.endswith("-no-gpu.json")
    return said, json.loads(data.read_text()), page.read_text()


def test_without_a_gpu_it_ends_well_and_every_row_that_needs_one_says_why(
    report: tuple[str, dict[str, Any], str],
) -> None:
    said, content, page = report
    assert content["card"] is None and page == markdown(content) and "0 failed" in said
    on_cpu = ("on the CPU", "on onnxruntime")
    for row in content["rows"]:
        if not row["name"].endswith(on_cpu):
            assert row["state"] == "not run" and row["value"] is None and row["holds"] is None, row
            assert (
                row["reason"].startswith("no NVIDIA driver") or row["reason"] == "it was not timed"
            )
    shown = {row["part"] for row in content["rows"]}
    assert shown == {"cudart", "step", "bundle", "story"} and len(content["rows"]) > 60


def test_without_a_gpu_the_cpu_is_measured_and_agrees(
    report: tuple[str, dict[str, Any], str],
) -> None:
    rows = {row["name"]: row for row in report[1]["rows"]}
    expected = [
        "numpy on the CPU",
        "ONNX Runtime on the CPU",
        *(["torch eager on the CPU"] if importlib.util.find_spec("torch") else []),
    ]
    for batch in (1, 8, 32):
        for name in expected:
            assert (
                rows[f"batch {batch}: {name}"]["state"] == "measured"
                and float(rows[f"batch {batch}: {name}"]["reason"].split()[0]) < 1e-5
            )
    assert [
        row["state"] for row in report[1]["rows"] if row["name"].endswith("on onnxruntime")
    ] == ["passed"] * 5


def test_the_file_fits_the_schema(report: tuple[str, dict[str, Any], str]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(
        json.loads((ROOT / "docs/measurements/measurement.schema.json").read_text())
    ).validate(report[1])


def test_a_python_that_lacks_something_is_refused_by_name(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    bare.chmod(0o755)
    assert f"{bare} lacks something" in call(RUN, code=5, PYTHON=str(bare), PYTHONPATH="")


def test_wrong_options_are_said_before_anything_is_measured() -> None:
    assert "no part called 'speed'; parts: cudart, step" in call(RUN, "--parts", "speed", code=2)
    assert "a processor and a Python version" in call(CARRY, "aarch64", code=2)
    for script in (RUN, CARRY):
        assert call(script, "--help").startswith(
            "Measures this machine" if script == RUN else "Fills tests/gpu/wheels"
        )


def test_the_runtimes_are_known_without_an_installation(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, HERE / "entry_points.py", tmp_path],
        check=True,
        capture_output=True,
        timeout=60,
    )
    (made,) = tmp_path.glob("edgeadapt-*.dist-info")
    found = Distribution.at(made)
    assert {entry.name for entry in found.entry_points if entry.group == "edgeadapt.runtimes"} == {
        "onnxruntime",
        "onnxruntime-cuda",
        "onnxruntime-tensorrt",
        "tensorrt",
    }
    wanted = list(found.requires or ())
    assert any(one.startswith("numpy") for one in wanted) and any(
        one.startswith("torch>=") and one.endswith('extra == "host"') for one in wanted
    )
    assert any("sys_platform" in one and one.endswith('and extra == "tensorrt"') for one in wanted)


def test_what_is_needed_is_what_the_package_needs() -> None:
    """In the same words, with the same bounds."""
    if sys.version_info < (3, 11):
        pytest.skip("reads pyproject.toml with tomllib")
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        line
        for line in (HERE / "requirements.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert [line.replace('"', "'") for line in listed] == [
        *_in_order(project["dependencies"], listed)
    ]


def _in_order(wanted: list[str], listed: list[str]) -> list[str]:
    names = [line.split(">")[0] for line in listed]
    assert {line.split(">")[0] for line in wanted} == set(names)
    return sorted(wanted, key=lambda line: names.index(line.split(">")[0]))


def test_what_was_carried_is_ignored_by_git() -> None:
    assert "wheels/" in (HERE / ".gitignore").read_text().split()
