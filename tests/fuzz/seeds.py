"""The tiny bundle of the tests and the shipped one, made once per process."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from functools import cache
from pathlib import Path

import tiny_bundle as tiny
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeadapt.bundle import write_bundle
from edgeadapt.bundle._container import pack


@cache
def tiny_archive() -> bytes:
    """Unsigned."""
    return _written(None)


@cache
def signed_archive() -> tuple[bytes, str]:
    """The archive and the key it is signed with, the same in every run."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (
        _written(private),
        "ed25519:" + base64.b64encode(key.public_key().public_bytes_raw()).decode(),
    )


@cache
def tiny_members() -> dict[str, bytes]:
    return tiny.members_of(tiny_archive())


def _written(private: bytes | None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.edge"
        write_bundle(path, tiny.manifest(), tiny.graphs(), tiny.weights(), tiny.CARD, private)
        return path.read_bytes()


def repaired(members: dict[str, bytes]) -> bytes:
    """An unsigned archive whose manifest lists the members as they are now, if it can still be
    parsed.
    """
    try:
        manifest = json.loads(members["manifest.json"])
        manifest["members"] = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members.items()
            if name not in ("manifest.json", "manifest.sig")
        }
        members = members | {"manifest.json": json.dumps(manifest).encode()}
    except (ValueError, TypeError, RecursionError):
        pass
    return pack((name, data) for name, data in members.items() if name != "manifest.sig")
