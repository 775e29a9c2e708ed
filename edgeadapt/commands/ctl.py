"""``ctl``: ask a running daemon over its control interface, or tell it something."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from edgeadapt.commands._arguments import add_actions, count
from edgeadapt.errors import UnknownClassError

if TYPE_CHECKING:
    from edgeadapt.commands._daemon_client import DaemonClient

_LONGEST_NAME = 64  # of a class, in a message; the time for the closest grows with the square of it


def ctl_arguments(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--url",
        default="http://127.0.0.1:8420",
        help="where it listens (default: http://127.0.0.1:8420)",
    )
    place.add_argument(
        "--socket", type=Path, metavar="PATH", help="the unix socket on which it listens"
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="F", help="file with the token that it wants"
    )
    parser.add_argument(
        "--ca-file",
        type=Path,
        metavar="F",
        help="certificate, in PEM, that vouches for an https daemon's (default: the system's)",
    )
    parser.add_argument("--json", action="store_true", help="the answer as one line of JSON")
    add = add_actions(parser)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added = add(name, summary)
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
        listed.add_argument("--limit", type=count, metavar="N", help="how many at most")
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


def ctl(args: argparse.Namespace) -> int:
    """Ask a running daemon, or tell it something; 1 if none answers, or if ``health`` finds it
    unwell.
    """
    from edgeadapt.commands._daemon_client import DaemonClient, NoAnswer

    daemon = DaemonClient(args.url, args.socket, args.token_file, args.ca_file)
    try:
        return int(_ASKED[args.action](daemon, args))
    except NoAnswer as error:
        print(f"edgeadapt: error: {error}", file=sys.stderr)
        return 1


def _say(answer: Any, args: argparse.Namespace) -> int:
    print(json.dumps(answer) if args.json else "\n".join(_lines(answer)), flush=True)
    return 0


def _list(path: str) -> Callable[[DaemonClient, argparse.Namespace], int]:
    return lambda daemon, args: _say(daemon.ask("GET", path, limit=args.limit), args)


def _post(
    path: str, body: Callable[[argparse.Namespace], dict[str, Any] | None]
) -> Callable[[DaemonClient, argparse.Namespace], int]:
    return lambda daemon, args: _say(daemon.ask("POST", path, body(args)), args)


def _given(**conditions: Any) -> dict[str, Any]:
    """Those that have a value."""
    return {key: value for key, value in conditions.items() if value not in (None, [])}


def _classes(daemon: DaemonClient, args: argparse.Namespace) -> int:
    if args.add is not None:
        return _say(daemon.ask("POST", "/v1/classes", {"name": args.add}), args)
    if args.remove is not None:
        return _say(daemon.ask("DELETE", f"/v1/classes/{quote(args.remove, safe='')}"), args)
    return _say(daemon.ask("GET", "/v1/classes"), args)


def _label(daemon: DaemonClient, args: argparse.Namespace) -> int:
    """A name that is no class yet may be a slip: a person is asked, a script says --new.

    Raises:
        UnknownClassError: the class is not known, and nobody said that it is new.
    """
    if not args.new and args.label not in (known := daemon.ask("GET", "/v1/classes")["classes"]):
        from edgeadapt.commands._daemon_client import printable

        name, names = args.label[:_LONGEST_NAME], [str(one)[:_LONGEST_NAME] for one in known]
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        closest = f", the closest is {printable(close[0])!r}" if close else ""
        what = f"no class {printable(name)!r} yet{closest}"
        if not (sys.stdin.isatty() and _agrees(f"There is {what}. Add it? [y/N] ")):
            raise UnknownClassError(
                f'{what}: --new adds it, if the daemon\'s policy.new_classes is "add"; '
                "nothing was labelled"
            )
    given = {"labels": [{"sample": args.sample, "label": args.label}], "source": args.source}
    return _say(daemon.ask("POST", "/v1/labels", given), args)


def _agrees(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _health(daemon: DaemonClient, args: argparse.Namespace) -> int:
    """Alive and ready; for scripts and containers."""
    found = {path: daemon.exchange("GET", path) for path in ("/healthz", "/readyz")}
    is_well = all(status == 200 for status, _ in found.values())
    _say({"ok": is_well, "health": found["/healthz"][1], "ready": found["/readyz"][1]}, args)
    return 0 if is_well else 1


def _status(daemon: DaemonClient, args: argparse.Namespace) -> int:
    """What the page shows, and how good the answers are."""
    status, quality = daemon.ask("GET", "/v1/status"), daemon.ask("GET", "/v1/quality")
    return _say(status | {"quality": quality}, args)


def _metrics(daemon: DaemonClient, args: argparse.Namespace) -> int:
    text = daemon.ask("GET", "/metrics")
    print(json.dumps({"metrics": text}) if args.json else text, end="\n" if args.json else "")
    return 0


_ASKED: dict[str, Callable[[DaemonClient, argparse.Namespace], int]] = {
    "status": _status,
    "health": _health,
    "metrics": _metrics,
    "questions": _list("/v1/questions"),
    "history": _list("/v1/history"),
    "decisions": _list("/v1/decisions"),
    "classes": _classes,
    "label": _label,
    "forget": _post(
        "/v1/forget",
        lambda args: _given(
            samples=args.samples,
            source=args.source,
            classes=args.classes,
            before=args.before,
            after=args.after,
        ),
    ),
    "rollback": _post("/v1/rollback", lambda args: {"to": args.to}),
    "freeze": _post("/v1/freeze", lambda args: {"frozen": True}),
    "unfreeze": _post("/v1/freeze", lambda args: {"frozen": False}),
    "pause": _post("/v1/pause", lambda args: {"paused": True}),
    "resume": _post("/v1/pause", lambda args: {"paused": False}),
    "checkpoint": _post("/v1/checkpoint", lambda args: None),
    "swap": _post("/v1/swap", lambda args: {"bundle": os.path.abspath(args.bundle)}),
}


def _lines(answer: Any) -> list[str]:
    """One list: a line an item. Anything else: a line a value, under its dotted key."""
    if (
        isinstance(answer, dict)
        and len(answer) == 1
        and isinstance(only := next(iter(answer.values())), list)
    ):
        return [_row(item) if isinstance(item, dict) else _word(item) for item in only] or [
            f"no {next(iter(answer))}"
        ]
    return [f"{key:<32} {value}" for key, value in _flat(answer, "")]


def _flat(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(_dated(name, inner), f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(inner, (dict, list)) for inner in value):
        for index, inner in enumerate(value):
            yield f"{key}[{index}]", _row(inner) if isinstance(inner, dict) else _word(inner)
    else:
        yield (
            key or "answer",
            ", ".join(map(_word, value)) if isinstance(value, list) else _word(value),
        )


def _row(item: dict[str, Any]) -> str:
    return " ".join(
        f"{key}={_word(_dated(key, value))}"
        for key, value in item.items()
        if value not in ("", None)
    )


def _dated(key: str, value: Any) -> Any:
    """Seconds since the epoch as local time, where the key says that they are."""
    is_time = key in ("time", "at") or key.endswith("_at")
    if is_time and isinstance(value, (int, float)) and 1e9 < value < 1e11:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(value))
    return value


def _word(value: Any) -> str:
    """A value in one line, without anything that a terminal would obey."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value.isprintable() and value and '"' not in value:
        return value if " " not in value else f'"{value}"'
    return json.dumps(value)


__all__ = ["ctl"]
