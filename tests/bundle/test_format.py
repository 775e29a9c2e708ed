"""The committed JSON schemas are those of the code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeadapt.bundle import format_schemas

FORMAT = Path(__file__).parents[2] / "docs" / "format"
REGENERATE = "import edgeadapt.bundle as b, pathlib as p; [p.Path('docs/format', n).write_text(t) for n, t in b.format_schemas().items()]"


@pytest.mark.parametrize("name", ["manifest.schema.json", "signature.schema.json"])
def test_the_committed_schema_has_not_drifted(name: str) -> None:
    committed = json.loads((FORMAT / name).read_text())
    assert committed == json.loads(format_schemas()[name]), f'the format changed; raise FORMAT if it must, then: python -c "{REGENERATE}"'
