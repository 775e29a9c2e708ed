"""Write and read a bundle: one uncompressed zip, ``NAME.edge``, checked before it is parsed.

The manifest holds size and sha256 of every member but itself and the signature; the signature
covers the manifest. Equal content gives an equal file.
"""

from __future__ import annotations

import builtins
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from numpy.typing import NDArray

from edgeadapt._durable import replace_file
from edgeadapt.bundle import _container as container
from edgeadapt.bundle import _weights as weight_files
from edgeadapt.bundle._batches import usual_batches
from edgeadapt.bundle._container import (
    CARD,
    MANIFEST,
    MAX_CARD_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_SIGNATURE_BYTES,
    SIGNATURE,
    Entry,
    naming,
    read_small,
)
from edgeadapt.bundle._external_data import check_external_data
from edgeadapt.bundle._space import TensorHashes, check_space, watch_encoder
from edgeadapt.bundle._weights import FACTORY, FROZEN, GUARD, Arrays
from edgeadapt.bundle.codec import decode_manifest, encode_manifest
from edgeadapt.bundle.schema import GraphSpec, Manifest, Member
from edgeadapt.bundle.signature import check_signature, encode_signature, sign
from edgeadapt.errors import BundleError
from edgeadapt.paths import check_path
from edgeadapt.runtime import GraphFile


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle that passed every check. Members are read when asked for, and hashed again then."""

    path: Path
    manifest: Manifest
    card: dict[str, Any]
    signed_by: str | None
    """Key id of the signer; without ``trust`` it says undamaged, not who made it."""
    sha256: str
    """Of the bytes of the manifest: the identity of the bundle."""
    bytes: int
    """Size of the file."""

    def graph(self, file: str) -> builtins.bytes:
        """The serialised ONNX model of one graph, by the ``file`` of its :class:`GraphSpec`."""
        return self._read(file)

    def weights(self, member: str) -> Arrays:
        """Read-only arrays of one weight file, :data:`FROZEN`, :data:`FACTORY` or :data:`GUARD`.

        Raises:
            BundleError: no such member, it changed since the bundle was opened, or a value is not
                finite.
        """
        data = self._read(member)
        with naming(self.path):
            return weight_files.decode_weights(self.manifest, member, data)

    @cached_property
    def frozen(self) -> Arrays:
        """Every frozen tensor, loaded once and shared by all graphs."""
        return self.weights(FROZEN) if FROZEN in self.manifest.members else {}

    def graph_file(self, spec: GraphSpec) -> GraphFile:
        """What a runtime loads: the model, the frozen arrays it names, the batches that a learner
        brings to it, and what it computes in.
        """
        frozen = {name: self.frozen[name] for name in spec.frozen}
        batches = usual_batches(spec, self.manifest)
        model = self.graph(spec.file)
        return GraphFile(spec.file, model, frozen, batches=batches, precision=spec.precision)

    def _read(self, name: str) -> builtins.bytes:
        with naming(self.path), open(self.path, "rb") as file:
            listed = self.manifest.members.get(name)
            if listed is None:
                raise BundleError(f"{name}: no such member")
            entry = container.read_directory(file, os.fstat(file.fileno()).st_size).get(name)
            if entry is None:
                raise BundleError(f"{name}: gone since the bundle was opened")
            return _verified(file, entry, listed)


def write_bundle(
    path: str | Path,
    manifest: Manifest,
    graphs: Mapping[str, bytes],
    weights: Mapping[str, Mapping[str, NDArray[Any]]],
    card: Mapping[str, Any],
    private_key: bytes | None = None,
) -> Bundle:
    """Write a bundle; it appears whole or not at all, and only if :func:`read_bundle` accepts it.

    Args:
        path: where to, usually ``NAME.edge``; an existing file is replaced.
        manifest: its ``members`` are filled in here.
        graphs: serialised ONNX models, by the ``file`` of their :class:`GraphSpec`
            (``graphs/*.onnx``).
        weights: arrays by tensor name, by weight file (:data:`FROZEN`, :data:`FACTORY`,
            :data:`GUARD`).
        card: the stress card; anything JSON can hold.
        private_key: PEM of an ed25519 key; without it the bundle is unsigned.

    Raises:
        BundleError: names the member that is wrong, or says why the file cannot be written.
    """
    path = Path(path)
    with naming(path):
        contents = dict(graphs) | {
            name: weight_files.encode_weights(manifest, name, values)
            for name, values in weights.items()
        }
        try:
            encoded = msgspec.json.encode(card, order="sorted")
            contents[CARD] = msgspec.json.format(encoded, indent=2)
        except (TypeError, ValueError, RecursionError) as error:
            raise BundleError(f"{CARD}: {error}") from None
        for name in contents:
            container.check_name(name)
        members = {
            name: Member(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in contents.items()
        }
        contents[MANIFEST] = encode_manifest(msgspec.structs.replace(manifest, members=members))
        if private_key is not None:
            contents[SIGNATURE] = encode_signature(sign(contents[MANIFEST], private_key))
        archive = container.pack(
            (name, contents[name]) for name in sorted(contents, key=container.member_order)
        )
        bundle = _open(BytesIO(archive), len(archive), path, (), False)
        replace_file(path, archive)
    return bundle


def read_bundle(
    path: str | Path,
    *,
    trust: str | Path | Sequence[str | Path] = (),
    require_signature: bool = False,
) -> Bundle:
    """Open a bundle: container, signature, manifest, sizes and hashes first, then graphs, weights,
    feature space and card.

    Args:
        path: the file.
        trust: public keys, as text or paths; one, or several. When given, the bundle must be signed
            by one of them.
        require_signature: refuse an unsigned bundle also without ``trust``; any signer will do
            then.

    Raises:
        BundleError: names the file, the member and the reason.
        InputError: not a path.
    """
    path = check_path(path, "a bundle")
    with naming(path):
        if path.exists() and not path.is_file():
            raise BundleError("archive: not a regular file")
        with open(path, "rb") as file:
            keys = (trust,) if isinstance(trust, (str, Path)) else trust
            return _open(
                file, os.fstat(file.fileno()).st_size, path, keys, require_signature or bool(keys)
            )


def _open(
    file: BinaryIO, size: int, path: Path, trust: Sequence[str | Path], require_signature: bool
) -> Bundle:
    entries = container.read_directory(file, size)
    raw = read_small(file, entries[MANIFEST], MAX_MANIFEST_BYTES)
    given = None
    if SIGNATURE in entries:
        given = read_small(file, entries[SIGNATURE], MAX_SIGNATURE_BYTES)
    signed_by = check_signature(raw, given, trust, require_signature)
    try:
        manifest = decode_manifest(raw)
    except (ValueError, RecursionError, AttributeError) as error:
        raise BundleError(f"{MANIFEST}: {error}") from None
    encoder = watch_encoder(manifest)
    _check_members(file, entries, manifest, encoder)
    kinds = {spec.name: spec.kind for spec in manifest.tensors}
    for graph in manifest.graphs:
        if not graph.file.startswith("graphs/"):
            raise BundleError(f"{MANIFEST}: the graph {graph.file!r} is not one of graphs/*.onnx")
        for name in graph.frozen:
            if kinds[name] != "frozen":
                raise BundleError(
                    f"{graph.file}: takes {name} as frozen, but its kind is {kinds[name]}"
                )
        model = _verified(file, entries[graph.file], manifest.members[graph.file])
        check_external_data(graph.file, model, graph.frozen)
    weight_files.check_complete(manifest, _check_weights(file, entries, manifest))
    check_space(manifest, encoder)
    card = _card(read_small(file, entries[CARD], MAX_CARD_BYTES))
    return Bundle(path, manifest, card, signed_by, hashlib.sha256(raw).hexdigest(), size)


def _check_members(
    file: BinaryIO, entries: Mapping[str, Entry], manifest: Manifest, encoder: TensorHashes
) -> None:
    """The archive has exactly the members of the manifest, with their sizes and hashes, and a use
    for each; ``encoder`` sees the weights.
    """
    present = set(entries) - {MANIFEST, SIGNATURE}
    for name in sorted(present ^ set(manifest.members)):
        listed = "not listed in" if name in present else "listed in"
        raise BundleError(
            f"{name}: {listed} the manifest{'' if name in present else ' but absent'}"
        )
    expected = (
        {CARD} | {graph.file for graph in manifest.graphs} | ({FROZEN, FACTORY, GUARD} & present)
    )
    for name in sorted(present ^ expected):
        what = "no graph of the manifest and no known weight file" if name in present else "absent"
        raise BundleError(f"{name}: {what}")
    for name, member in manifest.members.items():
        if entries[name].size != member.bytes:
            raise BundleError(
                f"{name}: has {entries[name].size} bytes, the manifest says {member.bytes}"
            )
        digest = hashlib.sha256()
        for block in container.read_chunks(file, entries[name]):
            digest.update(block)
            if name == FROZEN:  # every byte is read once
                encoder.update(block)
        if digest.hexdigest() != member.sha256:
            raise BundleError(f"{name}: its sha256 is not that of the manifest; it was edited")


def _check_weights(file: BinaryIO, entries: Mapping[str, Entry], manifest: Manifest) -> set[str]:
    present: set[str] = set()
    for name in (FROZEN, FACTORY, GUARD):
        if name in entries:
            entry = entries[name]
            file.seek(entry.offset)
            start = file.read(min(entry.size, 8))
            length = min(weight_files.HEADER_BYTES - 8, int.from_bytes(start, "little"))
            start += file.read(min(entry.size - len(start), length))
            found = weight_files.check_header(manifest, name, start)
            present |= found if name != GUARD else set()
    return present


def _verified(file: BinaryIO, entry: Entry, listed: Member) -> bytes:
    """The bytes of a member, hashed as they were read: the file may change at any time after it was
    opened.
    """
    data = container.read_entry(file, entry)
    if hashlib.sha256(data).hexdigest() != listed.sha256:
        raise BundleError(f"{entry.name}: changed since the bundle was opened")
    return data


def _card(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{CARD}: {error}") from None


__all__ = ["FACTORY", "FROZEN", "GUARD", "Bundle", "read_bundle", "write_bundle"]
