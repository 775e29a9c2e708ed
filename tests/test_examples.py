"""The examples run, show what they say, and stay short."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
needs_host = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the host extra (torch)")


def run(name: str, folder: Path) -> list[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def percentages(lines: list[str]) -> list[float]:
    """The first percentage of each line that has one."""
    return [float(found.group(1)) for line in lines if (found := re.search(r"([\d.]+)% right", line))]


@pytest.mark.parametrize("name", ["embed.py", "images.py", "sensor.py"])
def test_an_example_fits_on_a_screen(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 30


@needs_host
def test_embed_learns_a_class_it_never_saw(tmp_path: Path) -> None:
    lines = run("embed.py", tmp_path)
    right = percentages(lines)
    assert "dent" not in lines[0] and "dent" in lines[-1]
    assert right[0] < 80 and sum(right[3:]) / 3 > 90


def test_images_notices_asks_and_beats_the_frozen_model(tmp_path: Path) -> None:
    lines = run("images.py", tmp_path)
    learner, frozen = (float(p) for p in re.findall(r"([\d.]+)%", lines[-1]))
    assert sum("is this" in line for line in lines) >= 5
    assert learner > frozen + 15


@needs_host
def test_sensor_learns_a_wearer_and_an_exercise(tmp_path: Path) -> None:
    at_first, known, new = percentages(run("sensor.py", tmp_path))
    assert at_first < known < new
