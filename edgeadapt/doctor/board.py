"""Which board this is, and which release of NVIDIA's software it runs."""

from __future__ import annotations

from dataclasses import dataclass

from edgeadapt.doctor.boards import (
    JETPACKS,
    JetPack,
    Module,
    chip_of,
    jetpack_of,
    l4t_release,
    module_of,
)
from edgeadapt.doctor.finding import Finding, note, ok
from edgeadapt.doctor.machine import Machine

MODEL = "/proc/device-tree/model"
COMPATIBLE = "/proc/device-tree/compatible"
RELEASE = "/etc/nv_tegra_release"


@dataclass(frozen=True)
class Board:
    """What the files say; empty or None: they do not."""

    model: str
    chip: str
    module: Module | None
    l4t: str
    jetpack: JetPack | None

    @property
    def is_jetson(self) -> bool:
        return bool(self.chip or self.l4t)


def read_board(machine: Machine) -> Board:
    compatible, l4t = machine.text(COMPATIBLE), l4t_release(machine.text(RELEASE))
    return Board(
        machine.text(MODEL),
        chip_of(compatible),
        module_of(compatible),
        l4t,
        jetpack_of(l4t) if l4t else None,
    )


def board(machine: Machine) -> list[Finding]:
    found = read_board(machine)
    if not found.is_jetson:
        return ok("board", found.model or "no board of a known kind; a computer like others")
    named = (
        found.model or f"a board with a {found.chip} chip"
        if found.chip
        else "a board that hides its device tree"
    )
    if found.module is None:
        return note(
            "board",
            named,
            "The module is not in our table: its memory and power modes are not known here.",
            f"Send us the words of {COMPATIBLE}.",
        )
    module = found.module
    return ok("board", f"{module.name}, {module.part}, compute capability {module.capability}")


def jetpack(machine: Machine) -> list[Finding]:
    found = read_board(machine)
    if not found.is_jetson:
        return []
    release = found.jetpack
    if not found.l4t:
        return note(
            "jetpack",
            f"{RELEASE} is not here",
            "Without it nobody knows which TensorRT fits.",
            f"In a container: docker run -v {RELEASE}:{RELEASE}:ro ...",
        )
    if release is None:
        return note(
            "jetpack",
            f"L4T {found.l4t}",
            "This release is not in our table; nothing is known of it here.",
            "Update to JetPack 6.2 or 7.2.",
        )
    is_known = found.l4t in release.l4t
    named = (
        f"JetPack {release.name} (L4T {found.l4t})"
        if is_known
        else f"L4T {found.l4t}, newer than JetPack {release.name}"
    )
    detail = (
        f"{named}: Ubuntu {release.ubuntu}, Python {release.python}, CUDA {release.cuda}, TensorRT"
        f" {release.tensorrt}"
    )
    if found.chip and found.chip not in release.chips:
        return note(
            "jetpack",
            detail,
            f"As far as we know this release is for {release.chips}, and this is {found.chip}.",
            "Compare /proc/device-tree/compatible with NVIDIA's list of boards.",
        )
    if release.support == "CPU only":
        return note(
            "jetpack",
            detail,
            "Its TensorRT is too old for learning steps; edgeadapt runs on the CPU here.",
            _newer(found.chip),
        )
    if not is_known:
        return note(
            "jetpack",
            detail,
            "This release is not in our table; what is said of it is that of the one before.",
            "Nothing, if everything below is well.",
        )
    return ok("jetpack", detail)


def _newer(chip: str) -> str:
    names = [
        release.name for release in JETPACKS if release.support == "first" and chip in release.chips
    ]
    return (
        f"Flash JetPack {names[-1]} for the GPU."
        if names
        else f"Nothing: no later release that we know of is for {chip}."
    )


__all__ = ["Board", "board", "jetpack", "read_board"]
