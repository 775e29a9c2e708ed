"""A stress card for a bundle that is there: of the long streams, or on data that came later."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from edgeadapt.bundle import FACTORY, FROZEN, GUARD, Bundle, write_bundle
from edgeadapt.bundle.schema import AdaptPolicy, Manifest
from edgeadapt.errors import InputError
from edgeadapt.host.data.class_numbers import class_numbers
from edgeadapt.host.stress.card import Kind, stress_card
from edgeadapt.inputs import check_batch


def stress_again(
    bundle: Bundle,
    out: str | os.PathLike[str],
    x: NDArray[Any],
    labels: Any,
    *,
    kind: Kind = "full",
    seed: int = 0,
    private_key: bytes | None = None,
    say: Callable[[str], None] = print,
) -> Bundle:
    """Run the card of a bundle's own correction, and write the bundle with what it allows.

    Args:
        bundle: its method and strength are what is tried.
        out: the new bundle, of the next version, for a device takes no other file of a version.
        x: (N, *input) samples that the bundle was not made from: what it learned would flatter it.
        labels: (N,) names or numbers of its classes.
        kind: ``full`` or ``short`` streams. seed: of their order and shifts.
        private_key: ed25519 PEM; a bundle that was signed is signed again.

    Raises:
        InputError: no label-free method, a signed bundle without a key, or data that do not fit.
    """
    adapt = bundle.manifest.policy.adapt
    if not bundle.manifest.graphs_for("adapt"):
        raise InputError(f"{bundle.path}: has no label-free method, so there is nothing to stress")
    if bundle.signed_by and private_key is None:
        raise InputError(f"{bundle.path}: is signed; give the key that signs the new one")
    y = class_numbers(labels, bundle.manifest.classes)
    x = check_batch(x, bundle.manifest.input)
    if len(x) != len(y):
        raise InputError(f"every input has a label, got {len(x)} inputs and {len(y)} labels")
    with tempfile.TemporaryDirectory() as folder:
        acting = msgspec.structs.replace(adapt, mode="act", reason="stress trial")
        trial = _written(bundle, Path(folder) / "trial.edge", bundle.manifest, acting, bundle.card)
        card = stress_card(trial, x, y, seed=seed, say=say, kind=kind)
    allowed = msgspec.structs.replace(adapt, mode=card.mode, reason=card.reason)
    next_one = msgspec.structs.replace(bundle.manifest, version=bundle.manifest.version + 1)
    told = {**bundle.card, "stress": card.as_dict()}
    return _written(bundle, Path(out), next_one, allowed, told, private_key)


def _written(
    bundle: Bundle,
    path: Path,
    manifest: Manifest,
    adapt: AdaptPolicy,
    card: Any,
    private_key: bytes | None = None,
) -> Bundle:
    policy = msgspec.structs.replace(manifest.policy, adapt=adapt)
    graphs = {spec.file: bundle.graph(spec.file) for spec in manifest.graphs}
    held = [name for name in (FROZEN, FACTORY, GUARD) if name in bundle.manifest.members]
    weights = {name: bundle.weights(name) for name in held}
    manifest = msgspec.structs.replace(manifest, policy=policy)
    return write_bundle(path, manifest, graphs, weights, card, private_key)


__all__ = ["stress_again"]
