"""``python tests/public``: write the lists of public names again; ``git diff`` shows what
changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)

from public.names import LISTS  # noqa: E402

for name, collect in LISTS.items():
    (HERE / f"{name}.txt").write_text("\n".join(collect()) + "\n")
