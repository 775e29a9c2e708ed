"""What one could write instead of the daemon: read a frame, run the encoder through ONNX Runtime,
take the arg max of a linear head.

Run by ``edgeadapt bench serve``, which see for what is measured.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edgeadapt_bench.datasets.lite0_features import plain_session
from edgeadapt_bench.harness._serve_turns import take_turns
from edgeadapt_bench.serving.serve_film import Film


class Bare:
    """The loop; its session has the options of our runtime, one thread."""

    def __init__(self, encoder: str, film: str) -> None:
        self._film, self._session = Film.of(film), plain_session(Path(encoder))
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
            if self._film.is_shifted(number):
                shifted += 1
                right += slot == self._film.y[number % len(self._film.y)]
        self._at += frames
        return {
            "seconds": last - started,
            "answers": spent,
            "cpu": time.process_time() - cpu,
            "right": int(right),
            "shifted": shifted,
        }

    def _answer(self, number: int) -> int:
        (z,) = self._session.run(None, {"x": self._film.frame(number)[None]})
        return int((z @ self._film.weight + self._film.bias).argmax())

    def end(self) -> dict[str, Any]:
        return {}


if __name__ == "__main__":
    take_turns(Bare)
