"""``build``: compile ahead of time what opening a bundle would compile."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.commands._arguments import add_trust
from edgeadapt.device.inference.prebuild import Request, Result, build_ahead, lost, requests
from edgeadapt.errors import InputError
from edgeadapt.runtime import BuildsAhead, Runtime, open_runtime

_SERVICE = "CACHE_DIRECTORY"  # systemd's name for the folders of a service's CacheDirectory=
_OUTCOMES = ("built", "kept", "none", "failed")
_STEP_S, _EVENT_S = 0.1, 1.0  # between two steps that are shown


def build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="F.edge")
    parser.add_argument(
        "--runtime",
        default="tensorrt",
        metavar="R",
        help="tensorrt or onnxruntime-tensorrt; the others compile nothing (default: tensorrt)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help=(
            "cache folder of the service that will open it (/var/cache/edgeadapt); it goes into"
            " DIR/R (default: as this user opens it)"
        ),
    )
    add_trust(parser)
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per event, the last a summary"
    )


def build(args: argparse.Namespace) -> int:
    """Build every engine that a learner on the bundle will ask for, and keep it.

    Returns:
        1 if a graph did not build, or does not stay kept.
    """
    if args.cache is not None and ":" in str(args.cache):
        raise InputError(
            f"--cache {args.cache}: a folder with a colon in its name is two folders to a service"
            " (CacheDirectory)"
        )
    if args.runtime == "auto":
        raise InputError(
            "auto tries several runtimes: name the one to build for (--runtime tensorrt, or"
            " onnxruntime-tensorrt); what is kept, auto finds too"
        )
    bundle = read_bundle(args.bundle, trust=args.trust)
    with _service_cache(args.cache):
        runtime = open_runtime(args.runtime)
    report: _Lines | _Events = _Events() if args.json else _Lines()
    if not isinstance(runtime, BuildsAhead):
        report.nothing(bundle, runtime)
        return 0
    asked = requests(bundle, refolds_by_input=runtime.refolds_by_input)
    report.begin(bundle, runtime, asked)
    results: list[Result] = []
    started = time.perf_counter()
    try:
        for result in build_ahead(runtime, report.announced(asked), report.step):
            results.append(result)
            report.result(result)
    except KeyboardInterrupt:
        report.end(results, lost(results), time.perf_counter() - started, is_interrupted=True)
        raise
    dropped = lost(results)
    report.end(results, dropped, time.perf_counter() - started)
    return int(bool(dropped) or any(result.outcome == "failed" for result in results))


@contextmanager
def _service_cache(folder: Path | None) -> Iterator[None]:
    """Open a runtime as a service with this ``CacheDirectory`` opens it: it then has the same
    folder below, whatever that is.
    """
    if folder is None:
        yield
        return
    before = os.environ.get(_SERVICE)
    os.environ[_SERVICE] = str(folder.absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SERVICE]
        else:
            os.environ[_SERVICE] = before


class _Report:
    """Which of how many requests it is at, and when a step was last shown."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self._shown = every_s, 0.0
        self.at, self.total, self.request = 0, 0, ""

    def announced(self, asked: list[Request]) -> Iterator[Request]:
        for request in asked:
            self.at, self.request, self._shown = self.at + 1, request.name, 0.0
            yield request

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self._shown < self._every_s:
            return False
        self._shown = now
        return True


class _Lines(_Report):
    """For people; steps only where somebody is looking."""

    def __init__(self) -> None:
        super().__init__(_STEP_S)
        self._is_watched, self._width = sys.stderr.isatty(), 0

    def nothing(self, bundle: Bundle, runtime: Runtime) -> None:
        print(
            f"{bundle.path}: {runtime.name} compiles nothing that could be kept; it opens the"
            " bundle as it is"
        )

    def begin(self, bundle: Bundle, runtime: Any, asked: list[Request]) -> None:
        self.total = len(asked)
        print(
            f"{bundle.path}: {self.total} graphs for {runtime.name}, kept in {runtime.cache}",
            flush=True,
        )

    def step(self, phase: str, step: int, of: int) -> None:
        if self._is_watched and self.is_due():
            self._draw(f"  {self.at} of {self.total}  {self.request}: {phase} {step}/{of}")

    def _draw(self, text: str) -> None:
        sys.stderr.write(f"\r{text:<{self._width}}")
        sys.stderr.flush()
        self._width = len(text)

    def _clear(self) -> None:
        if self._width:
            self._draw("")
            sys.stderr.write("\r")
            sys.stderr.flush()
            self._width = 0

    def result(self, result: Result) -> None:
        self._clear()
        found = {
            "built": f"built in {result.seconds:.1f} s",
            "kept": f"kept, looked at in {result.seconds:.1f} s",
            "none": result.note,
            "failed": f"FAILED  {result.note}",
        }[result.outcome]
        size = f"  {result.nbytes >> 10} KiB" if result.files else ""
        print(f"  {self.at} of {self.total}  {result.name:<40} {found}{size}", flush=True)

    def end(
        self,
        results: list[Result],
        dropped: list[str],
        seconds: float,
        is_interrupted: bool = False,
    ) -> None:
        self._clear()
        for name in dropped:
            print(
                f"  {name} was kept and has been dropped again: all together are more than the"
                " folder may have"
            )
        count = {
            outcome: sum(result.outcome == outcome for result in results) for outcome in _OUTCOMES
        }
        without = f", {count['none']} without an engine" if count["none"] else ""
        failed = f", {count['failed']} did not build" if count["failed"] else ""
        rest = (
            f"; {self.total - len(results)} are left, and the same command goes on with them"
            if is_interrupted
            else ""
        )
        print(
            f"{count['built']} built in {seconds:.1f} s, {count['kept']} kept from"
            f" before{without}{failed}{rest}",
            flush=True,
        )


class _Events(_Report):
    """For programs: an object per line, the last a summary."""

    def __init__(self) -> None:
        super().__init__(_EVENT_S)

    def nothing(self, bundle: Bundle, runtime: Runtime) -> None:
        self._say(
            "begin",
            bundle=str(bundle.path),
            sha256=bundle.sha256,
            runtime=runtime.name,
            cache=None,
            total=0,
        )
        self.end([], [], 0.0)

    def begin(self, bundle: Bundle, runtime: Any, asked: list[Request]) -> None:
        self.total = len(asked)
        self._say(
            "begin",
            bundle=str(bundle.path),
            sha256=bundle.sha256,
            runtime=runtime.name,
            cache=str(runtime.cache),
            total=self.total,
        )

    def step(self, phase: str, step: int, of: int) -> None:
        if self.is_due():
            self._say("step", index=self.at, graph=self.request, phase=phase, step=step, of=of)

    def result(self, result: Result) -> None:
        self._say(
            "graph",
            index=self.at,
            graph=result.name,
            outcome=result.outcome,
            seconds=round(result.seconds, 3),
            bytes=result.nbytes,
            note=result.note,
        )

    def end(
        self,
        results: list[Result],
        dropped: list[str],
        seconds: float,
        is_interrupted: bool = False,
    ) -> None:
        count = {
            outcome: sum(result.outcome == outcome for result in results) for outcome in _OUTCOMES
        }
        size = sum(result.nbytes for result in results)
        self._say(
            "summary",
            total=self.total,
            **count,
            dropped=dropped,
            interrupted=is_interrupted,
            seconds=round(seconds, 3),
            bytes=size,
        )

    @staticmethod
    def _say(event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}), flush=True)
