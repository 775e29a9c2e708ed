"""The reference of the settings, written from their structs.

python tools/daemon_settings_reference.py > docs/daemon_settings.md
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec import inspect as mi

from edgeadapt._toml import allowed
from edgeadapt.daemon.config import schema as settings

_HEAD = """# Settings of the daemon

The file that `edgeadapt serve CONFIG.toml` reads. `edgeadapt serve CONFIG.toml --check` says what
is wrong with one: the file, the key, its value and what is allowed. A key that is not listed here
is an error. Relative paths are taken from the folder of the file. A name has at most 64 letters,
digits, dots, dashes and underscores, the first a letter or digit.

```toml
bundle = "screws.edge"
state = "/var/lib/edgeadapt/state"
trust = ["ed25519:..."]          # or unsigned = "accept"

[[source]]                       # as many as there are cameras and sensors
kind = "folder"
path = "incoming"

[[sink]]
kind = "jsonl"
path = "answers.jsonl"
```

This page is written from the settings themselves:
`python tools/daemon_settings_reference.py > docs/daemon_settings.md`.
"""


def render() -> str:
    """The whole page, as Markdown."""
    return "\n".join(
        [
            _HEAD,
            *_top(),
            *_sections(),
            *_kinds("source", settings.AnySource),
            *_kinds("sink", settings.AnySink),
        ]
    )


def _top() -> Iterator[str]:
    yield "## Above all sections\n"
    yield from _table(settings.Settings)


def _sections() -> Iterator[str]:
    for field in msgspec.structs.fields(settings.Settings):
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            yield from (f"## [{field.name}]\n", f"{_doc(field.type)}\n", *_table(field.type))


def _kinds(name: str, union: Any) -> Iterator[str]:
    for struct in union.__args__:
        yield from (
            f'## [[{name}]] kind = "{struct.__struct_config__.tag}"\n',
            f"{_doc(struct)}\n",
            *_table(struct),
        )


def _table(struct: type[Struct]) -> Iterator[str]:
    """One line a key, those that must be given first; sections have tables of their own."""
    kind = mi.type_info(struct)
    assert isinstance(kind, mi.StructType)
    meanings = {key: text for one in reversed(struct.__mro__) for key, text in _meanings(one)}
    yield "| Key | Value | Default | Meaning |\n|---|---|---|---|"
    for field in sorted(kind.fields, key=lambda field: not field.required):
        if not isinstance(field.type, mi.StructType) and field.name not in ("source", "sink"):
            meaning = meanings.get(field.name) or _shared(field.type)
            assert meaning, f"{field.name} has no string under it"
            cells = (f"`{field.encode_name}`", _value(field.type), _default(field), f"{meaning}.")
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _meanings(struct: type) -> Iterator[tuple[str, str]]:
    """The string under each key."""
    if struct.__module__.startswith("edgeadapt.daemon.config"):
        body = ast.parse(textwrap.dedent(inspect.getsource(struct))).body[0]
        assert isinstance(body, ast.ClassDef)
        for key, below in pairwise(body.body):
            if isinstance(key, ast.AnnAssign) and isinstance(below, ast.Expr):
                assert isinstance(key.target, ast.Name)
                yield key.target.id, " ".join(str(ast.literal_eval(below.value)).split())


def _shared(kind: mi.Type) -> str:
    """What a type says that several keys have."""
    extra = kind.extra_json_schema if isinstance(kind, mi.Metadata) else None
    return str((extra or {}).get("description", ""))


def _value(kind: mi.Type) -> str:
    """The type in words, without patterns: the meaning, or the head of the page, says what they
    do.
    """
    return allowed(kind).partition(" that matches ")[0]


def _default(field: mi.Field) -> str:
    if field.required:
        return "must be given"
    value = field.default
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return (
        f'`"{value}"`'
        if isinstance(value, (str, Path))
        else f"`{value:g}`"
        if isinstance(value, float)
        else f"`{value}`"
    )


def _doc(struct: type[Struct]) -> str:
    return textwrap.fill(" ".join((struct.__doc__ or "").split()), 100, break_on_hyphens=False)


if __name__ == "__main__":
    print(render(), end="")


__all__ = ["render"]
