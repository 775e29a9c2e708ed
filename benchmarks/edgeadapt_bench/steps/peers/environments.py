"""Where a peer runs: a virtual environment with pinned packages, made on demand and kept in a cache
folder.

The cache is ``$XDG_CACHE_HOME/edgeadapt/peers`` (``~/.cache/edgeadapt/peers``), and removing it is
safe. A peer whose environment cannot be made here is reported with the reason.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.harness.measure import ONE_THREAD, Say

HERE = Path(__file__).parent
PROTOCOL = HERE.parents[1] / "harness" / "child"
"""Peers import its files by their own names."""

_MADE = "made"
_ASK_VERSION = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
_PIP_SECONDS, _BUILD_SECONDS = 1800, 300


@dataclass(frozen=True)
class Peer:
    """Another system.

    Attributes:
        environment: name of its list of packages in ``requirements``.
        script, arguments: what its process runs.
        builder: environment and script that write what the process loads, once per batch size.
        has_momentum: False for one that can only take the step without.
    """

    name: str
    environment: str
    script: str
    arguments: tuple[str, ...] = ()
    builder: tuple[str, str] | None = None
    has_momentum: bool = True


PYTHONS = {
    "jax": ("3.11", "3.12", "3.13"),
    "onnxruntime_training": ("3.11", "3.10", "3.9"),
    "executorch": ("3.11", "3.12", "3.13"),
    "litert": ("3.11", "3.12", "3.13"),
    "litert_build": ("3.11", "3.12", "3.13"),
}
"""Environment -> Python versions that its packages were built for, best first."""

PEERS = (
    Peer("jax", "jax", "jax_jit.py"),
    Peer(
        "onnxruntime_training",
        "onnxruntime_training",
        "ort_training.py",
        ("momentum",),
        ("onnxruntime_training", "ort_training_build.py"),
    ),
    Peer(
        "onnxruntime_training_no_momentum",
        "onnxruntime_training",
        "ort_training.py",
        ("plain",),
        ("onnxruntime_training", "ort_training_build.py"),
        has_momentum=False,
    ),
    Peer(
        "executorch",
        "executorch",
        "executorch_xnnpack.py",
        (),
        ("executorch", "executorch_build.py"),
    ),
    Peer("litert", "litert", "litert_signature.py", (), ("litert_build", "litert_build.py")),
)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgeadapt" / "peers"


def python_of(environment: str, cache: Path, say: Say) -> Path:
    """The interpreter of an environment, which is made if it is not there.

    Raises:
        RuntimeUnavailable: no fitting Python on this machine, or its packages cannot be installed;
            the message has pip's last line.
    """
    requirements = HERE / "requirements" / f"{environment}.txt"
    base = _base_python(PYTHONS[environment])
    key = hashlib.sha256(requirements.read_bytes() + os.fsencode(base)).hexdigest()[:12]
    folder = cache / f"{environment}-{key}"
    python = folder / "bin" / "python"
    if (folder / _MADE).is_file():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    say(f"peers: making the environment {environment} in {folder}")
    try:
        _run([str(base), "-m", "venv", str(folder)], 300, f"no environment for {environment}")
        pip = [
            str(python),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
            "-r",
            str(requirements),
        ]
        _run(pip, _PIP_SECONDS, f"the packages of {environment} cannot be installed")
    except RuntimeUnavailable:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / _MADE).touch()
    return python


def build(peer: Peer, step_inputs: Path, cache: Path, say: Say) -> None:
    """Write what the peer's process loads into the folder of a material.

    Raises:
        RuntimeUnavailable: the environment of its builder cannot be made, or the builder failed.
    """
    if peer.builder is not None:
        environment, script = peer.builder
        python = python_of(environment, cache, say)
        _run(
            [str(python), str(HERE / script), str(step_inputs)],
            _BUILD_SECONDS,
            f"{peer.name} cannot be built",
        )


def command(peer: Peer, cache: Path, say: Say) -> tuple[str, ...]:
    """What starts the peer's process.

    Raises:
        RuntimeUnavailable: as :func:`python_of`.
    """
    return (str(python_of(peer.environment, cache, say)), str(HERE / peer.script), *peer.arguments)


def installed_bytes(python: Path) -> int:
    """Of everything in an environment but pip, setuptools and compiled Python."""
    total = 0
    for packages in python.parent.parent.glob("lib/python*/site-packages"):
        for folder, inner, files in os.walk(packages):
            inner[:] = [
                name
                for name in inner
                if name != "__pycache__" and not name.startswith(("pip", "setuptools"))
            ]
            total += sum((Path(folder) / name).lstat().st_size for name in files)
    return total


def _base_python(versions: tuple[str, ...]) -> Path:
    for wanted in versions:
        for candidate in filter(Path.is_file, _pythons(wanted)):
            done = subprocess.run(
                [str(candidate), "-c", _ASK_VERSION], capture_output=True, text=True, check=False
            )
            if done.returncode == 0 and done.stdout.strip() == wanted:
                return candidate
    raise RuntimeUnavailable(
        f"needs Python {' or '.join(versions)} with its venv module, and none is on this machine"
    )


def _pythons(version: str) -> Iterator[Path]:
    """This interpreter's, those on the PATH, and those that pyenv and uv keep."""
    yield Path(sys.base_prefix) / "bin" / f"python{version}"
    if found := shutil.which(f"python{version}"):
        yield Path(found)
    home = Path.home()
    yield from sorted(home.glob(f".pyenv/versions/{version}*/bin/python{version}"))
    yield from sorted(home.glob(f".local/share/uv/python/cpython-{version}*/bin/python{version}"))


def _run(arguments: list[str], seconds: int, failure: str) -> None:
    try:
        done = subprocess.run(
            arguments,
            env={**os.environ, **ONE_THREAD},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeUnavailable(f"{failure}: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        errors = [line for line in lines if "rror" in line]
        raise RuntimeUnavailable(
            f"{failure}: {(errors or lines or ['no message'])[-1].strip()[:300]}"
        )
