"""Video that the tests encode themselves, a camera over HTTP, and pipelines that the system's own
GStreamer runs.
"""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config import schema as settings
from edgeadapt.daemon.io.source_thread import SourceThread
from edgeadapt.daemon.io.sources import open_source
from edgeadapt.daemon.io.sources.video import VideoFrames
from edgeadapt.daemon.io.sources.video_readers import camera_of
from edgeadapt.daemon.messages import Answer, Arrival, LabelArrival
from edgeadapt.errors import InputError

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'edgeadapt[video]'")
needs_gstreamer = pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None,
    reason="gst-launch-1.0 is not installed: apt-get install gstreamer1.0-tools",
)

GRAY = InputSpec(layout="NHW", dtype="uint8", shape=(8, 8), colour="gray", resize="bilinear")
COLOUR = InputSpec(layout="NHWC", dtype="uint8", shape=(8, 8, 3), colour="rgb", resize="bilinear")
STEP = 8  # of brightness, from one frame of a test's video to the next


class RealTime(settings.VideoSource, frozen=True, kw_only=True):
    """What the settings have with the optional key that the source reads."""

    real_time: bool = False


class Watching:
    """A source behind its feeder; every frame is answered after ``pause_s``, in the order they
    came, as a loop would.
    """

    def __init__(self, source: Any, pause_s: float = 0.0, *, answers: bool = True) -> None:
        self.source, self.pause_s, self._answers = source, pause_s, answers
        self.seen, self.at, self.most_waiting = list[Arrival](), list[float](), 0
        self._waiting: list[Arrival] = []
        self._changed = threading.Condition()
        self.feeder = SourceThread(source, self._deliver, first_s=0.2, longest_s=0.4)
        threading.Thread(target=self._loop, daemon=True).start()
        self.feeder.start()

    def _deliver(self, what: Arrival | LabelArrival) -> bool:
        assert isinstance(what, Arrival)
        with self._changed:
            self._waiting.append(what)
            self.most_waiting = max(self.most_waiting, len(self._waiting))
            self._changed.notify()
        return True

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                arrival = self._waiting.pop(0)
            time.sleep(self.pause_s)
            self.at.append(time.monotonic())
            self.seen.append(arrival)
            if self._answers and arrival.reply is not None:
                arrival.reply(Answer(arrival.stream, arrival.source, arrival.at))

    @property
    def numbers(self) -> list[int]:
        return [int(arrival.name) for arrival in self.seen]

    def stops(self, timeout_s: float = 1.0) -> bool:
        self.feeder.stop.set()
        return self.feeder.join(timeout_s)


def brightness(arrival: Arrival) -> float:
    assert arrival.x is not None
    return float(arrival.x.mean())


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames at 20 Hz: frame i is grey of brightness STEP i."""
    return encode(
        tmp_path_factory.mktemp("video") / "film.avi",
        [np.full((48, 64, 3), STEP * n, np.uint8) for n in range(30)],
    )


def encode(path: Path, frames: list[np.ndarray[Any, Any]]) -> Path:
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (frames[0].shape[1], frames[0].shape[0])
    )
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def opened(spec: InputSpec = GRAY, **changes: Any) -> VideoFrames:
    return VideoFrames(RealTime(**{"name": "v", "stream": "door", **changes}), spec)


# -- files -----------------------------------------------------------------------------------------
def test_every_frame_of_a_file_comes_once_in_its_order_and_then_the_source_is_finished(
    film: Path, until: Callable[..., None]
) -> None:
    run = Watching(open_source(settings.VideoSource(name="v", stream="door", file=film), GRAY))
    until(lambda: run.feeder.state == "finished" and len(run.seen) == 30)
    assert run.numbers == list(range(30)) and (run.seen[0].stream, run.seen[0].source) == (
        "door",
        "v",
    )
    for number, arrival in zip(run.numbers, run.seen, strict=True):
        assert (
            arrival.x is not None
            and arrival.x.shape == (8, 8)
            and abs(brightness(arrival) - STEP * number) < 3
        )


def test_every_nth_frame_is_called_by_its_own_number(
    film: Path, until: Callable[..., None]
) -> None:
    run = Watching(opened(file=film, every=7))
    until(lambda: run.feeder.state == "finished" and len(run.seen) == 5)
    assert run.numbers == [0, 7, 14, 21, 28] and all(
        abs(brightness(one) - STEP * int(one.name)) < 3 for one in run.seen
    )


def test_a_slow_loop_gets_the_whole_file_and_never_many_frames_at_once(
    film: Path, until: Callable[..., None]
) -> None:
    long = encode(
        film.with_name("long.avi"), [np.full((16, 16, 3), n, np.uint8) for n in range(200)]
    )
    run = Watching(opened(file=long), pause_s=0.003)
    until(lambda: run.feeder.state == "finished" and len(run.seen) == 200)
    assert run.numbers == list(range(200)) and run.most_waiting <= 32


def test_in_real_time_a_file_takes_as_long_as_it_was_filmed(
    film: Path, until: Callable[..., None]
) -> None:
    for every, count in ((1, 30), (5, 6)):
        run = Watching(opened(file=film, real_time=True, every=every))
        until(
            lambda run=run, count=count: run.feeder.state == "finished" and len(run.seen) == count
        )
        assert 0.9 * 1.25 < run.at[-1] - run.at[0] < 1.45 * 1.25


def test_red_stays_red(tmp_path: Path, until: Callable[..., None]) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 2] = 250  # OpenCV's order is blue, green, red
    run = Watching(opened(COLOUR, file=encode(tmp_path / "red.avi", [red] * 2)))
    until(lambda: len(run.seen) == 2)
    assert (
        run.seen[0].x is not None
        and np.abs(run.seen[0].x[4, 4].astype(int) - [250, 0, 0]).max() < 12
    )


def test_what_is_no_video_is_said_and_tried_again_and_one_that_was_cut_off_brings_what_it_has(
    tmp_path: Path, film: Path, until: Callable[..., None]
) -> None:
    path = tmp_path / "later.avi"
    run = Watching(opened(file=path))
    until(lambda: run.feeder.failures == 1)
    assert "is not there" in run.feeder.error
    path.write_bytes(b"not a video" * 100)
    until(lambda: "cannot be opened" in run.feeder.error)
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)
    noisy = encode(tmp_path / "noisy.avi", list(noise))
    (tmp_path / "whole").write_bytes(noisy.read_bytes()[: noisy.stat().st_size // 2])
    (tmp_path / "whole").rename(path)
    until(lambda: run.feeder.state == "finished")
    until(lambda: len(run.seen) == run.feeder.delivered)
    assert 5 < len(run.seen) < 30 and run.numbers == list(range(len(run.seen)))


def test_frames_that_nobody_answers_do_not_keep_a_source_from_stopping(
    film: Path, until: Callable[..., None]
) -> None:
    long = encode(
        film.with_name("unanswered.avi"), [np.full((16, 16, 3), n, np.uint8) for n in range(100)]
    )
    run = Watching(opened(file=long), answers=False)
    until(lambda: len(run.seen) == 32)
    time.sleep(0.2)
    assert len(run.seen) == 32 and run.stops(0.3)


# -- cameras ---------------------------------------------------------------------------------------
def test_a_camera_is_told_from_a_file_by_what_it_is(tmp_path: Path, film: Path) -> None:
    assert camera_of(film) is None and camera_of(tmp_path / "missing.avi") is None
    assert (
        camera_of(tmp_path / "camera:0") == "/dev/video0"
        and camera_of(Path("/dev/video77")) == "/dev/video77"
        and camera_of(Path("/dev/null")) == "/dev/null"
    )


def test_a_camera_that_is_not_there_is_tried_again(until: Callable[..., None]) -> None:
    run = Watching(opened(file=Path("/dev/video77")))
    until(lambda: run.feeder.failures >= 2)
    assert (
        run.feeder.state == "waiting"
        and "the camera /dev/video77 cannot be opened" in run.feeder.error
        and run.stops()
    )


class HttpCamera(http.server.ThreadingHTTPServer):
    """What a camera on the network does: JPEG after JPEG, for as long as it is on. Frame n is of
    brightness n modulo 250.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.is_on, self.shown = True, 0
        self.is_silent = False

        class Stream(http.server.BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                handler.send_response(200)
                handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                handler.end_headers()
                while self.is_on:
                    if not self.is_silent:
                        data = cv2.imencode(
                            ".jpg", np.full((48, 64, 3), self.shown % 250, np.uint8)
                        )[1].tobytes()
                        handler.wfile.write(
                            b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length:"
                            b" %d\r\n\r\n%s\r\n" % (len(data), data)
                        )
                        self.shown += 1
                    time.sleep(0.01)

            def log_message(handler, *text: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Stream)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def camera() -> Iterator[HttpCamera]:
    running = HttpCamera()
    yield running
    running.is_on = False
    running.shutdown()


def test_of_a_network_camera_a_slow_loop_sees_the_newest_frame_and_what_ends_is_opened_again(
    camera: HttpCamera, until: Callable[..., None]
) -> None:
    run = Watching(opened(url=f"http://127.0.0.1:{camera.server_port}/video.mjpg"), pause_s=0.1)
    until(lambda: len(run.seen) >= 20, 30.0)
    behind = camera.shown - max(camera.shown // 250 * 250, 0) - brightness(run.seen[-1])
    # of about 10 a pause: it would be 180 behind by now
    assert run.most_waiting <= 2 and (behind % 250) < 60
    assert run.numbers[-1] > 2 * len(run.seen) and run.numbers == sorted(set(run.numbers))
    camera.is_on = False
    until(lambda: run.feeder.failures >= 1)
    assert "brings no more frames" in run.feeder.error
    count, camera.is_on = len(run.seen), True
    until(lambda: len(run.seen) > count + 3, 30.0)
    assert run.numbers == sorted(set(run.numbers)) and run.stops()


def test_a_password_in_an_address_is_not_shown(until: Callable[..., None]) -> None:
    run = Watching(opened(url="http://admin:geheim@127.0.0.1:9/x"))
    until(lambda: run.feeder.failures >= 1)
    assert "geheim" not in run.feeder.error and "***@127.0.0.1" in run.feeder.error and run.stops()


# -- GStreamer -------------------------------------------------------------------------------------
@needs_gstreamer
def test_a_pipeline_brings_its_colours_whatever_the_width_and_ends_when_it_does(
    until: Callable[..., None],
) -> None:
    for width, end in (
        (64, ""),
        (63, " ! appsink drop=1 max-buffers=1 sync=0"),
        (61, " ! videoconvert ! appsink"),
    ):
        text = (
            "videotestsrc num-buffers=5 pattern=red !"
            f" video/x-raw,width={width},height=50,framerate=20/1{end}"
        )
        run = Watching(opened(COLOUR, pipeline=text))
        until(
            lambda run=run: (
                run.feeder.state == "finished" and len(run.seen) == run.feeder.delivered > 0
            )
        )
        assert run.feeder.error == "" and run.numbers[-1] == 4
        for arrival in run.seen:
            assert arrival.x is not None and np.abs(arrival.x.astype(int) - [255, 0, 0]).max() <= 2


@needs_gstreamer
def test_a_pipeline_plays_the_file_that_opencv_wrote_at_its_own_rate(
    film: Path, until: Callable[..., None]
) -> None:
    run = Watching(opened(pipeline=f'filesrc location="{film}" ! avidemux ! jpegdec', every=2))
    until(lambda: run.feeder.state == "finished" and len(run.seen) == run.feeder.delivered)
    # of 15: a frame that waits is let go for a newer one
    assert len(run.seen) >= 6 and set(run.numbers) <= set(range(0, 30, 2))
    assert (
        all(abs(brightness(one) - STEP * int(one.name)) < 4 for one in run.seen)
        and run.at[-1] - run.at[0] > 1.0
    )


@needs_gstreamer
def test_a_live_pipeline_gives_a_slow_loop_its_newest_frame_and_is_gone_when_it_is_stopped(
    until: Callable[..., None],
) -> None:
    run = Watching(
        opened(
            pipeline="videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=100/1"
        ),
        pause_s=0.1,
    )
    until(lambda: len(run.seen) >= 12)
    delays = [at - arrival.came for at, arrival in zip(run.at[3:], run.seen[3:], strict=False)]
    assert run.most_waiting <= 2 and max(delays) < 0.5 and run.numbers[-1] > 3 * len(run.seen)
    assert children() and run.stops() and not children()


@needs_gstreamer
def test_a_live_pipeline_that_ends_is_started_again_and_counts_on(
    until: Callable[..., None],
) -> None:
    run = Watching(
        opened(
            pipeline=(
                "videotestsrc is-live=true num-buffers=5 !"
                " video/x-raw,framerate=50/1,width=32,height=32"
            )
        )
    )
    until(lambda: run.feeder.failures >= 2)
    assert "the pipeline ended" in run.feeder.error and run.stops()
    assert run.numbers == sorted(set(run.numbers)) and run.numbers[-1] >= 5


@needs_gstreamer
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nosuchelement ! fakevideo", "no element"),
        ("videotestsrc ! foo=bar", "syntax error|erroneous"),
        ("v4l2src device=/dev/video77", "/dev/video77"),
        ("videotestsrc ! video/x-raw,width=0", "pipeline"),
        ("--version", "erroneous|syntax|pipeline"),
    ],
)
def test_what_a_pipeline_complains_of_is_in_the_error(
    text: str, said: str, until: Callable[..., None]
) -> None:
    run = Watching(opened(pipeline=text))
    until(lambda: run.feeder.failures >= 1)
    assert (
        any(part in run.feeder.error for part in said.split("|")) and len(run.feeder.error) < 500
    ), run.feeder.error
    assert run.stops() and not children()


@needs_gstreamer
def test_a_pipeline_that_stalls_or_is_killed_is_started_again(
    until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    monkeypatch.setattr("edgeadapt.daemon.io.sources.video_readers._STALLED_S", 0.6)
    run = Watching(
        opened(pipeline="videotestsrc is-live=true ! video/x-raw,framerate=50/1,width=32,height=32")
    )
    until(lambda: len(run.seen) >= 5)
    os.kill(children()[0], signal.SIGSTOP)
    until(lambda: run.feeder.failures == 1)
    assert "no frame for 0.6 s" in run.feeder.error
    count = len(run.seen)
    until(lambda: len(run.seen) > count + 5)
    os.kill(children()[0], signal.SIGKILL)
    until(lambda: run.feeder.failures == 2)
    count = len(run.seen)
    until(lambda: len(run.seen) > count + 5)
    assert run.stops() and not children()


def children() -> list[int]:
    """Processes of GStreamer that this one started."""
    found = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "gst-launch" in line]


# -- opening ---------------------------------------------------------------------------------------
def test_what_cannot_be_is_refused_when_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="brings images, and the bundle takes NC"):
        opened(InputSpec(layout="NC", dtype="float32", shape=(3,)), url="rtsp://camera/1")
    if shutil.which("gst-launch-1.0"):
        for text, why in (
            ('filesrc location="x ! y', "No closing quotation"),
            ("! appsink", "has no source"),
            (" ! ", "has no source"),
        ):
            with pytest.raises(InputError, match=why):
                opened(pipeline=text)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="which is not installed"):
        opened(pipeline="videotestsrc")


def test_a_daemon_answers_a_film_without_losing_a_frame(
    film: Path,
    serve: Callable[..., Any],
    settings: Callable[..., Any],
    listening: Any,
    until: Callable[..., None],
) -> None:
    from edgeadapt.daemon.config.schema import LoopSection, VideoSource

    source = VideoSource(name="film", stream="film", file=film)
    serve(settings(source=(source,), loop=LoopSection(queue=32, drop="oldest")), sinks=[listening])
    until(lambda: len(listening.answers()) == 30)
    assert [answer["name"] for answer in listening.answers()] == [
        str(n) for n in range(30)
    ] and not any(answer["error"] for answer in listening.answers())
