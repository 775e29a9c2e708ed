"""The pages of the documentation run: python and shell blocks in order, and what they are said to
print is printed.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeadapt import cli

DOCS = Path(__file__).parents[1] / "docs"
needs_host = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the host extra (torch)"
)


def blocks(page: Path) -> Iterator[tuple[str, str, int]]:
    """``(language, text, line number)`` of every fenced block."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield found.group(1), found.group(2), text.count("\n", 0, found.start()) + 2


def masked(text: str) -> str:
    """Figures differ from run to run and between versions; words do not."""
    return re.sub(r"\d[\d,]*(\.\d+)?(e-?\d+)?", "#", text)


def run_page(page: Path, capture: pytest.CaptureFixture[str]) -> int:
    """Run every block in one namespace.

    A python block whose first line is a comment with a file name is that file. A ``text`` block has
    lines that the block before it prints, in this order.

    Returns:
        The number of blocks.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    printed, count = "", 0
    for language, text, line in blocks(page):
        where = f"{page.name}:{line}"
        count += 1
        if language == "python":
            if named := re.match(r"# (\w+\.py)\n", text):
                Path(named.group(1)).write_text(text, encoding="utf-8")
                continue
            exec(compile("\n" * (line - 1) + text, str(page), "exec"), names)
            printed = capture.readouterr().out
        elif language == "sh":
            for command in text.splitlines():
                program, *arguments = shlex.split(command)
                assert program == "edgeadapt", where
                assert cli.main(arguments) == 0, (where, capture.readouterr().err)
            printed = capture.readouterr().out
        else:
            assert language == "text", f"{where}: a block in {language!r} is not run"
            left = masked(printed).splitlines()
            for wanted in masked(text).splitlines():
                assert wanted in left, f"{where}: not printed: {wanted!r}; printed: {left}"
                del left[: left.index(wanted) + 1]
    return count


@needs_host
def test_compile_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_page(DOCS / "compile.md", capsys) >= 10


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing
