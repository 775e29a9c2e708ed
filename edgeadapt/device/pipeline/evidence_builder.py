"""From labels to evidence rows: names checked, features as they are stored, and each row's use."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.holdout import HeldOut
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.detection.window import shift_ratio
from edgeadapt.device.inference.live_state import LiveState
from edgeadapt.device.inference.program import F32, Program
from edgeadapt.device.inference.state import SOURCE
from edgeadapt.device.querying.pending import PendingBatch
from edgeadapt.device.storage.features import as_stored
from edgeadapt.device.storage.rows import EvidenceRow, Met
from edgeadapt.errors import InputError
from edgeadapt.inputs import LONGEST_CLASS_NAME, check_labels, check_text

Found = tuple[PendingBatch, int] | EvidenceRow
"""Where a sample's features are: still pending, or in the evidence row of the label it has."""


@dataclass(frozen=True)
class Origin:
    """Who labelled samples, and the stream and condition that they were met in."""

    source: str
    stream: str
    domain: str
    is_trusted: bool = False


class EvidenceBuilder:
    """Turns labels into rows. Adds classes where the policy says so; learns nothing itself."""

    def __init__(
        self,
        program: Program,
        policy: Policy,
        held_out: HeldOut,
        live: LiveState,
        add_classes: Callable[[Sequence[str]], None],
    ) -> None:
        self.program, self._policy, self._held_out = program, policy, held_out
        self._live, self._add_classes = live, add_classes

    def names(self, labels: Any, count: int) -> tuple[str, ...]:
        """Checked class names; unknown ones are added if the policy says so."""
        slots = self._live.current.slots
        if self._policy.new_classes == "refuse":
            return check_labels(labels, count, slots)
        names = check_labels(labels, count, slots, refuse_unknown=False)
        unknown = [name for name in dict.fromkeys(names) if name not in slots]
        if unknown:
            self.add_classes(unknown)
        return names

    def add_classes(self, names: Sequence[str]) -> None:
        """All of them or none.

        Raises:
            InputError: not a text, an empty one, or one that is too long.
        """
        for name in names:
            if not isinstance(name, str) or not name.strip():
                raise InputError(f"a class name is a non-empty string, got {name!r}")
            check_text(name, "a class name")
            if len(name) > LONGEST_CLASS_NAME:
                raise InputError(
                    f"a class name has at most {LONGEST_CLASS_NAME} characters, got {len(name)}:"
                    f" {name[:40]!r}..."
                )
        self._add_classes(names)

    def is_new(self, name: str) -> bool:
        """A class is new to the device until it has a handful of labels; factory classes never
        are.
        """
        return not self._held_out.is_settled(name)

    def in_factory_space(
        self,
        samples: Sequence[str],
        found: Sequence[Found],
        input_of: Callable[[str], NDArray[Any] | None],
    ) -> list[Found]:
        """The same, with the factory encoder's features of samples that an encoder in a space of
        its own has met. Spaces are never mixed.

        Raises:
            InputError: the input of such a sample is no longer kept.
        """
        result = list(found)
        foreign = [
            (i, given[0])
            for i, given in enumerate(found)
            if not isinstance(given, EvidenceRow) and given[0].is_foreign
        ]
        if not foreign:
            return result
        inputs = []
        for i, batch in foreign:
            kept = input_of(samples[i])
            if kept is None:
                raise InputError(
                    f"sample {samples[i]!r} was met in {batch.domain} by an adapted encoder, whose"
                    " features labels are not learned from, and its input is no longer kept (the"
                    " newest 32 MiB are); pass the input again: learner.learn(x, label)"
                )
            inputs.append(kept)
        features = as_stored(*self.program.encode(np.stack(inputs)))
        for (i, batch), row in zip(foreign, features, strict=True):
            result[i] = (replace(batch, ids=(samples[i],), features=row[None], is_foreign=False), 0)
        return result

    def rows_of(
        self, labelled: Sequence[tuple[str, Found, str]], source: str, is_trusted: bool = False
    ) -> list[EvidenceRow]:
        """Rows of observed samples (id, where its features are, class name), with the features they
        were observed with; an earlier row of a sample is corrected.
        """
        rows = []
        for sample, given, name in labelled:
            if isinstance(given, EvidenceRow):
                rows.append(self._corrected(given, name, source))
            else:
                batch, row = given
                origin = Origin(source, batch.stream, batch.domain)
                features, unshifted = batch.features[row], not batch.is_shifted
                rows.append(self._row(sample, features, name, origin, unshifted, batch.met_at))
        return [replace(row, trusted=is_trusted or self._trusts(source)) for row in rows]

    def _trusts(self, source: str) -> bool:
        return source in self._policy.trusted_sources

    def rows_in_hand(
        self,
        ids: Sequence[str],
        kept: NDArray[np.float16],
        z: F32,
        taps: F32,
        names: Sequence[str],
        origin: Origin,
    ) -> list[EvidenceRow]:
        """Rows of labelled data that was never observed, met under a stream's present condition."""
        unshifted = not self._reads_shifted(z, taps, origin.domain)
        now = time.time()
        return [
            self._row(i, f, name, origin, unshifted, now)
            for i, f, name in zip(ids, kept, names, strict=True)
        ]

    def _row(
        self,
        sample: str,
        features: NDArray[np.float16],
        name: str,
        origin: Origin,
        is_unshifted: bool,
        met_at: float,
    ) -> EvidenceRow:
        by_adapted = (
            self.program.preserves_space
            and self._live.current.encoder_in(origin.domain) is not None
        )
        met: Met = "adapted" if by_adapted else "factory" if is_unshifted else "shifted"
        return EvidenceRow(
            sample,
            origin.source,
            origin.stream,
            origin.domain,
            met_at,
            name,
            self._weight(origin.domain, name),
            self.program.manifest.space,
            self.counts_for_factory(met, name),
            features,
            met=met,
            trusted=origin.is_trusted or self._trusts(origin.source),
        )

    def _weight(self, domain: str, name: str) -> float:
        """A condition with an adaptor of its own keeps its labels to it (weight 0 in the shared
        head), but for classes that are new.
        """
        found, adaptors = self._live.current.domains.get(domain), self.program.adaptors
        has_adaptor = found is not None and adaptors and adaptors.held_in(found.tensors)
        if has_adaptor and not self.is_new(name):
            return 0.0
        return self.program.manifest.policy.learn.field_weight

    def _corrected(self, row: EvidenceRow, name: str, source: str) -> EvidenceRow:
        """The same sample under another name, as it was met."""
        return replace(
            row,
            weight=self._weight(row.domain, name),
            label=name,
            source=source,
            is_factory=self.counts_for_factory(row.met, name),
            status="received",
            commit_number=None,
            seq=0,
        )

    def counts_for_factory(self, met: Met, name: str) -> bool:
        """May it move the class means of the factory condition? New classes read as shifted until
        they are known.
        """
        return met == "factory" or (met == "shifted" and self.is_new(name))

    def _reads_shifted(self, z: F32, taps: F32, domain: str) -> bool:
        """Does labelled data in hand look like another condition? A few samples cannot say; then
        the stream's condition does.
        """
        policy = self.program.manifest.policy.shift
        if len(z) < policy.window // 4:
            return domain != SOURCE
        memory = self._live.current
        read = self.program.forward_head(z, taps, memory.tensors_in(domain))
        return (
            shift_ratio(read.residual, read.logits.argmax(axis=1), memory.class_counts, policy)
            > 1.0
        )
