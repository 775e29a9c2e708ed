"""Arguments that several commands have, and the kinds of values that they take."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def everywhere() -> argparse.ArgumentParser:
    """A parent of every parser, so that ``--debug`` may stand anywhere."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )
    return parent


def add_actions(parser: argparse.ArgumentParser) -> Callable[[str, str], argparse.ArgumentParser]:
    """Commands of a command; what comes back makes one of a name and a summary."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="COMMAND")
    parents = [everywhere()]

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(
            name, help=summary, description=summary, parents=parents
        )
        return added

    return action


def add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="KEY",
        help="public key, text or file; the bundle must be signed by one of them",
    )


def add_new_classes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--new-classes",
        choices=("refuse", "add"),
        default="refuse",
        help="what a label with an unknown name does (default: refuse)",
    )


def add_bundle_options(parser: argparse.ArgumentParser) -> None:
    """Of what opens a bundle and says what came of it."""
    parser.add_argument(
        "--runtime",
        default="auto",
        metavar="R",
        help=(
            "what runs the graphs: a name from edgeadapt runtimes (default: auto, here onnxruntime)"
        ),
    )
    add_trust(parser)
    parser.add_argument("--json", action="store_true")


def add_learning_options(parser: argparse.ArgumentParser) -> None:
    """Of what learns labels of other tools."""
    add_new_classes(parser)
    parser.add_argument(
        "--keep",
        type=count,
        metavar="N",
        help="keep the inputs of N samples of a class (default: as the state or the export did)",
    )


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {value}")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"between 0 and 1, got {value:g}")
    return value


__all__ = [
    "add_actions",
    "add_bundle_options",
    "add_learning_options",
    "add_new_classes",
    "add_trust",
    "count",
    "everywhere",
    "share",
]
