"""Sources on real files: folders that fill, sequences, arrays and signals."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config import schema as settings
from edgeadapt.daemon.io.sources import open_source
from edgeadapt.daemon.io.sources.folder import FolderWatch
from edgeadapt.daemon.io.sources.rate_timer import RateTimer
from edgeadapt.daemon.messages import Arrival, LabelArrival, Source
from edgeadapt.errors import InputError

GRAY = InputSpec(layout="NHW", dtype="uint8", shape=(8, 8), colour="gray", resize="bilinear")
VECTOR = InputSpec(layout="NC", dtype="float32", shape=(3,))
SIGNAL = InputSpec(layout="NC", dtype="float32", shape=(2, 4))  # 2 channels of 4 readings
FEATURES = InputSpec(layout="features", dtype="float32", shape=(3,))


class Running:
    """A source in a thread, and what it brought."""

    def __init__(
        self, source: Source, takes: Callable[[Arrival], bool] = lambda arrival: True
    ) -> None:
        self.source, self.brought, self.at = source, list[Arrival](), list[float]()
        self.stop, self.error = threading.Event(), None
        self._takes = takes
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.source.run(self._deliver, self.stop)
        except Exception as error:
            self.error = error

    def _deliver(self, what: Arrival | LabelArrival) -> bool:
        assert isinstance(what, Arrival)
        if self._takes(what):
            self.at.append(time.monotonic())
            self.brought.append(what)
            return True
        return False

    @property
    def names(self) -> list[str]:
        return [arrival.name for arrival in self.brought]

    def has(self, count: int, timeout_s: float = 5.0) -> bool:
        until = time.monotonic() + timeout_s
        while len(self.brought) < count and time.monotonic() < until:
            time.sleep(0.005)
        return len(self.brought) == count

    def ends(self, timeout_s: float = 5.0) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stops(self) -> bool:
        """Within 0.2 s."""
        self.stop.set()
        return self.ends(0.2)


def image(path: Path, value: int = 100, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size), value, np.uint8)).save(path)
    return path


def is_all(arrival: Arrival, value: int) -> bool:
    return arrival.x is not None and bool((arrival.x == value).all())


def watch(path: Path, scan_s: float = 0.03, most: int = 100_000, **options: Any) -> FolderWatch:
    section = settings.FolderSource(name="inbox", stream="door", path=path, **options)
    return FolderWatch(section, GRAY, scan_s=scan_s, most=most)


# -- folder ----------------------------------------------------------------------------------------
def test_images_that_are_there_and_images_that_come_are_taken_once_each(tmp_path: Path) -> None:
    image(tmp_path / "b.png", 10)
    run = Running(watch(tmp_path))
    assert (
        run.has(1)
        and run.brought[0].name == "b.png"
        and run.brought[0].source == "inbox"
        and run.brought[0].stream == "door"
    )
    assert (
        run.brought[0].x is not None
        and (run.brought[0].x == 10).all()
        and run.brought[0].x.shape == (8, 8)
        and run.brought[0].label is None
    )
    image(tmp_path / "a.PNG", 20, size=16)
    image(tmp_path / "deep" / "er" / "c.png", 30)
    for other in ("notes.txt", ".hidden.png", ".tmp/d.png"):
        image(tmp_path / "x.png").rename(tmp_path / "x.tmp")
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / "x.tmp").rename(tmp_path / other)
    assert run.has(3)
    time.sleep(0.2)
    assert sorted(run.names[1:]) == ["a.PNG", "deep/er/c.png"] and len(run.names) == 3
    assert run.stops() and run.error is None


def test_the_label_is_the_folder_an_image_lies_in_and_at_the_top_there_is_none(
    tmp_path: Path,
) -> None:
    for name in ("Coat/a.png", "deep/Bag/b.png", "c.png"):
        image(tmp_path / name)
    run = Running(watch(tmp_path, label_from="parent"))
    assert run.has(3) and {arrival.name: arrival.label for arrival in run.brought} == {
        "Coat/a.png": "Coat",
        "deep/Bag/b.png": "Bag",
        "c.png": None,
    }
    assert run.stops()


def test_a_pattern_chooses_by_the_name_of_the_file(tmp_path: Path) -> None:
    for name in ("left_1.png", "right_1.png", "cam/left_2.png"):
        image(tmp_path / name)
    run = Running(watch(tmp_path, pattern="left_*"))
    assert run.has(2) and sorted(run.names) == ["cam/left_2.png", "left_1.png"]
    time.sleep(0.1)
    assert len(run.names) == 2 and run.stops()


def test_a_file_that_is_still_written_is_waited_for(tmp_path: Path) -> None:
    whole = image(tmp_path / "other" / "a.png", 77).read_bytes()
    folder = tmp_path / "in"
    folder.mkdir()
    run = Running(watch(folder, scan_s=0.1))
    with open(folder / "a.png", "wb", buffering=0) as file:
        for byte in range(len(whole)):
            file.write(whole[byte : byte + 1])
            time.sleep(0.6 / len(whole))
            assert run.names == []
    assert run.has(1) and run.brought[0].x is not None and (run.brought[0].x == 77).all()
    assert run.source.unreadable == 0 and run.stops()  # type: ignore[attr-defined]


def test_a_file_that_is_replaced_is_taken_again_whichever_way_the_clock_jumped(
    tmp_path: Path,
) -> None:
    file = image(tmp_path / "a.png", 1)
    run = Running(watch(tmp_path))
    assert run.has(1)
    for value, at in ((2, 86_400), (3, 4_000_000_000)):  # 1970, and far ahead
        image(file, value)
        os.utime(file, (at, at))
        until = time.monotonic() + 5.0
        while not is_all(run.brought[-1], value) and time.monotonic() < until:
            time.sleep(0.01)
        assert is_all(run.brought[-1], value)
    assert set(run.names) == {"a.png"} and run.stops()


def test_an_image_that_cannot_be_read_is_logged_once_and_tried_again_only_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    image(tmp_path / "b.png")
    source = watch(tmp_path)
    with caplog.at_level(logging.WARNING, "edgeadapt.daemon"):
        run = Running(source)
        assert run.has(1)
        time.sleep(0.3)
    assert run.names == ["b.png"] and source.unreadable == 1
    assert len(caplog.records) == 1 and "a.png: cannot be read as an image" in caplog.text
    image(tmp_path / "a.png")
    assert run.has(2) and run.stops()


def test_links_pipes_and_folders_with_the_name_of_an_image_are_not_touched(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    image(outside / "a.png")
    folder.mkdir()
    (folder / "link.png").symlink_to(outside / "a.png")
    (folder / "linked").symlink_to(outside)
    (folder / "round").symlink_to(folder)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    image(folder / "z.png")
    run = Running(watch(folder))
    assert run.has(1)
    time.sleep(0.2)
    assert run.names == ["z.png"] and run.stops() and run.error is None


def test_what_the_queue_refuses_is_offered_again(tmp_path: Path) -> None:
    for number in range(5):
        image(tmp_path / f"{number}.png")
        os.utime(tmp_path / f"{number}.png", (1000 + number, 1000 + number))
    tries: list[str] = []

    def takes(arrival: Arrival) -> bool:
        tries.append(arrival.name)
        return len(tries) % 3 != 0

    run = Running(watch(tmp_path), takes)
    assert run.has(5) and run.names == [f"{number}.png" for number in range(5)] and len(tries) > 5
    assert run.stops()


def test_memory_is_bounded_files_beyond_it_wait_until_old_ones_are_gone_and_none_comes_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(8):
        image(tmp_path / f"{number}.png")
        os.utime(tmp_path / f"{number}.png", (1000 + number, 1000 + number))
    source = watch(tmp_path, most=5)
    run = Running(source)
    assert run.has(5)
    time.sleep(0.3)
    assert (
        len(source._taken) == 5 and caplog.text.count("new ones are taken when they are gone") == 1
    )
    for name in run.names:
        (tmp_path / name).unlink()
    assert run.has(8) and len(set(run.names)) == 8 and len(source._taken) <= 5
    assert run.stops()


def test_a_folder_that_goes_away_is_an_error_and_nothing_comes_twice_when_it_is_back(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "in"
    image(folder / "a.png")
    source = watch(folder)
    run = Running(source)
    assert run.has(1)
    folder.rename(tmp_path / "away")
    assert run.ends() and isinstance(run.error, InputError) and "cannot be read" in str(run.error)
    (tmp_path / "away").rename(folder)
    image(folder / "b.png")
    again = Running(source)
    assert again.has(1) and again.names == ["b.png"] and again.stops()


# -- sequence --------------------------------------------------------------------------------------
def test_a_sequence_is_played_in_the_order_of_names_at_its_rate_and_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (2, 0, 1, 3):
        image(tmp_path / f"{number}.png", number)
    (tmp_path / "1b.png").write_bytes(b"no image")
    image(tmp_path / "4.jpg")
    source = open_source(
        settings.SequenceSource(name="s", stream="d", path=tmp_path, rate_hz=20.0, pattern="*.png"),
        GRAY,
    )
    run = Running(source)
    assert run.ends() and run.error is None and run.names == ["0.png", "1.png", "2.png", "3.png"]
    assert [int(arrival.x[0, 0]) for arrival in run.brought if arrival.x is not None] == [
        0,
        1,
        2,
        3,
    ]
    assert 0.15 < run.at[-1] - run.at[0] < 0.6 and "1b.png" in caplog.text


def test_a_sequence_stops_at_once_and_goes_on_where_it_was(tmp_path: Path) -> None:
    for number in range(3):
        image(tmp_path / f"{number}.png")
    source = open_source(
        settings.SequenceSource(name="s", stream="d", path=tmp_path, rate_hz=0.1), GRAY
    )
    run = Running(source)
    assert run.has(1) and run.stops()
    again = Running(source)
    assert again.has(1) and again.names == ["1.png"] and again.stops()


def test_a_sequence_without_images_is_refused(tmp_path: Path) -> None:
    run = Running(
        open_source(settings.SequenceSource(name="s", stream="d", path=tmp_path, rate_hz=1.0), GRAY)
    )
    assert run.ends() and "no images" in str(run.error)
    run = Running(
        open_source(
            settings.SequenceSource(name="s", stream="d", path=tmp_path / "none", rate_hz=1.0), GRAY
        )
    )
    assert run.ends() and isinstance(run.error, InputError)


# -- npz -------------------------------------------------------------------------------------------
def replay(
    path: Path, spec: InputSpec, rate_hz: float = 1000.0, is_looped: bool = False
) -> Running:
    return Running(
        open_source(
            settings.NpzSource(name="r", stream="d", path=path, rate_hz=rate_hz, loop=is_looped),
            spec,
        )
    )


def test_an_array_is_played_row_by_row_without_its_labels(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(tmp_path / "x.npz", x=x, y=np.array(["a", "b", "a", "b"]))
    run = replay(tmp_path / "x.npz", VECTOR)
    assert (
        run.ends()
        and run.names == ["0", "1", "2", "3"]
        and all(arrival.label is None for arrival in run.brought)
    )
    np.testing.assert_array_equal(
        np.stack([arrival.x for arrival in run.brought if arrival.x is not None]), x
    )


def test_the_rate_is_kept_without_drift(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((101, 3), np.float32))
    run = replay(tmp_path / "x.npz", VECTOR, rate_hz=200.0)
    assert run.ends() and 0.48 < run.at[-1] - run.at[0] < 0.7


def test_a_loop_goes_on_with_new_names_until_it_is_stopped(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 3), np.float32))
    run = replay(tmp_path / "x.npz", VECTOR, is_looped=True)
    until = time.monotonic() + 5.0
    while len(run.brought) < 6 and time.monotonic() < until:
        time.sleep(0.005)
    assert run.stops() and run.names[:6] == ["0", "1", "0#2", "1#2", "0#3", "1#3"]


def test_pictures_of_another_size_are_brought_into_the_form_of_the_bundle_and_features_are_features(
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "x.npz", x=np.full((2, 16, 16, 3), 50, np.uint8))
    run = replay(tmp_path / "x.npz", GRAY)
    assert (
        run.ends()
        and len(run.brought) == 2
        and run.brought[0].x is not None
        and run.brought[0].x.shape == (8, 8)
    )
    np.savez(tmp_path / "z.npz", x=np.ones((2, 3), np.float32))
    run = replay(tmp_path / "z.npz", FEATURES)
    assert (
        run.ends()
        and run.brought[0].x is None
        and run.brought[0].features is not None
        and run.brought[0].features["z"].shape == (3,)
    )


def test_labels_come_with_their_samples_if_that_is_asked_for(tmp_path: Path) -> None:
    from edgeadapt.daemon.io.sources.npz import ArrayReplay

    def labels(y: Any) -> tuple[list[str | None], str]:
        np.savez(tmp_path / "x.npz", x=np.zeros((2, 3), np.float32), y=y)
        run = Running(
            ArrayReplay(
                settings.NpzSource(
                    name="r", stream="d", path=tmp_path / "x.npz", rate_hz=1000.0, labels=True
                ),
                VECTOR,
                ("Coat", "Bag"),
            )
        )
        assert run.ends()
        return [arrival.label for arrival in run.brought], str(run.error)

    assert labels(np.array(["Hat", "Bag"]))[0] == ["Hat", "Bag"]
    assert labels(np.array([1, 0]))[0] == ["Bag", "Coat"]
    assert "class id 2, and the bundle has 2 classes" in labels(np.array([1, 2]))[1]
    assert "no labels y" in labels(np.zeros(0, np.int64))[1]


def test_an_array_that_does_not_fit_is_refused_with_both_shapes(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 5), np.float32))
    run = replay(tmp_path / "x.npz", VECTOR)
    assert run.ends() and "rows of x have shape (5,), and the bundle takes NC of shape (3,)" in str(
        run.error
    )
    run = replay(tmp_path / "none.npz", VECTOR)
    assert run.ends() and isinstance(run.error, InputError)


# -- sensor ----------------------------------------------------------------------------------------
def windows(
    path: Path, spec: InputSpec, window: int, hop: int | None = None, rate_hz: float = 1000.0
) -> Running:
    return Running(
        open_source(
            settings.SensorSource(
                name="s", stream="d", path=path, window=window, hop=hop, rate_hz=rate_hz
            ),
            spec,
        )
    )


def test_a_signal_is_cut_into_windows_of_channels_and_readings(tmp_path: Path) -> None:
    signal = np.arange(20, dtype=np.float64).reshape(10, 2)
    np.savez(tmp_path / "s.npz", x=signal)
    (tmp_path / "s.csv").write_text(
        "left,right\n# a comment\n" + "".join(f"{a}, {b}\n" for a, b in signal)
    )
    for file in ("s.npz", "s.csv"):
        run = windows(tmp_path / file, SIGNAL, 4, 2)
        assert run.ends() and run.error is None and run.names == ["0", "2", "4", "6"]
        for arrival, start in zip(run.brought, (0, 2, 4, 6), strict=True):
            assert (
                arrival.x is not None
                and arrival.x.dtype == np.float32
                and arrival.x.flags.c_contiguous
            )
            np.testing.assert_array_equal(arrival.x, signal[start : start + 4].T)
    assert windows(tmp_path / "s.csv", SIGNAL, 4).ends()


def test_windows_come_when_their_last_reading_would(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.zeros((40, 2)))
    started = time.monotonic()
    run = windows(tmp_path / "s.npz", SIGNAL, 4, 4, rate_hz=80.0)
    assert run.ends() and len(run.at) == 10 and run.at[0] - started > 0.045
    assert 0.42 < run.at[-1] - run.at[0] < 0.65
    slow = windows(tmp_path / "s.npz", SIGNAL, 4, 4, rate_hz=0.01)
    time.sleep(0.05)
    assert slow.stops() and slow.brought == []


def test_a_single_reading_or_a_single_channel_is_a_vector(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.arange(6).reshape(2, 3))
    run = windows(tmp_path / "s.npz", VECTOR, 1)
    assert run.ends() and [
        arrival.x.tolist() for arrival in run.brought if arrival.x is not None
    ] == [[0, 1, 2], [3, 4, 5]]
    np.savez(tmp_path / "s.npz", x=np.arange(6))
    run = windows(tmp_path / "s.npz", VECTOR, 3)
    assert run.ends() and [
        arrival.x.tolist() for arrival in run.brought if arrival.x is not None
    ] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3\n", "line 2: 2 numbers are expected, got '3'"),
        ("a,b\n1,2\nc,d\n", "line 3: 2 numbers are expected, got 'c,d'"),
        ("1,2\n3,4\n", "holds 2 readings, less than a window of 4"),
        (
            "1,2,3\n" * 4,
            "windows are 4 readings of 3 channels, and the bundle takes NC of shape (2, 4)",
        ),
        ("a,b\n", "holds no readings"),
        ("", "holds no readings"),
        ("1,\0\n", "CSV|line 1|holds"),
    ],
)
def test_a_table_that_is_no_such_signal_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(text)
    run = windows(tmp_path / "s.csv", SIGNAL, 4)
    assert (
        run.ends()
        and isinstance(run.error, InputError)
        and any(part in str(run.error) for part in message.split("|"))
    )
    assert len(str(run.error)) < 500 and run.brought == []


# -- opening ---------------------------------------------------------------------------------------
def test_sources_that_bring_what_the_bundle_does_not_take_are_refused_when_they_are_opened(
    tmp_path: Path,
) -> None:
    for section in (
        settings.FolderSource(name="s", path=tmp_path),
        settings.SequenceSource(name="s", path=tmp_path, rate_hz=1.0),
    ):
        with pytest.raises(
            InputError, match=r"brings images, and the bundle takes NC of shape \(3,\)"
        ):
            open_source(section, VECTOR)
    for spec in (GRAY, SIGNAL):
        with pytest.raises(InputError, match="brings windows of 7 readings, and the bundle takes"):
            open_source(
                settings.SensorSource(name="s", path=tmp_path / "s.csv", window=7, rate_hz=1.0),
                spec,
            )


def test_a_folder_is_opened_by_its_settings(tmp_path: Path) -> None:
    image(tmp_path / "Coat" / "a.png")
    image(tmp_path / "Coat" / "b.jpg")
    source = open_source(
        settings.FolderSource(
            name="inbox", stream="door", path=tmp_path, pattern="*.png", label_from="parent"
        ),
        GRAY,
    )
    run = Running(source)
    assert run.has(1) and (run.brought[0].name, run.brought[0].label, run.brought[0].stream) == (
        "Coat/a.png",
        "Coat",
        "door",
    )
    assert (source.name, source.stream) == ("inbox", "door") and run.stops()


def test_a_beat_that_is_late_is_made_up_for_and_a_long_stop_is_not() -> None:
    timer, started = RateTimer(100.0, threading.Event()), time.monotonic()
    time.sleep(0.1)
    # and not 0.3
    assert all(timer.wait() for _ in range(20)) and 0.19 < time.monotonic() - started < 0.29
    time.sleep(1.3)
    started = time.monotonic()
    # and not 0
    assert all(timer.wait() for _ in range(11)) and 0.09 < time.monotonic() - started < 0.5
