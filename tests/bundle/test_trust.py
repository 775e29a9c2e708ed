"""Six ways to pass one bundle for another, and which check refuses each: trust, hashes, feature
space, format.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forged
import msgspec
import numpy as np
import pytest
import tiny_bundle as tiny
from forged import ENCODE, MANIFEST, SIGNATURE, forge
from golden_files import GOLDEN

from edgeadapt.bundle import (
    FACTORY,
    FROZEN,
    GUARD,
    Bundle,
    _container,
    _external_data,
    _weights,
    read_bundle,
    write_bundle,
)
from edgeadapt.bundle._container import pack
from edgeadapt.bundle._space import TensorHashes
from edgeadapt.bundle.codec import decode_manifest, encode_manifest
from edgeadapt.bundle.signature import encode_signature, generate_key, key_id, sign
from edgeadapt.errors import BundleError

VECTORS = GOLDEN / "vectors.edge"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, keys: tuple[bytes, str]) -> Bundle:
    """Version 3 of a bundle with an encoder, signed."""
    manifest, graphs, weights = forged.parts(version=3)
    return write_bundle(
        tmp_path_factory.mktemp("made") / "tiny.edge", manifest, graphs, weights, tiny.CARD, keys[0]
    )


@pytest.fixture
def members(made: Bundle) -> dict[str, bytes]:
    return tiny.members_of(made.path.read_bytes())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bad.edge"


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(BundleError, match=message):
        read_bundle(path, **options)


# -- who signed ------------------------------------------------------------------------------------
def test_a_key_is_trusted_by_text_by_path_alone_and_among_others(
    made: Bundle, keys: tuple[bytes, str], tmp_path: Path
) -> None:
    public, file = keys[1], tmp_path / "factory.pub"
    file.write_text(public + "\n")
    for trust in (public, file, str(file), [public], [file], (generate_key()[1], str(file))):
        assert read_bundle(made.path, trust=trust).signed_by == key_id(public)
    refused(
        made.path,
        f"unknown key {key_id(public)}; trusted: [0-9a-f]{{16}}, [0-9a-f]{{16}}$",
        trust=[generate_key()[1], generate_key()[1]],
    )
    # an empty setting is not no setting
    refused(made.path, "neither a public key .* nor a readable file", trust="")
    refused(made.path, "neither a public key .* nor a readable file", trust=[tmp_path / "gone.pub"])


def test_a_stripped_signature_is_refused_where_one_is_required_and_named(
    members: dict[str, bytes], keys: tuple[bytes, str], path: Path
) -> None:
    path.write_bytes(pack((name, data) for name, data in members.items() if name != SIGNATURE))
    assert read_bundle(path).signed_by is None
    for options in ({"trust": keys[1]}, {"require_signature": True}):
        refused(
            path, r"bad.edge: manifest.sig: absent; an unsigned bundle is refused here", **options
        )
    refused(path, "neither a public key .* nor a readable file", trust="/nowhere/key.pub")


def test_the_signature_of_another_manifest_of_the_same_maker_is_refused(
    members: dict[str, bytes], keys: tuple[bytes, str], path: Path
) -> None:
    other = encode_signature(
        sign(members[MANIFEST].replace(b'"version": 3', b'"version": 4'), keys[0])
    )
    path.write_bytes(pack((members | {SIGNATURE: other}).items()))
    for trust in ((), keys[1]):
        refused(
            path,
            f"the signature of key {key_id(keys[1])} does not match manifest.json",
            trust=trust,
        )


def test_everything_hashed_and_signed_again_by_a_stranger_is_refused_by_trust_alone(
    members: dict[str, bytes], keys: tuple[bytes, str], path: Path
) -> None:
    stranger, public = generate_key()
    forge(path, members, key=stranger, manifest={"classes": ["scratch", "ok"]})
    # without trust a signature says that nothing is damaged, not more
    assert read_bundle(path).manifest.classes == ("scratch", "ok")
    refused(
        path,
        f"signed by the unknown key {key_id(public)}; trusted: {key_id(keys[1])}",
        trust=keys[1],
    )


def test_a_raised_version_needs_a_new_signature(
    made: Bundle, members: dict[str, bytes], keys: tuple[bytes, str], path: Path
) -> None:
    assert made.manifest.version == 3
    path.write_bytes(
        pack(
            (
                members | {MANIFEST: members[MANIFEST].replace(b'"version": 3', b'"version": 9')}
            ).items()
        )
    )
    refused(path, "does not match manifest.json", trust=keys[1])


# -- what was changed ------------------------------------------------------------------------------
@pytest.mark.parametrize("member", [ENCODE, tiny.LEARN, FROZEN, FACTORY, GUARD, "card.json"])
def test_an_edited_member_is_named_although_the_signature_is_right(
    member: str, members: dict[str, bytes], keys: tuple[bytes, str], path: Path
) -> None:
    edited = members[member][:-1] + bytes([members[member][-1] ^ 1])
    path.write_bytes(pack((members | {member: edited}).items()))
    refused(path, f"{member}: its sha256 is not that of the manifest; it was edited", trust=keys[1])


def test_added_and_removed_members_are_named(
    members: dict[str, bytes], keys: tuple[bytes, str], path: Path
) -> None:
    path.write_bytes(
        pack(({MANIFEST: members[MANIFEST], "graphs/a.onnx": members[ENCODE]} | members).items())
    )
    refused(path, "graphs/a.onnx: not listed in the manifest", trust=keys[1])
    for name in (ENCODE, GUARD, "card.json"):
        path.write_bytes(pack((n, data) for n, data in members.items() if n != name))
        refused(path, f"{name}: listed in the manifest but absent", trust=keys[1])
        rest = {n: data for n, data in members.items() if n != name}
        if name != GUARD:  # a bundle may do without guard samples
            refused(forge(path, rest), f"{name}: absent")
    forge(path, members | {"weights/more.safetensors": members[GUARD]})
    refused(path, "weights/more.safetensors: no graph of the manifest and no known weight file")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 0}, r"manifest.json: Expected `int` >= 1 - at `\$.format`"),
        (
            {"format": 3, "provenance": {"edgeadapt": "7.1"}},
            "manifest.json: format 3 is newer than 2.*written by edgeadapt 7.1",
        ),
        ({"version": 0}, r"manifest.json: Expected `int` >= 1 - at `\$.version`"),
        ({"version": "3"}, r"manifest.json: Expected `int`, got `str` - at `\$.version`"),
        ({"trust": "me"}, "manifest.json: Object contains unknown field `trust`"),
        ({"members": {}}, "card.json: not listed in the manifest"),
        ({"graphs": []}, "graphs/encode.onnx: no graph of the manifest"),
        (
            {"tensors": []},
            "manifest.json: graphs/encode.onnx uses the undeclared tensor 'encoder.weight'",
        ),
    ],
)
def test_a_manifest_that_was_changed_and_signed_again_is_refused(
    fields: dict[str, Any],
    message: str,
    members: dict[str, bytes],
    keys: tuple[bytes, str],
    path: Path,
) -> None:
    refused(
        forge(path, members, key=keys[0], manifest=fields, rehash="members" not in fields),
        f"bad.edge: {message}",
        trust=keys[1],
    )


def test_a_bundle_replaced_on_disk_while_it_is_open_is_never_half_of_each(
    made: Bundle, members: dict[str, bytes], tmp_path: Path, path: Path
) -> None:
    path.write_bytes(made.path.read_bytes())
    open_one = read_bundle(path)
    before = open_one.weights(FACTORY)["ridge.gram"].copy()
    forge(tmp_path / "next.edge", members | {"card.json": b"{}"}, manifest={"version": 4})
    (tmp_path / "next.edge").replace(path)
    assert open_one.manifest.version == 3 and read_bundle(path).manifest.version == 4
    # the same member, wherever it lies now
    np.testing.assert_array_equal(open_one.weights(FACTORY)["ridge.gram"], before)
    forge(tmp_path / "next.edge", members | {tiny.LEARN: members[tiny.LEARN] + b"\0\0"})
    (tmp_path / "next.edge").replace(path)
    with pytest.raises(
        BundleError, match=r"bad.edge: graphs/learn.onnx: changed since the bundle was opened"
    ):
        open_one.graph(tiny.LEARN)
    assert open_one.graph(ENCODE) == forged.encoder_model()


# -- whose features --------------------------------------------------------------------------------
def swapped_graph(members: dict[str, bytes]) -> dict[str, bytes]:
    return members | {ENCODE: forged.encoder_model("Tanh")}


def flipped(position: Callable[[bytes], int]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def build(members: dict[str, bytes]) -> dict[str, bytes]:
        data = bytearray(members[FROZEN])
        # the last bit of a float: finite, and hardly another value
        data[position(members[FROZEN])] ^= 1
        return members | {FROZEN: bytes(data)}

    return build


def at(name: str) -> Callable[[bytes], int]:
    """Position of the first byte of a tensor."""

    def position(data: bytes) -> int:
        length = int.from_bytes(data[:8], "little")
        return 8 + length + int(json.loads(data[8 : 8 + length])[name]["data_offsets"][0])

    return position


@pytest.mark.parametrize(
    "attack",
    [
        swapped_graph,
        flipped(at("encoder.weight")),
        flipped(at("taps.bias")),
        flipped(at("encoder.head.weight")),
    ],
)
@pytest.mark.parametrize("is_signed", [False, True])
def test_another_encoder_under_the_same_space_is_refused_although_every_hash_is_right(
    attack: Callable[[dict[str, bytes]], dict[str, bytes]],
    is_signed: bool,
    members: dict[str, bytes],
    keys: tuple[bytes, str],
    path: Path,
) -> None:
    forge(path, attack(members), key=keys[0] if is_signed else None)
    refused(
        path,
        r"bad.edge: manifest.json: the encoder is not the one that the feature space names \(space"
        r" [0-9a-f]{12}, this encoder [0-9a-f]{12}\); it was swapped",
    )


def test_what_is_not_of_the_encoder_may_change_under_the_same_space(
    members: dict[str, bytes], path: Path
) -> None:
    forge(path, flipped(at("stem.whiten"))(members))
    assert read_bundle(path).manifest.space == decode_manifest(members[MANIFEST]).space


def test_a_swapped_encoder_is_not_written_either(tmp_path: Path) -> None:
    manifest, graphs, weights = forged.parts()
    with pytest.raises(
        BundleError, match="the encoder is not the one that the feature space names"
    ):
        write_bundle(
            tmp_path / "a.edge",
            manifest,
            graphs | {ENCODE: forged.encoder_model("Tanh")},
            weights,
            {},
        )
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_from_before_there_were_versions_opens_as_version_1() -> None:
    assert b'"version"' not in tiny.members_of(VECTORS.read_bytes())[MANIFEST]
    bundle = read_bundle(VECTORS)
    assert bundle.manifest.version == 1 and not any(
        spec.receipt for spec in bundle.manifest.tensors
    )
    assert decode_manifest(encode_manifest(bundle.manifest)) == bundle.manifest


def frozen_file(header: str, values: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + values


@pytest.mark.parametrize("size", [1, 3, 7, 64, 10_000])
def test_tensors_are_hashed_alike_in_blocks_of_any_size(
    size: int, members: dict[str, bytes]
) -> None:
    names = forged.encoder_values().keys() - {"encoder.head.weight"}
    hashes, data = TensorHashes(names), members[FROZEN]
    for start in range(0, len(data), size):
        hashes.update(data[start : start + size])
    assert hashes.result() == {
        name: hashlib.sha256(value.tobytes()).digest()
        for name, value in forged.encoder_values().items()
        if name in names
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a.b is cut off"),
        (frozen_file("{", b""), "truncated"),
        (frozen_file("{}", b"1234"), "a.b is cut off"),
        (
            frozen_file(
                '{"a.b": {"data_offsets": [0, 8]}, "a.c": {"data_offsets": [8, 9]}}', b"1234"
            ),
            "a.b is cut off",
        ),
        (
            frozen_file(
                '{"a.b": {"data_offsets": [0, 4]}, "a.c": {"data_offsets": [2, 4]}}', b"1234"
            ),
            "a.c lies at bytes 2 to 4, but the tensor before it ends at 4",
        ),
        (
            frozen_file(
                '{"a.b": {"data_offsets": [-4, 4]}, "a.c": {"data_offsets": [4, 4]}}', b"1234"
            ),
            "a.b lies at bytes -4 to 4",
        ),
        (
            frozen_file(
                '{"a.b": {"data_offsets": [3, 1]}, "a.c": {"data_offsets": [3, 4]}}', b"1234"
            ),
            "a.b lies at bytes 3 to 1",
        ),
        (
            frozen_file('{"a.b": {"data_offsets": [1e400, 1]}, "a.c": {}}', b"1234"),
            "Number out of range",
        ),
        ((1 << 40).to_bytes(8, "little") + b"x" * 5_000_000, "malformed"),
    ],
)
def test_a_weight_file_whose_tensors_cannot_be_told_apart_is_refused(
    data: bytes, message: str
) -> None:
    hashes = TensorHashes(["a.b", "a.c"])
    for start in range(0, len(data), 1 << 20):
        hashes.update(data[start : start + (1 << 20)])
    with pytest.raises(
        BundleError, match=rf"frozen.safetensors: not a safetensors file: .*{message}"
    ):
        hashes.result()


def test_a_name_listed_twice_means_the_same_to_the_check_and_to_the_loader(
    members: dict[str, bytes], path: Path
) -> None:
    """If one parser took the first of two entries and the other the last, each would see another
    encoder.
    """
    data = members[FROZEN]
    length = int.from_bytes(data[:8], "little")
    honest = json.loads(data[8 : 8 + length])
    bias, head = honest["taps.bias"], honest["encoder.head.weight"]  # of one size
    swapped = {
        "taps.bias": {**bias, "data_offsets": head["data_offsets"]},
        "encoder.head.weight": {**head, "data_offsets": bias["data_offsets"]},
    }

    def listing(*entries: dict[str, Any]) -> bytes:
        header = ",".join(
            f"{json.dumps(name)}:{json.dumps(value)}"
            for part in entries
            for name, value in part.items()
        )
        return frozen_file("{" + header + "}", data[8 + length :])

    forge(path, members | {FROZEN: listing(swapped, honest)})
    for name, value in forged.encoder_values().items():
        np.testing.assert_array_equal(read_bundle(path).frozen[name], value)
    forge(path, members | {FROZEN: listing(honest, swapped)})
    refused(path, "the encoder is not the one that the feature space names")


# -- receipts --------------------------------------------------------------------------------------
def with_receipt(**changes: Any) -> bytes:
    """A manifest whose count gives a receipt when it learns, and redeems it."""
    manifest = tiny.manifest()
    receipt = msgspec.structs.replace(manifest.graphs[0].outputs[0], name="receipt")
    learn = msgspec.structs.replace(
        manifest.graphs[1], writes=("ridge.gram", "ridge.count"), outputs=(receipt,)
    )
    redeem = msgspec.structs.replace(
        learn, file="graphs/redeem.onnx", roles=("redeem",), writes=("ridge.count",), outputs=()
    )
    graphs = {"learn": learn, "redeem": redeem} | changes
    tensors = tuple(
        msgspec.structs.replace(s, receipt=s.name == changes.get("tensor", "ridge.count"))
        for s in manifest.tensors
    )
    return encode_manifest(
        msgspec.structs.replace(
            manifest,
            tensors=tensors,
            graphs=(manifest.graphs[0], graphs["learn"], graphs["redeem"]),
        )
    )


def test_a_tensor_whose_part_of_a_sample_a_receipt_tells_is_kept_as_such() -> None:
    manifest = decode_manifest(with_receipt())
    assert [spec.name for spec in manifest.tensors if spec.receipt] == ["ridge.count"]
    assert manifest.graphs_for("redeem")[0].writes == ("ridge.count",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tensor": "ridge.weight"},
            "ridge.weight has receipt = true, but its kind is derived; only evidence",
        ),
        (
            {"tensor": "ridge.gram"},
            "ridge.gram has receipt = true, but no graph with the role 'redeem' writes it",
        ),
        (
            {"learn": tiny.manifest().graphs[1], "tensor": "ridge.gram"},
            "no graph with the role 'redeem' writes it",
        ),
        (
            {"learn": msgspec.structs.replace(tiny.manifest().graphs[1], writes=("ridge.count",))},
            (
                "ridge.count has receipt = true, but graphs/learn.onnx learns it without the output"
                " 'receipt'"
            ),
        ),
        (
            {
                "redeem": msgspec.structs.replace(
                    tiny.manifest().graphs[1], roles=("redeem",), writes=()
                )
            },
            "claims the role 'redeem' but has no tensor that it writes",
        ),
    ],
)
def test_a_receipt_that_nobody_gives_or_takes_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        decode_manifest(with_receipt(**changes))


def test_the_documented_limits_are_those_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    rows = dict(
        line.strip("| ").split(" | ")
        for line in page.split("## Limits")[1].splitlines()
        if line.startswith("| ") and line[-3].isdigit()
    )
    assert rows == {
        "archive, bytes": str(_container.MAX_ARCHIVE_BYTES),
        "members": str(_container.MAX_MEMBERS),
        "list of members at the end of the archive, bytes": str(
            _container.MAX_MEMBERS * (_container._CENTRAL.size + _container._MAX_NAME)
        ),
        "`manifest.json`, bytes": str(_container.MAX_MANIFEST_BYTES),
        "`manifest.sig`, bytes": str(_container.MAX_SIGNATURE_BYTES),
        "`card.json`, bytes": str(_container.MAX_CARD_BYTES),
        "header of a weight file, bytes": str(_weights._MAX_HEADER_BYTES),
        "nesting of an ONNX model": str(_external_data._MAX_DEPTH),
        "fields of an ONNX model that are looked at": str(_external_data._MAX_FIELDS),
    }


def test_the_documented_tests_are_there() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[a-z_/.]+)`", page))
    assert len(named) > 8 and [name for name in sorted(named) if not (root / name).exists()] == []
