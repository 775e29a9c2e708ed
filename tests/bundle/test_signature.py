"""Keys, signatures, and who is trusted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import tiny_bundle as tiny
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgeadapt.bundle import read_bundle
from edgeadapt.bundle._container import pack
from edgeadapt.bundle.signature import (
    decode_signature,
    encode_signature,
    generate_key,
    key_id,
    load_public_key,
    sign,
    verify,
    write_keypair,
)
from edgeadapt.errors import BundleError


def test_a_key_pair_is_private_and_never_overwritten(tmp_path: Path) -> None:
    public = write_keypair(tmp_path / "key")
    private = (tmp_path / "key").read_bytes()
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (
        load_public_key(tmp_path / "key.pub")
        == load_public_key(str(tmp_path / "key.pub"))
        == load_public_key(public)
        == public
    )
    assert verify(b"m", sign(b"m", private), [public]) == key_id(public)
    for survivor in ("key", "key.pub"):
        (tmp_path / ("key.pub" if survivor == "key" else "key")).unlink(missing_ok=True)
        with pytest.raises(BundleError, match="never overwritten"):
            write_keypair(tmp_path / "key")
        if survivor == "key":
            assert (tmp_path / "key").read_bytes() == private
            (tmp_path / "key.pub").write_text(public)
    with pytest.raises(BundleError, match="cannot be written"):
        write_keypair(tmp_path / "no" / "key")


def test_no_message_shows_a_private_key_that_was_taken_for_a_public_one(tmp_path: Path) -> None:
    write_keypair(tmp_path / "key")
    (tmp_path / "pipe").write_text("b3BlbnNzaC1rZXktdjEAAAAA")
    private = (tmp_path / "key").read_text()
    secret = private.splitlines()[1]
    for given in (
        tmp_path / "key",
        private,
        private.strip(),
        secret,
        f"ed25519:{secret}",
        tmp_path / "pipe",
    ):
        with pytest.raises(BundleError) as refused:
            load_public_key(given)
        said = str(refused.value)
        is_shown = given != secret and any(
            text[at : at + 12] in said
            for text in (secret, "b3BlbnNzaC1rZXk")
            for at in range(len(text) - 11)
        )
        assert not is_shown and "\n" not in said
        assert ("private key" in said and ".pub" in said) == (
            given in (tmp_path / "key", private, private.strip())
        )
        assert str(tmp_path) in said or not isinstance(given, Path)


def test_signatures_survive_their_file_and_bind_message_and_key() -> None:
    private, public = generate_key()
    signature = decode_signature(encode_signature(sign(b"manifest", private)))
    assert (
        verify(b"manifest", signature)
        == verify(b"manifest", signature, [generate_key()[1], public])
        == key_id(public)
    )
    with pytest.raises(BundleError, match=f"the signature of key {key_id(public)} does not match"):
        verify(b"manifesT", signature, [public])
    with pytest.raises(BundleError, match=f"unknown key {key_id(public)}"):
        verify(b"manifest", signature, [generate_key()[1]])
    other = sign(b"manifest", generate_key()[0])
    stolen = decode_signature(
        encode_signature(signature).replace(
            signature.public_key.encode(), other.public_key.encode()
        )
    )
    with pytest.raises(BundleError, match="is not that of its public key"):
        verify(b"manifest", stolen, [public])


@pytest.mark.parametrize(
    "text",
    [
        "ed25519:",
        "ed25519:AAAA",
        "ed25519:" + "A" * 42 + "B=",
        "ed25519:" + "A" * 44 + "\n\n!",
        "/nowhere/key.pub",
    ],
)
def test_what_is_not_a_public_key_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match="public key"):
        load_public_key(text)


def test_what_is_not_an_ed25519_private_key_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )
    for bad in (pem, locked, b"", b"-----BEGIN"):
        with pytest.raises(BundleError, match="private key"):
            sign(b"m", bad)


def test_trust_decides_who_may_have_signed(
    signed: Path, unsigned: Path, keys: tuple[bytes, str]
) -> None:
    known = key_id(keys[1])
    assert read_bundle(signed).signed_by == read_bundle(signed, trust=[keys[1]]).signed_by == known
    assert read_bundle(unsigned).signed_by is None
    with pytest.raises(
        BundleError, match=f"tiny.edge: manifest.sig: signed by the unknown key {known}"
    ):
        read_bundle(signed, trust=[generate_key()[1]])
    for options in ({"require_signature": True}, {"trust": [keys[1]]}):
        with pytest.raises(
            BundleError, match=r"manifest.sig: absent; an unsigned bundle is refused"
        ):
            read_bundle(unsigned, **options)  # type: ignore[arg-type]


def test_an_edited_manifest_needs_a_new_signature(
    signed: Path, tmp_path: Path, keys: tuple[bytes, str]
) -> None:
    members = tiny.members_of(signed.read_bytes())
    edited = members | {
        "manifest.json": members["manifest.json"].replace(b'"scratch"', b'"scraped"')
    }
    path = tmp_path / "edited.edge"
    path.write_bytes(pack(edited.items()))
    for trust in ((), [keys[1]]):
        with pytest.raises(BundleError, match=r"does not match manifest.json"):
            read_bundle(path, trust=trust)
    mallory = generate_key()[0]
    path.write_bytes(
        pack(
            (
                edited | {"manifest.sig": encode_signature(sign(edited["manifest.json"], mallory))}
            ).items()
        )
    )
    assert read_bundle(path).manifest.classes[0] == "scraped"
    with pytest.raises(BundleError, match="unknown key"):
        read_bundle(path, trust=[keys[1]])


@pytest.mark.parametrize(
    "sig", [b"", b"\xff", b"[" * 4000, b"{}", b'"' * 5000, b'{"key_id": "zz"}']
)
def test_a_malformed_signature_is_refused(sig: bytes, signed: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.edge"
    path.write_bytes(pack((tiny.members_of(signed.read_bytes()) | {"manifest.sig": sig}).items()))
    with pytest.raises(BundleError, match=r"manifest.sig: "):
        read_bundle(path)


def test_openssl_verifies_the_signature(
    signed: Path, tmp_path: Path, keys: tuple[bytes, str]
) -> None:
    import base64
    import shutil

    if not shutil.which("openssl"):
        pytest.skip("no openssl here")
    members = tiny.members_of(signed.read_bytes())
    files = {
        "m": members["manifest.json"],
        "s": base64.b64decode(decode_signature(members["manifest.sig"]).signature),
        "k": keys[0],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-inkey",
        "k",
        "-rawin",
        "-in",
        "m",
        "-sigfile",
        "s",
    ]
    assert (
        b"Successfully"
        in subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    )
