"""The learner that the settings name, and its lease: it may be replaced only while nobody has
it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import edgeadapt
from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.daemon.config.schema import Settings
from edgeadapt.daemon.engine.batches import stacked
from edgeadapt.daemon.messages import Arrival
from edgeadapt.device.detection.policy import Keep, Policy
from edgeadapt.device.learner import Learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import BundleError, InputError
from edgeadapt.runtime import Runtime, open_runtime

# the watchdog gets its sign of life while a bundle is being replaced, but no longer than this
_LONGEST_SWAP_S = 120.0


def open_learner(
    settings: Settings,
    runtime: Runtime | None = None,
    bundle: Bundle | None = None,
    *,
    is_frozen: bool = False,
    allow_older: bool = False,
) -> Learner:
    """Open the bundle of the settings, or one that was read already, on the state folder.

    Raises:
        BundleError: not signed by a trusted key, unless there is none and unsigned bundles are
            accepted. Else as ``edgeadapt.open``.
    """
    engine = runtime or open_runtime(settings.runtime)
    budget = Budget(
        **{
            name: value
            for name, value in msgspec.structs.asdict(settings.budget).items()
            if name != "p99_ratio"
        }
    )
    policy = Policy(**msgspec.structs.asdict(settings.policy))
    keep = Keep(**msgspec.structs.asdict(settings.keep))
    opened = bundle or trusted_bundle(settings, settings.bundle)
    return edgeadapt.open(
        opened,
        settings.state,
        engine,
        policy,
        budget,
        keep,
        trust=settings.trust,
        freeze=is_frozen,
        allow_older=allow_older,
        precision=settings.precision,
    )


def trusted_bundle(settings: Settings, path: Path) -> Bundle:
    """Read a bundle that the settings allow.

    Raises:
        BundleError: damaged, not signed by a key of ``trust``, or there is no key and unsigned
            bundles are refused.
    """
    if not settings.trust and settings.unsigned != "accept":
        raise BundleError(
            f"{path.name}: there is no key to check it with: name one in trust, or say unsigned ="
            " 'accept' to take any bundle"
        )
    return read_bundle(path, trust=settings.trust)


class LearnerLease:
    """The learner for whoever needs it; it is replaced only while nobody has it, and who wants it
    meanwhile waits.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner, self._users, self._is_changing = learner, 0, False
        self._changed = threading.Condition()

    @contextmanager
    def borrow(self, while_waiting: Callable[[], None] | None = None) -> Iterator[Learner]:
        """The learner; a thread that has it must not ask for it again."""
        started = time.monotonic()
        with self._changed:
            while not self._changed.wait_for(lambda: not self._is_changing, 0.25):
                if while_waiting is not None and time.monotonic() - started < _LONGEST_SWAP_S:
                    while_waiting()
            self._users += 1
            learner = self._learner
        try:
            yield learner
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def replace(self, change: Callable[[Learner], Learner]) -> None:
        """Put what ``change`` returns in the learner's place; if it raises, the old one stays."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_changing)
            self._is_changing = True
            self._changed.wait_for(lambda: not self._users)
        try:
            self._learner = change(self._learner)
        finally:
            with self._changed:
                self._is_changing = False
                self._changed.notify_all()


def warm(learner: Learner, batch: int) -> None:
    """Every graph loaded, and one prediction of each size that the loop will ask for most, on a
    blank input."""
    learner.load_all()
    manifest = learner.bundle.manifest
    for size in sorted({1, batch}):
        if manifest.input.layout == "features" or not manifest.graphs_for("encode"):
            taps = (
                {"taps": np.zeros((size, manifest.tap_dim), np.float32)} if manifest.tap_dim else {}
            )
            learner.predict(
                features={"z": np.zeros((size, manifest.feature_dim), np.float32), **taps}
            )
        else:
            low = manifest.input.range[0] if manifest.input.range else 0.0
            learner.predict(np.full((size, *manifest.input.shape), low, manifest.input.dtype))


def answers_of(learner: Learner, recent: Sequence[Arrival]) -> list[str]:
    """The class of each input; empty where it does not fit."""
    labels = []
    for arrival in recent:
        with suppress(InputError):
            x, features = stacked([arrival])
            labels.append(learner.predict(x, features=features, stream=arrival.stream).labels[0])
            continue
        labels.append("")
    return labels


def identity(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "sha256": bundle.sha256,
        "signed_by": bundle.signed_by,
    }


__all__ = ["LearnerLease", "answers_of", "identity", "open_learner", "trusted_bundle", "warm"]
