"""What a target is: where inputs start, how they are spoilt, and what must happen to each."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

Execute = Callable[[bytes], None]
Mutate = Callable[[Random, bytes, bytes], bytes]

TARGETS = (
    "container",
    "bundle",
    "manifest",
    "signature",
    "card",
    "weights",
    "external_data",
    "recipe",
    "saved_graph",
    "stranger",
    "journal",
    "state",
    "arguments",
    "labels_file",
    "archive_source",
    "image_folder",
    "learner",
    "mqtt",
)


@dataclass(frozen=True)
class Target:
    """One door.

    Args:
        name: of the module in ``targets``.
        seeds: sound inputs, each of which is accepted.
        mutate: (rng, input, another input) -> a spoilt input; the same for the same rng.
        prepare: folder on tmpfs -> what takes one input: it returns if the input was accepted and
            could be used to the end.
        named: the errors by which this door refuses. Anything else that is raised is a finding.
        is_past_header: did this refusal come after the first structural check?
        modules: whose lines are counted.
        share: executions of this target in a thousand.
        memory_mib: what one execution may need beyond what the process had before.
        seconds: after which an execution counts as hanging.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    mutate: Mutate
    prepare: Callable[[Path], Execute]
    named: tuple[type[Exception], ...]
    is_past_header: Callable[[Exception], bool]
    modules: tuple[str, ...]
    share: int
    memory_mib: int = 256
    seconds: float = 10.0


def load_target(name: str) -> Target | None:
    """The target of that name; None where a package it needs is missing."""
    module = importlib.import_module(f"fuzz.targets.{name}") if can_import(name) else None
    return None if module is None else module.TARGET


def can_import(name: str) -> bool:
    """Are the packages here that the target's first lines name in ``NEEDS``? Read from the text:
    importing it might need them.
    """
    text = (Path(__file__).parent / "targets" / f"{name}.py").read_text(encoding="utf-8")
    needs = next(
        (line.partition("=")[2] for line in text.splitlines() if line.startswith("NEEDS =")), "()"
    )
    return all(importlib.util.find_spec(package) for package in eval(needs, {}))
