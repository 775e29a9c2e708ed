"""``edgeadapt build``: what it prints, where it builds to, how it ends, and that a kill costs the
build under way alone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_tensorrt
import pytest

import edgeadapt
from edgeadapt import cli
from edgeadapt.demo.sample import bundle_path, load_sample

HERE = Path(__file__).parent
BUNDLE = str(bundle_path())
Command = Callable[..., tuple[str, str]]


@pytest.fixture
def build(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
        found = cli.main(["build", BUNDLE, *map(str, arguments)])
        out, error = capsys.readouterr()
        assert found == code, (out, error)
        return out, error

    return run


def events(out: str, kind: str = "") -> list[dict[str, Any]]:
    return [
        event for event in map(json.loads, out.splitlines()) if not kind or event["event"] == kind
    ]


# -- what it prints --------------------------------------------------------------------------------
def test_a_line_per_graph_then_a_summary_and_the_second_time_all_is_kept(
    trt: Any, build: Command, tmp_path: Path
) -> None:
    lines = build()[0].splitlines()
    assert (
        lines[0] == f"{BUNDLE}: 6 graphs for tensorrt, kept in"
        f" {tmp_path / 'cache' / 'edgeadapt' / 'tensorrt'}"
    )
    assert all(
        re.fullmatch(
            r"  \d of 6  graphs/\w+\.onnx(, weights that change)? +built in \d+\.\d s  \d+ KiB",
            line,
        )
        for line in lines[1:-1]
    ), lines
    assert lines[1].startswith("  1 of 6  graphs/encode.onnx ") and lines[6].startswith(
        "  6 of 6  graphs/encode.onnx, weights that change "
    )
    assert re.fullmatch(r"6 built in \d+\.\d s, 0 kept from before", lines[-1])
    again = build()[0].splitlines()
    assert (
        all(re.search(r"  kept, looked at in \d+\.\d s  \d+ KiB$", line) for line in again[1:-1])
        and trt.fake.builds == 6
    )
    assert re.fullmatch(r"0 built in \d+\.\d s, 6 kept from before", again[-1])


def test_json_is_an_event_per_line_and_the_last_is_a_summary(trt: Any, build: Command) -> None:
    out = build("--json")[0]
    begin, *middle, summary = events(out)
    assert (
        begin["event"] == "begin"
        and begin["total"] == 6
        and begin["runtime"] == "tensorrt"
        and Path(begin["cache"]).is_dir()
        and len(begin["sha256"]) == 64
    )
    assert {event["event"] for event in middle} == {"graph", "step"}
    graphs, steps = events(out, "graph"), events(out, "step")
    assert (
        [graph["index"] for graph in graphs] == [1, 2, 3, 4, 5, 6]
        and {graph["outcome"] for graph in graphs} == {"built"}
        and all(graph["bytes"] > 0 for graph in graphs)
    )
    assert [step["index"] for step in steps] == [1, 2, 3, 4, 5, 6] and steps[0] == {
        "event": "step",
        "index": 1,
        "graph": "graphs/encode.onnx",
        "phase": "Building engine",
        "step": 0,
        "of": 4,
    }
    assert summary["event"] == "summary" and (
        summary["total"],
        summary["built"],
        summary["kept"],
        summary["failed"],
    ) == (6, 6, 0, 0)
    assert (
        summary["bytes"] == sum(graph["bytes"] for graph in graphs)
        and summary["dropped"] == []
        and summary["interrupted"] is False
    )


def test_phases_and_steps_are_shown_where_somebody_looks_and_wiped_away(
    trt: Any, build: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt.fake.step_s, trt.fake.slow_from = 0.01, 6
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = build()[1]
    assert (
        "  1 of 6  graphs/encode.onnx: Building engine 0/4" in shown
        and "Computing profile costs" in shown
    )
    assert (
        "\n" not in shown
        and shown.endswith("\r")
        and not shown.rstrip("\r").rpartition("\r")[2].strip()
    )


def test_nothing_is_drawn_into_a_log(trt: Any, build: Command) -> None:
    assert build()[1] == ""


# -- where it builds to ----------------------------------------------------------------------------
def test_what_is_built_for_a_service_is_what_the_service_finds(
    trt: Any, build: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = tmp_path / "var-cache-edgeadapt"
    build("--cache", service)
    assert (
        len(list((service / "tensorrt").glob("plan-*.trt"))) == 6
        and "CACHE_DIRECTORY" not in os.environ
    )
    assert (service / "tensorrt").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("CACHE_DIRECTORY", str(service))  # as systemd sets it
    with edgeadapt.open(BUNDLE, runtime="tensorrt") as learner:
        learner.predict(load_sample().x[:4])
    assert trt.fake.builds == 6
    build("--cache", tmp_path / "other")
    assert trt.fake.builds == 12 and os.environ["CACHE_DIRECTORY"] == str(service)


def test_a_folder_that_others_may_write_to_is_refused(
    trt: Any, build: Command, tmp_path: Path
) -> None:
    (tmp_path / "open" / "tensorrt").mkdir(parents=True)
    (tmp_path / "open" / "tensorrt").chmod(0o777)
    assert (
        "edgeadapt: error: nothing is built ahead where nothing is kept"
        in build("--cache", tmp_path / "open", code=5)[1]
    )
    assert trt.fake.builds == 0


# -- how it ends -----------------------------------------------------------------------------------
def test_a_graph_that_does_not_build_is_1_and_the_others_are_built(
    trt: Any, build: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_tensorrt, "UNSUPPORTED", {"Softmax"})
    out = build(code=1)[0]
    failed = [line for line in out.splitlines() if "FAILED" in line]
    assert (
        len(failed) == 1
        and "graphs/adapt.onnx" in failed[0]
        and "Softmax at node '" in failed[0]
        and "Plugin not found for operator Softmax" in failed[0]
    )
    assert (
        out.splitlines()[-1].endswith("0 kept from before, 1 did not build")
        and trt.fake.builds == 5
    )
    summary = events(build("--json", code=1)[0])[-1]
    assert (summary["kept"], summary["failed"], summary["built"]) == (5, 1, 0)


def test_what_has_no_room_is_named_and_1(
    trt: Any, build: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeadapt_tensorrt import _store

    real = _store.Store.__init__
    monkeypatch.setattr(
        _store.Store,
        "__init__",
        lambda self, folder, limit, note: real(self, folder, 1 << 20, note),
    )
    summary = events(build("--json", code=1)[0])[-1]
    assert "graphs/encode.onnx" in summary["dropped"] and summary["failed"] == 0
    assert "was kept and has been dropped again" in build(code=1)[0]


def test_a_folder_that_a_service_would_read_as_two_is_refused(
    build: Command, tmp_path: Path
) -> None:
    assert (
        "is two folders to a service"
        in build("--runtime", "tensorrt", "--cache", str(tmp_path / "a:b"), code=2)[1]
    )


def test_auto_is_asked_which_runtime_is_meant(build: Command) -> None:
    assert "name the one to build for" in build("--runtime", "auto", code=2)[1]


def test_a_runtime_that_compiles_nothing_says_so_and_is_0(build: Command) -> None:
    name = "onnxruntime"
    assert (
        build("--runtime", name)[0]
        == f"{BUNDLE}: onnxruntime compiles nothing that could be kept; it opens the bundle as it"
        " is\n"
    )
    begin, summary = events(build("--runtime", name, "--json")[0])
    assert begin["total"] == summary["total"] == 0 and begin["cache"] is None


def test_a_runtime_that_cannot_run_here_is_5_and_says_why(
    build: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEADAPT_LIBCUDA", "/nonexistent/libcuda.so.1")
    assert build(code=5)[1].startswith(
        "edgeadapt: error: no NVIDIA driver (/nonexistent/libcuda.so.1"
    )
    assert (
        "no runtime called 'tensorrtt'; registered here: onnxruntime"
        in build("--runtime", "tensorrtt", code=5)[1]
    )


def test_a_bundle_that_is_not_trusted_or_not_there_is_3(
    trt: Any, build: Command, tmp_path: Path
) -> None:
    assert cli.main(["keygen", str(tmp_path / "maker")]) == 0
    build("--trust", tmp_path / "maker.pub", code=3)
    assert cli.main(["build", str(tmp_path / "absent.edge")]) == 3
    assert trt.fake.builds == 0


def test_its_help_names_its_options() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgeadapt", "build", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert all(
        word in done.stdout
        for word in (
            "F.edge",
            "--runtime R",
            "--cache DIR",
            "--trust KEY",
            "--json",
            "onnxruntime-tensorrt",
        )
    )


# -- kills -----------------------------------------------------------------------------------------
@contextmanager
def child(library: Any, folder: Path, step_s: float) -> Iterator[subprocess.Popen[str]]:
    """It runs until the third graph is under way."""
    command = [
        sys.executable,
        str(HERE / "building_child.py"),
        library.path,
        str(step_s),
        "build",
        BUNDLE,
        "--cache",
        str(folder),
        "--json",
    ]
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("index") == 3:
                break
        yield process
    finally:
        process.kill()
        process.communicate()


def plans(folder: Path) -> list[Path]:
    return sorted((folder / "tensorrt").glob("plan-*"))


def test_after_a_kill_the_next_call_goes_on(
    trt: Any, library: Any, build: Command, tmp_path: Path
) -> None:
    with child(library, tmp_path, 0.2) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    assert len(plans(tmp_path)) == 2
    outcomes = [
        graph["outcome"] for graph in events(build("--cache", tmp_path, "--json")[0], "graph")
    ]
    assert outcomes == 2 * ["kept"] + 4 * ["built"] and trt.fake.builds == 4


def test_an_interrupt_stops_the_build_at_its_next_step_and_is_130(
    library: Any, tmp_path: Path, trt: Any
) -> None:
    # this graph alone would take ten seconds and more
    with child(library, tmp_path, 0.5) as process:
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=10)
        took = time.monotonic() - started
    assert process.returncode == 130 and error == "edgeadapt: interrupted\n"
    summary = events(out)[-1]
    assert (
        summary["event"] == "summary"
        and summary["interrupted"] is True
        and summary["built"] == 2
        and summary["failed"] == 0
    )
    assert (
        took < 2
        and len(plans(tmp_path)) == 2
        and not list((tmp_path / "tensorrt").glob("*.trt-new"))
    )
