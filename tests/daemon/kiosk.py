"""The HTTP interface over an open learner, without the loop of a daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeadapt.bundle.schema import Manifest
from edgeadapt.daemon.messages import Answer
from edgeadapt.daemon.monitoring.time_series import Past, Series, Window
from edgeadapt.demo.sample import bundle_path, load_sample
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import (
    BundleError,
)
from edgeadapt.results import Commit, Prediction, Question, Receipt

Control = pytest.importorskip("edgeadapt.daemon.http.server").Control  # with starlette and uvicorn
# with prometheus_client
Metrics = pytest.importorskip("edgeadapt.daemon.monitoring.metrics").Metrics
TOKEN = "a token of the tests"


class Kiosk:
    """The service without an inbox: every call does its work on an open learner, on the caller's
    thread.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner, self.metrics = learner, Metrics()
        self.ids: dict[str, str] = {}
        self.is_moving, self.is_frozen, self.is_paused = True, False, False

    @property
    def manifest(self) -> Manifest:
        return self.learner.bundle.manifest

    def predict(
        self, x: Any = None, *, features: Mapping[str, Any] | None = None, stream: str = "default"
    ) -> list[Answer]:
        return self._answers(self.learner.predict(x, features=features, stream=stream), stream)

    def observe(
        self,
        x: Any = None,
        *,
        features: Mapping[str, Any] | None = None,
        stream: str = "default",
        names: Sequence[str] = (),
    ) -> list[Answer]:
        seen = self.learner.observe(x, features=features, stream=stream)
        self.ids.update({name: id_ for name, id_ in zip(names, seen.ids, strict=False) if name})
        self.metrics.observe_batch(stream, len(seen.ids), 0.002)
        return self._answers(seen.prediction, stream, seen.ids, names)

    def _answers(
        self, seen: Prediction, stream: str, ids: Sequence[str] = (), names: Sequence[str] = ()
    ) -> list[Answer]:
        return [
            Answer(
                stream,
                "http",
                time.time(),
                id=ids[row] if ids else "",
                name=names[row] if names else "",
                label=seen.labels[row],
                confidence=float(seen.probs[row].max()),
                novelty=float(seen.novelty[row]),
            )
            for row in range(len(seen))
        ]

    def label(self, items: Sequence[tuple[str, str]], source: str = "") -> dict[str, Any]:
        self.learner.label(
            [self.ids.get(sample, sample) for sample, _ in items],
            [label for _, label in items],
            source=source,
        )
        rows = [
            {"sample": sample, "outcome": "received", "why": "", "id": self.ids.get(sample, sample)}
            for sample, _ in items
        ]
        return {"labels": rows, "received": len(rows), "waiting": 0, "refused": 0}

    def forget(self, samples: Sequence[str] | None = None, **conditions: Any) -> Receipt:
        return self.learner.forget(
            None if samples is None else [self.ids.get(sample, sample) for sample in samples],
            **conditions,
        )

    def questions(self, limit: int = 5) -> list[Question]:
        return self.learner.questions(limit)

    def alike(self, samples: Sequence[str]) -> dict[str, int]:
        return self.learner.alike(samples)

    def withdraw(self, samples: Sequence[str], source: str | None = None) -> int:
        return self.learner.withdraw(samples, source=source).removed

    def quality(self) -> Any:
        return self.learner.quality()

    def frame_of(self, question: str) -> Any:
        return next(
            (np.asarray(one.frame) for one in self.learner.questions(1000) if one.id == question),
            None,
        )

    def classes(self) -> tuple[str, ...]:
        return self.learner.classes

    def add_class(self, name: str) -> None:
        self.learner.add_class(name)

    def remove_class(self, name: str) -> None:
        self.learner.remove_class(name)

    def history(self, limit: int = 50) -> list[Commit]:
        return self.learner.history(limit)

    def decisions(self, limit: int = 100) -> list[tuple[float, str, str, str, str]]:
        return self.learner.decisions(limit)

    def rollback(self, to: int | None = None) -> int:
        return self.learner.rollback(to)

    def freeze(self, frozen: bool = True) -> None:
        self.learner.freeze(frozen)
        self.is_frozen = frozen

    def pause(self, paused: bool = True) -> None:
        self.is_paused = paused

    def checkpoint(self) -> int:
        return self.learner.checkpoint()

    def swap(self, path: str) -> dict[str, Any]:
        offered = self.learner.offer(path)
        if not offered.signed_by:
            raise BundleError(f"{path}: not signed")
        return {"name": offered.manifest.name, "version": offered.manifest.version}

    def health(self) -> dict[str, Any]:
        return {"ok": self.is_moving}

    def ready(self) -> tuple[bool, str]:
        return self.is_moving, "" if self.is_moving else "the loop has ended"

    def series(self, window: Window = "minutes") -> Past:
        return Series().past(window)

    def picture_of(self, stream: str, sample: str = "") -> NDArray[np.uint8] | None:
        return None

    def status(self) -> dict[str, Any]:
        bundle = self.learner.bundle
        return {
            "bundle": {"name": bundle.manifest.name, "version": bundle.manifest.version},
            "learner": self.learner.counters(),
            "domains": self.learner.domains(),
            "questions": len(self.learner.questions(1000)),
            "is_frozen": self.is_frozen,
            "is_paused": self.is_paused,
            "inbox": {"waiting": 0, "dropped": {}},
            "streams": {},
            "latency": {"ratio": None},
        }


@contextmanager
def serving(service: Any, listen: str = "127.0.0.1:0", **options: Any) -> Iterator[str]:
    control = Control(service, listen, **options)
    control.start()
    try:
        yield control.url
    finally:
        control.stop()


@pytest.fixture(scope="module")
def kiosk() -> Iterator[Kiosk]:
    with open_learner(bundle_path(), budget=Budget(busy_fraction=1.0)) as learner:
        yield Kiosk(learner)


sample = cache(load_sample)


def images(count: int = 4, start: int = 0) -> Any:
    return sample().x[start : start + count]
