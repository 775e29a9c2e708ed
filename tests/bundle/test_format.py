"""The committed JSON schemas are those of the code."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from schema_meaning import meaning

from edgeadapt.bundle import format_schemas, read_bundle
from edgeadapt.bundle.codec import decode_manifest, encode_manifest
from edgeadapt.demo.sample import bundle_path
from edgeadapt.errors import BundleError

FORMAT = Path(__file__).parents[2] / "docs" / "format"
REGENERATE = (
    "import edgeadapt.bundle as b, pathlib as p; [p.Path('docs/format', n).write_text(t) for n, t"
    " in b.format_schemas().items()]"
)


@pytest.mark.parametrize("name", ["manifest.schema.json", "signature.schema.json", "roles.json"])
def test_the_committed_schema_has_not_drifted(name: str) -> None:
    committed = json.loads((FORMAT / name).read_text())
    assert meaning(committed) == meaning(json.loads(format_schemas()[name])), (
        f'the format changed; raise FORMAT if it must, then: python -c "{REGENERATE}"'
    )


@pytest.mark.parametrize(
    ("role", "parts", "told"),
    [
        ("predict", {"outputs": ()}, "has no output 'embedding'"),
        ("learn", {"writes": ()}, "has no tensor that it writes"),
    ],
)
def test_a_graph_that_cannot_answer_its_role_is_refused(role: str, parts: dict, told: str) -> None:
    manifest = read_bundle(bundle_path()).manifest
    graphs = tuple(
        msgspec.structs.replace(g, **parts) if role in g.roles else g for g in manifest.graphs
    )
    with pytest.raises(BundleError, match=told):
        decode_manifest(encode_manifest(msgspec.structs.replace(manifest, graphs=graphs)))
