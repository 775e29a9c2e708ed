"""What an installer asks about the board, a line each, before anything is installed:

python3 -m edgeadapt.doctor.facts [ROOT]

chip=Orin  part=p3767-0005  l4t=36.4.3  jetpack=6.2  support=first  python=3.10  tensorrt=10.3
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgeadapt.doctor.board import read_board
from edgeadapt.doctor.machine import Machine


def facts(machine: Machine) -> dict[str, str]:
    """Empty values: the board does not say."""
    board = read_board(machine)
    release = board.jetpack
    return {
        "chip": board.chip,
        "part": board.module.part if board.module else "",
        "l4t": board.l4t,
        "jetpack": release.name if release else "",
        "support": release.support if release else "",
        "python": release.python if release else "",
        "tensorrt": release.tensorrt.rstrip("?") if release else "",
    }


if __name__ == "__main__":
    for name, value in facts(Machine(root=Path(sys.argv[1] if len(sys.argv) > 1 else "/"))).items():
        print(f"{name}={value}")


__all__ = ["facts"]
