"""The shipped bundle behind the daemon: settings, services that are stopped again, and sources that
play what a test gives them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeadapt.bundle._container import member_order, pack, read_directory, read_entry
from edgeadapt.bundle.signature import encode_signature, sign
from edgeadapt.daemon.config.schema import ControlSection, Settings
from edgeadapt.daemon.messages import Arrival, Deliver, LabelArrival
from edgeadapt.daemon.service import Service
from edgeadapt.demo.sample import Sample, bundle_path, load_sample
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.runtime import Runtime, open_runtime

HAS_HTTP = all(
    importlib.util.find_spec(name) is not None
    for name in ("starlette", "uvicorn", "prometheus_client")
)


class Playing:
    """A source that brings what it was given, then waits for its end; ``failing`` raises before
    anything is brought, so many times.
    """

    def __init__(
        self,
        name: str,
        what: Sequence[Arrival | LabelArrival] = (),
        *,
        failing: int = 0,
        ends: bool = True,
    ) -> None:
        self.name = self.stream = name
        self.runs: list[float] = []
        self._what, self._failing, self._ends = what, failing, ends

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        self.runs.append(time.monotonic())
        if len(self.runs) <= self._failing:
            raise ConnectionError(f"failure {len(self.runs)}")
        for one in self._what:
            deliver(one)
        if not self._ends:
            stop.wait()


class Listening:
    """A sink that keeps what it hears."""

    dropped = 0

    def __init__(self, name: str = "listening") -> None:
        self.name, self.heard, self.is_closed = name, [], False

    heard: list[dict[str, Any]]

    def take(self, event: Mapping[str, Any]) -> None:
        self.heard.append(dict(event))

    def close(self) -> None:
        self.is_closed = True

    def answers(self) -> list[dict[str, Any]]:
        return [event for event in self.heard if event["event"] == "answer"]


def _until(is_so: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Wait for something that other threads do."""
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def _successor(
    path: Path,
    key: bytes | None = None,
    *,
    edit: Mapping[str, Callable[[bytes], bytes]] | None = None,
    **fields: Any,
) -> Path:
    """The shipped bundle with fields of its manifest replaced, as its maker would ship it:
    everything hashed, and signed if there is a key. ``edit``: of members, by name.
    """
    with bundle_path().open("rb") as file:
        members = {
            name: read_entry(file, entry)
            for name, entry in read_directory(file, bundle_path().stat().st_size).items()
        }
    kept = {
        name: data
        for name, data in members.items()
        if name not in ("manifest.json", "manifest.sig")
    }
    kept |= {name: change(kept[name]) for name, change in (edit or {}).items()}
    listed = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in kept.items()
    }
    manifest = msgspec.json.encode(
        json.loads(members["manifest.json"]) | {"members": listed} | fields, order="sorted"
    )
    kept["manifest.json"] = manifest
    if key is not None:
        kept["manifest.sig"] = encode_signature(sign(manifest, key))
    path.write_bytes(pack((name, kept[name]) for name in sorted(kept, key=member_order)))
    return path


@pytest.fixture
def playing() -> type[Playing]:
    return Playing


@pytest.fixture
def listening() -> Listening:
    return Listening()


@pytest.fixture
def until() -> Callable[..., None]:
    return _until


@pytest.fixture
def successor() -> Callable[..., Path]:
    return _successor


@pytest.fixture(scope="session")
def sample() -> Sample:
    return load_sample()


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return open_runtime("auto")


@pytest.fixture
def learner(runtime: Runtime, tmp_path: Path) -> Iterator[Learner]:
    with open_learner(bundle_path(), tmp_path / "learner", runtime) as opened:
        yield opened


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    """Makes settings: the shipped bundle, a new state folder, any port that is free, or no
    interface where its packages are missing.
    """

    def made(**changes: Any) -> Settings:
        control = ControlSection(listen="127.0.0.1:0" if HAS_HTTP else "", timeout_s=20.0)
        return Settings(
            **(
                {
                    "bundle": bundle_path(),
                    "state": tmp_path / "state",
                    "unsigned": "accept",
                    "control": control,
                }
                | changes
            )
        )

    return made


@pytest.fixture
def serve(settings: Callable[..., Settings]) -> Iterator[Callable[..., Service]]:
    """Starts services, and stops them at the end of the test."""
    started: list[Service] = []

    def start(given: Settings | None = None, **parts: Any) -> Service:
        service = Service(given or settings(), **parts)
        started.append(service)
        service.start()
        return service

    yield start
    for service in started:
        service.stop()
