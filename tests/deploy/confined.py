"""Run a command under what a unit forbids: ``python confined.py UNIT COMMAND...``. No systemd has
to run for it.

``MemoryDenyWriteExecute``, ``SystemCallFilter``, ``RestrictAddressFamilies`` and
``NoNewPrivileges`` are read from the unit and set as systemd sets them, through prctl and
libseccomp; so are ``Environment`` and ``UMask``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 38, 65, 1
ALLOW, EQUAL = 0x7FFF0000, 4
REFUSE = 0x00050000 | errno.EPERM


class Compare(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def directives(unit: Path) -> dict[str, list[str]]:
    """Key -> its values, in their order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def allowed_calls(filters: list[str]) -> set[str]:
    """System calls that an allow list lets through, as ``systemd-analyze syscall-filter`` spells
    out its groups.
    """
    groups: dict[str, list[str]] = {}
    name = ""
    # it would say to the supervisor that it has ended
    quiet = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"],
        capture_output=True,
        text=True,
        check=True,
        env=quiet,
    ).stdout
    for line in listed.splitlines():
        if line.startswith("@"):
            name = line
        elif line.strip() and not line.strip().startswith("#") and name:
            groups.setdefault(name, []).append(line.strip())

    def calls(word: str) -> set[str]:
        return set().union(*map(calls, groups[word])) if word.startswith("@") else {word}

    found = calls("@default")
    for line in filters:
        named = set().union(*map(calls, line.lstrip("~").split()))
        found = found - named if line.startswith("~") else found | named
    return found


def confine(unit: Path) -> None:
    """From here on this process, and what it becomes, is as the unit says."""
    said = directives(unit)
    libc, seccomp = ctypes.CDLL(None, use_errno=True), ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    assert said["NoNewPrivileges"] == ["yes"] and libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    if said.get("MemoryDenyWriteExecute") == ["yes"]:
        assert libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) == 0, os.strerror(
            ctypes.get_errno()
        )
    context = ctypes.c_void_p(seccomp.seccomp_init(REFUSE))
    families = [int(getattr(socket, name)) for name in said["RestrictAddressFamilies"][0].split()]
    for name in sorted(allowed_calls(said["SystemCallFilter"])):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # not of this kind of processor
            continue
        if name == "socket":
            for family in families:
                assert (
                    seccomp.seccomp_rule_add(
                        context, ALLOW, number, 1, Compare(0, EQUAL, family, 0)
                    )
                    == 0
                )
        else:
            seccomp.seccomp_rule_add(context, ALLOW, number, 0)
    assert seccomp.seccomp_load(context) == 0
    os.environ.update(
        pair.split("=", 1) for value in said["Environment"] for pair in shlex.split(value)
    )
    os.umask(int(said["UMask"][0], 8))


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
