"""What a daemon tells of itself: sources, sinks, what holds learning, what became of changes; and
labels that are forgotten through it.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.daemon.config.loader import load_settings
from edgeadapt.daemon.config.schema import (
    BudgetSection,
    FolderSource,
    JsonlSink,
    LoopSection,
    NpzSource,
    PolicySection,
    SequenceSource,
)
from edgeadapt.daemon.io.folder_ledger import FolderMemory
from edgeadapt.daemon.messages import Arrival
from edgeadapt.daemon.service import Service
from edgeadapt.demo.sample import CLASSES, Sample, bundle_path
from edgeadapt.device.learner import Learner
from edgeadapt.errors import InputError

Made = Callable[..., Any]


def known(sample: Sample, count: int, start: int = 0) -> tuple[Any, list[str]]:
    rows = np.flatnonzero(sample.y < 6)[start : start + count]
    return sample.x[rows], [CLASSES[i] for i in sample.y[rows]]


def taught(
    service: Service, sample: Sample, count: int, source: str, until: Made, *, start: int = 0
) -> list[str]:
    """Ids of samples that were named ``SOURCE-0``, ``SOURCE-1``, ... and labelled."""
    x, names = known(sample, count, start)
    ids = [
        answer.id
        for answer in service.observe(x, names=[f"{source}-{row}" for row in range(count)])
    ]
    service.label(list(zip(ids, names, strict=True)), source)
    until(lambda: "received" not in service.status()["learner"]["evidence"])
    return ids


# -- forgetting ------------------------------------------------------------------------------------
def test_labels_are_forgotten_by_name_source_and_class_and_the_receipt_says_what_was_done(
    serve: Made, sample: Sample, until: Made
) -> None:
    service = serve()
    taught(service, sample, 12, "anna", until)
    taught(service, sample, 8, "ben", until, start=40)
    receipt = service.forget(["ben-0", "ben-1"])
    assert receipt.removed == 2 and sum(service.status()["learner"]["evidence"].values()) == 18
    assert service.forget(source="anna").removed == 12
    label = known(sample, 8, 40)[1][2]
    of_class = known(sample, 8, 40)[1][2:].count(label)
    assert service.forget(source="ben", classes=[label]).removed == of_class
    assert sum(service.status()["learner"]["evidence"].values()) == 6 - of_class
    assert service.forget(source="anna").removed == 0
    with pytest.raises(InputError, match="say what to forget"):
        service.forget()


def test_over_http_a_source_is_forgotten_and_an_empty_selection_is_refused(
    serve: Made, sample: Sample, until: Made
) -> None:
    for module in ("starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(module)
    from http_client import ask

    service = serve()
    taught(service, sample, 10, "anna", until)
    url = service.control.url
    assert ask(url, "POST", "/v1/forget", {}).status == 422
    assert ask(url, "POST", "/v1/forget", {"sources": "anna"}).status == 422
    said = ask(url, "POST", "/v1/forget", {"source": "anna"})
    assert said.status == 200 and said.json["removed"] == 10 and said.json["unreachable"] == []
    assert 0 < said.json["subtracted"] <= 10 and service.status()["learner"]["evidence"] == {}


# -- a swap ----------------------------------------------------------------------------------------
def test_after_a_swap_health_says_what_to_do_until_the_settings_name_the_new_bundle(
    serve: Made, tmp_path: Path, successor: Made, sample: Sample
) -> None:
    path = tmp_path / "serve.toml"

    def toml(bundle: Path, more: str = "") -> Path:
        path.write_text(
            f'bundle = "{bundle}"\nstate = "state"\nunsigned = "accept"\n[control]\nlisten ='
            f' ""\ntimeout_s = 20\n{more}'
        )
        return path

    service = serve(load_settings(toml(bundle_path())), reread=lambda: load_settings(path))
    seen = service.observe(known(sample, 1)[0], names=["mine"])[0]
    assert service.health()["notes"] == []
    new = successor(tmp_path / "new.edge", version=2)
    service.swap(new)
    (note,) = service.health()["notes"]
    assert (
        str(new) in note
        and str(bundle_path()) in note
        and "set bundle to it" in note
        and service.health()["problems"] == []
    )
    # as the page says: it was observed before
    assert service.label([("mine", "Coat"), ("other", "Coat")])["received"] == 0
    with pytest.raises(InputError), service.context.lease.borrow() as learner:
        learner.label([seen.id], ["Coat"])
    toml(bundle_path(), "[loop]\nbatch = 2\n")
    assert (
        service.reload()["ok"]
        and service.status()["bundle"]["version"] == 2
        and service.health()["notes"] == [note]
    )
    toml(new)
    assert (
        service.reload()["ok"]
        and service.status()["bundle"]["version"] == 2
        and service.health()["notes"] == []
    )


def test_a_swap_to_the_same_file_under_another_path_leaves_no_note_and_no_second_swap(
    serve: Made, tmp_path: Path, sample: Sample
) -> None:
    path, bundle = tmp_path / "serve.toml", tmp_path / "own.edge"
    shutil.copy(bundle_path(), bundle)
    path.write_text(
        f'bundle = "{bundle}"\nstate = "state"\nunsigned = "accept"\n[control]\nlisten = ""\n'
    )
    service = serve(load_settings(path), reread=lambda: load_settings(path))
    shutil.copy(bundle, tmp_path / "new.edge")
    (tmp_path / "new.edge").replace(bundle)
    service.swap(tmp_path / ".." / tmp_path.name / "own.edge")
    assert service.health()["notes"] == []
    seen = service.observe(known(sample, 1)[0])[0]
    assert service.reload() == {"ok": True, "why": "", "restart": []}
    assert service.label([(seen.id, "Coat")])["received"] == 1, (
        "the reload swapped once more, and what was observed before is unknown"
    )


def test_of_sinks_that_do_not_all_open_none_stays_open(serve: Made, tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    top = (
        f'bundle = "{bundle_path()}"\nstate = "state"\nunsigned = "accept"\n[control]\nlisten ='
        ' ""\n'
    )
    path.write_text(top)
    service = serve(load_settings(path), reread=lambda: load_settings(path))
    path.write_text(
        top + '[[sink]]\nkind = "jsonl"\nname = "first"\npath = "a.jsonl"\n[[sink]]\nkind ='
        ' "mqtt"\nname = "second"\nhost = "localhost"\ntopic = "t/{x}"\n'
    )
    assert not service.reload()["ok"]
    assert not [thread.name for thread in threading.enumerate() if "first" in thread.name]


# -- checkpoints -----------------------------------------------------------------------------------
def test_a_checkpoint_that_was_under_way_at_the_end_does_not_write_over_the_last_table_of_folders(
    serve: Made, settings: Made, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    service = serve(
        settings(source=(FolderSource(name="door", stream="door", path=tmp_path / "in"),))
    )
    running, checkpoints = service.context, service._checkpoints
    entered, go_on = threading.Event(), threading.Event()

    def settle(seconds: float) -> bool:
        entered.set()
        return go_on.wait(20.0)

    running.labels.settle = settle  # the older one waits here, with its table in hand
    running.folders.of("door").add("0.png", (1, 0))
    older = threading.Thread(target=checkpoints.take)
    older.start()
    assert entered.wait(20.0)
    running.folders.of("door").add("1.png", (1, 1))
    running.is_stopping = True
    checkpoints.write_folders()
    go_on.set()
    older.join(20.0)
    running.is_stopping = False
    assert len(FolderMemory(running.settings.state).of("door")) == 2


def test_checkpoints_outlive_what_nobody_foresaw_and_health_names_it(
    serve: Made, settings: Made, until: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def take(self: Learner) -> int:
        calls.append(0)
        if len(calls) == 1:
            raise RuntimeError("of a kind that nobody foresaw")
        return 0

    monkeypatch.setattr(Learner, "checkpoint", take)
    service = serve(settings(loop=LoopSection(checkpoint_s=1.0)))
    until(lambda: any("nobody foresaw" in problem for problem in service.health()["problems"]))
    until(lambda: len(calls) > 1 and service.health()["problems"] == [])


# -- health and status -----------------------------------------------------------------------------
def test_sources_and_sinks_tell_their_counts_and_what_fails(
    serve: Made, settings: Made, sample: Sample, until: Made, tmp_path: Path
) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "film").mkdir()
    (tmp_path / "film" / "torn.png").write_bytes(b"no image")
    (tmp_path / "out.jsonl").mkdir()  # a sink that cannot write
    np.savez(tmp_path / "x.npz", x=sample.x[:20])
    made = settings(
        source=(
            NpzSource(name="rows", stream="rows", path=tmp_path / "x.npz", rate_hz=200.0),
            SequenceSource(name="film", stream="film", path=tmp_path / "film", rate_hz=100.0),
        ),
        sink=(JsonlSink(name="log", path=tmp_path / "out.jsonl"),),
    )
    service = serve(made)
    until(lambda: service.status()["loop"]["answered"] == 20)
    until(
        lambda: (
            service.health()["sinks"][0]["failures"]
            and service.health()["sources"][1]["unreadable"]
        )
    )
    health = service.health()
    rows, film = health["sources"]
    assert (rows["delivered"], rows["unreadable"], film["delivered"], film["unreadable"]) == (
        20,
        0,
        0,
        1,
    ) and film["counters"] == {"unreadable": 1}
    (log,) = health["sinks"]
    assert (
        log["failures"] >= 1
        and log["written"] == 0
        and log["waiting"] <= 20
        and "directory" in log["error"].lower()
    )
    assert (
        any(problem.startswith("sink log: ") for problem in health["problems"])
        and service.status()["sinks"][0]["name"] == "log"
    )


def test_what_holds_learning_is_told_with_its_reason(
    serve: Made, settings: Made, sample: Sample, until: Made
) -> None:
    service = serve(settings(budget=BudgetSection(write_mib_per_day=0.01)))
    assert service.status()["write_budget_bytes"] == 10485
    service.pause(True)
    throttled = service.status()["throttled"]
    assert throttled["user"] and not throttled["latency"] and not throttled["heat"]
    assert throttled["writes"]  # a new state folder alone is more than that


def test_changes_are_counted_from_the_start_by_what_became_of_them(
    serve: Made, settings: Made, sample: Sample, until: Made
) -> None:
    def counts(service: Service) -> dict[tuple[str, str], int]:
        return {(one["kind"], one["outcome"]): one["count"] for one in service.status()["commits"]}

    service = serve()
    assert counts(service) == {
        ("learn", "learned"): 0,
        ("learn", "vetoed"): 0,
        ("learn", "held"): 0,
        ("rollback", "rolled back"): 0,
    }
    until(lambda: service.context.series._has_history)
    taught(service, sample, 10, "anna", until)
    service.rollback()
    until(lambda: counts(service)["rollback", "rolled back"] == 1)
    assert counts(service)["learn", "learned"] >= 1
    service.stop()
    service = serve()
    until(lambda: service.context.series._has_history)
    # those of before are history; opening may have made one
    assert sum(counts(service).values()) <= 1


def test_an_answered_question_is_counted_and_a_label_that_nobody_asked_for_is_not(
    serve: Made, settings: Made, sample: Sample, until: Made
) -> None:
    service = serve(settings(policy=PolicySection(new_classes="add"), loop=LoopSection(batch=8)))
    bags = sample.x[np.flatnonzero(sample.y == CLASSES.index("Bag"))[:256]]
    for start in range(0, len(bags), 32):
        last = service.observe(bags[start : start + 32], stream="door")
    until(lambda: service.questions())
    asked = {question.id for question in service.questions(100)}
    unasked = next(answer.id for answer in last if answer.id not in asked)
    service.label([(unasked, "Bag")])
    assert service.status()["learner"]["answered"] == 0
    service.label([(next(iter(asked)), "Bag")])
    assert service.status()["learner"]["answered"] == 1


def test_labels_of_a_class_are_those_that_teach_and_those_that_judge(
    serve: Made, sample: Sample, until: Made
) -> None:
    service = serve()
    ids = taught(service, sample, 20, "anna", until)
    service.checkpoint()  # the worker is done with them
    labelled, evidence = service.status()["labelled"], service.status()["learner"]["evidence"]
    assert (
        sum(labelled.values()) == evidence.get("learned", 0) + evidence.get("held_out", 0) > 0
        and evidence.get("held_out", 0) > 0
    )
    service.forget(ids)
    assert set(service.status()["labelled"].values()) == {0}


def test_reading_decisions_writes_nothing(
    serve: Made, settings: Made, sample: Sample, until: Made, playing: Any, tmp_path: Path
) -> None:
    dark = [Arrival("camera", "camera", x=sample.x[row] // 4) for row in range(600)]
    service = serve(
        settings(loop=LoopSection(batch=8, drop="wait")), sources=[playing("camera", dark)]
    )
    until(lambda: service.decisions(5))
    service.pause(True)
    until(lambda: service.status()["loop"]["answered"] == 600)
    with service.context.lease.borrow() as learner:
        until(lambda: not learner.is_working)
    found = service.decisions(100)
    assert [row[0] for row in found] == sorted(
        (row[0] for row in found), reverse=True
    ) and service.decisions(1) == found[:1]

    def written() -> int:
        with sqlite3.connect(
            f"file:{tmp_path / 'state' / 'learner.db'}?mode=ro", uri=True
        ) as database:
            return int(database.execute("SELECT count(*) FROM decisions").fetchone()[0])

    before = service.status()["learner"]["written_bytes_last_day"]
    rows = written()
    for _ in range(5):
        assert service.decisions(100) == found
    assert (
        written() == rows < len(found)
        and service.status()["learner"]["written_bytes_last_day"] == before
    )
    service.checkpoint()
    assert written() == len(found) and service.decisions(100) == found
