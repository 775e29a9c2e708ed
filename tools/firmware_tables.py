"""The tables that `firmware_notes/` has of the same facts:

python tools/firmware_tables.py jetpacks
python tools/firmware_tables.py modules
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgeadapt.doctor.boards import JETPACKS, MODULES


def jetpacks() -> str:
    head = (
        "JetPack",
        "L4T",
        "Ubuntu",
        "kernel",
        "Python",
        "CUDA",
        "cuDNN",
        "TensorRT",
        "chips",
        "support",
        "mark",
        "source",
        "date",
    )
    rows = [
        (
            one.name,
            ", ".join(one.l4t),
            one.ubuntu,
            one.kernel,
            one.python,
            one.cuda,
            one.cudnn,
            one.tensorrt,
            one.chips,
            one.support,
            one.mark,
            one.source,
            one.date,
        )
        for one in JETPACKS
    ]
    return _table(head, rows)


def modules() -> str:
    head = (
        "part",
        "module",
        "compute capability",
        "multiprocessors",
        "memory, GB",
        "bandwidth, GB/s",
        "power, W",
        "mark",
        "source",
        "date",
    )
    rows = [
        (
            f"`{one.part}`",
            one.name,
            one.capability,
            one.sms,
            one.memory,
            one.bandwidth,
            one.power,
            one.mark,
            one.source,
            one.date,
        )
        for one in MODULES
    ]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)) + "\n"


if __name__ == "__main__":
    print({"jetpacks": jetpacks, "modules": modules}[sys.argv[1]](), end="")


__all__ = ["jetpacks", "modules"]
