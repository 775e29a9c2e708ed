"""A feature space is named by the hash of its encoder; here the name is held against the encoder
that a bundle really has.

    space = sha256(sha256(encode graph) || sha256(tensor) for the encoder's tensors by name)

Without this check anyone could put another encoder into a bundle, and a state folder, bound to a
space, would take it for the one whose features it has learned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import msgspec

from edgeadapt.bundle._weights import FROZEN, HEADER_BYTES
from edgeadapt.bundle.schema import Manifest, encoder_tensors, space_of_digests
from edgeadapt.errors import BundleError


def watch_encoder(manifest: Manifest) -> TensorHashes:
    """What :func:`check_space` needs, to be fed with the file of frozen weights."""
    return TensorHashes(_tensors(manifest))


def check_space(manifest: Manifest, encoder: TensorHashes) -> None:
    """Hold the encoder against the space of the manifest.

    Args:
        manifest: whose members were hashed and match.
        encoder: from :func:`watch_encoder`, after the last block.

    Raises:
        BundleError: the encoder is another one. A bundle that is given features has none, and
            nothing to hold against its space.
    """
    files = [graph.file for graph in manifest.graphs_for("encode")]
    if not files:
        return
    graphs = [bytes.fromhex(manifest.members[file].sha256) for file in files]
    digests = encoder.result()
    found = space_of_digests([*graphs, *(digests[name] for name in _tensors(manifest))])
    if found != manifest.space:
        raise BundleError(
            "manifest.json: the encoder is not the one that the feature space names (space"
            f" {manifest.space[:12]}, this encoder {found[:12]}); it was swapped, or the bundle was"
            " not written by an export"
        )


def _tensors(manifest: Manifest) -> list[str]:
    return encoder_tensors(
        (spec.name for spec in manifest.tensors if spec.kind == "frozen"),
        manifest.graphs_for("encode"),
    )


class _Placed(msgspec.Struct, frozen=True):
    data_offsets: tuple[int, int]  # of the bytes after the header


class TensorHashes:
    """SHA-256 of some tensors of a safetensors file, from its bytes as they pass by in blocks:
    every byte is read once.

    Args:
        names: the tensors wanted.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = set(names)
        self._start: bytes | None = b""  # what came of the header; None once it was read
        self._ranges: list[tuple[int, int, str]] = []  # still to come, the next one last
        self._position = 0  # behind the header
        self._digest = hashlib.sha256()
        self._digests: dict[str, bytes] = {}
        self._fault = ""

    def update(self, block: bytes) -> None:
        """Take the next block. What is wrong with it is said by :meth:`result`, when the whole file
        has been hashed.
        """
        values = memoryview(block)
        if self._start is not None:
            begun = self._start + block if self._start else block
            length = int.from_bytes(begun[:8], "little")
            if len(begun) < 8 or len(begun) < 8 + length <= HEADER_BYTES:
                self._start = begun
                return
            self._start = None
            self._plan(begun[8 : 8 + length])
            values = memoryview(begun)[8 + length :]
        start, self._position = self._position, self._position + len(values)
        while self._ranges and self._ranges[-1][0] < self._position:
            first, last, name = self._ranges[-1]
            self._digest.update(values[max(first - start, 0) : last - start])
            if last > self._position:
                return
            self._digests[name], self._digest = self._digest.digest(), hashlib.sha256()
            self._ranges.pop()

    def result(self) -> dict[str, bytes]:
        """The hashes by name, after the last block.

        Raises:
            BundleError: the header cannot be read, lacks a tensor, places two in the same bytes, or
                reaches beyond the file.
        """
        missing = sorted(self._names - set(self._digests))
        if self._fault or missing:
            raise BundleError(
                f"{FROZEN}: not a safetensors file: {self._fault or f'{missing[0]} is cut off'}"
            )
        return self._digests

    def _plan(self, header: bytes) -> None:
        try:
            listed = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
            places = [
                (*msgspec.json.decode(listed[name], type=_Placed).data_offsets, name)
                for name in sorted(self._names & listed.keys())
            ]
        except (ValueError, RecursionError) as error:
            self._fault = str(error)
            return
        reached = 0
        for first, last, name in sorted(places):
            if not reached <= first <= last:
                self._fault = (
                    f"{name} lies at bytes {first} to {last}, but the tensor before it ends at"
                    f" {reached}"
                )
                return
            reached = last
        self._digests = {
            name: hashlib.sha256().digest() for first, last, name in places if first == last
        }
        self._ranges = sorted((place for place in places if place[0] < place[1]), reverse=True)
