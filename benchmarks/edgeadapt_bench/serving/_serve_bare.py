"""What one could write instead of the daemon: read a frame, run the encoder through ONNX Runtime,
take the arg max of a linear head.

Run by ``edgeadapt bench serve``, which see for what is measured.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edgeadapt_bench.datasets.lite0_features import plain_session
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.serving.frame_sequence import FrameSequence
from edgeadapt_bench.serving.player import jobs_of


class Bare:
    """The loop; its session has the options of our runtime, one thread."""

    def __init__(self, encoder: str, frames: str) -> None:
        self._sequence, self._session = FrameSequence.of(frames), plain_session(Path(encoder))
        self._at = 0

    def play(self, frames: int, rate_hz: float) -> dict[str, Any]:
        spent: list[float] = []
        right = shifted = 0
        started, cpu = time.perf_counter(), time.process_time()
        last = started
        for number in range(self._at, self._at + frames):
            if rate_hz:
                time.sleep(max(0.0, started + (number - self._at) / rate_hz - time.perf_counter()))
                last = time.perf_counter()
            slot = self._answer(number)
            now = time.perf_counter()
            spent.append(now - last)
            last = now
            if self._sequence.is_shifted(number):
                shifted += 1
                right += slot == self._sequence.y[number % len(self._sequence.y)]
        self._at += frames
        return {
            "seconds": last - started,
            "answers": spent,
            "cpu": time.process_time() - cpu,
            "right": int(right),
            "shifted": shifted,
        }

    def _answer(self, number: int) -> int:
        (z,) = self._session.run(None, {"x": self._sequence.frame(number)[None]})
        return int((z @ self._sequence.weight + self._sequence.bias).argmax())

    def end(self) -> dict[str, Any]:
        return {}


if __name__ == "__main__":
    serve(jobs_of(Bare))
