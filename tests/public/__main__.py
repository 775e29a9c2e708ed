"""``python tests/public``: write the lists of public names again; ``git diff`` shows what
changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)

from public.names import LISTS, resolves  # noqa: E402

for name, collect in LISTS.items():
    page = HERE / f"{name}.txt"
    lines = set(collect())
    if name == "documents":  # a name that they mentioned once is kept as long as it is an alias
        lines |= {line for line in page.read_text().splitlines() if resolves(line)}
    page.write_text("\n".join(sorted(lines)) + "\n")
