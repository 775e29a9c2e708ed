"""Archives that are damaged or made to mislead. Each is refused, by name, with a BundleError and
nothing else.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle as tiny

from edgeadapt.bundle import FACTORY, FROZEN, GUARD, Bundle, read_bundle
from edgeadapt.bundle._container import pack, read_directory
from edgeadapt.errors import BundleError

MANIFEST = "manifest.json"


def contents(bundle: Bundle) -> Any:
    """Everything a bundle gives back, comparable."""
    graphs = {spec.file: bundle.graph(spec.file) for spec in bundle.manifest.graphs}
    arrays = {
        m: {n: a.tobytes() for n, a in bundle.weights(m).items()}
        for m in (FROZEN, FACTORY, GUARD)
        if m in bundle.manifest.members
    }
    return bundle.manifest, bundle.card, bundle.signed_by, graphs, arrays


def refused(data: bytes, path: Path, message: str, **options: Any) -> None:
    path.write_bytes(data)
    with pytest.raises(BundleError, match=message):
        read_bundle(path, **options)


def central(data: bytes) -> int:
    """Offset of the central directory."""
    return int(struct.unpack_from("<I", data, len(data) - 6)[0])


@pytest.fixture
def good(signed: Path) -> bytes:
    return signed.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bad.edge"


def test_a_file_cut_off_anywhere_is_refused(good: bytes, path: Path) -> None:
    for length in [*range(64), *range(64, len(good), 61), *range(len(good) - 64, len(good))]:
        refused(good[:length], path, "archive: (not a zip file|truncated|the end record)")


def test_a_flipped_byte_is_refused_or_changes_nothing(
    signed: Path, good: bytes, path: Path
) -> None:
    expected, rng = contents(read_bundle(signed)), np.random.default_rng(7)
    offsets = [
        *rng.integers(0, len(good), 600),
        *rng.integers(central(good), len(good), 200),
        *range(64),
    ]
    accepted = past_the_container = 0
    for offset in offsets:
        mutant = bytearray(good)
        mutant[offset] ^= int(rng.integers(1, 256))
        path.write_bytes(mutant)
        try:
            read_directory(io.BytesIO(mutant), len(mutant))
            past_the_container += 1
        except BundleError:
            pass
        try:
            bundle = read_bundle(path)
        except BundleError:
            continue
        accepted += 1
        assert contents(bundle) == expected
        # only fields that no reader uses, such as the system that wrote the zip
        assert offset >= central(good)
    assert past_the_container > 0.5 * len(offsets)
    assert accepted < 0.05 * len(offsets)


def test_flips_with_a_repaired_container_never_pass_for_the_signed_bundle(
    good: bytes, path: Path, keys: tuple[bytes, str]
) -> None:
    """The attacker rebuilds the zip, so nothing but hashes and signature is left to notice."""
    members, rng = tiny.members_of(good), np.random.default_rng(8)
    for _ in range(300):
        name = list(members)[rng.integers(len(members))]
        edited = bytearray(members[name])
        edited[rng.integers(len(edited))] ^= int(rng.integers(1, 256))
        refused(
            pack((members | {name: bytes(edited)}).items()),
            path,
            r"bad.edge: (manifest|card|graphs|weights)",
            trust=[keys[1]],
        )


def test_flips_in_an_unsigned_bundle_with_repaired_hashes_raise_nothing_but_bundle_errors(
    unsigned: Path, path: Path
) -> None:
    """The attacker writes the manifest too: parsers see every byte. What is accepted must be
    readable to the end.
    """
    members, rng = tiny.members_of(unsigned.read_bytes()), np.random.default_rng(9)
    refusals = 0
    for _ in range(600):
        name = list(members)[rng.integers(len(members))]
        edited = bytearray(members[name])
        edited[rng.integers(min(len(edited), 400))] = int(rng.integers(256))
        path.write_bytes(repaired(members | {name: bytes(edited)}))
        try:
            bundle = read_bundle(path)
            contents(bundle)
            for spec in bundle.manifest.graphs:
                bundle.graph_file(spec)
        except BundleError:
            refusals += 1
    assert refusals > 150


def repaired(members: dict[str, bytes]) -> bytes:
    """An unsigned archive whose manifest lists the members as they are now, where it can still be
    parsed.
    """
    import hashlib

    try:
        manifest = json.loads(members[MANIFEST])
        manifest["members"] = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members.items()
            if name not in (MANIFEST, "manifest.sig")
        }
        members = members | {MANIFEST: json.dumps(manifest).encode()}
    except (ValueError, TypeError):
        pass
    return pack((name, data) for name, data in members.items() if name != "manifest.sig")


def renamed(old: str, new: str) -> Callable[[bytes], bytes]:
    return lambda good: pack(
        (new if name == old else name, data) for name, data in tiny.members_of(good).items()
    )


def zipped(
    compression: int = zipfile.ZIP_STORED, order: Callable[[list[str]], list[str]] = list
) -> Callable[[bytes], bytes]:
    def build(good: bytes) -> bytes:
        members, buffer = tiny.members_of(good), io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name in order(list(members)):
                archive.writestr(name, members[name])
        return buffer.getvalue()

    return build


def field(
    offset: int, code: str, value: int, *, local: int | None = None
) -> Callable[[bytes], bytes]:
    """Set a field of the first central entry, and the same field of its local header."""

    def build(good: bytes) -> bytes:
        good = tiny.patch(good, central(good) + offset, code, value)
        return good if local is None else tiny.patch(good, local, code, value)

    return build


def twice(good: bytes) -> bytes:
    members = tiny.members_of(good)
    return pack([*members.items(), ("card.json", members["card.json"])])


def overlapping(good: bytes) -> bytes:
    """The second entry points at the first."""
    return tiny.patch(good, central(good) + 46 + len(MANIFEST) + 42, "I", 0)


def hidden_gap(good: bytes) -> bytes:
    """Four bytes between the last member and the directory."""
    at = central(good)
    return tiny.patch(good[:at] + b"MZ\0\0" + good[at:], len(good) + 4 - 6, "I", at + 4)


def with_local_name(good: bytes) -> bytes:
    return good[:30] + b"manifest.jsoN" + good[43:]


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda good: b"", "archive: truncated"),
        (lambda good: b"#!/bin/sh\n" + good, "archive: not a zip file"),
        (lambda good: good + b"x", "archive: the end record is not the end"),
        (lambda good: good + good, "archive: the end record disagrees"),
        (
            lambda good: tiny.patch(good, len(good) - 2, "H", 1),
            "archive: the end record is not the end",
        ),
        (
            lambda good: tiny.patch(good, len(good) - 6, "I", 0xFFFFFFFF),
            "archive: the end record disagrees .*zip64",
        ),
        (
            lambda good: tiny.patch(good, len(good) - 14, "I", 0x00070007),
            "archive: entry 7 of the central directory|bytes after the last",
        ),
        (
            lambda good: tiny.patch(good, central(good), "I", 0),
            "archive: entry 0 of the central directory is damaged",
        ),
        (hidden_gap, "archive: bytes between the last member"),
        (overlapping, "graphs/learn.onnx: starts at byte 0, expected"),
        (with_local_name, "manifest.json: its local header disagrees"),
        (field(20, "I", 10), "manifest.json: compressed"),
        (field(16, "I", 1), "manifest.json: its local header disagrees"),
        (field(16, "I", 1, local=14), "manifest.json: damaged, its CRC-32"),
        (field(8, "H", 1, local=6), "manifest.json: encrypted"),
        (field(8, "H", 8, local=6), "manifest.json: zip flags 0x0008"),
        (field(10, "H", 99, local=8), "manifest.json: compressed .method 99"),
        (field(30, "H", 4), "manifest.json: zip64, extra fields"),
        (field(34, "H", 1), "manifest.json: zip64, extra fields, comments and several disks"),
        (field(42, "I", 0xFFFFFFFF), "manifest.json: zip64"),
        (field(38, "I", 0o120777 << 16), "manifest.json: not a regular file"),
        (field(28, "H", 0xFFFF), "archive: the name of entry 0"),
        (twice, "card.json: in the archive twice"),
        (zipped(zipfile.ZIP_DEFLATED), "manifest.json: compressed .method 8"),
        (
            zipped(order=lambda names: names[1:] + names[:1]),
            "learn.onnx: the first member must be manifest.json",
        ),
        (
            zipped(order=lambda names: [names[0], *names[:0:-1]]),
            "archive: members are not in the order",
        ),
        (zipped(order=lambda names: names[1:]), "the first member must be manifest.json"),
        (
            zipped(order=lambda names: [n for n in names if n != "card.json"]),
            "card.json: listed in the manifest but absent",
        ),
        (
            renamed("graphs/learn.onnx", "graphs/other.onnx"),
            "graphs/learn.onnx: listed in the manifest but absent",
        ),
        (renamed("card.json", "weights/z.safetensors"), "in the order|card.json: listed"),
        (
            renamed("graphs/learn.onnx", "../learn.onnx"),
            r"'../learn.onnx': a member name that leaves the archive",
        ),
        (
            renamed("graphs/learn.onnx", "graphs/../../learn.onnx"),
            "a member name that leaves the archive",
        ),
        (renamed("graphs/learn.onnx", "/etc/passwd"), "'/etc/passwd': an absolute member name"),
        (renamed("graphs/learn.onnx", "C:/learn.onnx"), "an absolute member name"),
        (renamed("graphs/learn.onnx", "graphs\\learn.onnx"), "a backslash"),
        (renamed("graphs/learn.onnx", "graphs/.onnx"), "not one of"),
        (renamed("graphs/learn.onnx", "graphs/a/b.onnx"), "not one of"),
        (renamed("graphs/learn.onnx", "graphs/l.onnx\n"), "not one of"),
        (renamed("graphs/learn.onnx", "setup.py"), "'setup.py': not one of"),
        (renamed("graphs/learn.onnx", ""), "'': not one of"),
    ],
)
def test_a_misleading_archive_is_refused_by_name(
    attack: Callable[[bytes], bytes], message: str, good: bytes, path: Path
) -> None:
    refused(attack(good), path, f"bad.edge: .*({message})")


def test_sizes_beyond_the_limits_are_refused_before_they_are_read(good: bytes, path: Path) -> None:
    members = tiny.members_of(good)
    refused(
        pack((members | {MANIFEST: b" " * ((4 << 20) + 1)}).items()),
        path,
        "manifest.json: 4194305 bytes, the limit is 4194304",
    )
    with path.open("wb") as file:
        file.truncate((2 << 30) + 1)  # sparse
    with pytest.raises(BundleError, match=r"archive: 2147483649 bytes, the limit is 2147483648"):
        read_bundle(path)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a regular file"):
        read_bundle(tmp_path)
    with pytest.raises(BundleError, match="No such file"):
        read_bundle(tmp_path / "none.edge")


@pytest.mark.parametrize("member", [tiny.PREDICT, FROZEN, "card.json"])
def test_an_edited_member_is_named(member: str, good: bytes, path: Path) -> None:
    members = tiny.members_of(good)
    refused(
        pack((members | {member: members[member] + b" "}).items()),
        path,
        f"{member}: has .* bytes, the manifest says",
    )
    edited = members[member][:-1] + bytes([members[member][-1] ^ 1])
    refused(
        pack((members | {member: edited}).items()),
        path,
        f"{member}: its sha256 is not that of the manifest; it was edited",
    )


def test_an_unlisted_member_is_named(good: bytes, path: Path) -> None:
    members = tiny.members_of(good)
    extra = {MANIFEST: members.pop(MANIFEST), "graphs/a.onnx": b"x"} | members
    refused(pack(extra.items()), path, "graphs/a.onnx: not listed in the manifest")


def test_a_newer_format_names_the_version_that_wrote_it(unsigned: Path, path: Path) -> None:
    members = tiny.members_of(unsigned.read_bytes())
    newer = {"format": 3, "provenance": {"edgeadapt": "7.1"}, "something": "new"}
    refused(
        pack((members | {MANIFEST: json.dumps(newer).encode()}).items()),
        path,
        "manifest.json: format 3 is newer.*edgeadapt 7.1",
    )


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'"\xff"',
        b"[" * 100_000,
        b'{"format": 3, "provenance": [1]}',
        b'{"format": 0}',
        b"1e999",
    ],
)
def test_a_manifest_that_is_not_one_is_refused(manifest: bytes, unsigned: Path, path: Path) -> None:
    refused(
        pack((tiny.members_of(unsigned.read_bytes()) | {MANIFEST: manifest}).items()),
        path,
        r"bad.edge: manifest.json: ",
    )


@pytest.mark.parametrize("card", [b"", b"[]", b'{"a": "\xff"}', b'{"a":' + b"[" * 100_000])
def test_a_card_that_is_not_json_is_refused(card: bytes, unsigned: Path, path: Path) -> None:
    refused(
        repaired(tiny.members_of(unsigned.read_bytes()) | {"card.json": card}),
        path,
        r"bad.edge: card.json: ",
    )


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"ridge.gram": 3}',
        b'{"ridge.gram": {"dtype": "BF16", "shape": [16, 16], "data_offsets": [0, 4]}}',
        b"{}",
        None,
    ],
)
def test_a_weight_file_with_another_header_is_refused(
    header: bytes | None, unsigned: Path, path: Path
) -> None:
    data = b"\0\0" if header is None else len(header).to_bytes(8, "little") + header
    refused(
        repaired(tiny.members_of(unsigned.read_bytes()) | {FACTORY: data}),
        path,
        r"weights/factory.safetensors: ",
    )


def test_a_header_that_promises_more_than_the_file_has_is_refused_when_loaded(
    unsigned: Path, path: Path
) -> None:
    members = tiny.members_of(unsigned.read_bytes())
    path.write_bytes(repaired(members | {FROZEN: members[FROZEN][:-4]}))
    bundle = read_bundle(path)
    with pytest.raises(
        BundleError, match=r"bad.edge: weights/frozen.safetensors: not a safetensors file"
    ):
        bundle.weights(FROZEN)


def test_values_that_are_not_finite_are_refused_when_loaded(unsigned: Path, path: Path) -> None:
    members = tiny.members_of(unsigned.read_bytes())
    path.write_bytes(
        repaired(members | {FROZEN: members[FROZEN][:-4] + np.float32(np.inf).tobytes()})
    )
    with pytest.raises(BundleError, match=r"stem.whiten has values that are not finite"):
        read_bundle(path).graph_file(read_bundle(path).manifest.graphs[0])


def test_too_many_members_are_refused() -> None:
    data = pack((f"graphs/{index}.onnx", b"") for index in range(4097))
    with pytest.raises(BundleError, match="archive: 4097 members, the limit is 4096"):
        read_directory(io.BytesIO(data), len(data))
