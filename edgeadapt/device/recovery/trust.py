"""Which bundle may follow which: what a state folder remembers of the one it was last opened with,
and what it refuses.

A signature says who made a bundle, not when. Someone in the update channel can hold back a new
bundle and send an old one that is truly signed, or one without a signature to a device whose owner
stopped passing ``trust``. The state folder remembers enough to notice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.bundle.schema import GraphSpec, Manifest, Precision
from edgeadapt.bundle.signature import key_id, load_public_key
from edgeadapt.device.inference.program import Program
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import BundleError, EdgeadaptError, StateError
from edgeadapt.runtime import Executable, Runtime, Tensors

Trust = str | Path | Sequence[str | Path]
"""Public keys, as text or paths; one, or several."""


@dataclass(frozen=True)
class Remembered:
    """What a state folder keeps of the bundle it was last opened with.

    ``signed_by`` is the key id of the signer the folder is bound to, ``""`` while it is bound to
    none: the first opening with ``trust`` binds it, so that a maker may begin to sign at any time.
    ``others`` are versions of bundles of other names that it has seen, by name: or the way back to
    an old version would lead over another name.
    """

    name: str
    version: int
    format: int
    sha256: str
    signed_by: str
    others: tuple[tuple[str, int], ...] = ()

    @classmethod
    def read(cls, meta: Callable[[str], str | None]) -> Remembered | None:
        """From the table ``meta`` of a journal; None for a new folder. One written before bundles
        had versions has seen version 1.
        """
        name = meta("bundle")
        if name is None:
            return None
        others = msgspec.json.decode(meta("other_versions") or "{}", type=dict[str, int])
        return cls(
            name,
            int(meta("version") or 1),
            int(meta("bundle_format") or 1),
            meta("sha256") or "",
            meta("signed_by") or "",
            tuple(sorted(others.items())),
        )

    def as_meta(self) -> dict[str, str]:
        """Rows of the table ``meta``."""
        numbers = {"version": str(self.version), "bundle_format": str(self.format)}
        if self.others:
            numbers["other_versions"] = msgspec.json.encode(dict(self.others)).decode()
        return {"bundle": self.name, "sha256": self.sha256, "signed_by": self.signed_by, **numbers}


def check_successor(
    remembered: Remembered | None, bundle: Bundle, *, trust: Trust = (), allow_older: bool = False
) -> Remembered:
    """Refuse a bundle that must not follow the one that a state folder has seen. Pure; the caller
    keeps what it returns.

    Args:
        remembered: of the folder; None for a new one.
        bundle: that is to be opened.
        trust: public keys. If given, the bundle must be signed by one of them, and the folder is
            bound to that one: this is how a key is replaced. Without it, a folder that is bound
            accepts only its own signer.
        allow_older: go back to an older version, or an older manifest format, on purpose. The
            folder remembers the older one from then on.

    Returns:
        What the folder is to remember.

    Raises:
        BundleError: not signed by whom it must be, or older than what was seen.
    """
    manifest, where = bundle.manifest, bundle.path.name
    signer = _signer(bundle, trust)
    if remembered is not None:
        bound = remembered.signed_by
        if bound and not trust and signer != bound:
            found = f"is signed by key {signer}" if signer else "is not signed"
            raise BundleError(
                f"{where}: {found}, but this state folder was opened with trust in key {bound};"
                " pass trust= with the public key of the new signer"
            )
        older = ""
        last = (
            dict(remembered.others).get(manifest.name, 0)
            if manifest.name != remembered.name
            else remembered.version
        )
        if manifest.format < remembered.format:
            older = f"manifest format {manifest.format} is older than {remembered.format}"
        elif manifest.version < last:
            older = f"{manifest.name!r} version {manifest.version} is older than {last}"
        if older and not allow_older:
            raise BundleError(
                f"{where}: {older}, which this state folder has seen; pass allow_older=True to go"
                " back on purpose"
            )
    binding = (signer or "") if trust else remembered.signed_by if remembered else ""
    others = (
        {}
        if remembered is None
        else {**dict(remembered.others), remembered.name: remembered.version}
    )
    others.pop(manifest.name, None)
    return Remembered(
        manifest.name,
        manifest.version,
        manifest.format,
        bundle.sha256,
        binding,
        tuple(sorted(others.items())),
    )


def check_offer(
    offered: str | os.PathLike[str] | Bundle,
    running: Program,
    remembered: Remembered | None,
    *,
    trust: Trust = (),
    allow_older: bool = False,
    budget: Budget | None = None,
    precision: Precision | None = None,
) -> Bundle:
    """Everything that can be known about a successor before it replaces the running bundle, which
    serves on undisturbed.

    Its graphs are loaded beside the running ones and run once, so memory for both is needed
    meanwhile; the runtime keeps them in its cache, and opening the bundle that this returns is
    quick. Nothing of the learner's state is read or written.

    Args:
        offered: path of a ``.edge`` file, or a bundle already read.
        running: what serves now.
        remembered, trust, allow_older: as for :func:`check_successor`.
        budget: the declared tensors must fit into it.
        precision: that its encoder is to serve in; by default the one that serves now.

    Returns:
        The bundle. Open this object, not the path: its members are hashed again when they are read.

    Raises:
        BundleError: damaged, not trusted, older, without an encoder in that precision, or a graph
            does not load or run.
        BudgetError: it declares more memory than the budget has.
        StateError: it is sound, but what was learned has to be carried over first: ``edgeadapt
            migrate``.
    """
    bundle = offered if isinstance(offered, Bundle) else read_bundle(Path(offered), trust=trust)
    check_successor(remembered, bundle, trust=trust, allow_older=allow_older)
    _require_same_space(running.manifest, bundle)
    run_once(bundle, running.runtime, budget, precision or running.precision)
    return bundle


def _signer(bundle: Bundle, trust: Trust) -> str | None:
    """The key id of the signer; one of ``trust``, if there are any: a bundle may have been read
    before without them.
    """
    trusted = [
        key_id(load_public_key(key))
        for key in ((trust,) if isinstance(trust, (str, Path)) else trust)
    ]
    if trusted and bundle.signed_by not in trusted:
        found = (
            f"signed by the unknown key {bundle.signed_by}" if bundle.signed_by else "not signed"
        )
        raise BundleError(
            f"{bundle.path.name}: manifest.sig: {found}; trusted: {', '.join(trusted)}"
        )
    return bundle.signed_by


def _require_same_space(running: Manifest, bundle: Bundle) -> None:
    """What was learned fits as it is: same features, same classes at the factory, same stored
    tensors.
    """
    offered = bundle.manifest
    if offered.space != running.space:
        reason = f"another feature space ({offered.space[:12]} instead of {running.space[:12]})"
    elif (offered.classes, offered.class_slots) != (running.classes, running.class_slots):
        reason = (
            f"other factory classes ({', '.join(offered.classes)}; {offered.class_slots} slots)"
        )
    elif changed := sorted(_stored(offered) ^ _stored(running)):
        reason = f"other stored tensors ({changed[0][0]})"
    else:
        return
    remedy = "what was learned has to be carried over: edgeadapt migrate OLD_STATE NEW.edge"
    raise StateError(f"{bundle.path.name}: is sound, but has {reason}; {remedy}")


def identity(manifest: Manifest) -> dict[str, str]:
    """What a state folder must share with every bundle that opens it, as rows of the table
    ``meta``: feature space, factory classes, and stored tensors. ``input`` is there for another
    encoder, which takes the raw inputs that were kept.
    """
    stored = hashlib.sha256(repr(sorted(_stored(manifest))).encode()).hexdigest()
    return {
        "space": manifest.space,
        "factory": json.dumps([manifest.classes, manifest.class_slots]),
        "stored": stored,
        "input": msgspec.json.encode(manifest.input).decode(),
    }


def _stored(manifest: Manifest) -> set[tuple[str, str, tuple[int, ...]]]:
    kept = [
        spec
        for spec in manifest.tensors
        if spec.persist == "checkpoint" and spec.kind not in ("frozen", "derived")
    ]
    return {(spec.name, spec.dtype, spec.shape) for spec in kept}


def run_once(bundle: Bundle, runtime: Runtime, budget: Budget | None, precision: Precision) -> None:
    """Load every graph that would be used, then run it on zeros with the factory's tensors."""
    program = Program(bundle, runtime, precision)
    program.load_all()  # in the order and the way a learner does: the runtime keeps them
    program.check_precision()
    if budget is not None:
        budget.require_memory(dict(program.nbytes()))
    graphs = [
        (spec, runtime.load(bundle.graph_file(spec)))
        for spec in bundle.manifest.graphs
        if spec.precision in ("float32", precision)
    ]
    tensors = program.factory_domain().over(program.factory())
    for spec, graph in graphs:
        try:
            _run_on_zeros(spec, graph, runtime, tensors)
        except EdgeadaptError as error:
            raise BundleError(
                f"{bundle.path.name}: {spec.file}: does not run on zeros: {error}"
            ) from error


def _run_on_zeros(spec: GraphSpec, graph: Executable, runtime: Runtime, tensors: Tensors) -> None:
    size = spec.batch or 1
    ports = {
        port.name: np.zeros([size if n is None else n for n in port.shape], port.dtype)
        for port in spec.ports
    }
    outputs, written = graph(ports, tensors)
    for port in spec.outputs:
        expected = tuple(size if n is None else n for n in port.shape)
        if port.name not in outputs or (outputs[port.name].dtype, outputs[port.name].shape) != (
            np.dtype(port.dtype),
            expected,
        ):
            raise BundleError(f"no output {port.name} of dtype {port.dtype} and shape {expected}")
    values = outputs | runtime.download(written)
    absent = sorted(set(spec.writes) - set(written))
    infinite = sorted(
        name
        for name, value in values.items()
        if value.dtype.kind == "f" and not np.isfinite(value).all()
    )
    if absent or infinite:
        raise BundleError(
            f"it does not write {absent[0]}" if absent else f"{infinite[0]} is not finite"
        )


__all__ = ["Remembered", "Trust", "check_offer", "check_successor", "identity", "run_once"]
