"""What can be asked over HTTP: one table of routes, and how the service is called for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

from edgeadapt.daemon.config.users import Role
from edgeadapt.daemon.decoding.codec import JPEG, JSON, NPY, PNG, TEXT, Refused, encode
from edgeadapt.daemon.decoding.images import png_of
from edgeadapt.daemon.http import schemas
from edgeadapt.daemon.http.request_bodies import batch_of
from edgeadapt.daemon.http.route import Asked, Reply, Route
from edgeadapt.daemon.monitoring.time_series import Past
from edgeadapt.daemon.operations import Operations
from edgeadapt.errors import InputError
from edgeadapt.results import Quality, Question

T = TypeVar("T")
ROUTES: list[Route] = []
_BATCHES = (NPY, PNG, JPEG)
_WRITES = (429, 507)  # refusals of what is written to the state folder


def route(
    method: str, path: str, role: Role, answer: Any = None, **more: Any
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Enter a function into ``ROUTES``; see ``Route``. ``answer``: by default what it returns."""

    def enter(run: Callable[..., T]) -> Callable[..., T]:
        returned = answer or get_type_hints(run)["return"]
        ROUTES.append(Route(method, path, role, run, returned, **more))
        return run

    return enter


@route("POST", "/v1/predict", "view", query=schemas.InStream, body=schemas.Samples, media=_BATCHES)
def _predict(operations: Operations, asked: Asked) -> schemas.Answers:
    """Answer a batch and change nothing."""
    x, features, _ = batch_of(asked.media, asked.body, operations.manifest)
    return schemas.Answers(
        answers=tuple(operations.predict(x, features=features, stream=_stream_of(asked)))
    )


@route(
    "POST",
    "/v1/observe",
    "label",
    query=schemas.InStreamNamed,
    body=schemas.NamedSamples,
    media=_BATCHES,
)
def _observe(operations: Operations, asked: Asked) -> schemas.Answers:
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
    return schemas.Answers(answers=answers)


def _stream_of(asked: Asked) -> str:
    stream = asked.body.stream if asked.media == JSON else UNSET
    return asked.query.stream if isinstance(stream, UnsetType) else str(stream)


@route("POST", "/v1/labels", "label", body=schemas.Labels, refusals=_WRITES)
def _label(operations: Operations, asked: Asked) -> schemas.LabelsTold:
    """Label samples by id or by your own name for them; a label may come before its sample."""
    source = asked.user.name or asked.body.source  # what somebody calls himself is no proof
    told = operations.label([(item.sample, item.label) for item in asked.body.labels], source)
    return msgspec.convert(told, schemas.LabelsTold)


@route("POST", "/v1/forget", "admin", body=schemas.Forget, refusals=_WRITES, is_slow=True)
def _forget(operations: Operations, asked: Asked) -> schemas.Forgotten:
    """Remove labelled samples as if they had never been."""
    what = asked.body
    receipt = operations.forget(
        what.samples, source=what.source, classes=what.classes, before=what.before, after=what.after
    )
    return msgspec.convert(receipt, schemas.Forgotten, from_attributes=True)


@route("POST", "/v1/withdraw", "label", body=schemas.Withdraw, refusals=_WRITES, is_slow=True)
def _withdraw(operations: Operations, asked: Asked) -> schemas.Withdrawn:
    """Take labels back without forgetting their samples: your own, or as an admin anybody's."""
    source = None if asked.user.may("admin") else asked.user.name
    return schemas.Withdrawn(withdrawn=operations.withdraw(asked.body.samples, source))


@route("GET", "/v1/quality", "view")
def _quality(operations: Operations, asked: Asked) -> Quality:
    """How good the answers are in the field, and what the next ten labels are expected to bring."""
    return operations.quality()


@route("GET", "/v1/questions", "view", query=schemas.Asking)
def _questions(operations: Operations, asked: Asked) -> schemas.Questions:
    """What the learner wants to know, oldest first or like beside like; answer with a label."""
    found = list(operations.questions(asked.query.limit))
    groups = operations.alike([q.id for q in found]) if asked.query.alike and found else {}
    place = {sample: number for number, sample in enumerate(groups)}
    found.sort(key=lambda q: place.get(q.id, len(place)))
    return schemas.Questions(
        questions=tuple(_asked_sample(q, groups.get(q.id, UNSET)) for q in found)
    )


def _asked_sample(q: Question, group: int | UnsetType) -> schemas.AskedSample:
    return schemas.AskedSample(
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


@route("GET", "/v1/questions/{id}/image", "view", PNG, refusals=(404,))
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


@route("GET", "/v1/classes", "view")
def _classes(operations: Operations, asked: Asked) -> schemas.Classes:
    """The names of the known classes."""
    return schemas.Classes(classes=tuple(operations.classes()))


@route("POST", "/v1/classes", "admin", body=schemas.NewClass, refusals=_WRITES)
def _add_class(operations: Operations, asked: Asked) -> schemas.Classes:
    """Make room for a class; a known one changes nothing."""
    operations.add_class(asked.body.name)
    return _classes(operations, asked)


@route("DELETE", "/v1/classes/{name}", "admin", refusals=(404, 429, 507))
def _remove_class(operations: Operations, asked: Asked) -> schemas.Classes:
    """Take a class out of the answers, and its labels out of what was learned."""
    operations.remove_class(asked.key)
    return _classes(operations, asked)


@route("GET", "/v1/history", "view", query=schemas.AtMost50)
def _history(operations: Operations, asked: Asked) -> schemas.History:
    """Changes, newest first."""
    found = operations.history(asked.query.limit)
    return schemas.History(
        history=tuple(
            schemas.Change(
                number=c.number, time=c.time, kind=c.kind, outcome=c.outcome, detail=dict(c.detail)
            )
            for c in found
        )
    )


@route("GET", "/v1/decisions", "view", query=schemas.AtMost100)
def _decisions(operations: Operations, asked: Asked) -> schemas.Decisions:
    """What was decided about windows, newest first."""
    rows = operations.decisions(asked.query.limit)
    return schemas.Decisions(
        decisions=tuple(
            schemas.Decision(time=at, stream=stream, kind=kind, domain=domain, why=why)
            for at, stream, kind, domain, why in rows
        )
    )


@route("GET", "/v1/status", "view")
def _status(operations: Operations, asked: Asked) -> schemas.Facts:
    """Everything that a status page shows."""
    return dict(operations.status())


@route("GET", "/v1/series", "view", query=schemas.InWindow)
def _series(operations: Operations, asked: Asked) -> Past:
    """What a status page draws over time."""
    return operations.series(asked.query.window)


@route("GET", "/v1/latest/image", "view", PNG, query=schemas.OfStream, refusals=(404,))
def _picture(operations: Operations, asked: Asked) -> Reply:
    """The picture of an answer that the status shows."""
    frame = operations.picture_of(asked.query.stream, asked.query.id)
    if frame is None:
        raise Refused(404, "NotFound", f"no picture of stream {asked.query.stream[:100]!r}")
    return Reply(png_of(frame), PNG)


@route("POST", "/v1/rollback", "admin", body=schemas.Target, refusals=_WRITES, is_slow=True)
def _rollback(operations: Operations, asked: Asked) -> schemas.AtCommit:
    """Go back to a commit; labels that were learned since are withdrawn."""
    return schemas.AtCommit(commit=operations.rollback(asked.body.to))


@route("POST", "/v1/freeze", "admin", body=schemas.Freeze)
def _freeze(operations: Operations, asked: Asked) -> schemas.Freeze:
    """Serve and measure, but learn nothing, until it is taken back."""
    operations.freeze(asked.body.frozen)
    return schemas.Freeze(frozen=asked.body.frozen)


@route("POST", "/v1/pause", "admin", body=schemas.Pause)
def _pause(operations: Operations, asked: Asked) -> schemas.Pause:
    """Hold the work in the background, until it is taken back."""
    operations.pause(asked.body.paused)
    return schemas.Pause(paused=asked.body.paused)


@route("POST", "/v1/checkpoint", "admin", refusals=_WRITES, is_slow=True)
def _checkpoint(operations: Operations, asked: Asked) -> schemas.AtCommit:
    """Finish queued work and make it durable."""
    return schemas.AtCommit(commit=operations.checkpoint())


@route("POST", "/v1/swap", "admin", body=schemas.Swap, refusals=_WRITES, is_slow=True)
def _swap(operations: Operations, asked: Asked) -> schemas.Facts:
    """Load another bundle, verify, warm and compare it, and switch to it; the old one serves until
    then.
    """
    return dict(operations.swap(asked.body.bundle))


@route("GET", "/v1/me", "view")
def _me(operations: Operations, asked: Asked) -> schemas.Me:
    """Who asks, and the role; the name is empty where the single token was shown, or none is
    needed.
    """
    return schemas.Me(name=asked.user.name, role=asked.user.role)


@route("GET", "/healthz", "view", schemas.Facts, is_probe=True)
def _healthz(operations: Operations, asked: Asked) -> Reply:
    """200 while the loop moves."""
    health = dict(operations.health())
    return Reply(encode(health), status=200 if health.get("ok") else 503)


@route("GET", "/readyz", "view", schemas.Ready, is_probe=True)
def _readyz(operations: Operations, asked: Asked) -> Reply:
    """200 once samples are answered."""
    ready, reason = operations.ready()
    return Reply(
        encode(schemas.Ready(ready=bool(ready), reason=str(reason))), status=200 if ready else 503
    )


@route("GET", "/metrics", "view", TEXT, refusals=(404,), is_probe=True)
def _metrics(operations: Operations, asked: Asked) -> Reply:
    """Numbers in the text format of Prometheus."""
    if operations.metrics is None:
        raise Refused(404, "NotFound", "metrics are switched off: metrics.enabled")
    try:
        return Reply(operations.metrics.exposition(operations.status), TEXT)
    except TimeoutError as error:
        raise Refused(503, "Busy", str(error), retry_s=1) from None


__all__ = ["ROUTES"]
