"""Runs the command line in the tests' own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeadapt import cli


class Shell:
    """Runs ``edgeadapt ...`` in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.error = ""

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """Standard output; the exit code must be ``code``, and an error one line."""
        try:
            found = cli.main([str(a) for a in arguments])
        except SystemExit as left:  # argparse
            found = int(left.code or 0)
        out, self.error = self._capture.readouterr()
        assert found == code, (found, self.error)
        if code > 1 and "usage:" not in self.error:
            assert self.error.count("\n") == 1 and self.error.startswith("edgeadapt: error: ")
        assert "Traceback" not in self.error and (
            "usage:" in self.error or self.error.count("\n") <= 1
        )
        return out
