"""``label-studio``: a learner behind Label Studio, until it is interrupted or ended."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import Any

from edgeadapt.commands._arguments import add_learning_options, add_trust
from edgeadapt.device.detection.policy import Keep, Policy
from edgeadapt.device.learner import open as open_learner
from edgeadapt.errors import InputError
from edgeadapt.exporters.label_studio import Backend, Server

_SHORTEST = 16  # characters of a token


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="F.edge")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="the state folder")
    parser.add_argument("--host", default="127.0.0.1", help="where it listens (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=9090, help="0: any (default: 9090)")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="F",
        help="file with a token: Label Studio is given http://HOST:PORT/TOKEN",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="below it lie the files that tasks name (default: tasks have their pictures in them)",
    )
    add_learning_options(parser)
    add_trust(parser)


def serve(args: argparse.Namespace) -> int:
    """Answer until SIGINT or SIGTERM; then what was learned is made durable."""
    policy, keep = Policy(new_classes=args.new_classes), Keep(raw_per_class=args.keep)
    token = "" if args.token_file is None else _token(args.token_file)
    with open_learner(
        args.bundle, args.state, policy=policy, keep=keep, trust=args.trust
    ) as learner:
        try:
            server = Server(Backend(learner, args.pictures), args.host, args.port, token)
        except OSError as error:
            where = f"{args.host}:{args.port}"
            raise InputError(f"cannot listen at {where}: {error.strerror or error}") from error

        def end(number: int, frame: Any) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, end)
        try:
            host, port = server.server_address[:2]
            path = "/TOKEN" if token else ""
            where = "Label Studio: Settings, Model, Connect Model"
            print(f"{where}: http://{host!s}:{port}{path}", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
        finally:
            signal.signal(signal.SIGTERM, before)
            server.server_close()
    return 0


def _token(path: Path) -> str:
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < _SHORTEST or not token.isalnum():
        raise InputError(f"{path}: a token has at least {_SHORTEST} letters and digits")
    return token


__all__ = ["serve"]
