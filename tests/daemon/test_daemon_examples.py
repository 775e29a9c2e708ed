"""The daemon's examples run, say what they promise, and stay short."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mosquitto import Mosquitto

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(
    importlib.util.find_spec("cv2") is None, reason="needs the video extra (opencv)"
)
def test_a_camera_in_steam_gets_better(tmp_path: Path) -> None:
    out = run("camera.py", tmp_path)
    clear, first, later = (
        float(re.search(rf"{when}[^\n]*?([\d.]+)%", out)[1])
        for when in ("clear", "first in steam", "later")
    )  # type: ignore[index]
    assert clear > 80 and later > first


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the host extra (torch)"
)
def test_a_sensor_over_a_real_broker_learns_what_it_is_told(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        out = run("mqtt_sensor.py", tmp_path, "127.0.0.1", str(broker.port))
    shares = [float(found) for found in re.findall(r"([\d.]+)%", out)]
    assert shares[-1] > shares[0] and "worn bearing" in out
