"""``runtimes``, ``doctor`` and ``bench``: what this machine has, and what it reaches."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeadaptError, InputError
from edgeadapt.runtime import available_runtimes

_CORE = ("numpy", "msgspec", "safetensors", "onnxruntime", "cryptography")
_HOST = ("torch", "torchvision", "onnx", "onnxscript", "onnx-ir", "faiss-cpu")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY")
_OLDEST_SQLITE = (3, 37)  # STRICT tables
_DATA = Path("/usr/share/datasets/fashion-mnist")


def runtimes(args: argparse.Namespace) -> int:
    """List the registered runtimes; exit code 5 if none can run."""
    found = available_runtimes()
    if args.json:
        print(json.dumps([asdict(status) for status in found], indent=2))
    else:
        for status in found:
            print(f"{status.name:<14} {'ok ' if status.is_available else 'not available'}  {status.detail}")
    return 0 if any(status.is_available for status in found) else 5


@dataclass(frozen=True)
class Check:
    """One line of the doctor. ``is_needed``: without it, edgeadapt does not work here."""

    name: str
    is_ok: bool
    is_needed: bool
    detail: str


def doctor(args: argparse.Namespace) -> int:
    """Check the machine; 1 if something needed is missing."""
    checks = [_python(), *map(_core_package, _CORE), _sqlite(), *_runtimes(), _bundle(), _state(args.state), _cpu(), *_extras(), _data()]
    is_well = all(check.is_ok for check in checks if check.is_needed)
    if args.json:
        print(json.dumps({"ok": is_well, "checks": [asdict(check) for check in checks]}, indent=2))
        return 0 if is_well else 1
    for check in checks:
        print(f"{'ok' if check.is_ok else 'MISSING' if check.is_needed else 'absent':<8} {check.name:<13} {check.detail}")
    print("everything that is needed is here" if is_well else "something that is needed is missing")
    return 0 if is_well else 1


def _python() -> Check:
    return Check(
        "python", sys.version_info >= (3, 10), True, f"{platform.python_version()} on {platform.platform()}; 3.10 or newer is needed"
    )


def _core_package(name: str) -> Check:
    found = _version(name)
    return Check(name, found is not None, True, found or f"not installed: pip install {name}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _sqlite() -> Check:
    is_ok = sqlite3.sqlite_version_info[:2] >= _OLDEST_SQLITE
    return Check("sqlite", is_ok, True, f"{sqlite3.sqlite_version}; {'.'.join(map(str, _OLDEST_SQLITE))} or newer is needed")


def _runtimes() -> list[Check]:
    found = [Check(f"runtime {r.name}", r.is_available, r.name == "onnxruntime", r.detail) for r in available_runtimes()]
    return found or [Check("runtime", False, True, "none is registered; reinstall edgeadapt")]


def _bundle() -> Check:
    from edgeadapt.demo.sample import bundle_path, load_sample
    from edgeadapt.device.learner import open as open_learner

    try:
        with open_learner(bundle_path()) as learner:
            label = learner.predict(load_sample().x[0]).labels[0]
    except (EdgeadaptError, OSError) as error:
        return Check("bundle", False, True, str(error))
    return Check("bundle", True, True, f"{bundle_path().name} opens and predicts ({label})")


def _state(folder: Path | None) -> Check:
    from edgeadapt.device.journal import Journal

    with tempfile.TemporaryDirectory(prefix="edgeadapt-doctor-") as temporary:
        place = folder or Path(temporary) / "state"
        try:
            Journal(place).close()
        except EdgeadaptError as error:
            return Check("state", False, True, str(error))
    return Check("state", True, True, f"{folder or tempfile.gettempdir()} can be written")


def _cpu() -> Check:
    threads = ", ".join(f"{name}={os.environ[name]}" for name in _THREADS if name in os.environ)
    advice = "on a small device OMP_NUM_THREADS=1 keeps numpy's OpenBLAS from starting a thread per core; inference uses one thread anyway"
    return Check("cpu", True, True, f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}; {threads or advice}")


def _extras() -> list[Check]:
    pillow = _version("pillow")
    host = {name: _version(name) for name in _HOST}
    missing = [name for name, found in host.items() if found is None]
    has_host = (
        "training and export work"
        if not missing
        else f"{', '.join(missing)} not installed: pip install 'edgeadapt[host]' to train and export"
    )
    torch = f"torch {host['torch']}; " if host["torch"] else ""
    return [
        Check("images", pillow is not None, False, f"pillow {pillow}" if pillow else "pip install 'edgeadapt[images]' to read image files"),
        Check("host", not missing, False, torch + has_host),
    ]


def _data() -> Check:
    is_here = any((_DATA / f"train-images-idx3-ubyte{suffix}").is_file() for suffix in ("", ".gz"))
    return Check(
        "data",
        is_here,
        False,
        f"Fashion-MNIST in {_DATA}" if is_here else "apt-get install dataset-fashion-mnist, to train the demo's encoder",
    )


def bench(args: argparse.Namespace) -> int:
    """Run a suite; 1 if a row misses its target."""
    suites, run = _suites()
    if args.suite == "list":
        for name, summary in suites.items():
            print(f"{name:<14} {summary}".rstrip())
        return 0
    if args.suite not in suites:
        raise InputError(f"no suite called {args.suite!r}; suites: {', '.join(suites)}")
    options = tuple(name for name in ("quick", "peers", "passes", "members", "foreign") if getattr(args, name))
    result = run(args.suite, data=args.data, json_path=args.json, options=options, plots=args.plots)
    return 1 if any(row["holds"] is False for row in result["rows"]) else 0


def _suites() -> tuple[dict[str, str], Callable[..., dict[str, Any]]]:
    """Names with one line each, and how to run one."""
    if importlib.util.find_spec("edgeadapt.bench.suites") is None:
        raise InputError("this installation has no bench suites")
    suites = importlib.import_module("edgeadapt.bench.suites")
    return {name: _summary(suite) for name, suite in suites.SUITES.items()}, suites.run


def _summary(suite: Any) -> str:
    return suite if isinstance(suite, str) else (getattr(suite, "__doc__", None) or "").strip().partition("\n")[0]
