"""docs/daemon.md is true: its shell blocks run in one shell, from a clone, and print what they are
said to; its settings can be loaded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeadapt.daemon.config.loader import load_settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "daemon.md"
HAS_DAEMON = all(
    importlib.util.find_spec(name) is not None
    for name in ("starlette", "uvicorn", "prometheus_client", "PIL")
)
needs_daemon = pytest.mark.skipif(
    not HAS_DAEMON or shutil.which("curl") is None,
    reason="needs the daemon and images extras, and curl",
)
_END = "-- end of block"
PRELUDE = """
set -u
trap 'kill -9 $(jobs -p) 2>/dev/null' EXIT
# What is installed here already is not installed again.
python3() { [ "$1 $2" = "-m venv" ] && mkdir -p "$3/bin" && : > "$3/bin/activate"; }
pip() { printf '%s\\n' "$*" > installed; }
python() { "$PYTHON" "$@"; }
edgeadapt() { # at the port of the test, and killed by its own number
  if [ "$1" = ctl ]; then
    shift; "$PYTHON" -m edgeadapt ctl --url "http://127.0.0.1:$PORT" "$@"
  else
    exec "$PYTHON" -m edgeadapt "$@"
  fi
}
check() {
  edgeadapt_code=$?
  [ $edgeadapt_code = 0 ] || { echo "FAILED with $edgeadapt_code: $1" >&2; exit 1; }
}
"""


def blocks() -> Iterator[tuple[str, str]]:
    """``(language, text)`` of every fenced block."""
    for found in re.finditer(
        r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        yield found.group(1), found.group(2)


def masked(text: str) -> list[str]:
    """Figures differ from run to run; words do not, nor how many labels of the page's own are
    forgotten.
    """
    return [
        line if line.startswith("removed ") else re.sub(r"\d[\d,]*(\.\d+)?", "#", line)
        for line in text.splitlines()
    ]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the page needs of a clone; what it makes does not land in the real one."""
    for name in ("edgeadapt", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("deploy", "examples"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "deploy" / "try.toml", tmp_path / "deploy")
    return tmp_path


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found: int = free.getsockname()[1]
        return found


@needs_daemon
def test_every_command_of_the_page_runs_and_prints_what_it_says(clone: Path, port: int) -> None:
    example = (ROOT / "examples" / "http_labels.py").read_text().replace("8420", str(port))
    example = example.replace("Path(__file__).parents[1]", f"Path({str(ROOT)!r})")
    (clone / "examples" / "http_labels.py").write_text(example)
    settings = clone / "deploy" / "try.toml"
    settings.write_text(settings.read_text() + f'\n[control]\nlisten = "127.0.0.1:{port}"\n')
    script, wanted = [PRELUDE], []
    for language, text in blocks():
        if language == "sh":
            for line in text.replace("\\\n", " ").splitlines():
                command = line.replace("8420", str(port)).replace(
                    "edgeadapt serve deploy/try.toml --check --reload",
                    "( edgeadapt serve deploy/try.toml --check --reload )",
                )
                script += [command, "" if command.endswith("&") else f"check {len(script)}"]
            script.append(f"echo; echo '{_END}'")
            wanted.append([])
        elif language == "text":
            wanted[-1] += masked(text)
    (clone / "page.sh").write_text("\n".join(script))
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PORT": str(port),
        "PYTHONPATH": os.pathsep.join(sys.path[1:]),
        "OMP_NUM_THREADS": "1",
    }
    with (clone / "out").open("w") as out_file, (clone / "log").open("w") as log_file:
        shell = subprocess.run(
            ["bash", "page.sh"],
            cwd=clone,
            env=environment,
            stdout=out_file,
            stderr=log_file,
            timeout=240,
            check=False,
        )
    out, log = (clone / "out").read_text(), (clone / "log").read_text()
    assert shell.returncode == 0, (out[-3000:], log[-3000:])
    printed = out.split(_END)[:-1]
    assert len(printed) == len(wanted) >= 7
    for said, lines in zip(printed, wanted, strict=True):
        left_lines = masked(said)
        for line in lines:
            assert line in left_lines, f"not printed: {line!r}; printed: {left_lines}"
            del left_lines[: left_lines.index(line) + 1]
    assert (clone / "installed").read_text() == "install .[daemon,images]\n"
    before, after = (
        re.findall(r"evidence\.\w+ +\d+", part) for part in printed[-1].partition("ok  ")[::2]
    )
    assert before and after == before, printed[-1]  # the kill took no label
    assert (clone / "token").stat().st_mode & 0o777 == 0o600


def test_settings_of_the_page_can_be_loaded(clone: Path) -> None:
    texts = [text for language, text in blocks() if language == "toml"]
    assert len(texts) >= 2
    for text in texts:
        named = re.match(r"# (\w+\.toml)\n", text)
        assert named is not None
        (clone / named.group(1)).write_text(text)
        assert load_settings(clone / named.group(1)).bundle.exists()


def test_the_quick_start_has_five_lines() -> None:
    language, text = next(blocks())
    assert language == "sh" and len(text.splitlines()) == 5


def test_extras_that_the_page_installs_exist() -> None:
    extras = set(
        re.findall(
            r"^(\w+) = \[",
            (ROOT / "pyproject.toml")
            .read_text()
            .partition("[project.optional-dependencies]")[2]
            .partition("\n[")[0],
            re.MULTILINE,
        )
    )
    assert {"daemon", "images", "video"} <= extras


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {language for language, _ in blocks()} == {"sh", "text", "toml"}


def test_the_client_needs_no_package() -> None:
    text = (ROOT / "examples" / "http_labels.py").read_text()
    modules = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert modules <= sys.stdlib_module_names
