"""What docs/architecture.md tells of a batch and of a label is what runs: the files that it names
are entered, on the thread that it names.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import edgeadapt
from edgeadapt.demo.sample import bundle_path, load_sample
from edgeadapt.scenarios.corruptions import corrupt

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NOT_ALWAYS = {
    "placement/placed_runtime.py",  # where more than one runtime can serve
    "adaptation/temporal_correlation.py",  # where a bundle has a smoother
    "adaptors/trainer.py",  # where a bundle has adaptors
    "commits/head_choice.py",  # when nothing waits
    "commits/label_noise.py",  # not for trusted labels
}


def told(heading: str, thread: str) -> set[str]:
    """Files that a journey names for a thread, ``caller`` or ``worker``."""
    journey = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    caller, _, worker = journey.partition("\n*On the worker")
    numbered = re.findall(r"^(?:\d\. |   )(.*)$", caller if thread == "caller" else worker, re.M)
    files = re.findall(r"`((?:edgeadapt|runtimes)/[\w/]+\.py)`", "\n".join(numbered))
    return {file for file in files if not file.endswith(tuple(NOT_ALWAYS))}


@contextmanager
def entered() -> Iterator[dict[bool, set[str]]]:
    """Files whose functions were called; True: by this thread. Threads that start inside, too."""
    here, found, is_on = threading.get_ident(), {True: set[str](), False: set[str]()}, [True]

    def note(frame: FrameType, event: str, _: Any) -> None:
        if is_on[0] and event == "call":
            found[threading.get_ident() == here].add(frame.f_code.co_filename)

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)
        threading.setprofile(None)  # type: ignore[arg-type]
        is_on[0] = False


def missing(files: set[str], names: set[str]) -> set[str]:
    return {name for name in names if not any(file.endswith(f"/{name}") for file in files)}


def test_a_batch_and_a_label_take_the_way_that_the_page_tells(tmp_path: Path) -> None:
    x = corrupt(load_sample().x[:256], "fog", 5, 0)
    batch, label = "A batch that is observed", "A label that is learned"
    with entered() as found:
        learner = edgeadapt.open(bundle_path(), state=tmp_path, runtime="onnxruntime")
        for part in found.values():
            part.clear()
        for start in range(0, 256, 32):
            seen = learner.observe(x[start : start + 32])
            learner.settle()
        assert learner.domain() != "source" and learner.questions()
        observed = {by: set(files) for by, files in found.items()}
        for part in found.values():
            part.clear()
        learner.label(seen.ids[:8], [learner.classes[0]] * 8, trusted=True)
        learner.settle()
        learner.label_states(seen.ids[:8])
        learner.close()
    assert len(told(batch, "caller")) >= 6 and len(told(batch, "worker")) >= 6
    assert missing(observed[True], told(batch, "caller")) == set()
    assert missing(observed[False], told(batch, "worker")) == set()
    assert len(told(label, "caller")) >= 5 and len(told(label, "worker")) >= 5
    assert missing(found[True], told(label, "caller")) == set()
    assert missing(found[False] | found[True], told(label, "worker")) == set()
