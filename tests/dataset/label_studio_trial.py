"""What a person does with Label Studio and a device, once, by the API of a real one."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgeadapt
from edgeadapt.dataset import export_dataset, import_dataset
from edgeadapt.dataset.label_studio import choice
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample
from edgeadapt.exporters.label_studio import Backend, Server

_PATIENCE_S = 120.0


class Studio:
    """A Label Studio at ``url`` with a token of its first user."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self._token = url, token

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        asked = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Token {self._token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=_PATIENCE_S) as answer:
            text = answer.read()
        return json.loads(text) if text else None


def trial(studio: Studio, folder: Path) -> dict[str, Any]:
    """Export, label there, predict and learn here, export there, import here; what was found."""
    state, bundle = folder / "state", str(bundle_path())
    sample, names = load_sample(), KNOWN[:3]
    rows = np.concatenate([np.flatnonzero(sample.y == CLASSES.index(n))[:5] for n in names])
    with edgeadapt.open(bundle, state=state, keep=edgeadapt.Keep(raw_per_class=20)) as learner:
        labels = [CLASSES[k] for k in sample.y[rows]]
        ids = learner.learn(sample.x[rows], labels, source="line 1")
        learner.settle()
        learner.withdraw(ids[:2])
    export_dataset(state, folder / "out", "label-studio", bundle=bundle)
    project = studio(
        "POST",
        "/api/projects",
        {"title": "edgeadapt", "label_config": (folder / "out" / "label_config.xml").read_text()},
    )["id"]
    tasks = json.loads((folder / "out" / "tasks.json").read_text())
    studio("POST", f"/api/projects/{project}/import", tasks)
    found: dict[str, Any] = {"imported": _exported(studio, project)}

    with edgeadapt.open(bundle, state=state) as learner:
        server = Server(Backend(learner), "127.0.0.1", 0, "a1b2c3d4e5f6a7b8")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/a1b2c3d4e5f6a7b8"
        found["backend"] = studio("POST", "/api/ml", {"url": url, "project": project, "title": "e"})
        chosen = {"selectedItems": {"all": True, "excluded": []}}
        action = f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}"
        studio("POST", action, chosen)
        found["predicted"] = _exported(studio, project)
        open_ = next(t for t in found["predicted"] if t["data"]["edgeadapt_id"] == ids[0])
        result = [choice(names[0])]
        made = studio("POST", f"/api/tasks/{open_['id']}/annotations", {"result": result})
        learned = _until(lambda: learner.label_states(ids[0])[0].status in ("learned", "held_out"))
        found["learned"], found["state"] = learned, learner.label_states(ids[0])[0]
        studio("DELETE", f"/api/annotations/{made['id']}")
        found["withdrawn"] = _until(lambda: learner.label_states(ids[0])[0].status == "withdrawn")
        studio("POST", f"/api/tasks/{open_['id']}/annotations", {"result": result})
        _until(lambda: learner.label_states(ids[0])[0].status in ("learned", "held_out"))
        server.shutdown()
        server.server_close()
    exported = folder / "out" / "export.json"
    exported.write_text(json.dumps(_exported(studio, project)))
    with edgeadapt.open(bundle, state=folder / "new") as learner:
        found["report"] = import_dataset(learner, exported, "label-studio")
        learner.settle()
        found["came back"] = {s.id: s for s in learner.label_states(list(ids[:1]) + list(ids[2:]))}
    return {**found, "ids": ids, "labels": labels}


def _exported(studio: Studio, project: int) -> Any:
    tasks = studio("GET", f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")
    for task in tasks:
        task["predicted"] = studio("GET", f"/api/predictions?task={task['id']}")
    return tasks


def _until(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + _PATIENCE_S
    while not holds() and time.monotonic() < until:
        time.sleep(0.2)
    return holds()
