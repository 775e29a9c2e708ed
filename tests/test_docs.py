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


# -- the architecture page -------------------------------------------------------------------------
ROOT = DOCS.parent
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")


def layers(side: str) -> dict[str, int]:
    """The folders of ``edgeadapt/SIDE`` in the page's table, with their layers."""
    table = ARCHITECTURE.partition(f"\n### {side}\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (\d) \| `([^`]+)` \|", table, re.MULTILINE)
    return {name.removesuffix(".py"): int(layer) for layer, name in rows}


def imports_between(side: str) -> set[tuple[str, str]]:
    """Pairs of folders, or files beside them, of which the first imports the second."""
    top, found = ROOT / "edgeadapt" / side, set()
    for file in top.rglob("*.py"):
        here = file.relative_to(top).with_suffix("").parts[0]
        text = file.read_text(encoding="utf-8")
        for there in re.findall(rf"^\s*(?:from|import) edgeadapt\.{side}\.(\w+)", text, re.M):
            found |= {(here, there)} - {(here, here)}
    return found


def test_files_that_the_architecture_page_names_are_there() -> None:
    named = re.findall(r"`((?:edgeadapt|runtimes|benchmarks|tools|tests)/[\w./]+)`", ARCHITECTURE)
    assert len(set(named)) > 60
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("side", ["device", "daemon", "host"])
def test_folders_import_lower_layers_only_and_all_are_on_the_page(side: str) -> None:
    found, folders = layers(side), (ROOT / "edgeadapt" / side).glob("*/__init__.py")
    assert {folder.parent.name for folder in folders} <= set(found)
    wrong = {
        (here, there)
        for here, there in imports_between(side)
        if here in found and there in found and found[here] <= found[there]
    }
    assert wrong == set()


def test_the_picture_is_the_one_that_its_script_draws() -> None:
    import architecture_picture

    drawn = architecture_picture.picture()
    assert (DOCS / "architecture.svg").read_text(encoding="utf-8") == drawn
    assert 'class="device"' in drawn and "learner.py" in drawn
