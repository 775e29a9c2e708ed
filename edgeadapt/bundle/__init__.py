"""What ships: the manifest, the closed table of roles, the archive and its signature.

Both sides import it: the host writes a bundle with :func:`write_bundle`, a device opens it
with :func:`read_bundle`, and other languages read it by the JSON schemas of :func:`format_schemas`.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from edgeadapt.bundle._describe import describe
from edgeadapt.bundle._stress_table import stress_table
from edgeadapt.bundle.archive import FACTORY, FROZEN, GUARD, Bundle, read_bundle, write_bundle
from edgeadapt.bundle.roles import ROLES
from edgeadapt.bundle.schema import Manifest, json_schema
from edgeadapt.bundle.signature import Signature, signature_schema


def format_schemas() -> dict[str, str]:
    """The files of ``docs/format/`` that describe a bundle, by name: JSON schemas, and the table of
    roles with their ports.

    Regenerate them with ``python -c "import edgeadapt.bundle as b, pathlib as p;
    [p.Path('docs/format', n).write_text(t) for n, t in b.format_schemas().items()]"``.
    """
    roles = {role.name: asdict(role) for role in ROLES.values()}
    schemas = {
        "manifest.schema.json": json_schema(),
        "signature.schema.json": signature_schema(),
        "roles.json": roles,
    }
    return {
        name: json.dumps(schema, indent=2, sort_keys=True) + "\n"
        for name, schema in schemas.items()
    }


__all__ = [
    "FACTORY",
    "FROZEN",
    "GUARD",
    "Bundle",
    "Manifest",
    "Signature",
    "describe",
    "format_schemas",
    "read_bundle",
    "stress_table",
    "write_bundle",
]
