"""A camera, or a film, behind the daemon: what it sees, and what it asks. ``python camera.py
/dev/video0``; alone it plays a film that it makes.
"""

import sys
import time
from pathlib import Path

import cv2
import numpy as np

from edgeadapt.daemon.service import Service
from edgeadapt.daemon.settings import ControlSection, Settings, VideoSource
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample
from edgeadapt.scenarios.corruptions import corrupt


def film(path: Path, count: int = 480) -> list[str]:
    """Clothes on a belt, which steams up after the first third; returns what each frame shows."""
    sample = load_sample()
    rows = sample.rows(KNOWN, np.random.default_rng(0))[:count]
    frames = np.concatenate(
        [
            sample.x[rows[: count // 3]],
            corrupt(sample.x[rows[count // 3 :]], "fog", severity=3, seed=0),
        ]
    )
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (28, 28))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()
    return [CLASSES[k] for k in sample.y[rows]]


class Printer:
    """A sink is anything that takes events: here one that prints them."""

    name, dropped = "printer", 0

    def __init__(self) -> None:
        self.labels, self.axis = {}, ""

    def take(self, event: dict) -> None:
        if event["event"] == "question":
            print(f"is this {event['predicted']}? it asks because: {event['why']}")
        elif not event["error"]:
            self.labels[int(event["name"])] = event["label"]
            if event["axis"] != self.axis:
                self.axis = event["axis"]
                print(
                    f"frame {event['name']}: {event['label']}, {event['confidence']:.0%} sure,"
                    f" condition: {event['axis']}"
                )

    def close(self) -> None:
        pass


given = sys.argv[1] if len(sys.argv) > 1 else ""
truth, printer = [] if given else film(Path("belt.avi")), Printer()
video = VideoSource(
    name="belt",
    stream="belt",
    **({"url": given} if "://" in given else {"file": Path(given or "belt.avi").absolute()}),
)
settings = Settings(
    bundle=bundle_path(),
    state=Path("camera-state"),
    unsigned="accept",
    source=(video,),
    control=ControlSection(listen="127.0.0.1:0"),
)
service = Service(settings, sinks=[printer])
service.start()
while service.health()["sources"][0]["state"] != "finished" or (
    truth and len(printer.labels) < len(truth)
):
    time.sleep(0.1)
service.stop()
for what, part in (
    (("clear", slice(0, 160)), ("at first in steam", slice(160, 320)), ("later", slice(320, None)))
    if truth
    else ()
):
    print(
        f"{what}: {np.mean([printer.labels[n] == truth[n] for n in range(len(truth))[part]]):.0%}"
        " right"
    )
