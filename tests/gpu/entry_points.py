"""Makes the runtimes of this checkout known to a Python in which edgeadapt is not installed,
without installing anything:

    python tests/gpu/entry_points.py FOLDER      and FOLDER in front of PYTHONPATH
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def write(folder: Path, pyproject: Path) -> Path:
    """The metadata that an installation would have: name, version, requirements and entry
    points.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    made = folder / f"{project['name']}-{project['version']}.dist-info"
    made.mkdir(parents=True)
    head = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        *(f"Requires-Dist: {one}" for one in project["dependencies"]),
    ]
    for extra, wanted in project["optional-dependencies"].items():
        head += [
            f"Provides-Extra: {extra}",
            *(f"Requires-Dist: {_with_extra(one, extra)}" for one in wanted),
        ]
    (made / "METADATA").write_text("\n".join(head) + "\n", encoding="utf-8")
    groups = [(group, names) for group, names in project["entry-points"].items()]
    lines = [
        line
        for group, names in groups
        for line in (f"[{group}]", *(f"{name} = {place}" for name, place in names.items()))
    ]
    (made / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return made


def _with_extra(requirement: str, extra: str) -> str:
    wanted, _, marker = requirement.partition(";")
    return f'{wanted.strip()}; {f"({marker.strip()}) and " if marker else ""}extra == "{extra}"'


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), Path(__file__).parents[2] / "pyproject.toml"))
