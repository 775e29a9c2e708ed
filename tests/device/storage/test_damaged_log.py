"""A damaged write-ahead log, or an emptied database, is never opened without a word."""

from __future__ import annotations

import random
import shutil
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edgeadapt.device.storage.journal import FILE_NAME, EvidenceRow, Journal
from edgeadapt.device.storage.log_check import check_log
from edgeadapt.errors import StateError

LOG = f"{FILE_NAME}-wal"
LABELS = 12


def row(number: int) -> EvidenceRow:
    features = np.full(24, number, np.float16)
    name = f"s{number}"
    return EvidenceRow(name, "me", "cam", "source", 5.0, "dent", 1.0, "space", True, features)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a killed process leaves it: twelve labels, one change each, all in the log."""
    place = tmp_path_factory.mktemp("killed")
    with closing(Journal(place / "live")) as journal:
        for number in range(LABELS):
            journal.receive([row(number)])
        (place / "left").mkdir()
        for name in (FILE_NAME, LOG):
            shutil.copyfile(place / "live" / name, place / "left" / name)
    return place / "left"


@pytest.fixture
def folder(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "state"))


def flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def count(folder: Path) -> int:
    with closing(Journal(folder)) as journal:
        return len(journal.evidence())


def test_an_undamaged_log_is_read_to_its_end(folder: Path) -> None:
    assert count(folder) == LABELS


def test_one_flipped_bit_anywhere_in_the_log_is_named_and_never_only_forgotten(
    killed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random_place = random.Random(0)
    size = (killed / LOG).stat().st_size
    places = [*range(0, 56, 3), *(random_place.randrange(size) for _ in range(60))]
    refused = 0
    for number, place in enumerate(places):
        folder = Path(shutil.copytree(killed, tmp_path / str(number)))
        flip(folder / LOG, place, random_place.randrange(8))
        caplog.clear()
        try:
            found = count(folder)
        except StateError as error:
            refused += 1
            assert "learner.db-wal is damaged" in str(error) and "\n" not in str(error)
        else:
            raise AssertionError(f"byte {place}: {found} of {LABELS} labels, and no refusal")
    assert refused == len(places)


def test_one_flipped_bit_in_the_last_change_is_told_from_one_that_was_not_written_to_its_end(
    killed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, frame = (killed / LOG).read_bytes(), 24 + 4096
    rng, copy = random.Random(1), tmp_path / LOG
    for _ in range(60):
        copy.write_bytes(whole)
        flip(copy, len(whole) - 1 - rng.randrange(frame), rng.randrange(8))
        with pytest.raises(StateError, match="cannot be read, and SQLite would drop it"):
            check_log(copy)
    for number in range(30):  # sectors of the last page that did not reach the disk
        torn = bytearray(whole)
        sector = len(whole) - 512 * rng.randint(1, 8)
        torn[sector : sector + 512] = bytes(512) if number % 2 else rng.randbytes(512)
        copy.write_bytes(torn)
        caplog.clear()
        check_log(copy)
        assert torn == whole or "last change in it cannot be read" in caplog.text


def test_no_bit_of_the_last_frame_s_header_is_lost_without_a_word(folder: Path) -> None:
    log = folder / LOG
    content = log.read_bytes()
    for place in range(len(content) - 4120, len(content) - 4096):
        for bit in range(8):
            flip(log, place, bit)
            with pytest.raises(
                StateError, match=f"change {LABELS} of {LABELS} in it cannot be read"
            ):
                check_log(log)
            log.write_bytes(content)


def test_the_message_says_how_to_go_on_with_what_can_be_read(folder: Path) -> None:
    log = folder / LOG
    flip(log, log.stat().st_size // 2, 3)
    with pytest.raises(StateError, match=r"change \d+ of \d+ in it cannot be read") as refused:
        Journal(folder)
    with open(log, "r+b") as file:
        file.truncate(int(str(refused.value).split("truncate -s ")[1].split()[0]))
    assert 0 < count(folder) < LABELS


def test_a_last_change_that_a_power_cut_spoiled_is_warned_about_and_the_others_are_there(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = folder / LOG
    log.write_bytes(log.read_bytes()[:-2000] + bytes(2000))
    assert count(folder) == LABELS - 1
    assert "the last change in it cannot be read and is lost" in caplog.text


def test_a_change_that_was_never_finished_is_left_out_without_a_word(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = folder / LOG
    log.write_bytes(log.read_bytes()[:-4096])  # killed while it wrote
    assert count(folder) == LABELS - 1 and caplog.text == ""


@pytest.mark.parametrize("with_log", [True, False])
def test_an_emptied_database_is_refused_and_its_log_is_kept(folder: Path, with_log: bool) -> None:
    (folder / FILE_NAME).write_bytes(b"")
    size = (folder / LOG).stat().st_size
    if not with_log:
        (folder / LOG).unlink()
    for _ in range(2):
        with pytest.raises(StateError, match=r"learner\.db is empty.*remove learner\.db"):
            Journal(folder)
    assert not with_log or (folder / LOG).stat().st_size == size


def test_a_log_without_its_database_is_not_played_into_a_new_one(folder: Path) -> None:
    (folder / FILE_NAME).unlink()
    for _ in range(2):
        with pytest.raises(StateError, match=r"learner\.db is missing, and learner\.db-wal"):
            Journal(folder)
    (folder / LOG).unlink()
    assert count(folder) == 0


def test_a_killed_creation_leaves_no_database_and_the_next_opening_makes_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "learner.new").write_bytes(b"half")
    with closing(Journal(tmp_path)) as journal:
        assert journal.is_new
    assert not (tmp_path / "learner.new").exists() and count(tmp_path) == 0


def test_a_large_log_is_checked_in_milliseconds_a_megabyte(tmp_path: Path) -> None:
    with closing(Journal(tmp_path)) as journal:
        journal.receive([row(number) for number in range(40)], [np.zeros(100_000, np.uint8)] * 40)
        started = time.process_time()
        check_log(tmp_path / LOG)
        assert (tmp_path / LOG).stat().st_size > 3 << 20
        assert time.process_time() - started < 0.5
