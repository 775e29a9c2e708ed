"""From a state folder to files. The state is only read, also while a learner has it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.dataset import class_folders, coco, csv_table, label_studio, side_file
from edgeadapt.dataset.pictures import is_whole, written
from edgeadapt.dataset.sample import FORMS, Form, Sample
from edgeadapt.device.inference.predictor import Predictor
from edgeadapt.device.inference.program import Program
from edgeadapt.device.recovery.rebuild import rebuild
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import AskedSample, EvidenceRow
from edgeadapt.device.storage.snapshot_copy import copied
from edgeadapt.errors import InputError, StateError
from edgeadapt.inputs import chunks
from edgeadapt.paths import check_path
from edgeadapt.runtime import open_runtime

_AT_ONCE = 256
_A_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")  # an id that any file system takes as it is
_TAKEN = re.compile(r"row-\d+")
OUT_OF_REACH = (
    "forget() does not reach these files: what is forgotten in the state is still in them. "
    "Delete them, and every copy, by hand."
)


@dataclass(frozen=True)
class ExportReport:
    """What was written: ``samples`` in all, ``pictures`` of them, ``labels`` that count."""

    out: str
    form: str
    samples: int
    pictures: int
    labels: int
    out_of_reach: str = OUT_OF_REACH

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        counts = f"{self.samples} samples, {self.labels} labels that count"
        lines = [f"{self.out}: {counts}, {self.pictures} pictures, as {self.form}"]
        if self.samples > self.pictures:
            kept = "kept while a learner is open with Keep(raw_per_class=20)"
            without = f"{self.samples - self.pictures} without one"
            lines.append(f"  {without} are in {side_file.ROWS} alone; pictures are {kept}")
        return [*lines, f"  {self.out_of_reach}"]


def export_dataset(
    state: str | os.PathLike[str],
    out: str | os.PathLike[str],
    form: Form,
    *,
    bundle: str | os.PathLike[str] | Bundle | None = None,
    trust: Any = (),
) -> ExportReport:
    """Write the newest label of every sample: pictures, features, labels, who, when, predictions.

    Args:
        state: the folder, which may be in use.
        out: a folder that is empty or not there; it appears when it is whole, readable by its owner
            only.
        form: one of ``FORMS``. What it cannot hold goes into a side file.
        bundle: that the state belongs to; with it, what the state answers today is written of
            samples that nobody was asked about. Of the others it is what was answered when they
            were met, with or without ``bundle``.

    Raises:
        InputError: ``out`` holds something, or no such form.
        StateError: no state folder, or it was never opened with a bundle.
        BundleError: damaged, or not trusted.
    """
    if form not in FORMS:
        raise InputError(f"a form is one of {', '.join(FORMS)}, got {form!r:.80}")
    target, folder = check_path(out, "out"), check_path(state, "state")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already: an export needs an empty or new folder")
    with copied(folder) as copy:
        journal = Journal(copy)
        try:
            if journal.meta("space") is None:
                raise StateError(f"{folder} was never opened with a bundle: it holds no samples")
            samples = _collected(journal)
            if bundle is not None:
                is_read = isinstance(bundle, Bundle)
                opened = bundle if is_read else read_bundle(bundle, trust=trust)  # type: ignore
                _predict(journal, opened, samples, folder)
            known = journal.meta("input")
            spec = msgspec.json.decode(known, type=InputSpec) if known else None
            header = side_file.Header(
                side_file.VERSION,
                str(journal.meta("space")),
                str(journal.meta("bundle")),
                int(journal.meta("raw_per_class") or 0),
            )
        finally:
            journal.close()
    count = _write(target, form, samples, spec, header)
    labels = sum(s.counts for s in samples)
    return ExportReport(str(target), form, len(samples), count, labels)


def _collected(journal: Journal) -> list[Sample]:
    """In order of arrival, each with its newest label."""
    newest = {row.id: row for row in journal.evidence()}
    rows = sorted(newest.values(), key=lambda row: row.seq)
    asked = journal.asked_samples()
    return [_sample(row, journal, asked.get(row.id)) for row in rows]


def _sample(row: EvidenceRow, journal: Journal, asked: AskedSample | None) -> Sample:
    is_a_name = _A_NAME.fullmatch(row.id) and not _TAKEN.fullmatch(row.id)
    return Sample(
        row.id,
        row.label,
        row.source,
        row.stream,
        row.domain,
        row.time,
        row.status,
        row.met,
        row.trusted,
        row.space,
        row.features,
        journal.raw_of(row.seq),
        predicted=asked.predicted if asked else "",
        predicted_when="met" if asked else "",
        is_random=bool(asked and asked.is_random),
        name=row.id if is_a_name else f"row-{row.seq}",
    )


def _predict(journal: Journal, bundle: Bundle, samples: Sequence[Sample], folder: Path) -> None:
    """What the state answers today for the features that it keeps, where nobody was asked."""
    manifest = bundle.manifest
    if journal.meta("space") != manifest.space:
        raise StateError(f"{folder} was learned in another feature space than {manifest.name!r}'s")
    program = Program(bundle, open_runtime("onnxruntime"))
    memory = rebuild(journal, program)
    serving = Predictor(program, memory.classes)
    width = manifest.feature_dim + manifest.tap_dim
    known = [s for s in samples if s.features.size == width and not s.predicted_when]
    for domain in dict.fromkeys(s.domain for s in known):
        there = [s for s in known if s.domain == domain]
        for part in chunks(len(there), _AT_ONCE):
            stored = np.stack([s.features for s in there[part]]).astype(np.float32)
            z = np.ascontiguousarray(stored[:, : manifest.feature_dim])
            taps = np.ascontiguousarray(stored[:, manifest.feature_dim :])
            found = serving.prediction(
                program.forward_head(z, taps, memory.tensors_in(domain)), memory
            )
            for s, label, shares in zip(there[part], found.labels, found.probs, strict=True):
                s.predicted, s.confidence, s.predicted_when = label, float(shares.max()), "today"


def _write(
    target: Path, form: Form, samples: list[Sample], spec: InputSpec | None, header: Any
) -> int:
    """Everything into a folder beside ``target``, which then takes its place; returns pictures."""
    pictures: dict[str, bytes] = {}
    whole: set[str] = set()
    for s in samples:
        png = written(s.raw, spec) if s.raw is not None and spec is not None else None
        if png is not None and s.raw is not None and spec is not None:
            pictures[s.id] = png
            if is_whole(png, s.raw, spec):
                whole.add(s.id)
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        if form == "folder":
            header.folders = class_folders.write(building, samples, pictures)
        elif form == "csv":
            csv_table.write(building, samples, pictures)
        elif form == "coco":
            coco.write(building, samples, pictures)
        else:
            label_studio.write(building, samples, pictures, header.bundle)
        shown = {s.id for s in samples if s.file and s.id in pictures}
        side_file.write(building, header, samples, whole & shown)
        (building / "README.txt").write_text(_about(header, form), encoding="utf-8")
        os.rename(building, target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return len(shown)


def _about(header: Any, form: str) -> str:
    return (
        f"Labelled samples of a state of the bundle {header.bundle!r}, as {form}.\n"
        f"{side_file.ROWS} and {side_file.ARRAYS} hold what this form cannot: keep them beside it "
        f"to import it without loss.\n\n{OUT_OF_REACH}\n"
    )


__all__ = ["OUT_OF_REACH", "ExportReport", "export_dataset"]
