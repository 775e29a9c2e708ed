"""JSON lines on a real disk: that rotates, is full, is read and is killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.daemon.config import schema as settings
from edgeadapt.daemon.io.sinks import open_sink
from edgeadapt.daemon.io.sinks.jsonl import JsonLines
from edgeadapt.daemon.io.sinks.rotating_file import LineFile


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def becomes(holds: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    until = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < until:
        time.sleep(0.005)
    return holds()


@contextmanager
def full_disk(at_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond: a write that does is cut short, the next one
    fails.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_every_event_is_a_line_in_its_order(tmp_path: Path) -> None:
    sink = open_sink(settings.JsonlSink(name="log", path=tmp_path / "deep" / "a.jsonl"))
    events = [
        {"n": n, "text": "über\nzwei\tZeilen", "label": None, "shift": 0.25} for n in range(2000)
    ]
    for event in events:
        sink.take(event)
    sink.close()
    assert (
        read(tmp_path / "deep" / "a.jsonl") == events and sink.name == "log" and sink.dropped == 0
    )


def test_its_thread_is_woken_after_a_pause_and_writes_what_comes_meanwhile_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, append = list[int](), LineFile.append
    monkeypatch.setattr(
        LineFile, "append", lambda file, lines: written.append(len(lines)) or append(file, lines)
    )
    sink = JsonLines("log", tmp_path / "a.jsonl")
    for n in range(100):
        sink.take({"n": n})
        time.sleep(0.004)
    assert len(written) <= 20, "0.4 s and more: one write at once, and one every 0.05 s"
    assert becomes(lambda: sink.written == 100) and written[0] == 1
    time.sleep(0.1)  # it has come to rest
    sink.take({"n": 100})
    sink.take({"n": 101})
    started = time.monotonic()
    sink.close()
    assert (
        time.monotonic() - started < 0.5
        and [event["n"] for event in read(tmp_path / "a.jsonl")] == list(range(102))
        and sink.dropped == 0
    )


def test_numbers_of_numpy_are_numbers_and_what_has_no_form_in_json_is_dropped_and_counted(
    tmp_path: Path,
) -> None:
    sink = JsonLines("log", tmp_path / "a.jsonl")
    for value in (
        np.float32(0.5),
        np.bool_(True),
        np.arange(2),
        float("nan"),
        object(),
        "\ud800",
        7,
    ):
        sink.take({"value": value})
    sink.close()
    assert (
        [event["value"] for event in read(tmp_path / "a.jsonl")] == [0.5, True, [0, 1], None, 7]
        and sink.dropped == 2
        and sink.written == 5
    )


def test_it_goes_on_after_the_last_line_and_cuts_off_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 0}\n{"n": 1}\n{"text": "' + "x" * 200_000)
    sink = JsonLines("log", path)
    sink.take({"n": 2})
    sink.close()
    assert [event["n"] for event in read(path)] == [0, 1, 2]


def test_full_files_are_renamed_and_the_oldest_go(tmp_path: Path) -> None:
    sink = open_sink(
        settings.JsonlSink(name="log", path=tmp_path / "a.jsonl", max_mib=0.01, keep=2)
    )
    for n in range(1000):
        sink.take({"n": n, "text": "x" * 90})
    sink.close()
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["a.jsonl", "a.jsonl.1", "a.jsonl.2"]
    assert all(0 < (tmp_path / file).stat().st_size <= 0.01 * 2**20 for file in files)
    kept = [event["n"] for file in reversed(files) for event in read(tmp_path / file)]
    assert kept == list(range(kept[0], 1000)) and len(kept) > 150 and sink.dropped == 0


def test_none_is_kept_if_none_shall_be_and_a_line_larger_than_a_file_has_one_of_its_own(
    tmp_path: Path,
) -> None:
    sink = JsonLines("log", tmp_path / "a.jsonl", max_mib=0.001, keep=0)
    for n in range(5):
        sink.take({"n": n, "text": "x" * 2000})
    sink.close()
    assert [event["n"] for event in read(tmp_path / "a.jsonl")] == [4] and len(
        list(tmp_path.iterdir())
    ) == 1


def test_a_file_that_somebody_else_renames_or_removes_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonLines("log", path)
    sink.take({"n": 0})
    assert becomes(lambda: sink.written == 1)
    path.rename(tmp_path / "b.jsonl")
    sink.take({"n": 1})
    assert becomes(lambda: sink.written == 2)
    path.unlink()
    sink.take({"n": 2})
    sink.close()
    assert read(tmp_path / "b.jsonl") == [{"n": 0}] and read(path) == [{"n": 2}]


def test_whoever_reads_while_it_writes_and_rotates_finds_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonLines("log", path, max_mib=0.05, keep=3)
    done = threading.Event()
    seen: list[int] = []

    def follow() -> None:
        while not done.is_set():
            try:
                lines = path.read_bytes().splitlines(keepends=True)
            except FileNotFoundError:
                continue
            seen.extend(json.loads(line)["n"] for line in lines)

    reader = threading.Thread(target=follow)
    reader.start()
    for n in range(5000):
        sink.take({"n": n, "text": "x" * (n % 100)})
        if n % 100 == 0:
            time.sleep(0.002)
    sink.close()
    done.set()
    reader.join()
    assert seen and sink.written == 5000


def test_a_full_disk_blocks_nobody_tears_no_line_and_is_written_to_again_when_it_has_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonLines("log", path, size=100)
    with full_disk(2000):
        slowest = 0.0
        for n in range(3000):
            started = time.perf_counter()
            sink.take({"n": n, "text": "x" * 50})
            slowest = max(slowest, time.perf_counter() - started)
        assert becomes(lambda: sink.failures >= 2)
        assert slowest < 0.1 and sink.dropped > 2000 and sink.error
        # whole lines, and the first ones
        assert [event["n"] for event in read(path)] == list(range(len(read(path))))
    assert becomes(lambda: sink.written + sink.dropped == 3000) and not sink.error
    sink.close()
    numbers = [event["n"] for event in read(path)]
    assert numbers == sorted(numbers) and numbers[-1] == 2999 and len(numbers) == sink.written
    assert caplog.text.count("cannot write") <= 2


def test_closing_takes_a_second_at_most_even_if_the_disk_stays_full(tmp_path: Path) -> None:
    sink = JsonLines("log", tmp_path / "a.jsonl")
    with full_disk(100):
        for n in range(500):
            sink.take({"n": n})
        assert becomes(lambda: sink.failures >= 1)
        started = time.monotonic()
        sink.close()
        assert time.monotonic() - started < 1.0
    assert sink.written + sink.dropped == 500 and len(read(tmp_path / "a.jsonl")) == sink.written
    sink.take({"n": 500})
    assert sink.dropped + sink.written == 501


def test_a_folder_that_cannot_be_made_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    sink = JsonLines("log", tmp_path / "logs" / "a.jsonl")
    sink.take({"n": 0})
    assert becomes(lambda: sink.failures >= 1)
    (tmp_path / "logs").unlink()
    assert becomes(lambda: sink.written == 1)
    sink.close()
    assert read(tmp_path / "logs" / "a.jsonl") == [{"n": 0}]


def test_after_a_kill_all_lines_but_the_last_are_whole_and_the_next_start_goes_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.jsonl"
    script = f"""
import itertools
from pathlib import Path
from edgeadapt.daemon.io.sinks.jsonl import JsonLines
sink = JsonLines("log", Path({str(path)!r}))
for n in itertools.count():
    sink.take({{"n": n, "text": "x" * 1000}})
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert becomes(lambda: path.exists() and path.stat().st_size > 100_000, 30.0)
    child.send_signal(signal.SIGKILL)
    child.wait()
    whole = path.read_bytes().rpartition(b"\n")[0].splitlines()
    numbers = [json.loads(line)["n"] for line in whole]
    assert len(numbers) > 50 and numbers == sorted(numbers)
    sink = JsonLines("log", path)
    sink.take({"n": -1})
    sink.close()
    assert [event["n"] for event in read(path)] == [*numbers, -1]
