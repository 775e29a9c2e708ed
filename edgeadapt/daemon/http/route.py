"""One route, and how a request becomes a call of the service.

Nothing here knows a socket: ``answer`` takes the bytes of a request and returns those of an answer,
or raises ``Refused``. What a request may hold is checked here, once, so that whatever enters the
inbox fits the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from edgeadapt.daemon.config.users import ADMIN, Role, User
from edgeadapt.daemon.decoding.codec import JSON, MAX_JSON_BYTES, NPY, Refused, decoded, encode
from edgeadapt.daemon.http.schemas import NoQuery
from edgeadapt.daemon.operations import Operations
from edgeadapt.errors import (
    BudgetError,
    CapacityError,
    EdgeadaptError,
    InputError,
    RuntimeUnavailable,
    StateError,
    StorageError,
)


@dataclass(frozen=True)
class Asked:
    """A request after its form was checked. ``body``: a struct of the route, or the bytes of
    another type. ``key``: what stands in the path. ``user``: who asks.
    """

    query: Any
    body: Any = None
    media: str = ""
    key: str = ""
    user: User = ADMIN


@dataclass(frozen=True)
class Reply:
    body: bytes
    media: str = JSON
    status: int = 200


@dataclass(frozen=True)
class Route:
    """One thing that can be asked.

    Attributes:
        role: the least that may ask.
        run: calls the service; its docstring is the summary.
        answer: the type of what it returns, or a media type, or both by status.
        media: types of a body other than JSON.
        refusals: statuses of its own, beside those that every route has.
        is_probe: answered even while all workers wait. is_slow: may take ten times the time-out.
    """

    method: str
    path: str
    role: Role
    run: Callable[[Operations, Asked], Any]
    answer: Any
    query: type[Struct] = NoQuery
    body: type[Struct] | None = None
    media: tuple[str, ...] = ()
    refusals: tuple[int, ...] = ()
    is_probe: bool = False
    is_slow: bool = False

    @property
    def summary(self) -> str:
        return " ".join((self.run.__doc__ or "").partition("\n\n")[0].split())


_STATUS: tuple[tuple[type[EdgeadaptError], int, int | None], ...] = (
    (StorageError, 507, None),
    (StateError, 409, None),
    (BudgetError, 429, 60),
    (CapacityError, 409, None),
    (RuntimeUnavailable, 503, 10),
    (EdgeadaptError, 422, None),
)


def answer(
    route: Route,
    operations: Operations,
    query: Sequence[tuple[str, str]],
    media: str,
    body: bytes,
    key: str = "",
    user: User = ADMIN,
) -> Reply:
    """Check a request, call the service, and write its answer. Whether ``user`` may ask was checked
    before.

    Args:
        query: pairs after the question mark.
        media: the content type, without parameters.
        key: what stands in the path.

    Raises:
        Refused: with the status that fits. Anything else is a fault of the daemon.
    """
    try:
        said = route.run(operations, _asked(route, query, media, body, key, user))
        return said if isinstance(said, Reply) else Reply(encode(said))
    except EdgeadaptError as error:
        status, retry_s = next(
            (status, retry_s) for kind, status, retry_s in _STATUS if isinstance(error, kind)
        )
        raise Refused(status, type(error).__name__, str(error), retry_s) from error


def _asked(
    route: Route, query: Sequence[tuple[str, str]], media: str, body: bytes, key: str, user: User
) -> Asked:
    given = dict(query)
    if len(given) != len(query):
        raise InputError("a name stands twice after the question mark")
    try:
        asked = msgspec.convert(given, route.query, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"after the question mark: {error}") from None
    if route.body is None:
        return Asked(asked, key=key, user=user)
    if media not in (JSON, *route.media):
        raise Refused(
            415,
            "UnsupportedMediaType",
            f"a body of type {', '.join((JSON, *route.media))} is taken here, got"
            f" {media[:100] or 'none'!r}",
        )
    if media != JSON:
        return Asked(asked, body, media, key, user)
    if len(body) > MAX_JSON_BYTES:
        raise Refused(
            413,
            "TooLarge",
            f"JSON of at most {MAX_JSON_BYTES} bytes is read, got {len(body)}; send {NPY}",
        )
    return Asked(asked, decoded(body, route.body), media, key, user)


__all__ = ["MAX_JSON_BYTES", "Asked", "Reply", "Route", "answer"]
