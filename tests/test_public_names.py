"""No name that users see is lost: the lists are those of ``tests/public``.

What JSON schemas and the HTTP interface hold beyond names is held by ``bundle/test_format.py``,
``test_journal_format.py`` and ``daemon/test_openapi.py``; golden bundles and state folders by
``device/test_golden_lives.py`` and ``device/test_migration.py``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from public.names import LISTS, mentioned, resolve

FOLDER = Path(__file__).parent / "public"
REFRESH = "python tests/public"
NEEDS = ("torch", "starlette", "prometheus_client", "sklearn")
needs_all = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDS),
    reason="needs the host, daemon and sklearn extras",
)


def frozen(kind: str) -> set[str]:
    return set((FOLDER / f"{kind}.txt").read_text().splitlines())


@needs_all
@pytest.mark.parametrize("kind", sorted(set(LISTS) - {"documents"}))
def test_no_public_name_is_gone_and_none_is_unlisted(kind: str) -> None:
    found = set(LISTS[kind]())
    gone, new = sorted(frozen(kind) - found), sorted(found - frozen(kind))
    where = f"tests/public/{kind}.txt"
    assert not gone, f"{gone} gone: keep it, or alias it with a deprecation note, then edit {where}"
    assert not new, f"{new} not in {where}: {REFRESH}"


@needs_all
@pytest.mark.parametrize("name", sorted(frozen("documents")))
def test_a_name_that_the_documents_mentioned_still_resolves(name: str) -> None:
    try:
        assert resolve(name) is not None
    except (AttributeError, ModuleNotFoundError) as error:
        pytest.fail(f"{name} gone ({error}): keep it, or alias it with a deprecation note")


@needs_all
def test_every_name_that_the_documents_mention_is_listed() -> None:
    new = sorted(set(LISTS["documents"]()) - frozen("documents"))
    assert not new and mentioned() >= {"edgeadapt.open"}, f"{new} not in the list: {REFRESH}"
