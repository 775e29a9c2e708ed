"""A folder's files are taken once, over restarts and kills, and what remembers them stays small and
is never in the way.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config.dependencies import require_packages
from edgeadapt.daemon.config.loader import load_settings
from edgeadapt.daemon.config.schema import FolderSource
from edgeadapt.daemon.io.folder_ledger import FILE_NAME, FolderMemory, Taken, _decoded
from edgeadapt.daemon.io.sources.folder import FolderWatch
from edgeadapt.daemon.messages import Answer, Arrival, refused
from edgeadapt.daemon.service import Service
from edgeadapt.demo.sample import CLASSES, Sample, bundle_path
from edgeadapt.device.learner import Learner

Image = pytest.importorskip("PIL.Image")
Made = Callable[..., Any]
GRAY = InputSpec(layout="NHW", dtype="uint8", shape=(8, 8), colour="gray", resize="bilinear")
DAY = float(1 << 30)


def picture(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((28, 28), value, np.uint8)).save(path)
    return path


def brought(source: FolderWatch, seconds: float = 0.4, error: str = "") -> list[str]:
    """What a source brings meanwhile; every sample is answered, or refused with ``error``."""
    names: list[str] = []

    def deliver(what: Any) -> bool:
        assert isinstance(what, Arrival)
        names.append(what.name)
        if what.reply is not None:
            what.reply(
                refused(what, error)
                if error
                else Answer(what.stream, what.source, what.at, id="1", label="Coat")
            )
        return True

    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    source.run(deliver, stop)
    return names


def watch(path: Path, memory: FolderMemory | None, **options: Any) -> FolderWatch:
    existing = options.pop("existing", "new")
    section = FolderSource(name="inbox", stream="door", path=path, existing=existing)
    taken = None if memory is None else memory.of("inbox")
    return FolderWatch(section, GRAY, **{"scan_s": 0.03, "taken": taken} | options)


def written(state: Path, memory: FolderMemory) -> FolderMemory:
    """What the next process finds."""
    memory.write(memory.table(["inbox"]), DAY)
    return FolderMemory(state)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


# -- the source ------------------------------------------------------------------------------------
def test_after_a_restart_only_what_is_new_or_has_changed_is_taken(
    tmp_path: Path, state: Path
) -> None:
    folder = tmp_path / "in"
    for name in ("a.png", "deep/b.png", "odd \udcff.png"):
        picture(folder / name)
    (folder / "torn.png").write_bytes(b"no image")
    memory = FolderMemory(state)
    assert sorted(brought(watch(folder, memory))) == ["a.png", "deep/b.png", "odd \ufffd.png"]
    memory = written(state, memory)
    picture(folder / "c.png")
    os.utime(picture(folder / "a.png", 7), (1000, 1000))
    source = watch(folder, memory)
    assert sorted(brought(source)) == ["a.png", "c.png"] and source.counters() == {"unreadable": 0}
    assert brought(watch(folder, written(state, memory))) == []
    assert len(brought(watch(folder, None))) == 4  # existing = "take"


def test_a_sample_that_got_no_answer_is_taken_after_the_restart(
    tmp_path: Path, state: Path
) -> None:
    picture(tmp_path / "in" / "a.png")
    memory = FolderMemory(state)
    assert brought(watch(tmp_path / "in", memory), error="the daemon stops") == ["a.png"]
    memory = written(state, memory)
    assert brought(watch(tmp_path / "in", memory)) == ["a.png"]
    assert brought(watch(tmp_path / "in", written(state, memory))) == []


def test_what_lies_there_is_skipped_and_what_comes_or_changes_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for number in range(3):
        picture(folder / f"{number}.png")
    source = watch(folder, None, existing="skip")
    assert brought(source) == []
    os.utime(picture(folder / "1.png", 7), (1000, 1000))
    picture(folder / "3.png")
    assert sorted(brought(source)) == ["1.png", "3.png"]


def test_a_folder_that_is_not_mounted_yet_is_not_forgotten(tmp_path: Path, state: Path) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png")
    memory = FolderMemory(state)
    brought(watch(folder, memory))
    folder.rename(tmp_path / "away")
    folder.mkdir()
    memory = written(state, memory)
    assert brought(watch(folder, memory, most=1)) == []
    memory = written(state, memory)
    folder.rmdir()
    (tmp_path / "away").rename(folder)
    assert brought(watch(folder, memory)) == []


def test_marks_are_bounded_and_those_of_files_that_lie_there_stay(
    tmp_path: Path, state: Path
) -> None:
    folder, taken = tmp_path / "in", Taken(most=20)
    picture(folder / "stays.png")
    section = FolderSource(name="inbox", stream="door", path=folder)
    source = FolderWatch(section, GRAY, scan_s=0.02, taken=taken, most=20)
    assert brought(source, 0.2) == ["stays.png"]
    for turn in range(4):
        for number in range(10):
            picture(folder / f"{turn}-{number}.png")
        assert len(brought(source, 0.3)) == 10
        for number in range(10):
            (folder / f"{turn}-{number}.png").unlink()
    stat = (folder / "stays.png").stat()
    assert len(taken) <= 20 and taken.has("stays.png", (stat.st_size, stat.st_mtime_ns))


# -- the file --------------------------------------------------------------------------------------
@pytest.mark.parametrize("damage", [b"", b"edgeadapt folders 2\n", b"flip", b"cut", b"half"])
def test_a_damaged_file_is_named_and_begun_anew(
    state: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    memory = FolderMemory(state)
    memory.of("inbox").add("a.png", (1, 2))
    assert written(state, memory).of("inbox").has("a.png", (1, 2))
    data = (state / FILE_NAME).read_bytes()
    (state / FILE_NAME).write_bytes(
        {b"flip": data[:-1] + bytes([data[-1] ^ 1]), b"cut": data[:-3], b"half": data + b"x"}.get(
            damage, damage
        )
    )
    with caplog.at_level(logging.WARNING, "edgeadapt.daemon"):
        memory = FolderMemory(state)
    assert f"{state / FILE_NAME} is damaged" in caplog.text and len(memory.of("inbox")) == 0
    memory.of("inbox").add("b.png", (1, 2))
    assert written(state, memory).of("inbox").has("b.png", (1, 2))


def test_it_is_written_only_where_something_changed_and_within_its_share_of_the_budget(
    state: Path,
) -> None:
    memory = FolderMemory(state)
    for turn in range(50):
        for number in range(1000):
            memory.of("inbox").add(f"{turn}/{number}.png", (1, 2))
        memory.write(memory.table(["inbox"]), 1e6)
        memory.write(memory.table(["inbox"]), 1e6)
    assert 50_000 < memory.written_last_day <= 100_000
    before = (state / FILE_NAME).stat().st_mtime_ns
    memory.write(memory.table(["inbox"]), 1e6, is_last=True)
    after = (state / FILE_NAME).stat()
    memory.write(memory.table(["inbox"]), DAY)
    assert (state / FILE_NAME).stat().st_ino == after.st_ino  # nothing changed
    assert after.st_mtime_ns > before and len(FolderMemory(state).of("inbox")) == 50_000
    assert (state / FILE_NAME).stat().st_size < 8 * 50_000 + 200


def test_a_disk_that_is_full_is_named_and_tried_again(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = FolderMemory(state)
    memory.of("inbox").add("a.png", (1, 2))
    state.rename(state.with_name("gone"))
    for _ in range(3):
        memory.write(memory.table(["inbox"]), DAY)
    assert (
        memory.error == f"{FILE_NAME}: No such file or directory"
        and caplog.text.count("cannot be written") == 1
    )
    state.with_name("gone").rename(state)
    assert written(state, memory).of("inbox").has("a.png", (1, 2)) and memory.error == ""


def test_what_a_kill_left_of_a_write_is_cleared_away(state: Path) -> None:
    (state / f".{FILE_NAME}.abcd").write_bytes(b"half")
    FolderMemory(state)
    assert list(state.iterdir()) == []


# -- the daemon ------------------------------------------------------------------------------------
def inbox(folder: Path, sample: Sample, count: int) -> Path:
    """Labelled pictures of known classes: the folder is the label."""
    for row in np.flatnonzero(sample.y < 6)[:count]:
        path = (
            folder
            / CLASSES[sample.y[row]].replace("/", "-").replace("T-shirt-top", "Coat")
            / f"{row}.png"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.x[row]).save(path)
    return folder


def answered(service: Service, until: Made, count: int) -> None:
    until(lambda: service.status()["loop"]["answered"] >= count)
    time.sleep(2.5)  # two looks more
    assert service.status()["loop"]["answered"] == count


def marks(state: Path) -> int:
    """Of all sources, without touching the folder of a daemon that runs."""
    return sum(map(len, _decoded((state / FILE_NAME).read_bytes()).values())) // 8


def test_a_daemon_takes_a_file_once_over_restarts_and_forgets_no_label(
    serve: Made, settings: Made, sample: Sample, until: Made, tmp_path: Path
) -> None:
    folder = inbox(tmp_path / "in", sample, 6)
    source = FolderSource(name="door", stream="door", path=folder, label_from="parent")
    service = serve(settings(source=(source,)))
    answered(service, until, 6)
    until(lambda: sum(service.status()["learner"]["evidence"].values()) == 6)
    assert service.stop() and (tmp_path / "state" / FILE_NAME).exists()
    service = serve(settings(source=(source,)))
    time.sleep(1.0)
    picture(folder / "Coat" / "new.png")
    answered(service, until, 1)
    until(lambda: sum(service.status()["learner"]["evidence"].values()) == 7)
    assert (
        service.health()["problems"] == []
        and service.status()["learner"]["written_bytes_last_day"] > 0
    )


def test_a_file_whose_label_found_no_place_comes_after_the_restart(
    serve: Made, settings: Made, sample: Sample, until: Made, tmp_path: Path
) -> None:
    folder = inbox(tmp_path / "in", sample, 6)
    made = settings(
        source=(FolderSource(name="door", stream="door", path=folder, label_from="parent"),)
    )
    service = Service(made)
    service.context.labels._most = 0
    service.start()
    answered(service, until, 6)
    assert service.status()["labels"]["dropped"] == 6 and service.stop()
    service = serve(made)
    answered(service, until, 6)
    until(lambda: sum(service.status()["learner"]["evidence"].values()) == 6)


def test_a_file_whose_label_was_under_way_when_the_daemon_stopped_comes_after_the_restart(
    serve: Made,
    settings: Made,
    sample: Sample,
    until: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, goes_on = inbox(tmp_path / "in", sample, 1), threading.Event()
    made = settings(
        source=(FolderSource(name="door", stream="door", path=folder, label_from="parent"),)
    )

    def hangs(*_: Any, **__: Any) -> None:
        goes_on.wait(30.0)
        raise OSError("the disk was taken away")

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "label", hangs)
        service = serve(made)
        until(lambda: service.status()["loop"]["answered"] == 1)
        assert not service.stop()
        goes_on.set()
        for thread in threading.enumerate():
            if thread.name == "learner":  # it closes now
                thread.join(30.0)
    service = serve(made)
    answered(service, until, 1)
    until(lambda: sum(service.status()["learner"]["evidence"].values()) == 1)


def test_a_reload_that_changes_the_source_takes_nothing_twice(
    serve: Made, sample: Sample, until: Made, tmp_path: Path
) -> None:
    inbox(tmp_path / "in", sample, 4)
    path = tmp_path / "serve.toml"

    def toml(more: str) -> Path:
        top = (
            f'bundle = "{bundle_path()}"\nstate = "state"\nunsigned = "accept"\n[control]\nlisten ='
            ' ""\n'
        )
        path.write_text(f'{top}[[source]]\nkind = "folder"\nname = "door"\npath = "in"\n{more}')
        return path

    service = serve(load_settings(toml("")), reread=lambda: load_settings(path))
    answered(service, until, 4)
    toml('pattern = "*.p*"\n')
    assert service.reload()["ok"]
    answered(service, until, 4)


def test_a_kill_loses_no_file_and_only_what_came_since_the_checkpoint_comes_twice(
    tmp_path: Path, sample: Sample, serve: Made, settings: Made, until: Made
) -> None:
    folder = inbox(tmp_path / "in", sample, 5)
    path = tmp_path / "serve.toml"
    path.write_text(
        f'bundle = "{bundle_path()}"\nstate = "state"\nunsigned = "accept"\n[control]\nlisten ='
        ' ""\n[loop]\ncheckpoint_s = 3\n[[source]]\nkind = "folder"\nname = "door"\npath ='
        ' "in"\n[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n'
    )
    with open(tmp_path / "log", "w") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "edgeadapt", "serve", str(path)], stderr=log
        )
    out = tmp_path / "out.jsonl"
    try:
        until(lambda: (tmp_path / "state" / FILE_NAME).exists(), 60.0)
        until(lambda: marks(tmp_path / "state") == 5, 30.0)
        for number in range(3):
            picture(folder / "Coat" / f"late-{number}.png", number)
        until(lambda: out.read_text().count('"answer"') >= 7, 30.0)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    kept = marks(tmp_path / "state")
    service = serve(settings(source=(FolderSource(name="door", stream="door", path=folder),)))
    answered(service, until, 8 - kept)
    assert 5 <= kept <= 8


def test_settings_without_such_a_source_write_no_such_file(
    serve: Made, settings: Made, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    sections = tuple(
        FolderSource(name=how, stream=how, path=tmp_path / "in", existing=how)
        for how in ("take", "skip")
    )
    made = settings(source=sections)
    require_packages(made)
    service = serve(made)
    service.checkpoint()
    assert service.stop() and not (tmp_path / "state" / FILE_NAME).exists()


def test_the_last_folder_source_that_leaves_the_settings_is_forgotten_too(
    tmp_path: Path, serve: Made, settings: Made
) -> None:
    (tmp_path / "in").mkdir()
    made = settings(source=(FolderSource(name="door", stream="door", path=tmp_path / "in"),))
    memory = FolderMemory(made.state)
    memory.of("door").add("0.png", (1, 0))
    made.state.mkdir(parents=True, exist_ok=True)
    memory.write(memory.table(["door"]), 1e9)
    assert len(FolderMemory(made.state).of("door")) == 1
    service = serve(settings())
    service.checkpoint()
    service.stop()
    assert len(FolderMemory(made.state).of("door")) == 0
