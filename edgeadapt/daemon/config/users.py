"""Who may speak over the control interface, and what each may do: a file with a line a user.

A line is ``NAME ROLE SHA256``, the last being the digest of the user's token. Tokens are made here,
of 192 random bits, so that a plain digest gives nothing away: there is nothing to guess, and no
token to read in the file.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edgeadapt._durable import replace_file
from edgeadapt.errors import InputError, RecipeError

Role = Literal["view", "label", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""The least first; each may do what those before it may."""
_TOKEN_BYTES, _MOST, _LARGEST = 24, 1000, 1 << 20
_PATIENCE_S = 10.0  # for another process that changes the file
_ANONYMOUS = frozenset({"http", "page", "ctl"})  # who labels without a name
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class User:
    """``name``: empty for whoever shows the single token, or needs none."""

    name: str
    role: Role

    def may(self, least: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(least)


ADMIN = User("", "admin")


class Users:
    """The users of a file, which may change while the daemon runs.

    Args:
        taken: names of sources, which label by themselves: what they said is forgotten apart from
            what a user said.

    Raises:
        RecipeError: the file cannot be read, others may write it, a line is not as above, or a user
            has a name that is taken.
    """

    def __init__(self, path: Path, taken: frozenset[str] = frozenset()) -> None:
        self.path = path
        self.renew(taken)

    def renew(self, taken: frozenset[str] = frozenset()) -> None:
        """Read the file again: whoever is no longer in it is not answered any more.

        Raises:
            RecipeError: as above; who was known stays known.
        """
        found = _read(self.path)
        for user in found.values():
            if user.name in taken | _ANONYMOUS:
                raise RecipeError(
                    f"{self.path}: {user.name!r} is what labels of a source or program are under; "
                    "allowed: a name of the user's own; rename the user or the source"
                )
        self._by_digest = found

    def find(self, token: str) -> User | None:
        """Whose token it is. Every digest is compared, in constant time."""
        shown, found = digest_of(token).encode(), None
        for digest, user in self._by_digest.items():
            if hmac.compare_digest(shown, digest.encode()):
                found = user
        return found

    def __iter__(self) -> Iterator[User]:
        return iter(self._by_digest.values())

    def __len__(self) -> int:
        return len(self._by_digest)


def add_user(path: Path, name: str, role: Role, taken: frozenset[str] = frozenset()) -> str:
    """Write a user into the file, which is made where it is missing.

    Args:
        taken: names of sources, as for ``Users``.

    Returns:
        the token; it is kept nowhere.

    Raises:
        InputError: the name is taken, or is none; or somebody else changes the file and does not
            end.
        RecipeError: the file is not in order.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"a user's name has 1 to 64 letters, digits, '.', '_' and '-', got {name[:100]!r}"
        )
    if name in _ANONYMOUS:
        raise InputError(f"{name!r} is what labels without a name are under; take another")
    if name in taken:
        raise InputError(f"{name!r} is what labels of a source are under; take another")
    with _alone(path):
        known = _read(path) if os.path.lexists(path) else {}
        if any(user.name == name for user in known.values()):
            raise InputError(f"{path}: there is a user {name!r} already; remove it first")
        if len(known) >= _MOST:
            raise InputError(f"{path}: there are {_MOST} users, and no more are taken")
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        _write(path, known | {digest_of(token): User(name, role)})
        return token


def remove_user(path: Path, name: str) -> None:
    """Raises: InputError: nobody is called so. RecipeError: the file is not in order."""
    _read(path)  # a lock is left beside a file that is there, and beside no other
    with _alone(path):
        known = _read(path)
        kept = {digest: user for digest, user in known.items() if user.name != name}
        if len(kept) == len(known):
            raise InputError(f"{path}: no user {name[:100]!r}")
        _write(path, kept)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One change of the file at a time. The lock is a file beside it, which stays: the file itself
    is another one after every change.

    Raises:
        InputError: somebody else changes it and does not end, or there can be no lock.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise InputError(f"{lock}: cannot be locked: {error.strerror}") from None
    try:
        until = time.monotonic() + _PATIENCE_S
        while not _is_locked(handle):
            if time.monotonic() >= until:
                raise InputError(f"{path}: another process changes it, since {_PATIENCE_S:g} s")
            time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def _is_locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _read(path: Path) -> dict[str, User]:
    try:
        # a FIFO in its place would hold up the start, and every reload
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            data = file.read(_LARGEST + 1) if stat.S_ISREG(mode) else None
    except OSError as error:
        raise RecipeError(f"{path}: the users in it cannot be read: {error.strerror}") from None
    if data is None:
        raise RecipeError(f"{path}: no regular file")
    if mode & stat.S_IWOTH:
        raise RecipeError(f"{path}: every user of this machine can add an admin; chmod o-w")
    if len(data) > _LARGEST:
        raise RecipeError(f"{path}: over {_LARGEST} bytes")
    return _users_of(path, data.decode("utf-8", "replace"))


def _users_of(path: Path, text: str) -> dict[str, User]:
    found: dict[str, User] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3 or not _NAME.fullmatch(words[0]) or not _DIGEST.fullmatch(words[2]):
            raise RecipeError(
                f"{path}: line {number} is not NAME ROLE SHA256; 'edgeadapt users' writes it"
            )
        name, role, digest = words
        if role not in ROLES:
            raise RecipeError(
                f"{path}: line {number}: the role {role[:40]!r}; allowed: {', '.join(ROLES)}"
            )
        if digest in found or any(user.name == name for user in found.values()):
            raise RecipeError(f"{path}: line {number}: {name} or its token stands there twice")
        found[digest] = User(name, role)
    return found


def _write(path: Path, users: dict[str, User]) -> None:
    """Mode and owner stay: the daemon, a user of its own, reads what an administrator writes."""
    lines = (f"{user.name} {user.role} {digest}\n" for digest, user in users.items())
    replace_file(path, "".join(lines).encode(), mode=0o600, keep_owner=True)


__all__ = ["ADMIN", "ROLES", "Role", "User", "Users", "add_user", "digest_of", "remove_user"]
