"""Every probe in its order, each bounded in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeadapt.doctor import accelerator, board, condition, packages, system
from edgeadapt.doctor.finding import Finding, Section, broken
from edgeadapt.doctor.machine import Machine

Probe = Callable[[Machine], list[Finding]]


@dataclass(frozen=True)
class Group:
    """Probes under one heading."""

    title: str
    probes: Sequence[Probe]


GROUPS = (
    Group(
        "Machine",
        (
            system.system,
            board.board,
            board.jetpack,
            system.cpu,
            system.memory,
            system.swap,
            system.state,
            system.disk,
        ),
    ),
    Group(
        "Condition",
        (
            condition.power_mode,
            condition.clocks,
            condition.heat,
            condition.clock,
            condition.watchdog,
        ),
    ),
    Group("GPU", (accelerator.accelerators,)),
    Group(
        "Python",
        (
            system.python,
            system.sqlite,
            packages.core,
            packages.onnxruntime,
            packages.runtimes,
            packages.bundle,
        ),
    ),
    Group("Extras", (packages.extras, packages.data)),
)


def examine(machine: Machine, groups: Sequence[Group] = GROUPS) -> list[Section]:
    """Run all probes; groups in which nothing was found are left out."""
    sections = [
        Section(
            group.title, [finding for probe in group.probes for finding in within(probe, machine)]
        )
        for group in groups
    ]
    return [section for section in sections if section.findings]


def within(probe: Probe, machine: Machine) -> list[Finding]:
    """What the probe finds. One that cannot read (OSError) or does not end in time is a finding
    itself.

    A probe may ask three children in turn, so it gets four times as long as one child.
    """
    done: list[list[Finding]] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(probe(machine))
        except BaseException as error:  # raised again below, in the caller's thread
            failed.append(error)

    limit_s = 4 * machine.child_s
    thread = threading.Thread(target=run, name=probe.__name__, daemon=True)
    thread.start()
    thread.join(limit_s)
    name = probe.__name__.replace("_", " ")
    if thread.is_alive():
        return broken(
            name,
            f"no answer within {limit_s:g} s",
            "Something here hangs when it is read: a disk, a share or a driver.",
            "dmesg | tail",
        )
    if failed and isinstance(failed[0], OSError):
        return broken(
            name,
            f"{type(failed[0]).__name__}: {failed[0].strerror}",
            "It cannot be read.",
            "Look at its permissions, and at dmesg.",
        )
    if failed:
        raise failed[0]
    return done[0]


__all__ = ["GROUPS", "Group", "Section", "examine", "within"]
