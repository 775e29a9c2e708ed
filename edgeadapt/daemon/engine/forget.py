"""Forgetting while labels are still on their way: what the learner has, and what waits for its turn
or for room.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from edgeadapt.daemon.engine.context import ServiceContext
from edgeadapt.daemon.engine.sample_registry import AN_ID
from edgeadapt.daemon.messages import LabelArrival
from edgeadapt.device.recovery.label_selection import Selection
from edgeadapt.results import Receipt


def forget(context: ServiceContext, wanted: Selection) -> Receipt:
    """Remove labelled samples as if they had never been; see ``Learner.forget``. Labels that wait
    for their sample are no part of it. Pictures that the status page shows, and samples that a swap
    would compare with, go too, whichever was meant: who they are of is not kept.

    Args:
        wanted: its ids may be names by which samples could be labelled.

    Returns:
        The learner's receipt. ``removed`` counts dropped labels that waited for their turn or for
        room, too; ``unreachable`` also names samples that nothing is known of.

    Raises:
        InputError: a name that several sources use.
        StateError: labels on their way to the disk do not arrive.
        StorageError: the disk is full or fails; of the learner's, nothing was changed.
    """
    find = context.labels.registry.find
    found = (
        None
        if wanted.ids is None
        else {sample: find(LabelArrival(sample, "", "")) for sample in wanted.ids}
    )
    ids = None if found is None else {one or sample for sample, one in found.items()}
    # that may be meant: when its sample came is the learner's to know
    undated: list[LabelArrival] = []

    def is_meant(label: LabelArrival, sample: str) -> bool:
        is_fit = (ids is None or sample in ids) and wanted.source in (None, label.source)
        is_fit = is_fit and (wanted.classes is None or label.label in wanted.classes)
        if is_fit and not (wanted.before is None and wanted.after is None):
            undated.append(label)
            return False
        return is_fit

    dropped = context.labels.drop(is_meant, context.settings.control.timeout_s)
    with context.lease.borrow() as learner:
        receipt = learner.forget(
            None if ids is None else sorted(ids),
            source=wanted.source,
            classes=wanted.classes,
            before=wanted.before,
            after=wanted.after,
        )
    context.series.drop_pictures()
    context.loop.recent.clear()
    unreachable = list(receipt.unreachable)
    if found is not None:
        has_none = receipt.removed == 0 and all(
            value is None for value in (wanted.source, wanted.classes, wanted.before, wanted.after)
        )
        unreachable += _unknown(found, {sample for _, sample in dropped}, has_none)
    if undated:
        unreachable.append(
            f"{len(undated)} labels wait for their turn or for room, and of which time their"
            " samples are is not known before: ask again"
        )
    return replace(receipt, removed=receipt.removed + len(dropped), unreachable=tuple(unreachable))


def _unknown(
    found: Mapping[str, str | None], dropped: Collection[str], has_none: bool
) -> list[str]:
    """Why nothing was forgotten of a sample. What looks like an id is one for the learner, unless
    it has none of them (``has_none``).
    """
    names = [
        sample
        for sample, one in found.items()
        if one is None and sample not in dropped and (has_none or not AN_ID.fullmatch(sample))
    ]
    return [
        f"{name}: no sample of this id or name is known; names do not outlast a restart: say its"
        " id, its source or a time"
        for name in names
    ]


__all__ = ["forget"]
