"""A bundle that is to take over, run once in a child: a graph that never ends, or takes all memory,
ends there, and the daemon serves on. Whether the bundle fits is for ``Learner.offer`` to say.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edgeadapt import errors
from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.bundle.schema import Precision
from edgeadapt.daemon.decoding import limited_child as confined
from edgeadapt.errors import BundleError, EdgeadaptError, StateError
from edgeadapt.runtime import open_runtime

LONGEST_S = 60.0
_MEMORY_SHARE = 0.5  # of the machine's
_CPU = "onnxruntime"
_ON_DEVICES = ("auto", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt")
_ENDED, _MOST_REASON = b"+", 2000
_LOOK_S = 0.05


def try_out(
    bundle: Bundle, precision: Precision, runtime: str, is_stopping: Callable[[], bool]
) -> None:
    """Load every graph that would be used in another process, and run it on zeros.

    Args:
        runtime: of the daemon. Where that may use a GPU, the trial runs on the CPU, and what does
            not run there is left to the daemon to say.
        is_stopping: looked at twenty times a second.

    Raises:
        BundleError: it did not end within ``LONGEST_S``, or ended the process.
        StateError: the daemon stops. Whatever the trial raised, where its runtime is the daemon's.
    """
    engine = _CPU if runtime in _ON_DEVICES else runtime
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            arguments = (str(bundle.path.resolve()), bundle.sha256, engine, precision)
            child = confined.start(__name__, (*arguments, str(LONGEST_S)), theirs)
        try:
            said = _said(ours, bundle.path.name, is_stopping)
            status = child.wait(5.0)
        finally:
            child.kill()
            child.wait()
    if not said:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        raise BundleError(
            f"{bundle.path.name}: running its graphs once ended the process that tried it: {how}"
        )
    if said != _ENDED and engine == runtime:
        kind, _, why = said.decode("utf-8", "replace").partition(" ")
        raise getattr(errors, kind)(why)


def _said(ours: socket.socket, name: str, is_stopping: Callable[[], bool]) -> bytes:
    until, said = time.monotonic() + LONGEST_S, bytearray()
    ours.settimeout(_LOOK_S)
    while len(said) <= _MOST_REASON:
        if is_stopping():
            raise StateError("the daemon stops")
        if time.monotonic() > until:
            raise BundleError(f"{name}: its graphs did not end within {LONGEST_S:g} s")
        try:
            block = ours.recv(_MOST_REASON)
        except TimeoutError:
            continue
        if not block:
            break
        said += block
    return bytes(said)


# -- in the child ---------------------------------------------------------------------------------
def _trial(path: Path, sha256: str, engine: str, precision: Precision) -> bytes:
    from edgeadapt.device.recovery.trust import run_once

    try:
        bundle = read_bundle(path)
        if bundle.sha256 != sha256:
            raise BundleError(f"{path.name}: was replaced while it was tried")
        run_once(bundle, open_runtime(engine), None, precision)
    except EdgeadaptError as error:
        return f"{type(error).__name__} {error}".encode()[:_MOST_REASON]
    return _ENDED


def _main() -> None:
    path, sha256, engine, precision, longest_s = sys.argv[1:]
    confined.confine(int(_MEMORY_SHARE * confined.physical_memory()))
    confined.limit_time(float(longest_s))
    wanted: Precision = precision  # type: ignore[assignment]  # the daemon's own word
    said = _trial(Path(path), sha256, engine, wanted)
    with socket.socket(fileno=0) as theirs:
        theirs.sendall(said)


__all__ = ["LONGEST_S", "try_out"]

if __name__ == "__main__":
    _main()
