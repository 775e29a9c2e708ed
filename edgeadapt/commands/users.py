"""``users``: who may speak to a daemon. The file that it changes is read again on SIGHUP."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgeadapt.daemon.config.loader import load_settings
from edgeadapt.daemon.config.users import Users, add_user, remove_user


def users_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="control.users_file of the settings; --add makes it where it is missing",
    )
    change = parser.add_mutually_exclusive_group()
    change.add_argument(
        "--add", metavar="NAME", help="add a user, and print the token: it is kept nowhere"
    )
    change.add_argument("--remove", metavar="NAME")
    parser.add_argument(
        "--role",
        choices=("view", "label", "admin"),
        default="view",
        help=(
            "of --add: view looks, label also observes and labels, admin everything (default: view)"
        ),
    )
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="F.toml",
        help="of --add: the daemon's, whose sources' names no user may have",
    )


def users(args: argparse.Namespace) -> int:
    """List the users of a file, or change them. The token of a new one goes to stdout, alone."""
    if args.add is not None:
        taken = load_settings(args.settings).source_names if args.settings else frozenset()
        print(add_user(args.file, args.add, args.role, taken))
        said = f"{args.add} has the role {args.role}; the token is kept nowhere else."
        print(f"{said} SIGHUP makes a running daemon read {args.file} again", file=sys.stderr)
    elif args.remove is not None:
        remove_user(args.file, args.remove)
        said = f"{args.remove} is known to a running daemon until SIGHUP makes it read"
        print(f"{said} {args.file} again", file=sys.stderr)
    else:
        for user in Users(args.file):
            print(f"{user.name:<24} {user.role}")
    return 0


__all__ = ["users"]
