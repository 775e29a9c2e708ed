"""What can be asked over HTTP: one table of routes, and how the service is called for each.

Nothing here knows a socket: ``answer`` takes the bytes of a request and returns those of an answer,
or raises ``Refused``. What a request may hold is checked here, once, so that whatever enters the
inbox fits the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from edgeadapt.daemon.config.users import ADMIN, Role, User
from edgeadapt.daemon.decoding.codec import (
    JPEG,
    JSON,
    MAX_JSON_BYTES,
    NPY,
    PNG,
    TEXT,
    Refused,
    decoded,
    encode,
)
from edgeadapt.daemon.decoding.images import png_of
from edgeadapt.daemon.http.request_bodies import batch_of
from edgeadapt.daemon.http.schemas import (
    Answers,
    AskedSample,
    Asking,
    AtCommit,
    AtMost50,
    AtMost100,
    Change,
    Classes,
    Decision,
    Decisions,
    Facts,
    Failure,
    Forget,
    Forgotten,
    Freeze,
    History,
    InStream,
    InStreamNamed,
    InWindow,
    Labels,
    LabelsTold,
    Me,
    NamedSamples,
    NewClass,
    NoQuery,
    OfStream,
    Pause,
    Questions,
    Ready,
    Samples,
    Swap,
    Target,
    Withdraw,
    Withdrawn,
)
from edgeadapt.daemon.monitoring.time_series import Past
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
from edgeadapt.results import Quality, Question


# -- the routes ------------------------------------------------------------------------------------
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


def _predict(operations: Operations, asked: Asked) -> Answers:
    """Answer a batch and change nothing."""
    x, features, _ = batch_of(asked.media, asked.body, operations.manifest)
    return Answers(
        answers=tuple(operations.predict(x, features=features, stream=_stream_of(asked)))
    )


def _observe(operations: Operations, asked: Asked) -> Answers:
    """Answer a batch of a stream, and let the learner learn from how it looks."""
    x, features, count = batch_of(asked.media, asked.body, operations.manifest)
    names = (asked.body.names if asked.media == JSON else ()) or (
        (asked.query.name,) if asked.query.name else ()
    )
    if names and len(names) != count:
        raise InputError(f"{count} samples have {count} names, got {len(names)}")
    answers = tuple(operations.observe(x, features=features, stream=_stream_of(asked), names=names))
    if answers and all(answer.error for answer in answers):
        raise Refused(503, "Dropped", answers[0].error, retry_s=1)
    return Answers(answers=answers)


def _stream_of(asked: Asked) -> str:
    stream = asked.body.stream if asked.media == JSON else UNSET
    return asked.query.stream if isinstance(stream, UnsetType) else str(stream)


def _label(operations: Operations, asked: Asked) -> LabelsTold:
    """Label samples by id or by your own name for them; a label may come before its sample."""
    source = asked.user.name or asked.body.source  # what somebody calls himself is no proof
    told = operations.label([(item.sample, item.label) for item in asked.body.labels], source)
    return msgspec.convert(told, LabelsTold)


def _forget(operations: Operations, asked: Asked) -> Forgotten:
    """Remove labelled samples as if they had never been."""
    what = asked.body
    receipt = operations.forget(
        what.samples, source=what.source, classes=what.classes, before=what.before, after=what.after
    )
    return Forgotten(
        removed=receipt.removed,
        subtracted=receipt.subtracted,
        snapshots=receipt.snapshots,
        moved=receipt.moved,
        exact=tuple(receipt.exact),
        unreachable=tuple(receipt.unreachable),
    )


def _questions(operations: Operations, asked: Asked) -> Questions:
    """What the learner wants to know, oldest first or like beside like; answer with a label."""
    found = list(operations.questions(asked.query.limit))
    groups = operations.alike([q.id for q in found]) if asked.query.alike and found else {}
    place = {sample: number for number, sample in enumerate(groups)}
    found.sort(key=lambda q: place.get(q.id, len(place)))
    return Questions(questions=tuple(_asked_sample(q, groups.get(q.id, UNSET)) for q in found))


def _asked_sample(q: Question, group: int | UnsetType) -> AskedSample:
    return AskedSample(
        id=q.id,
        stream=q.stream,
        why=q.why,
        predicted=q.predicted,
        confidence=float(q.confidence),
        novelty=float(q.novelty),
        asked_at=q.asked_at,
        image=f"/v1/questions/{q.id}/image",
        group=group,
    )


def _withdraw(operations: Operations, asked: Asked) -> Withdrawn:
    """Take labels back without forgetting their samples: your own, or as an admin anybody's."""
    source = None if asked.user.may("admin") else asked.user.name
    return Withdrawn(withdrawn=operations.withdraw(asked.body.samples, source))


def _quality(operations: Operations, asked: Asked) -> Quality:
    """How good the answers are in the field, and what the next ten labels are expected to bring."""
    return operations.quality()


def _image(operations: Operations, asked: Asked) -> Reply:
    """The picture of a question."""
    frame = operations.frame_of(asked.key)
    if frame is None:
        raise Refused(
            404,
            "NotFound",
            f"no picture of {asked.key[:100]!r}: it was answered, was let go, or never was a"
            " picture",
        )
    return Reply(png_of(frame), PNG)


def _classes(operations: Operations, asked: Asked) -> Classes:
    """The names of the known classes."""
    return Classes(classes=tuple(operations.classes()))


def _add_class(operations: Operations, asked: Asked) -> Classes:
    """Make room for a class; a known one changes nothing."""
    operations.add_class(asked.body.name)
    return _classes(operations, asked)


def _remove_class(operations: Operations, asked: Asked) -> Classes:
    """Take a class out of the answers, and its labels out of what was learned."""
    operations.remove_class(asked.key)
    return _classes(operations, asked)


def _history(operations: Operations, asked: Asked) -> History:
    """Changes, newest first."""
    found = operations.history(asked.query.limit)
    return History(
        history=tuple(
            Change(
                number=c.number, time=c.time, kind=c.kind, outcome=c.outcome, detail=dict(c.detail)
            )
            for c in found
        )
    )


def _decisions(operations: Operations, asked: Asked) -> Decisions:
    """What was decided about windows, newest first."""
    rows = operations.decisions(asked.query.limit)
    return Decisions(
        decisions=tuple(
            Decision(time=at, stream=stream, kind=kind, domain=domain, why=why)
            for at, stream, kind, domain, why in rows
        )
    )


def _rollback(operations: Operations, asked: Asked) -> AtCommit:
    """Go back to a commit; labels that were learned since are withdrawn."""
    return AtCommit(commit=operations.rollback(asked.body.to))


def _freeze(operations: Operations, asked: Asked) -> Freeze:
    """Serve and measure, but learn nothing, until it is taken back."""
    operations.freeze(asked.body.frozen)
    return Freeze(frozen=asked.body.frozen)


def _pause(operations: Operations, asked: Asked) -> Pause:
    """Hold the work in the background, until it is taken back."""
    operations.pause(asked.body.paused)
    return Pause(paused=asked.body.paused)


def _checkpoint(operations: Operations, asked: Asked) -> AtCommit:
    """Finish queued work and make it durable."""
    return AtCommit(commit=operations.checkpoint())


def _swap(operations: Operations, asked: Asked) -> Facts:
    """Load another bundle, verify, warm and compare it, and switch to it; the old one serves until
    then.
    """
    return dict(operations.swap(asked.body.bundle))


def _status(operations: Operations, asked: Asked) -> Facts:
    """Everything that a status page shows."""
    return dict(operations.status())


def _series(operations: Operations, asked: Asked) -> Past:
    """What a status page draws over time."""
    return operations.series(asked.query.window)


def _picture(operations: Operations, asked: Asked) -> Reply:
    """The picture of an answer that the status shows."""
    frame = operations.picture_of(asked.query.stream, asked.query.id)
    if frame is None:
        raise Refused(404, "NotFound", f"no picture of stream {asked.query.stream[:100]!r}")
    return Reply(png_of(frame), PNG)


def _me(operations: Operations, asked: Asked) -> Me:
    """Who asks, and the role; the name is empty where the single token was shown, or none is
    needed.
    """
    return Me(name=asked.user.name, role=asked.user.role)


def _healthz(operations: Operations, asked: Asked) -> Reply:
    """200 while the loop moves."""
    health = dict(operations.health())
    return Reply(encode(health), status=200 if health.get("ok") else 503)


def _readyz(operations: Operations, asked: Asked) -> Reply:
    """200 once samples are answered."""
    ready, reason = operations.ready()
    return Reply(encode(Ready(ready=bool(ready), reason=str(reason))), status=200 if ready else 503)


def _metrics(operations: Operations, asked: Asked) -> Reply:
    """Numbers in the text format of Prometheus."""
    if operations.metrics is None:
        raise Refused(404, "NotFound", "metrics are switched off: metrics.enabled")
    try:
        return Reply(operations.metrics.exposition(operations.status), TEXT)
    except TimeoutError as error:
        raise Refused(503, "Busy", str(error), retry_s=1) from None


_BATCHES = (NPY, PNG, JPEG)
ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/predict", "view", _predict, Answers, InStream, Samples, _BATCHES),
    Route("POST", "/v1/observe", "label", _observe, Answers, InStreamNamed, NamedSamples, _BATCHES),
    Route("POST", "/v1/labels", "label", _label, LabelsTold, body=Labels, refusals=(429, 507)),
    Route(
        "POST",
        "/v1/forget",
        "admin",
        _forget,
        Forgotten,
        body=Forget,
        refusals=(429, 507),
        is_slow=True,
    ),
    Route(
        "POST",
        "/v1/withdraw",
        "label",
        _withdraw,
        Withdrawn,
        body=Withdraw,
        refusals=(429, 507),
        is_slow=True,
    ),
    Route("GET", "/v1/quality", "view", _quality, Quality),
    Route("GET", "/v1/questions", "view", _questions, Questions, Asking),
    Route("GET", "/v1/questions/{id}/image", "view", _image, PNG, refusals=(404,)),
    Route("GET", "/v1/classes", "view", _classes, Classes),
    Route("POST", "/v1/classes", "admin", _add_class, Classes, body=NewClass, refusals=(429, 507)),
    Route(
        "DELETE", "/v1/classes/{name}", "admin", _remove_class, Classes, refusals=(404, 429, 507)
    ),
    Route("GET", "/v1/history", "view", _history, History, AtMost50),
    Route("GET", "/v1/decisions", "view", _decisions, Decisions, AtMost100),
    Route("GET", "/v1/status", "view", _status, Facts),
    Route("GET", "/v1/series", "view", _series, Past, InWindow),
    Route("GET", "/v1/latest/image", "view", _picture, PNG, OfStream, refusals=(404,)),
    Route(
        "POST",
        "/v1/rollback",
        "admin",
        _rollback,
        AtCommit,
        body=Target,
        refusals=(429, 507),
        is_slow=True,
    ),
    Route("POST", "/v1/freeze", "admin", _freeze, Freeze, body=Freeze),
    Route("POST", "/v1/pause", "admin", _pause, Pause, body=Pause),
    Route(
        "POST", "/v1/checkpoint", "admin", _checkpoint, AtCommit, refusals=(429, 507), is_slow=True
    ),
    Route("POST", "/v1/swap", "admin", _swap, Facts, body=Swap, refusals=(429, 507), is_slow=True),
    Route("GET", "/v1/me", "view", _me, Me),
    Route("GET", "/healthz", "view", _healthz, Facts, is_probe=True),
    Route("GET", "/readyz", "view", _readyz, Ready, is_probe=True),
    Route("GET", "/metrics", "view", _metrics, TEXT, refusals=(404,), is_probe=True),
)


# -- from bytes to a call, and back ----------------------------------------------------------------
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


__all__ = [
    "JSON",
    "MAX_JSON_BYTES",
    "ROUTES",
    "Failure",
    "Refused",
    "Reply",
    "Route",
    "answer",
    "encode",
]
