"""From files into a learner. Everything is read and checked before the first label is written."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import Any

from numpy.typing import NDArray

from edgeadapt.dataset import class_folders, coco, csv_table, label_studio, side_file
from edgeadapt.dataset.pictures import read
from edgeadapt.dataset.sample import COUNTING, FORMS, Entry, Form, Sample
from edgeadapt.dataset.side_file import SideFile
from edgeadapt.device.learner import Learner
from edgeadapt.device.pipeline.restored_samples import Correction, LabelledSample
from edgeadapt.errors import EdgeadaptError, InputError
from edgeadapt.inputs import check_batch, check_name, check_text, chunks, unknown_class_message
from edgeadapt.paths import check_path
from edgeadapt.results import LabelState

_AT_ONCE = 64
_DAY_S = 86_400.0


@dataclass(eq=False)
class ImportReport:
    """What became of the rows.

    Attributes:
        new: samples that the state did not have. corrected: labels that the file changes.
        present: samples that the state has already; left as they are there.
        repeated: the same picture once more.
        unlabelled: rows that nobody has labelled.
        left_out: samples of the export that are no longer in the file.
        bad: file and row -> why it could not be taken.
        samples: ids of those that were taken, or are there already.
    """

    new: int = 0
    corrected: int = 0
    present: int = 0
    repeated: int = 0
    unlabelled: int = 0
    left_out: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    samples: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        counts = {
            "new": self.new,
            "corrected": self.corrected,
            "there already": self.present,
            "the same picture once more": self.repeated,
            "without a label": self.unlabelled,
            "no longer in the file": self.left_out,
            "refused": len(self.bad),
        }
        said = [f"{count} {what}" for what, count in counts.items() if count]
        return [", ".join(said) or "nothing"]


def import_dataset(
    learner: Learner,
    path: str | os.PathLike[str],
    form: Form,
    *,
    source: str | None = None,
    pictures: str | os.PathLike[str] | None = None,
) -> ImportReport:
    """Learn the labels of a file. Durable when it returns; ``learner.settle()`` waits for the rest.

    With the side file of an export beside it, samples keep id, source, time and features, and only
    what the file says otherwise is new. A row that cannot be taken is named in the report, and the
    others are taken.

    Args:
        path: a folder that ``export_dataset`` made, or a file or folder of another tool.
        form: one of ``FORMS``.
        source: who says so, where the file does not; by default the name of the file.
        pictures: Label Studio: below it lie the files that tasks name.

    Raises:
        InputError: the file as a whole cannot be read, or names a file elsewhere.
        CapacityError: too few class slots.
        BudgetError: the day's writes are used up.
        StorageError: the disk is full or fails. New samples and corrections are there all or not at
            all; classes that were added for them may stay, without a label.
    """
    return import_files(learner, read_files(path, form, pictures), source=source)


@dataclass(frozen=True, eq=False)
class Files:
    """What was read: a row each, and the side file if there is one.

    ``names_sources``: the file says who for every row, so that another name there is a change.
    """

    name: str
    entries: list[Entry]
    side: SideFile | None
    names_sources: bool


def read_files(
    path: str | os.PathLike[str], form: Form, pictures: str | os.PathLike[str] | None = None
) -> Files:
    """Read and check the rows; pictures are read later. See :func:`import_dataset`."""
    if form not in FORMS:
        raise InputError(f"a form is one of {', '.join(FORMS)}, got {form!r:.80}")
    place = check_path(path, "path")
    if not place.exists():
        raise InputError(f"{place}: there is no such file or folder")
    below = None if pictures is None else check_path(pictures, "pictures")
    side = side_file.read(place if place.is_dir() else place.parent)
    if form == "folder":
        entries = class_folders.read(place, side.header.folders if side else {})
    elif form == "csv":
        entries = csv_table.read(place)
    else:
        entries = coco.read(place) if form == "coco" else label_studio.read(place, below)
    return Files(place.resolve().name, entries, side, form in ("csv", "coco"))


def import_files(learner: Learner, files: Files, *, source: str | None = None) -> ImportReport:
    """Learn the labels of files that were read; see :func:`import_dataset`."""
    said_by = files.name if source is None else check_text(source, "a source")
    reading = _Reading(learner, ImportReport(), said_by)
    samples = reading.merged(files.entries, files.side, files.names_sources)
    reading.write(reading.ready(samples))
    return reading.report


class _Reading:
    """One import."""

    def __init__(self, learner: Learner, report: ImportReport, said_by: str) -> None:
        self._learner, self.report, self._said_by = learner, report, said_by
        self._manifest = learner.bundle.manifest
        self._continues = False  # an export of a state of this bundle: its answers were ours

    # -- what the file says -----------------------------------------------------------------------
    def merged(
        self, entries: Sequence[Entry], side: SideFile | None, names_sources: bool
    ) -> list[Sample]:
        """Samples of the side file as the file has them now, in their order, then foreign ones."""
        self._continues = side is not None and side.header.bundle == self._manifest.name
        known = {s.id: s for s in side.samples} if side else {}
        by_name = {s.name: s for s in side.samples} if side else {}
        told: dict[str, Sample] = {}
        foreign: list[Sample] = []
        seen: set[str] = set()
        for entry in entries:
            before = known.get(entry.key) or by_name.get(entry.key)
            if before is not None and before.id in seen:
                self.report.bad[entry.where] = f"the sample {before.id!r} is there twice"
                continue
            if before is not None:
                seen.add(before.id)
            if entry.problem:
                self.report.bad[entry.where] = entry.problem
            elif before is not None:
                now = self._changed(before, entry, names_sources)
                if now is not None:
                    told[now.id] = now
            elif entry.label is None:
                self.report.unlabelled += 1
            else:
                foreign.append(self._foreign(entry, entry.label))
        for sample in known.values():
            if sample.id not in seen and not sample.file:  # the form could not hold it
                told[sample.id] = sample
            elif sample.id not in seen:
                self.report.left_out += 1
        return [told[id] for id in known if id in told] + foreign

    def _changed(self, before: Sample, entry: Entry, names_sources: bool) -> Sample | None:
        """The sample as the file has it; None if its label was taken away."""
        picture = entry.picture if before.raw is None else None
        before = replace(before, picture=picture, where=entry.where)
        if entry.label is None:
            if before.counts:
                self.report.unlabelled += 1
            return None if before.counts else before
        by = entry.source if names_sources and entry.source is not None else before.source
        if (entry.label, by, entry.counts) == (before.label, before.source, before.counts):
            return before
        if not entry.counts:
            if before.counts:
                self.report.unlabelled += 1
                return None
            self.report.bad[entry.where] = (
                "its status says that no label counts, and its label was changed"
            )
            return before
        by = self._said_by if entry.source is None else entry.source
        return replace(
            before, label=entry.label, source=by, status="received", trusted=False, edited=True
        )

    def _foreign(self, entry: Entry, label: str) -> Sample:
        source = entry.source if entry.source is not None else self._said_by
        at = time.time() if entry.time is None else entry.time
        is_known = bool(entry.key) and entry.key in self._learner.newest_labels([entry.key])
        return Sample(
            entry.key if is_known else "",
            label,
            source,
            time=at,
            status="received" if entry.counts else "held",
            picture=entry.picture,
            where=entry.where,
            edited=True,
        )

    # -- what the learner can take ----------------------------------------------------------------
    def ready(self, samples: Sequence[Sample]) -> list[Sample]:
        """Those that can be written, with the features of this bundle."""
        good: list[Sample] = []
        for part in chunks(len(samples), _AT_ONCE):
            checked = [s for s in samples[part] if self._checked(s)]
            without = [s for s in checked if not self._has_features(s)]
            for s, x in self._inputs(without):
                s.features = self._learner.stored_features(x[None])[0]
                s.space, s.picture = self._manifest.space, None
                s.id = s.id or _id_of(s.features, x)
                s.raw = x if self._learner.keeps_inputs else None
            good += [s for s in checked if s.where not in self.report.bad]
        return self._once(good)

    def _checked(self, s: Sample) -> bool:
        try:
            texts = {"a label": s.label, "a source": s.source, "a stream": s.stream}
            for what, text in texts.items():
                check_text(text, what)
            check_name(s.predicted, "a prediction")
            if not s.label.strip():
                raise InputError("the label is empty")
            if not 0 <= s.time <= time.time() + _DAY_S:
                raise InputError(f"the time {s.time:g} is in the future, or before 1970")
            adds = self._learner.policy.new_classes == "add"
            if s.counts and not adds and s.label not in self._learner.classes:
                raise InputError(unknown_class_message(s.label, self._learner.classes))
        except EdgeadaptError as error:
            self.report.bad[s.where] = str(error)
            return False
        return True

    def _has_features(self, s: Sample) -> bool:
        """Features of this bundle's space; a kept picture that is their input comes with them."""
        width = self._manifest.feature_dim + self._manifest.tap_dim
        if s.space != self._manifest.space or s.features.size != width:
            return False
        if s.raw is not None:
            try:
                s.raw = self._input(s)
            except InputError as error:
                s.raw = None
                self.report.bad[s.where] = str(error)
        elif s.picture is not None and self._learner.keeps_inputs:
            try:
                s.raw = read(s.picture, self._manifest.input, s.where)
            except InputError as error:
                self.report.bad[s.where] = str(error)
        return True

    def _inputs(self, samples: Sequence[Sample]) -> list[tuple[Sample, NDArray[Any]]]:
        found = []
        for s in samples:
            try:
                found.append((s, self._input(s)))
            except InputError as error:
                self.report.bad[s.where] = str(error)
        return found

    def _input(self, s: Sample) -> NDArray[Any]:
        if s.picture is not None:
            return read(s.picture, self._manifest.input, s.where)
        if s.raw is None:
            raise InputError(
                "it has no picture, and no features of this bundle's space: nothing can be learned"
            )
        if s.raw.shape != self._manifest.input.shape:
            raise InputError(
                f"its input has shape {s.raw.shape}, the bundle takes {self._manifest.input.shape}"
            )
        return check_batch(s.raw[None], self._manifest.input)[0]

    def _once(self, samples: Sequence[Sample]) -> list[Sample]:
        """The same picture counts once; with two labels it is named."""
        first: dict[str, Sample] = {}
        for s in samples:
            before = first.setdefault(s.id, s)
            if before is s:
                continue
            if before.label == s.label:
                self.report.repeated += 1
            else:
                self.report.bad[s.where] = (
                    f"is the same picture as {before.where}, which says {before.label!r}"
                )
        return list(first.values())

    # -- writing ----------------------------------------------------------------------------------
    def write(self, samples: Sequence[Sample]) -> None:
        """New samples, and what the file corrects, in one transaction."""
        there = self._learner.newest_labels([s.id for s in samples])
        new = [s for s in samples if s.id not in there]
        corrected = [s for s in samples if s.id in there and _corrects(s, there[s.id])]
        refused = self._learner.restore(
            [self._labelled(s) for s in new],
            [Correction(s.id, s.label, s.source) for s in corrected],
        )
        self.report.bad |= {s.where: refused[s.id] for s in corrected if s.id in refused}
        self.report.new, self.report.corrected = len(new), len(corrected) - len(refused)
        self.report.present = len(samples) - len(new) - len(corrected)
        taken = [s.id for s in (*new, *(s for s in samples if s.id in there))]
        self.report.samples = tuple(id for id in taken if id not in refused)

    def _labelled(self, s: Sample) -> LabelledSample:
        was_asked = s.predicted_when == "met" and self._continues
        return LabelledSample(
            s.id,
            s.label,
            s.source,
            s.stream,
            s.time,
            s.features,
            s.met,
            s.trusted,
            s.status if not s.counts else "received",
            s.raw,
            s.predicted if was_asked else None,
            s.is_random,
        )


def _corrects(s: Sample, now: LabelState) -> bool:
    return s.edited and s.counts and (now.label != s.label or now.status not in COUNTING)


def _id_of(features: NDArray[Any], x: NDArray[Any]) -> str:
    """The same picture has the same id, so that it counts once however often it is imported."""
    return blake2b(features.tobytes() + x.tobytes(), digest_size=8).hexdigest()


def counted(bad: Mapping[str, str]) -> list[str]:
    """A line for every row that was refused."""
    return [f"{where}: {why}" for where, why in bad.items()]


__all__ = ["Files", "ImportReport", "counted", "import_dataset", "import_files", "read_files"]
