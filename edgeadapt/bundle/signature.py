"""Who made a bundle: an ed25519 signature over the bytes of its manifest, which holds the hash of
every other member.

A public key is written as one line, ``ed25519:`` and the base64 of its 32 bytes, so that it fits
into a configuration file; a private key is an unencrypted PKCS 8 PEM, so that ``openssl`` reads it
too.

``cryptography`` is imported where a key is used: an unsigned bundle opens without it, some 15 ms
earlier.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgeadapt.errors import BundleError

_MEMBER = "manifest.sig"
_PREFIX = "ed25519:"
_PRIVATE = "PRIVATE KEY"  # in the first line of a PEM

KeyId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of ``manifest.sig``. Its own public key makes damage visible; only a trusted key
    says who signed.
    """

    algorithm: Literal["ed25519"] = "ed25519"
    key_id: KeyId  # first 16 hexadecimal digits of the sha256 of the raw public key
    public_key: Annotated[str, Meta(pattern="^[A-Za-z0-9+/]{43}=$")]  # base64 of 32 bytes
    signature: Annotated[str, Meta(pattern="^[A-Za-z0-9+/]{86}==$")]  # base64 of 64 bytes


def generate_key() -> tuple[bytes, str]:
    """A new key pair.

    Returns:
        The private key as PEM bytes, and the public key as one line of text.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, _PREFIX + base64.b64encode(key.public_key().public_bytes_raw()).decode()


def write_keypair(path: str | Path) -> str:
    """Write a new private key to ``path`` (mode 0600) and its public key to ``path.pub``.

    Returns:
        The public key as text.

    Raises:
        BundleError: either file exists (a key is never overwritten) or cannot be written.
    """
    private, public = generate_key()
    path = Path(path)
    public_path = path.with_name(path.name + ".pub")
    if public_path.exists():
        raise BundleError(f"{public_path}: exists; a key is never overwritten, choose another name")
    made: list[Path] = []
    try:
        for target, content, mode in (
            (path, private, 0o600),
            (public_path, public.encode() + b"\n", 0o644),
        ):
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                made.append(target)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    except FileExistsError as error:
        for target in made:
            target.unlink(missing_ok=True)
        raise BundleError(
            f"{error.filename}: exists; a key is never overwritten, choose another name"
        ) from None
    except OSError as error:
        for target in made:  # half a key is none, and would keep the name from being used again
            target.unlink(missing_ok=True)
        raise BundleError(
            f"{path}: the key cannot be written: {error.strerror}; nothing was left"
        ) from error
    return public


def load_public_key(text_or_path: str | Path) -> str:
    """A public key from its text or from the file that holds it, in canonical text.

    Raises:
        BundleError: no such file, or not a public key of ours.
    """
    text, where = str(text_or_path).strip(), "the public key"
    if not text.startswith(_PREFIX):
        if "\n" in text or _PRIVATE in text:  # the content of a key file, which no message may show
            raise BundleError(f"the public key: {_what_is(text)}")
        where = text
        try:
            text = Path(text_or_path).read_text("ascii").strip()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not ASCII"
            raise BundleError(
                f"{where}: neither a public key ('ed25519:...') nor a readable file with one: {why}"
            ) from None
    if _bytes_of(text) is None:
        raise BundleError(f"{where}: {_what_is(text)}")
    return text


def _what_is(text: str) -> str:
    """Of a text that is no public key, what to do. It may be a secret, so none of it is shown."""
    if _PRIVATE in text:
        return (
            "this is a private key, which stays where it was made; pass the public one, the file"
            " beside it that ends in .pub"
        )
    return f"not a public key; expected '{_PREFIX}' and the base64 of 32 bytes"


def key_id(public: str) -> str:
    """The first 16 hexadecimal digits of the sha256 of the raw public key."""
    return hashlib.sha256(_raw(public)).hexdigest()[:16]


def sign(manifest: bytes, private_pem: bytes) -> Signature:
    """Sign the bytes of a manifest.

    Raises:
        BundleError: not an unencrypted ed25519 private key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(private_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BundleError(f"{_MEMBER}: the private key cannot be read: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(
            f"{_MEMBER}: the private key is not ed25519; make one with 'edgeadapt keygen'"
        )
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    return Signature(
        key_id=key_id(_PREFIX + public),
        public_key=public,
        signature=base64.b64encode(key.sign(manifest)).decode(),
    )


def verify(manifest: bytes, signature: Signature, trusted_keys: Sequence[str | Path] = ()) -> str:
    """Check a signature.

    Args:
        manifest: the bytes of ``manifest.json``.
        signature: the content of ``manifest.sig``.
        trusted_keys: public keys, as text or paths. Empty: any signer is accepted, only damage is
            found.

    Returns:
        The key id of the signer.

    Raises:
        BundleError: the signature is wrong, or its key is not trusted (the message has the key id).
    """
    public = _PREFIX + signature.public_key
    if key_id(public) != signature.key_id:
        raise BundleError(f"{_MEMBER}: its key id {signature.key_id} is not that of its public key")
    trusted = [load_public_key(key) for key in trusted_keys]
    if trusted and public not in trusted:
        raise BundleError(
            f"{_MEMBER}: signed by the unknown key {signature.key_id}; trusted:"
            f" {', '.join(map(key_id, trusted))}"
        )
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(_raw(public)).verify(
            base64.b64decode(signature.signature), manifest
        )
    except (InvalidSignature, ValueError):
        raise BundleError(
            f"{_MEMBER}: the signature of key {signature.key_id} does not match manifest.json"
        ) from None
    return signature.key_id


def check_signature(
    manifest: bytes,
    given: bytes | None,
    trusted_keys: Sequence[str | Path],
    is_required: bool,
    what: str = "bundle",
) -> str | None:
    """As :func:`verify`, of a file that may have no signature.

    Args:
        given: the bytes of ``manifest.sig``, None without one.
        is_required: refuse a file without one.
        what: is signed, for the message.

    Returns:
        The key id of the signer; None if nobody signed.

    Raises:
        BundleError: the signature is wrong, its key is not trusted, or it is absent and required.
    """
    if given is not None:
        return verify(manifest, decode_signature(given), trusted_keys)
    if is_required:
        for key in trusted_keys:
            load_public_key(key)  # one that cannot be read is what is wrong first
        raise BundleError(f"{_MEMBER}: absent; an unsigned {what} is refused here")
    return None


def encode_signature(signature: Signature) -> bytes:
    """The bytes of ``manifest.sig``."""
    return msgspec.json.format(msgspec.json.encode(signature, order="sorted"), indent=2)


def decode_signature(data: bytes) -> Signature:
    """Parse ``manifest.sig``.

    Raises:
        BundleError: not JSON, or not a signature of ours.
    """
    try:
        return msgspec.json.decode(data, type=Signature)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{_MEMBER}: {error}") from None


def signature_schema() -> dict[str, Any]:
    """JSON schema of ``manifest.sig``, committed as ``docs/format/signature.schema.json``."""
    return msgspec.json.schema(Signature)


def _raw(public: str) -> bytes:
    """The 32 bytes of a public key in its one canonical spelling."""
    raw = _bytes_of(public)
    if raw is None:
        raise BundleError(f"the public key: {_what_is(public)}")
    return raw


def _bytes_of(public: str) -> bytes | None:
    """As ``_raw``; None if it is no public key."""
    try:
        raw = base64.b64decode(public.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == 32 and _PREFIX + base64.b64encode(raw).decode() == public else None
