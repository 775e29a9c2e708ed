"""Labelled samples to and from files of other tools: class folders, csv, COCO, Label Studio.

from edgeadapt.dataset import export_dataset, import_dataset

export_dataset("state", "out", "csv")
with edgeadapt.open("model.edge", state="other") as learner:
    print(import_dataset(learner, "out", "csv"))
"""

from edgeadapt.dataset.exporter import ExportReport, export_dataset
from edgeadapt.dataset.importer import ImportReport, import_dataset
from edgeadapt.dataset.sample import FORMS, Form

__all__ = ["FORMS", "ExportReport", "Form", "ImportReport", "export_dataset", "import_dataset"]
