"""Files that somebody planted where a process of ours is going to write: nothing is written through
them, and nothing waits.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edgeadapt._durable import replace_file
from edgeadapt.daemon.io.sinks.jsonl import JsonLines
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.learner import open as open_learner
from edgeadapt.errors import EdgeadaptError


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that is none of ours."""
    file = tmp_path / "victim"
    file.write_text("precious")
    return file


def plant(what: str, place: Path, victim: Path) -> None:
    if what == "fifo":
        os.mkfifo(place)
    else:
        (os.symlink if what == "symlink" else os.link)(victim, place)


@pytest.mark.parametrize("what", ["symlink", "link", "fifo"])
@pytest.mark.parametrize(
    "name",
    ["learner.lock", "learner.new", "learner.db-wal", "learner.db-shm", "learner.new-journal"],
)
def test_a_planted_file_of_the_state_folder_is_refused_or_replaced_and_what_it_names_is_untouched(
    what: str, name: str, victim: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    plant(what, state / name, victim)
    try:
        open_learner(bundle_path(), state=state).close()
    except EdgeadaptError as error:
        assert str(state) in str(error) and "\n" not in str(error)
    assert victim.read_text() == "precious" and stat.S_IMODE(victim.stat().st_mode) == 0o644


@pytest.mark.parametrize("what", ["symlink", "link", "fifo"])
def test_a_file_is_replaced_beside_a_planted_one_and_never_through_it(
    what: str, victim: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("file", ".file.", ".file.tmp", "file.tmp", "file.new"):
        plant(what, folder / name, victim)
    replace_file(folder / "file", b"new")
    assert (folder / "file").read_bytes() == b"new" and not (folder / "file").is_symlink()
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("what", ["fifo", "link", "symlink"])
def test_full_files_of_answers_are_renamed_over_what_was_planted(
    what: str, victim: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    plant(what, folder / "a.jsonl.1", victim)
    sink = JsonLines("a", folder / "a.jsonl", max_mib=0.001, keep=1)
    for number in range(100):
        sink.take({"event": "answer", "number": number})
    sink.close()
    assert victim.read_text() == "precious" and stat.S_ISREG((folder / "a.jsonl.1").lstat().st_mode)


def test_a_fifo_in_the_place_of_the_answers_is_refused_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    sink = JsonLines("a", tmp_path / "a.jsonl")
    sink.take({"event": "answer"})
    sink.close()
    assert sink.written == 0 and "no regular file" in sink.counters()["error"]
