"""The examples run, show what they say, and stay short."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
needs_host = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the host extra (torch)"
)


def run(name: str, folder: Path) -> list[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def percentages(lines: list[str]) -> list[float]:
    """The first percentage of each line that has one."""
    return [
        float(found.group(1)) for line in lines if (found := re.search(r"([\d.]+)% right", line))
    ]


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("embed.py", 21),
        ("images.py", 23),
        ("sensor.py", 29),
        ("own_step.py", 40),
        ("own_encoder.py", 31),
        ("core_methods.py", 24),
        ("http_labels.py", 45),
        ("camera.py", 46),
        ("mqtt_sensor.py", 40),
    ],
)
def test_an_example_is_short(name: str, most: int) -> None:
    statements = ast.walk(ast.parse((EXAMPLES / name).read_text()))
    assert sum(isinstance(node, ast.stmt) for node in statements) <= most


@needs_host
def test_embed_learns_a_class_it_never_saw(tmp_path: Path) -> None:
    lines = run("embed.py", tmp_path)
    right = percentages(lines)
    assert "dent" not in lines[0] and "dent" in lines[-1]
    assert right[0] < 80 and sum(right[3:]) / 3 > 90


@needs_host
def test_core_methods_switches_each_on_by_one_key(tmp_path: Path) -> None:
    lines = run("core_methods.py", tmp_path)
    assert ["'key_value'" in line for line in lines] == [
        True,
        False,
    ] and "'neuro_hebbian'" in lines[1]
    assert (
        all(right > 80 for right in percentages(lines))
        and "200 of 300 samples are kept" in lines[1]
    )


def test_images_notices_asks_and_beats_the_frozen_model(tmp_path: Path) -> None:
    lines = run("images.py", tmp_path)
    learner, frozen = (float(p) for p in re.findall(r"([\d.]+)%", lines[-1]))
    assert sum("is this" in line for line in lines) >= 5
    assert learner > frozen + 15


@needs_host
def test_own_step_is_compiled_here_and_learns_without_torch(tmp_path: Path) -> None:
    compiled, *steps = run("own_step.py", tmp_path)
    assert int(compiled.split()[0]) > 50 and float(re.findall(r"[\d.]+e-\d+", compiled)[0]) < 1e-4
    losses = [float(re.findall(r"loss ([\d.]+)", line)[0]) for line in steps]
    assert len(losses) == 5 and all(line.endswith(", without torch") for line in steps)
    assert losses[0] > 0.5 and losses[-1] < 0.2 * losses[0]
    assert {path.name for path in tmp_path.iterdir()} == {
        "own_step.onnx",
        "own_step.safetensors",
        "own_step.state.safetensors",
    }


@needs_host
def test_sensor_learns_a_wearer_and_an_exercise(tmp_path: Path) -> None:
    at_first, known, new = percentages(run("sensor.py", tmp_path))
    # without seglearn all six known ones may be right at once: the seventh is what is missing
    assert at_first <= known < new


@pytest.mark.slow
@needs_host
def test_own_encoder_earns_its_right_to_adapt_and_gains(tmp_path: Path) -> None:
    trained, *table, bright = run("own_encoder.py", tmp_path)
    assert float(re.findall(r"([\d.]+)% right", trained)[0]) > 75
    assert table[0].split() == ["stream", "learner", "frozen", "change", "refreshes"]
    for stream in (
        "clean sorted",
        "spatter sorted",
        "speckle_noise single",
        "mixed",
        "clean constant",
        "features long",
    ):
        assert sum(line.startswith(stream) for line in table) == 1
    assert re.match(
        r"short card, streams of \d+ different held-out samples: act: gains \+\d", table[-1]
    ), table[-1]
    adapting, late, frozen, _ = (float(found) for found in re.findall(r"([\d.]+)%", bright))
    assert adapting > frozen + 10 and late > frozen + 20
