"""``NAME.delta``: what tuning leaves, in the container and under the keys of a bundle.

Members: the manifest, the numbers as one safetensors tensor of bytes, the figures, a signature. A
tensor of its own for every value would cost more bytes than most values have. Equal content gives
an equal file.

``torch`` is imported where a network is touched: reading a file needs none.
"""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeadapt._durable import replace_file
from edgeadapt.bundle import _container as container
from edgeadapt.bundle._container import CARD, MANIFEST, SIGNATURE
from edgeadapt.bundle.schema import Member
from edgeadapt.bundle.signature import check_signature, encode_signature, sign
from edgeadapt.errors import BundleError, InputError
from edgeadapt.host.tuning.codecs import whole_codec
from edgeadapt.host.tuning.delta_manifest import (
    DeltaManifest,
    decode_manifest,
    encode_manifest,
    row_of,
)
from edgeadapt.paths import check_path

if TYPE_CHECKING:
    from torch import nn

    from edgeadapt.host.tuning.plan import Plan
    from edgeadapt.host.tuning.run import Tuned

VALUES = "weights/values.safetensors"

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class About:
    """What a file says beside its numbers.

    Attributes:
        name: of the delta, usually that of the file.
        start, score: names; empty: the delta's own start, and no score.
        classes: names, in the order of the classifier's outputs.
        seed: of the run.
        created: UTC, ISO 8601; empty: now.
        figures: of the run; anything JSON can hold.
        codec: of the numbers inside the encoder, constants included.
        whole_codec: of the parameters that were trained whole.
        left_out: parameters that were trained, are not here, and may be any.
    """

    name: str
    start: str = ""
    score: str = ""
    classes: tuple[str, ...] = ()
    seed: int = 0
    created: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    codec: str = "float16"
    whole_codec: str = "float16"
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class DeltaFile:
    """A delta file that passed every check.

    Attributes:
        path: of the file.
        manifest: delta, options, sites with their sizes, whole parameters, classes.
        values: read-only float32 arrays as their codec gives them back, by ``"SITE:NAME"`` and by
            the names of whole parameters.
        figures: of the run that made it.
        signed_by: key id of the signer; without ``trust`` it says undamaged, not who made it.
        sha256: of the bytes of the manifest.
        bytes: size of the file.
    """

    path: Path
    manifest: DeltaManifest
    values: Arrays
    figures: dict[str, Any]
    signed_by: str | None
    sha256: str
    bytes: int


def write_delta(
    path: str | Path,
    base: nn.Module,
    plan: Plan,
    values: Mapping[str, Any],
    about: About,
    *,
    private_key: bytes | None = None,
) -> DeltaFile:
    """Write a delta; the file appears whole or not at all, and only if :func:`read_delta` accepts
    it.

    Args:
        path: where to, usually ``NAME.delta``; an existing file is replaced.
        base: the network that was tuned, as it was before; the plan's sites are its own.
        plan: what was tuned.
        values: tensors or arrays by their names in the plan; those of a site that the plan does not
            train are its constants.
        about: the rest.
        private_key: PEM of an ed25519 key; without it the file is unsigned.

    Raises:
        InputError: a value is missing, has another shape, belongs to no site, or is nothing that
            its codec can hold; the message names it.
        BundleError: the file cannot be written.
    """
    path = check_path(path, "a delta file")
    arrays = {name: np.asarray(_on_cpu(value), np.float32) for name, value in values.items()}
    manifest = _manifest(base, plan, arrays, about)
    blob = bytearray()
    for name, shape, kind in manifest.tensors():
        if arrays[name].shape != shape:
            raise InputError(f"{name} has the shape {arrays[name].shape}, the plan has {shape}")
        try:
            blob += kind.encode(arrays[name])
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    contents = {VALUES: _header(len(blob)) + bytes(blob)}
    try:
        contents[CARD] = msgspec.json.encode(dict(about.figures), order="sorted")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"figures: {error}") from None
    members = {
        name: Member(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in contents.items()
    }
    contents[MANIFEST] = encode_manifest(msgspec.structs.replace(manifest, members=members))
    with container.naming(path):
        if private_key is not None:
            contents[SIGNATURE] = encode_signature(sign(contents[MANIFEST], private_key))
        archive = container.pack(
            (name, contents[name]) for name in sorted(contents, key=container.member_order)
        )
        written = _open(BytesIO(archive), len(archive), path, (), False)
        replace_file(path, archive)
    return written


def write_tuned(
    path: str | Path,
    name: str,
    tuned: Tuned,
    *,
    with_classifier: bool = False,
    private_key: bytes | None = None,
) -> DeltaFile:
    """As :func:`write_delta`, of what ``edgeadapt.host.tuning.run.tune`` returned. The base is
    ``tuned.base.network``, which takes inputs behind the normalisation.

    The classifier is left out unless it is asked for: a bundle has a head of its own, and for many
    features and classes it is larger than the delta.
    """
    settings, plan, trained = tuned.settings, tuned.plan, tuned.trained
    if not with_classifier:
        trained = {key: value for key, value in trained.items() if key not in plan.whole}
        plan = replace(plan, whole={})
    about = About(
        name,
        start=settings.start.name if settings.start else "",
        score=settings.score.name if settings.score else "",
        classes=tuned.classes,
        seed=settings.seed,
        figures=tuned.report.asdict(),
        codec=settings.codec,
        whole_codec=whole_codec(trained[name].numpy() for name in plan.whole),
        left_out=() if with_classifier else tuple(tuned.plan.whole),
    )
    return write_delta(path, tuned.base.network, plan, trained, about, private_key=private_key)


def read_delta(
    path: str | Path,
    *,
    trust: str | Path | Sequence[str | Path] = (),
    require_signature: bool = False,
) -> DeltaFile:
    """Open a delta: container, signature, manifest, sizes and hashes first, then numbers.

    Args:
        path: the file.
        trust: public keys, as text or paths; one, or several. When given, the file must be signed
            by one of them.
        require_signature: refuse an unsigned file also without ``trust``; any signer will do then.

    Raises:
        BundleError: names the file, the member and the reason.
        InputError: not a path.
    """
    path = check_path(path, "a delta file")
    with container.naming(path):
        if path.exists() and not path.is_file():
            raise BundleError("archive: not a regular file")
        with open(path, "rb") as file:
            keys = (trust,) if isinstance(trust, (str, Path)) else trust
            size = os.fstat(file.fileno()).st_size
            return _open(file, size, path, keys, require_signature or bool(keys))


def plan_of(network: nn.Module, file: DeltaFile) -> Plan:
    """The plan of a file over the sites of a network, without depth, cost and branches.

    Raises:
        BundleError: the network is not the base, or the delta is none of this version's.
    """
    from edgeadapt.host.tuning.members import DELTAS, member
    from edgeadapt.host.tuning.plan import Plan
    from edgeadapt.host.tuning.sites import site_at

    manifest, parameters = file.manifest, dict(network.named_parameters())
    with container.naming(file.path):
        for name, shape in manifest.whole.items():
            found = tuple(parameters[name].shape) if name in parameters else None
            if found != shape:
                has = f"it has the shape {found}" if found else "there is none"
                raise BundleError(
                    f"{MANIFEST}: trains {name} {shape}; in this network {has}; give it a"
                    f" classifier of {len(manifest.classes)} classes"
                )
        mark = fingerprint(network, (*manifest.whole, *manifest.left_out))
        if mark != manifest.base:
            raise BundleError(
                f"{MANIFEST}: of the base {manifest.base[:16]}, this network is {mark[:16]}"
            )
        try:
            delta = member(DELTAS, "delta", manifest.delta, manifest.options)
            sites = tuple(
                replace(site_at(network, path), ends_branch=path in manifest.branch_ends)
                for path in manifest.sites
            )
        except InputError as error:
            raise BundleError(f"{MANIFEST}: {error}") from None
        plan = Plan(delta, sites, tuple(manifest.sizes.values()), dict(manifest.whole))
        for site, size in zip(plan.sites, plan.sizes, strict=True):
            if size not in delta.sizes(site):
                raise BundleError(f"{MANIFEST}: {delta.name} has no size {size} at {site.path}")
        for name, shape in plan.shapes.items():
            stored = file.values[name].shape if name in file.values else None
            if stored != tuple(shape):
                raise BundleError(f"{MANIFEST}: {name} has the shape {stored}, expected {shape}")
    return plan


def apply_delta(network: nn.Module, file: DeltaFile) -> nn.Module:
    """A copy of the network with the file's numbers merged into its weights, in evaluation mode.

    Args:
        network: the base, with a classifier for the file's classes; it is not changed.
        file: as :func:`read_delta` returns it.

    Raises:
        BundleError: the network is not the base, or the delta is none of this version's.
    """
    import copy

    import torch

    from edgeadapt.host.tuning.network import TunedNetwork

    plan = plan_of(network, file)
    like = next(network.parameters())
    values = {name: torch.tensor(value).to(like.device) for name, value in file.values.items()}
    return TunedNetwork(copy.deepcopy(network), plan, values).merge()


def fingerprint(network: nn.Module, whole: Iterable[str]) -> str:
    """sha256 over name, type, shape and bytes of every parameter and buffer, in the order of their
    names; those in ``whole`` are left out, since any classifier may stand in their place.
    """
    import torch

    digest = hashlib.sha256()
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name in sorted(set(named) - set(whole)):
        value = named[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if hasattr(value, "detach") else value


def _manifest(base: nn.Module, plan: Plan, arrays: Arrays, about: About) -> DeltaManifest:
    """Without members."""
    from edgeadapt.host.tuning.members import options_of

    missing = [name for name in plan.shapes if name not in arrays]
    if missing:
        raise InputError(f"the plan trains {missing[0]}, which has no value")
    left = set(arrays) - set(plan.whole)
    trained: dict[str, dict[str, tuple[int, ...]]] = {}
    kept: dict[str, dict[str, tuple[int, ...]]] = {}
    for site, size in zip(plan.sites, plan.sizes, strict=True):
        first = f"{site.path}:"
        trained[site.path] = plan.delta.shapes(site, size)
        kept[site.path] = {
            name[len(first) :]: arrays[name].shape
            for name in sorted(left)
            if name.startswith(first) and name[len(first) :] not in trained[site.path]
        }
        left -= {first + name for name in (*trained[site.path], *kept[site.path])}
    if left:
        raise InputError(f"{min(left)} belongs to no site of the plan")
    values = tuple(dict.fromkeys(name for names in trained.values() for name in names))
    constants = tuple(dict.fromkeys(name for names in kept.values() for name in names))
    if set(values) & set(constants):
        raise InputError(f"{min(set(values) & set(constants))} is trained at some sites only")
    return DeltaManifest(
        name=about.name,
        base=fingerprint(base, (*plan.whole, *about.left_out)),
        delta=plan.delta.name,
        options=options_of(plan.delta),
        start=about.start,
        score=about.score,
        values=values,
        constants=constants,
        sites={
            site.path: row_of(
                size,
                site.ends_branch,
                ({**trained[site.path], **kept[site.path]}.get(n) for n in (*values, *constants)),
            )
            for site, size in zip(plan.sites, plan.sizes, strict=True)
        },
        whole={name: tuple(shape) for name, shape in plan.whole.items()},
        codec=about.codec,
        whole_codec=about.whole_codec,
        left_out=about.left_out,
        classes=about.classes,
        seed=about.seed,
        created=about.created
        or datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _open(
    file: BinaryIO, size: int, path: Path, trust: Sequence[str | Path], require_signature: bool
) -> DeltaFile:
    entries = container.read_directory(file, size)
    raw = container.read_small(file, entries[MANIFEST], container.MAX_MANIFEST_BYTES)
    contents, given = {MANIFEST: raw}, None
    if SIGNATURE in entries:
        given = container.read_small(file, entries[SIGNATURE], container.MAX_SIGNATURE_BYTES)
    signed_by = check_signature(raw, given, trust, require_signature, "delta")
    manifest = decode_manifest(raw)
    for name in sorted({VALUES, CARD} ^ (set(entries) - {MANIFEST, SIGNATURE})):
        what = "absent" if name in (VALUES, CARD) else "no member of a delta"
        raise BundleError(f"{name}: {what}")
    if set(manifest.members) != {VALUES, CARD}:
        raise BundleError(f"{MANIFEST}: its members are not {VALUES} and {CARD}")
    for name, member in manifest.members.items():
        if entries[name].size != member.bytes:
            raise BundleError(
                f"{name}: has {entries[name].size} bytes, the manifest says {member.bytes}"
            )
        contents[name] = container.read_entry(file, entries[name])
        if hashlib.sha256(contents[name]).hexdigest() != member.sha256:
            raise BundleError(f"{name}: its sha256 is not that of the manifest; it was edited")
    if given is not None:
        contents[SIGNATURE] = given
    file.seek(0)
    if file.read(size) != container.pack((name, contents[name]) for name in entries):
        raise BundleError("archive: its directory is not as it was written")
    try:
        figures = msgspec.json.decode(contents[CARD], type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{CARD}: {error}") from None
    values = _decoded(manifest, contents[VALUES])
    return DeltaFile(
        path, manifest, values, figures, signed_by, hashlib.sha256(raw).hexdigest(), size
    )


def _decoded(manifest: DeltaManifest, data: bytes) -> Arrays:
    size = manifest.nbytes()
    header = _header(size)
    if len(data) != len(header) + size or not data.startswith(header):
        raise BundleError(f"{VALUES}: not one tensor of the {size} bytes that the manifest needs")
    values: dict[str, NDArray[np.float32]] = {}
    at = len(header)
    for name, shape, kind in manifest.tensors():
        length = kind.nbytes(shape)
        try:
            values[name] = kind.decode(data[at : at + length], shape)
        except InputError as error:
            raise BundleError(f"{VALUES}: {name}: {error}") from None
        values[name].setflags(write=False)
        at += length
    return values


def _header(size: int) -> bytes:
    """Of a safetensors file with one tensor of this many bytes."""
    text = f'{{"values":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}'
    padded = text.encode().ljust(-(-len(text) // 8) * 8)
    return len(padded).to_bytes(8, "little") + padded


__all__ = [
    "VALUES",
    "About",
    "DeltaFile",
    "apply_delta",
    "fingerprint",
    "plan_of",
    "read_delta",
    "write_delta",
    "write_tuned",
]
