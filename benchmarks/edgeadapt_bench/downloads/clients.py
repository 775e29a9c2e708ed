"""One package file by the system's own client: ``apt-get download``, ``npm pack`` or ``pip
download``. Nothing is installed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.downloads.catalogue import Client, Package

_PATIENCE = 900  # seconds for one download
_SUFFIX: dict[Client, str] = {"apt": ".deb", "npm": ".tgz", "pip": ".whl"}


def command(package: Package) -> list[str]:
    """The line that downloads a package into the folder it runs in."""
    if package.client == "apt":
        return ["apt-get", "download", package.name]
    if package.client == "npm":
        return ["npm", "pack", "--ignore-scripts", "--silent", f"{package.name}@{package.version}"]
    return [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        f"{package.name}=={package.version}",
    ]


def missing(package: Package) -> str | None:
    """What this machine lacks to download it, in one line; None if nothing."""
    if package.client == "pip":
        return (
            None
            if find_spec("pip")
            else f"this Python ({sys.executable}) has no pip: python -m ensurepip"
        )
    tools = ("apt-get", "dpkg-deb") if package.client == "apt" else ("npm",)
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if not absent:
        return None
    return (
        f"{absent[0]} is not on the PATH; {package.name} is a package of"
        f" {'Debian and Ubuntu' if package.client == 'apt' else 'npm, which comes with Node.js'}"
    )


def download(package: Package, folder: Path) -> Path:
    """The package's file in ``folder``, checked.

    Raises:
        RuntimeUnavailable: the client is not installed, there is no network, or its index does not
            have the package.
        InputError: what arrived is not the file whose SHA-256 is in the catalogue.
    """
    if reason := missing(package):
        raise RuntimeUnavailable(reason)
    line = command(package)
    try:
        done = subprocess.run(
            line,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeUnavailable(
            f"{' '.join(line)} took longer than {_PATIENCE} s; is there a network?"
        ) from error
    found = sorted(folder.glob(f"*{_SUFFIX[package.client]}"))
    if done.returncode or len(found) != 1:
        said = [text for text in (done.stderr or done.stdout).splitlines() if text.strip()]
        advice = (
            "; `apt-get update` brings the lists of packages"
            if package.client == "apt"
            else "; is there a network?"
        )
        raise RuntimeUnavailable(
            f"{' '.join(line)} brought no {package.name} (exit {done.returncode}):"
            f" {said[-1].strip() if said else 'no message'}{advice}"
        )
    if package.sha256 is not None:
        arrived = hashlib.sha256(found[0].read_bytes()).hexdigest()
        if arrived != package.sha256:
            raise InputError(
                f"{package.name} {package.version}: the file that arrived has SHA-256 {arrived},"
                f" not {package.sha256}; it was not kept"
            )
    return found[0]


def unpacked_deb(path: Path, folder: Path) -> Path:
    """A folder with the files of a ``.deb``."""
    done = subprocess.run(
        ["dpkg-deb", "--extract", str(path), str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise InputError(f"{path.name} cannot be unpacked: {done.stderr.strip()}")
    return folder
