"""How many rows a learner brings to a graph at once, which a compiler has to know."""

from __future__ import annotations

from edgeadapt.bundle.schema import GraphSpec, Manifest


def usual_batches(spec: GraphSpec, manifest: Manifest) -> tuple[int, ...]:
    """The usual sizes of this graph's free axis, ascending; a learner brings none above the last.

    A graph with a fixed batch has its own. Most calls come in chunks of the manifest's ladder.
    Three roles take more at once: ``adapt`` the whole memory of recent inputs, ``fit`` a training
    batch of its adaptor, ``probe`` all samples that an adaptor is trained on.
    """
    if spec.batch is not None:
        return (spec.batch,)
    if not any(None in port.shape for port in spec.ports):
        return ()
    policy, sizes = manifest.policy, set[int]()
    if "adapt" in spec.roles:
        sizes |= {policy.adapt.min_memory, policy.adapt.memory}
    if "fit" in spec.roles:
        sizes |= {one.batch for one in policy.growth.candidates if one.name in spec.methods}
    if "probe" in spec.roles:
        sizes |= {policy.growth.fewest_labels, policy.growth.samples}
    sizes.discard(0)
    if not sizes or not set(spec.roles) <= {"adapt", "fit", "probe"}:
        return tuple(sorted(sizes | set(manifest.batches)))
    # the ladder's largest: what a check of the whole bundle brings
    return tuple(sorted(sizes | {max(manifest.batches)}))
