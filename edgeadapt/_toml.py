"""A TOML file becomes a frozen msgspec struct, and every refusal is one line: file, full key, the
value, and what is allowed.

Keys are written as a reader finds them: ``train.epochs``, and ``source[1].path`` in the second
section headed ``[[source]]``. A list of sections may hold several kinds of struct, told apart by
their tag (``kind = "folder"``).
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec import inspect as mi

from edgeadapt.errors import RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# the time to parse a dotted key grows with the square of its parts
_MAX_BYTES, _MAX_DOTS = 1 << 18, 200
_S = TypeVar("_S", bound=Struct)


def read_table(path: Path, what: str) -> dict[str, Any]:
    """The content of a TOML file; ``what`` names it in the message about its size.

    Raises:
        RecipeError: it is missing, too large, or not TOML.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise RecipeError(f"{path}: more than {_MAX_BYTES} bytes; {what} is a page of text")
        text = data.decode("utf-8").replace("\r\n", "\n")
        for number, line in enumerate(text.split("\n"), 1):
            if line.count(".") > _MAX_DOTS:
                raise RecipeError(
                    f"{path}: line {number} has more than {_MAX_DOTS} dots; put one value on a line"
                )
        return tomllib.loads(text)
    except RecipeError:
        raise
    # also numbers of thousands of digits, and brackets nested as deep
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: cannot be read as TOML: {error}") from error


def to_struct(
    path: Path,
    table: dict[str, Any],
    struct: type[_S],
    dec_hook: Callable[[type, Any], Any] | None = None,
) -> _S:
    """Check and convert; ``path`` is only named. ``dec_hook`` is msgspec's: it makes the values of
    types that TOML does not have.

    Raises:
        RecipeError: a key is unknown or missing, or a value is not allowed.
    """
    check_keys(path, table, struct)
    try:
        return msgspec.convert(table, struct, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        raise RecipeError(explain(path, table, struct, str(error))) from error


def check_keys(path: Path, table: dict[str, Any], struct: type[Struct]) -> None:
    """Refuse a key that no struct has, and a section of an unknown kind, at any depth; a near miss
    is offered.

    Raises:
        RecipeError: with the allowed keys or kinds.
    """
    _check_value(path, table, _type_of(struct), "")


def _check_value(path: Path, value: Any, kind: mi.Type, where: str) -> None:
    kind = _bare(kind)
    if isinstance(kind, mi.CollectionType):
        for index, inner in enumerate(value if isinstance(value, list) else ()):
            _check_value(path, inner, kind.item_type, f"{where}[{index}]")
        return
    structs = _structs(kind)
    if not structs or not isinstance(value, dict):
        return
    chosen = _chosen(path, value, structs, where)
    fields = {field.encode_name: field.type for field in chosen.fields}
    tag = (chosen.tag_field,) if chosen.tag_field else ()
    for key, inner in value.items():
        full = f"{where}.{key}" if where else key
        if key in fields:
            _check_value(path, inner, fields[key], full)
        elif key not in tag:
            raise RecipeError(
                f"{path}: unknown key {full}; {_near(key, fields)}allowed:"
                f" {', '.join((*tag, *fields))}"
            )


def _chosen(
    path: Path, value: dict[str, Any], structs: list[mi.StructType], where: str
) -> mi.StructType:
    """The struct whose tag the section has."""
    tag_field = structs[0].tag_field
    if tag_field is None:
        return structs[0]
    by_tag = {str(struct.tag): struct for struct in structs}
    given = value.get(tag_field)
    if isinstance(given, str) and given in by_tag:
        return by_tag[given]
    found = f"= {given!r}" if tag_field in value else "is missing"
    near = _near(str(given), by_tag)
    raise RecipeError(f"{path}: {where}.{tag_field} {found}; {near}allowed: {_one_of(by_tag)}")


def explain(path: Path, table: dict[str, Any], struct: type[Struct], message: str) -> str:
    """One line with the key, the value that was given and the allowed ones, from msgspec's message
    and its ``$.a[0].b`` path.
    """
    missing = re.search(r"missing required field `(\w+)`(?: - at `\$\.(.*)`)?", message)
    place = re.search(r"at `\$\.?(.*)`", message)
    where = place.group(1) if place else ""
    if missing:
        where = f"{missing.group(2)}.{missing.group(1)}" if missing.group(2) else missing.group(1)
    kind, key = _type_of(struct), ""
    value: Any = table
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", re.sub(r"\[\.\.\.\].*", "", where)):
        if name:
            kind, key = _field(kind, value, name), f"{key}.{name}" if key else name
            value = value.get(name) if isinstance(value, dict) else None
        elif isinstance(kind, mi.CollectionType) and _structs(kind.item_type):
            kind, key = _bare(kind.item_type), f"{key}[{index}]"
            value = value[int(index)]
        else:  # the whole list is shown, not the one item in it
            break
    return f"{path}: {key} {'is missing' if missing else f'= {value!r}'}; allowed: {allowed(kind)}"


def _field(kind: mi.Type, value: Any, name: str) -> mi.Type:
    for struct in _structs(kind):
        is_chosen = struct.tag_field is None or (
            isinstance(value, dict) and value.get(struct.tag_field) == struct.tag
        )
        if is_chosen:
            return next(
                (_bare(field.type) for field in struct.fields if field.encode_name == name), kind
            )
    return kind


def allowed(kind: mi.Type) -> str:
    """A type in words: ``'act' or 'off'``, ``a whole number >= 1``, ``a list, each a text``."""
    kind = _bare(kind)
    if isinstance(kind, mi.LiteralType):
        return " or ".join(repr(value) for value in kind.values)
    structs = _structs(kind)
    if structs and structs[0].tag_field is not None:
        return f"a section of kind {_one_of(str(struct.tag) for struct in structs)}"
    if isinstance(kind, mi.UnionType):
        return " or ".join(
            allowed(inner) for inner in kind.types if not isinstance(inner, mi.NoneType)
        )
    if isinstance(kind, (mi.IntType, mi.FloatType)):
        limits = ((">=", kind.ge), (">", kind.gt), ("<=", kind.le), ("<", kind.lt))
        bounds = [f"{sign} {limit}" for sign, limit in limits if limit is not None]
        return " ".join(
            ["a whole number" if isinstance(kind, mi.IntType) else "a number", " and ".join(bounds)]
        ).strip()
    if isinstance(kind, mi.StrType):
        return f"a text that matches {kind.pattern}" if kind.pattern else "a text"
    if isinstance(kind, mi.BoolType):
        return "true or false"
    if isinstance(kind, mi.CustomType) and issubclass(kind.cls, Path):
        return "a path"
    if isinstance(kind, mi.VarTupleType):
        heading = " (its heading in double brackets)" if _structs(kind.item_type) else ""
        return f"a list{heading}, each {allowed(kind.item_type)}"
    if isinstance(kind, mi.TupleType):
        return f"a list of {len(kind.item_types)}, each {allowed(kind.item_types[0])}"
    if isinstance(kind, mi.StructType):
        return f"a section with {', '.join(field.encode_name for field in kind.fields)}"
    return "a table"


@lru_cache
def _type_of(struct: type[Struct]) -> mi.Type:
    return mi.type_info(struct)


def _bare(kind: mi.Type) -> mi.Type:
    """Without what a ``Meta(description=...)`` wraps around it."""
    while isinstance(kind, mi.Metadata):
        kind = kind.type
    return kind


def _structs(kind: mi.Type) -> list[mi.StructType]:
    kind = _bare(kind)
    return [
        inner
        for inner in map(_bare, kind.types if isinstance(kind, mi.UnionType) else (kind,))
        if isinstance(inner, mi.StructType)
    ]


def _near(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), 1)
    return f"did you mean {close[0]!r}? " if close else ""


def _one_of(words: Iterable[str]) -> str:
    return " or ".join(map(repr, words))
