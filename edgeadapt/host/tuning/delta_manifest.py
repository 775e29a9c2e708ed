"""What a delta file says of itself, in the order of its numbers: sites, then whole parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from edgeadapt.bundle._fields import Positive, Sha256, Strict
from edgeadapt.bundle.schema import Member
from edgeadapt.errors import BundleError, InputError
from edgeadapt.host.tuning.codecs import Codec, codec

FORMAT = 1

Shape = Annotated[tuple[Positive, ...], Meta(max_length=8)]
Text = Annotated[str, Meta(min_length=1, max_length=256)]
_NUMBER = "[1-9][0-9]{0,9}"
Row = Annotated[str, Meta(pattern=f"^{_NUMBER}[+]?( ([-.]|{_NUMBER}(x{_NUMBER}){{0,7}}))*$")]
"""A site's size, with a ``+`` if it ends a residual branch, and the shape of each of its values:
``"4 1x4x96 1x24x4"``; ``.`` for a single number, ``-`` where the site has no such value. JSON
arrays of it would be half as long again.
"""


class DeltaManifest(Strict, frozen=True, kw_only=True):
    """The first member of a delta file; its signature covers the others through their hashes."""

    format: Positive = FORMAT
    name: Text
    base: Sha256  # ``fingerprint`` of the network that was tuned
    delta: Text
    options: dict[str, Any]
    start: str = ""  # names; empty: the delta's own start, and no score
    score: str = ""
    values: tuple[Text, ...]  # names of what a site trains
    constants: tuple[Text, ...] = ()  # and of what it keeps
    sites: dict[str, Row]  # by path, in the order in which they run
    whole: dict[str, Shape]  # parameters trained as they are
    left_out: tuple[Text, ...] = ()  # and those that are not here; ``base`` does not know them
    codec: str
    whole_codec: str
    classes: tuple[str, ...] = ()
    seed: int = 0
    created: str  # UTC, ISO 8601
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Of every site."""
        return {path: int(row.split(" ")[0].rstrip("+")) for path, row in self.sites.items()}

    @property
    def branch_ends(self) -> set[str]:
        """Sites that end a residual branch, which only a run of the network shows."""
        return {path for path, row in self.sites.items() if "+" in row}

    def tensors(self) -> Iterator[tuple[str, Shape, Codec]]:
        """Name, shape and codec of every tensor, in the order in which they are stored."""
        for path, row in self.sites.items():
            shapes = row.split(" ")[1:]
            for name, shape in zip((*self.values, *self.constants), shapes, strict=True):
                if shape != "-":
                    sides = shape.split("x") if shape != "." else ()
                    yield f"{path}:{name}", tuple(map(int, sides)), codec(self.codec)
        yield from ((name, shape, codec(self.whole_codec)) for name, shape in self.whole.items())

    def nbytes(self) -> int:
        """Of all tensors, as they are stored."""
        return sum(kind.nbytes(shape) for _, shape, kind in self.tensors())


def encode_manifest(manifest: DeltaManifest) -> bytes:
    """One line; fields in the order of the struct, sites in the order of the plan."""
    return msgspec.json.encode(manifest)


def decode_manifest(data: bytes) -> DeltaManifest:
    """Parse and check.

    Raises:
        BundleError: not JSON, a newer format, an unknown field, or fields that disagree.
    """
    try:
        peek: Any = msgspec.json.decode(data)
        written = peek.get("format") if isinstance(peek, dict) else None
        if isinstance(written, int) and written > FORMAT:
            raise BundleError(
                f"manifest.json: format {written} is newer than {FORMAT}, which this version reads"
            )
        manifest = msgspec.json.decode(data, type=DeltaManifest)
        for name in (manifest.codec, manifest.whole_codec):
            codec(name)
    except (ValueError, RecursionError, InputError) as error:  # msgspec's errors are ValueErrors
        raise BundleError(f"manifest.json: {error}") from None
    names = (*manifest.values, *manifest.constants)
    if len(set(names)) != len(names):
        raise BundleError("manifest.json: two values of a site have one name")
    for path, row in manifest.sites.items():
        if row.count(" ") != len(names):
            raise BundleError(f"manifest.json: {path} has {row!r}, for {len(names)} values")
    return manifest


def row_of(size: int, ends_branch: bool, shapes: Iterable[tuple[int, ...] | None]) -> str:
    """What a manifest has of one site."""
    words = ("-" if one is None else "x".join(map(str, one)) or "." for one in shapes)
    return " ".join([f"{size}{'+' if ends_branch else ''}", *words])


__all__ = [
    "FORMAT",
    "DeltaManifest",
    "decode_manifest",
    "encode_manifest",
    "row_of",
]
