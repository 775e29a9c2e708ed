"""Collects what is public today, a sorted list of lines for each kind."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_DOTTED = re.compile(r"\bedgeadapt(?:_onnxruntime|_tensorrt|_bench)?(?:\.[A-Za-z_]\w*)+")
_CLASSES = (
    "Learner",
    "Policy",
    "Keep",
    "Budget",
    "Prediction",
    "Observation",
    "Reading",
    "Question",
    "Receipt",
    "MigrationReport",
)


# -- Python ----------------------------------------------------------------------------------------
def resolve(name: str) -> Any:
    """The object at a dotted name; an alias that warns of its end counts.

    Raises:
        AttributeError, ModuleNotFoundError: there is none.
    """
    parts = name.split(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found, path = importlib.import_module(parts[0]), parts[0]
        for part in parts[1:]:
            path += f".{part}"
            try:
                found = getattr(found, part)
            except AttributeError:
                if not inspect.ismodule(found):
                    raise
                found = importlib.import_module(path)
        return found


def resolves(name: str) -> bool:
    """Is there such an object?"""
    try:
        resolve(name)
    except (AttributeError, ModuleNotFoundError):
        return False
    return True


def mentioned() -> set[str]:
    """Dotted names and imports in the pages and examples, whether they resolve or not."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.py")]
    pages += [*(ROOT / "firmware_notes").rglob("*.md")]
    pages += [p for p in (ROOT / "deploy").rglob("*") if p.is_file()]
    found: set[str] = set()
    for page in pages:
        text = page.read_text(encoding="utf-8")
        found |= set(_DOTTED.findall(text))
        blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for block in [text] if page.suffix == ".py" else blocks:
            found |= _imports(block)
    return found


def _imports(block: str) -> set[str]:
    """``from a import b`` is ``a.b``; of what a name was bound to, ``b.c`` is ``a.b.c``."""
    try:
        tree = ast.parse(block)
    except SyntaxError:  # a fragment, with an ellipsis where code is left out
        return set()
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            bound |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            bound |= {a.asname or a.name.split(".")[0]: a.name for a in node.names}
    found = set(bound.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {f"{bound[node.value.id]}.{node.attr}"} if node.value.id in bound else set()
    return {name for name in found if name.split(".")[0].startswith("edgeadapt")}


def _exists(name: str) -> bool:
    try:
        return resolve(name) is not None
    except (AttributeError, ModuleNotFoundError):
        return False


def documents() -> list[str]:
    return sorted(name for name in mentioned() if _exists(name))


def members() -> list[str]:
    """Exports, public methods with their parameters, fields, and errors with their bases."""
    found = [f"edgeadapt.{name}" for name in (*resolve("edgeadapt").__all__, "open")]
    found += [f"edgeadapt.host.{name}" for name in resolve("edgeadapt.host").__all__]
    found += [line for name in _CLASSES for line in _class(name)]
    found += [
        line
        for name in ("open", "migrate", "prepare", "read_bundle")
        for line in _parameters(name, resolve(f"edgeadapt.{name}"))
    ]
    found += list(_parameters("host.export", resolve("edgeadapt.host.export")))
    for name, kind in vars(resolve("edgeadapt.errors")).items():
        if inspect.isclass(kind) and issubclass(kind, Exception):
            bases = [base.__name__ for base in kind.__mro__[1:] if base is not object]
            found += [f"errors.{name} is {base}" for base in bases]
    return sorted(found)


def _class(name: str) -> Iterator[str]:
    kind = resolve(f"edgeadapt.{name}")
    for member in sorted({*dir(kind), *getattr(kind, "__annotations__", {})}):
        if not member.startswith("_"):
            yield f"{name}.{member}"
            if inspect.isfunction(value := getattr(kind, member, None)):
                yield from _parameters(f"{name}.{member}", value)
    if name != "Learner":
        yield from _parameters(name, kind)


def _parameters(name: str, called: Any) -> Iterator[str]:
    """``name(2 x = None)``: its place, or ``*`` where it is given by name, and its default."""
    for place, one in enumerate(inspect.signature(called).parameters.values()):
        if one.name != "self":
            shown = "" if one.default is one.empty else f" = {one.default!r}"
            shown = re.sub(r" at 0x\w+", "", shown)
            by_name = one.kind is one.KEYWORD_ONLY
            yield f"{name}({'*' if by_name else place} {one.name}{shown})"


# -- commands --------------------------------------------------------------------------------------
def commands() -> list[str]:
    """Commands, options, their choices, and exit codes."""
    from edgeadapt import cli

    parser = cli._parser(cli.COMMANDS)
    codes = re.findall(r"^\s+(\d+)\s+\S", parser.epilog or "", re.MULTILINE)
    return sorted({*_options(parser, "edgeadapt"), *(f"exit code {code}" for code in codes)})


def _options(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield f"{name} {word}"
                yield from _options(below, f"{name} {word}")
            continue
        for option in action.option_strings or [f"<{action.dest}>"]:
            yield f"{name} {option}"
            yield from (f"{name} {option} {choice}" for choice in action.choices or ())


# -- the daemon ------------------------------------------------------------------------------------
def routes() -> list[str]:
    from edgeadapt.daemon.http.openapi import ALL_ROUTES

    return sorted(f"{r.method} {r.path} {getattr(r.role, 'name', r.role)}" for r in ALL_ROUTES)


def settings() -> list[str]:
    """Keys of the daemon's file."""
    import msgspec

    from edgeadapt.daemon.settings import Settings

    return sorted(set(_keys(_settings_schema(msgspec, Settings))))


def _settings_schema(msgspec: Any, kind: Any) -> dict[str, Any]:
    (_,), found = msgspec.json.schema_components(
        [kind], schema_hook=lambda _: {"type": "string"}, ref_template="#/$defs/{name}"
    )
    return {"$ref": f"#/$defs/{kind.__name__}", "$defs": found}


def metrics() -> list[str]:
    """Names in the code and in the pages of the operator."""
    text = "".join(p.read_text() for p in sorted((ROOT / "edgeadapt" / "daemon").rglob("*.py")))
    found = re.findall(r'(Counter|Histogram|Gauge\w*|Counter\w*)?\(\s*"(edgeadapt_[a-z_]+)"', text)
    return sorted({name for _, name in found})


# -- files -----------------------------------------------------------------------------------------
def files() -> list[str]:
    """Keys of the committed schemas, columns, roles and ports, entry points, words of history."""
    folder = ROOT / "docs" / "format"
    found = set()
    for file in ("manifest.schema.json", "signature.schema.json", "doctor.schema.json"):
        kind = file.split(".")[0]
        found |= {f"{kind} {key}" for key in _keys(json.loads((folder / file).read_text()))}
    tables = json.loads((folder / "journal.schema.json").read_text())["tables"]
    found |= {
        f"journal {table}.{column}" for table in tables for column in tables[table]["columns"]
    }
    from edgeadapt.bundle.roles import ROLES

    for name, role in ROLES.items():
        found |= {f"role {name} port {port}" for port in role.ports}
        found |= {f"role {name} output {port}" for port in role.outputs}
    project = (ROOT / "pyproject.toml").read_text()
    for group, body in re.findall(
        r'\[project\.entry-points\."(.+?)"\]\n(.*?)\n\n', project, re.DOTALL
    ):
        found |= {f"entry point {group}: {line}" for line in body.splitlines()}
    return sorted(found)


def _keys(schema: dict[str, Any]) -> Iterator[str]:
    """Paths of keys from the root: the names of the structs do not matter."""
    definitions = schema.get("$defs", {})

    def walk(node: Any, path: str, seen: tuple[str, ...]) -> Iterator[str]:
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            if name not in seen:
                yield from walk(definitions[name], path, (*seen, name))
        for key, below in node.get("properties", {}).items():
            inner = f"{path}.{key}" if path else key
            yield inner
            yield from walk(below, inner, seen)
        items = node.get("items")
        parts = [items] if isinstance(items, dict) else []
        for part in (*parts, *node.get("prefixItems", ())):
            yield from walk(part, f"{path}[]", seen)
        for part in (*node.get("anyOf", ()), *node.get("oneOf", ())):
            yield from walk(part, path, seen)
        if isinstance(extra := node.get("additionalProperties"), dict):
            yield from walk(extra, f"{path}.*", seen)

    yield from walk(schema, "", ())


LISTS = {
    "documents": documents,
    "members": members,
    "commands": commands,
    "routes": routes,
    "settings": settings,
    "metrics": metrics,
    "files": files,
}
