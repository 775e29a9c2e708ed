"""A machine learning backend for Label Studio: a learner predicts its tasks and learns from them.

It speaks the protocol of Label Studio's ML backends (``/health``, ``/setup``, ``/predict``,
``/webhook``) with the standard library alone: https://labelstud.io/guide/ml_create
"""

from __future__ import annotations

import hmac
import json
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import numpy as np

from edgeadapt.dataset.importer import Files, counted, import_files
from edgeadapt.dataset.label_studio import choice, entry_of, picture_of
from edgeadapt.dataset.pictures import read
from edgeadapt.dataset.sample import COUNTING
from edgeadapt.device.learner import Learner
from edgeadapt.errors import EdgeadaptError, InputError

_MOST_BYTES = 64 << 20  # of a request
_MOST_TASKS = 1000
_SILENT_S = 30.0  # how long a connection may say nothing
_AT_ONCE = 8  # requests
_REMEMBERED = 100_000  # annotations whose sample is known
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Backend:
    """What Label Studio asks, and a learner's answers.

    Args:
        pictures: below it lie the files that tasks name; without it, tasks have theirs in them.
        say: takes a line for every task that could not be read.
    """

    def __init__(
        self, learner: Learner, pictures: Path | None = None, say: Callable[[str], None] = _say
    ) -> None:
        self._learner, self._pictures, self._say = learner, pictures, say
        self._samples: OrderedDict[str, str] = OrderedDict()  # annotation -> sample, oldest first
        self._learning = threading.Lock()  # one annotation at a time

    @property
    def version(self) -> str:
        """Another one after every change, so that Label Studio asks for predictions anew."""
        last = self._learner.history(1)
        return f"{self._learner.manifest.name}-{last[0].number if last else 0}"

    def answer(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            LookupError: there is no such path.
            InputError: the request is not what it must be.
        """
        if (method, path) in (("GET", "/"), ("GET", "/health")):
            return {"status": "UP", "model_class": "edgeadapt"}
        if path == "/versions":
            return {"versions": [self.version]}
        if method != "POST":
            raise LookupError(path)
        if not isinstance(body, dict):
            raise InputError("a request is a JSON object")
        if path == "/setup":
            names_in(body.get("schema"))
            return {"model_version": self.version}
        if path == "/predict":
            return self.predict(body)
        if path == "/webhook":
            return self.learn(body)
        raise LookupError(path)

    def predict(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A choice and its score for every task; a task that cannot be read gets none."""
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or len(tasks) > _MOST_TASKS:
            raise InputError(f"tasks is a list of at most {_MOST_TASKS} tasks")
        version, (from_name, to_name) = self.version, names_in(body.get("label_config"))
        inputs = [self._input(task) for task in tasks]
        read = [x for x in inputs if x is not None]
        answers = iter(())  # type: Any
        if read:
            found = self._learner.predict(np.stack(read))
            answers = zip(found.labels, found.probs.max(axis=1), strict=True)
        results = []
        for x in inputs:
            label, score = next(answers) if x is not None else ("", 0.0)
            result = [choice(label, from_name, to_name)] if label else []
            results.append({"result": result, "score": float(score), "model_version": version})
        return {"results": results, "model_version": version}

    def learn(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """An annotation that was made, changed or deleted; other events are none of ours."""
        action = body.get("action")
        if action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
            return self._annotated(body.get("task"), body.get("annotation"))
        if action == "ANNOTATIONS_DELETED":
            return self._deleted(body.get("annotations"))
        return {"status": "ignored"}

    def _annotated(self, task: Any, annotation: Any) -> dict[str, Any]:
        if not isinstance(task, dict) or not isinstance(annotation, dict):
            raise InputError("the event has no task or no annotation")
        where, root = f"task {task.get('id')!r:.40}", self._root()
        entry = entry_of({**task, "annotations": [annotation]}, where, root)
        if entry.label is None and not entry.problem and str(annotation.get("id")) in self._samples:
            return self._deleted([annotation])  # it was emptied or cancelled
        with self._learning:
            report = import_files(self._learner, Files("label-studio", [entry], None, False))
            for sample in report.samples:
                self._samples[str(annotation.get("id"))] = sample
            while len(self._samples) > _REMEMBERED:
                self._samples.popitem(last=False)
        for line in counted(report.bad):
            self._say(f"refused: {line}")
        if report.bad:
            raise InputError(counted(report.bad)[0])
        return {"status": "learned" if report.samples else "nothing to learn"}

    def _deleted(self, annotations: Any) -> dict[str, Any]:
        listed = annotations if isinstance(annotations, list) else []
        ids = [str(a.get("id")) for a in listed if isinstance(a, dict)]
        with self._learning:
            known = [self._samples[id] for id in ids if id in self._samples]
            named = {s for id, s in self._samples.items() if id not in ids}  # by other annotations
            there = self._learner.newest_labels(known)
            counting = [
                s
                for s in dict.fromkeys(known)
                if s not in named and s in there and there[s].status in (*COUNTING, "held")
            ]
            if counting:
                self._learner.withdraw(counting)
            for id in ids:  # only now: what failed is tried again
                self._samples.pop(id, None)
        if len(known) < len(ids):
            gone = f"{len(ids) - len(known)} annotations were made before this service started"
            self._say(f"{gone}: their labels stay; withdraw or forget them by hand")
        return {"status": "withdrawn", "labels": len(counting)}

    def _root(self) -> Path:
        return self._pictures or Path("/nonexistent")  # nothing is below it

    def _input(self, task: Any) -> Any:
        data = task.get("data") if isinstance(task, dict) else None
        where = f"task {task.get('id') if isinstance(task, dict) else task!r:.40}"
        try:
            if not isinstance(data, dict):
                raise InputError("it has no data")
            found = picture_of(data, where, self._root())
            if isinstance(found, Path) and (self._pictures is None or not found.is_file()):
                raise InputError(f"there is no file {found}; --pictures names their folder")
            return None if found is None else read(found, self._learner.manifest.input, where)
        except ValueError as error:
            self._say(f"{where} could not be read: {error}")
            return None


def names_in(config: Any) -> tuple[str, str]:
    """Names of the choices and of the image that they are about, in a labelling interface.

    Raises:
        InputError: it is no XML, or has no ``Choices`` for an ``Image``.
    """
    text = config if isinstance(config, str) else ""
    if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise InputError("the labelling interface has a document type: it is refused")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"the labelling interface is no XML: {error}") from error
    images = {tag.get("name") for tag in root.iter("Image")}
    for tag in root.iter("Choices"):
        if tag.get("toName") in images and tag.get("name"):
            return str(tag.get("name")), str(tag.get("toName"))
    raise InputError("the labelling interface has no <Choices> for an <Image>")


class Server(ThreadingHTTPServer):
    """The service. ``token``: a first part of every path, ``http://HOST:PORT/TOKEN``.

    Label Studio sends no password with its events, but keeps the path.
    """

    daemon_threads = True

    def __init__(self, backend: Backend, host: str, port: int, token: str = "") -> None:
        if host not in LOOPBACK and not token:
            raise InputError(f"beyond loopback ({host}) the service needs a token: --token-file F")
        self.backend, self.token = backend, token
        self.slots = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__((host, port), _Request)


class _Request(BaseHTTPRequestHandler):
    server: Server
    timeout = _SILENT_S

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        with self.server.slots:
            try:
                status, answer = self._answered(method)
            except LookupError:
                status, answer = 404, {"error": "there is no such path"}
            except EdgeadaptError as error:
                status, answer = 400, {"error": str(error)}
        sent = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def _answered(self, method: str) -> tuple[int, dict[str, Any]]:
        path = urlsplit(self.path).path
        if self.server.token:
            given, _, rest = path.lstrip("/").partition("/")
            if not hmac.compare_digest(given.encode(), self.server.token.encode()):
                return 403, {"error": "the path does not begin with the token"}
            path = f"/{rest}"
        elif (urlsplit(f"//{self.headers.get('Host', '')}").hostname or "") not in LOOPBACK:
            return 403, {"error": "asked under a name that is not loopback"}  # a page's, rebound
        body = None
        if method == "POST":
            size = self.headers.get("Content-Length", "")
            if not size.isdecimal() or int(size) > _MOST_BYTES:
                self.close_connection = True
                return 413, {"error": f"a request has a length of at most {_MOST_BYTES} bytes"}
            if self.headers.get_content_type() != "application/json":  # what a form cannot send
                self.close_connection = True
                return 415, {"error": "a request is application/json"}
            try:
                body = json.loads(self.rfile.read(int(size)))
            except (ValueError, RecursionError) as error:
                return 400, {"error": f"not JSON: {error}"}
        return 200, self.server.backend.answer(method, path.rstrip("/") or "/", body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a path may hold the token."""


__all__ = ["Backend", "Server", "names_in"]
