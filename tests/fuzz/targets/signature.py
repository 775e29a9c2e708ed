"""``manifest.sig`` and the text of public keys: what is accepted verifies, and only over the bytes
that were signed.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import tiny_bundle as tiny

from edgeadapt.bundle.signature import Signature, decode_signature, load_public_key, verify
from edgeadapt.errors import BundleError
from fuzz.edits import raw, tree
from fuzz.seeds import signed_archive
from fuzz.target import Execute, Target

NEEDS = ("onnx",)
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="


def seeds() -> list[bytes]:
    archive, key = signed_archive()
    return [tiny.members_of(archive)["manifest.sig"], key.encode()]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    if rng.random() < 0.4:
        return _respelt(rng, data)
    if rng.random() < 0.4 or not data.startswith(b"{"):
        return raw.edit(rng, data, other)
    return tree.edit_json(
        rng, data, other, texts=("ed25519", "rsa", "0" * 16, "A" * 43 + "=", "A" * 86 + "==")
    )


def _respelt(rng: Random, data: bytes) -> bytes:
    """Characters changed within base64: the form stays right."""
    edited = bytearray(data)
    places = [at for at, byte in enumerate(edited) if chr(byte) in _BASE64]
    for at in rng.sample(places, min(len(places), rng.choice((1, 1, 3)))):
        edited[at] = ord(rng.choice(_BASE64 if rng.random() < 0.5 else "0123456789abcdef"))
    return bytes(edited)


def prepare(scratch: Path) -> Execute:
    archive, key = signed_archive()
    members = tiny.members_of(archive)
    manifest, signed = members["manifest.json"], decode_signature(members["manifest.sig"])

    def execute(data: bytes) -> None:
        if data.startswith(b"ed25519:"):
            text = load_public_key(data.decode("utf-8", "surrogateescape"))
            verify(manifest, signed, [text])
            assert text == key, "another key passed for the one that signed"
            return
        signature = decode_signature(data)
        for trusted in ((), (key,)):
            verify(manifest, signature, trusted)
        assert _what_counts(signature) == _what_counts(signed), (
            "another signature passed for this manifest"
        )
        try:
            verify(manifest + b" ", signature)
        except BundleError:
            return
        raise AssertionError("a signature passed for bytes that were not signed")

    return execute


def _what_counts(signature: Signature) -> tuple[str, str]:
    return signature.key_id, signature.public_key


def is_past_header(error: Exception) -> bool:
    """It was a signature, or a key, by its form; the cryptography refused it."""
    return any(
        part in str(error)
        for part in ("does not match", "unknown key", "not that of its public key")
    )


TARGET = Target(
    "signature",
    seeds,
    mutate,
    prepare,
    (BundleError,),
    is_past_header,
    ("edgeadapt.bundle.signature",),
    share=60,
    memory_mib=64,
)
