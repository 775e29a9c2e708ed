"""JSON schemas of what is written, the same bytes on every Python: 3.13 strips the indentation of
docstrings, older ones keep it.
"""

from __future__ import annotations

import inspect
import json
from typing import Any


def schema_text(kind: type, title: str) -> str:
    """The bytes of the committed schema of a document."""
    import msgspec  # late: the doctor reports its absence

    (schema,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    content = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **schema,
        "$defs": parts,
    }
    return json.dumps(undented(content), indent=2) + "\n"


def undented(value: Any) -> Any:
    """A schema whose descriptions have no indentation of the code."""
    if isinstance(value, dict):
        plain = {key: undented(of) for key, of in value.items()}
        if isinstance(text := plain.get("description"), str):
            plain["description"] = inspect.cleandoc(text)
        return plain
    return [undented(one) for one in value] if isinstance(value, list) else value
