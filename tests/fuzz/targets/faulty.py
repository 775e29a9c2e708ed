"""A target with every fault there is, to see that each is found, named and survived. Never part of
a campaign that does not ask for it.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from random import Random

from fuzz.target import Execute, Target

_FAULTS = b"KSHMXB"


class Refused(Exception):
    """The error this door is allowed to raise."""


def seeds() -> list[bytes]:
    return [b"sound"]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    return (
        bytes([rng.choice(_FAULTS)])
        if rng.random() < 0.025
        else rng.choice((b"refused", b"early", b"sound and more"))
    )


def prepare(scratch: Path) -> Execute:
    return execute


def execute(data: bytes) -> None:
    fault = data[:1]
    if data in (b"refused", b"early"):
        raise Refused(data.decode())
    if fault == b"K":
        raise KeyError("not a named error")
    if fault == b"S":
        ctypes.string_at(0)
    if fault == b"H":
        time.sleep(60)
    if fault == b"M":
        held = [bytearray(16 << 20) for _ in range(100)]
        assert held
    if fault == b"X":
        os._exit(3)
    if fault == b"B":
        raise BaseException("a panic")


def is_past_header(error: Exception) -> bool:
    return str(error) != "early"


TARGET = Target(
    "faulty",
    seeds,
    mutate,
    prepare,
    (Refused,),
    is_past_header,
    ("fuzz.targets.faulty",),
    share=1,
    memory_mib=64,
    seconds=0.5,
)
