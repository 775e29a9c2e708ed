"""A manifest as bytes and back, checked."""

from __future__ import annotations

from typing import Any

import msgspec

from edgeadapt.bundle._consistency import check_consistency
from edgeadapt.bundle.schema import FORMAT, Manifest
from edgeadapt.errors import BundleError


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical bytes: sorted keys and two-space indent, so that equal manifests have equal
    signatures.
    """
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2)


def decode_manifest(data: bytes) -> Manifest:
    """Parse and check a manifest.

    Raises:
        BundleError: not JSON, a newer format, an unknown field, or a value outside its bounds.
    """
    try:
        peek: Any = msgspec.json.decode(data)
        written = peek.get("format") if isinstance(peek, dict) else None
        if isinstance(written, int) and written > FORMAT:
            origin, by = peek.get("provenance"), "a newer version"
            if isinstance(origin, dict):
                by = origin.get("edgeadapt", by)
            raise BundleError(
                f"manifest.json: format {written} is newer than {FORMAT}, which this version reads;"
                f" written by edgeadapt {by}"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise BundleError(f"manifest.json: {error}") from error
    check_consistency(manifest)
    return manifest
