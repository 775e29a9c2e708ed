"""Kept plans: found again for exactly the same thing, built again for anything else, whatever
happened to the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeadapt_tensorrt import Flags, TensorRT, _runtime, _store
from edgeadapt_tensorrt._driver import find_device
from edgeadapt_tensorrt._store import Store, default_folder
from tiny_models import build, external, predict_graph, step_graph

from edgeadapt.runtime import GraphFile, Tensors

pytest.importorskip("onnx")
from onnx import helper

KEY = {"graph": "a", "profile": {"usual": 8, "largest": 32}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "plans"


def plans(folder: Path) -> list[Path]:
    return sorted(folder.glob("plan-*.trt"))


def test_a_second_start_builds_nothing(trt: Any, folder: Path) -> None:
    for _ in range(3):
        graph = TensorRT(cache=folder).load(predict_graph(4, 2))
    assert trt.fake.builds == 1 and len(plans(folder)) == 1
    state = TensorRT(cache=folder)
    assert graph.signature.ports[0].shape == (None, 4) and not state.notes


@pytest.mark.parametrize(
    "change",
    [
        "graph",
        "frozen",
        "version",
        "device",
        "capability",
        "driver",
        "batches",
        "workspace",
        "tf32",
        "level",
    ],
)
def test_each_part_of_the_key_makes_another_plan(
    tensorrt: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, folder: Path, change: str
) -> None:
    def graph(scale: float = 2.0, name: str = "y") -> GraphFile:
        frozen = {"k.s": np.array(scale, np.float32)}
        return GraphFile(
            "scale",
            build(
                [helper.make_node("Mul", ["x", "k.s"], [name])],
                {"x": ["B"]},
                {name: ["B"]},
                [external("k.s", frozen["k.s"])],
            ),
            frozen,
        )

    def start(file: GraphFile, version: str = "10.16.2.10", **settings: Any) -> int:
        trt = tensorrt(version)
        TensorRT(cache=folder, **settings).load(file)
        return int(trt.fake.builds)

    assert start(graph()) == 1 and start(graph()) == 0
    device = find_device()
    other: dict[str, Any] = {
        "device": {"name": "Fake Thor"},
        "capability": {"capability": (11, 0)},
        "driver": {"driver": "13.2"},
    }
    if change in other:
        monkeypatch.setattr(_runtime, "find_device", lambda *_: replace(device, **other[change]))
    settings: dict[str, Any] = {
        "batches": {"batches": (1, 8, 64)},
        "workspace": {"flags": Flags(workspace_mib=128)},
        "tf32": {"flags": Flags(tf32=True)},
        "level": {"flags": Flags(level=5)},
    }
    file = graph(3.0) if change == "frozen" else graph(name="z") if change == "graph" else graph()
    version = "11.4.1.9" if change == "version" else "10.16.2.10"
    assert start(file, version, **settings.get(change, {})) == 1
    assert start(file, version, **settings.get(change, {})) == 0
    assert len(plans(folder)) == 2


def test_a_file_that_is_damaged_anywhere_is_built_again_with_a_note(trt: Any, folder: Path) -> None:
    x = np.ones((1, 4), np.float32)
    TensorRT(cache=folder).load(predict_graph(4, 2))
    path = plans(folder)[0]
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damages = [
        whole[:size]
        for size in (0, 1, 20, whole.index(b"\n"), whole.index(b"\n") + 1, len(whole) - 1)
    ] + [whole + b"x", b"[]\n", b'{"format": 9}\n', b"\n" * 9]
    for at in rng.integers(0, len(whole), 20):
        damages.append(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
    for number, damage in enumerate(damages, start=2):
        path.write_bytes(damage)
        runtime = TensorRT(cache=folder)
        graph = runtime.load(predict_graph(4, 2))
        assert (
            trt.fake.builds == number
            and "made again" in runtime.notes[0]
            and path.name in runtime.notes[0]
        )
        assert path.read_bytes() == whole
    assert graph({"x": x}, runtime.upload({"W.w": np.ones((4, 2), np.float32)}))[0][
        "y"
    ].tolist() == [[4, 4]]


def test_a_plan_that_tensorrt_refuses_is_built_again_with_a_note(trt: Any, folder: Path) -> None:
    TensorRT(cache=folder).load(predict_graph(4, 2))
    store = Store(folder, 1 << 20, print)
    key = eval_key(plans(folder)[0])
    store.write("plan", key, b"fake plan of another build\n{}")
    runtime = TensorRT(cache=folder)
    refused = trt.Runtime.deserialize_cuda_engine
    seen = []

    def refuse_once(self: Any, plan: bytes) -> Any:
        seen.append(plan)
        if len(seen) == 1:
            trt.fake.loggers[0].log(trt.ILogger.Severity.ERROR, "version tag does not match")
            return None
        return refused(self, plan)

    trt.Runtime.deserialize_cuda_engine = refuse_once
    runtime.load(predict_graph(4, 2))
    refusal = "the kept plan is refused, and built again. TensorRT said: error:"
    assert trt.fake.builds == 2 and f"{refusal} version tag does not match" in runtime.notes[0]


def eval_key(path: Path) -> dict[str, Any]:
    import json

    key: dict[str, Any] = json.loads(path.read_bytes().split(b"\n")[0])["key"]
    return key


def test_timings_are_kept_handed_to_the_next_build_and_replaced_when_refused(
    trt: Any, folder: Path
) -> None:
    TensorRT(cache=folder).load(predict_graph(4, 2))
    TensorRT(cache=folder).load(predict_graph(4, 3))
    assert trt.fake.timings_used == [b"", b"timings 10.16.2.10 "]
    timing = next(folder.glob("timing-*.trt"))
    for bad in (b"nonsense", b"timings 9.9.9 of another version"):
        Store(folder, 1 << 20, print).write("timing", eval_key(timing), bad)
        runtime = TensorRT(cache=folder)
        runtime.load(predict_graph(4, 4 + len(bad)))
        assert (
            "the kept timings are refused; measured again" in runtime.notes
            and trt.fake.timings_used[-1] == b""
        )


@pytest.mark.parametrize("function", ["os.replace", "os.fsync", "tempfile.mkstemp"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    notes: list[str] = []
    store = Store(folder, 1 << 20, notes.append)
    store.write("plan", KEY, b"old")

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"edgeadapt_tensorrt._store.{function}", fail)
        store.write("plan", KEY, b"new")
    assert "could not be kept: No space left on device" in notes[0]
    assert store.read("plan", KEY) == b"old" and len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "where", ["before the file is synchronised", "before it is renamed", "after it is renamed"]
)
def test_a_process_that_dies_while_writing_leaves_a_whole_file(folder: Path, where: str) -> None:
    store = Store(folder, 1 << 20, print)
    store.write("plan", KEY, b"old" * 1000)
    child = os.fork()
    if child == 0:
        real = os.replace

        def die(*_: Any) -> None:
            os._exit(0)

        def rename_and_die(*names: Any) -> None:
            real(*names)
            os._exit(0)

        if where == "before the file is synchronised":
            os.fsync = die  # type: ignore[assignment]
        else:
            os.replace = die if where == "before it is renamed" else rename_and_die  # type: ignore[assignment]
        store.write("plan", KEY, b"new" * 1000)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert (
        Store(folder, 1 << 20, print).read("plan", KEY)
        == (b"new" if where.startswith("after") else b"old") * 1000
    )


def test_what_a_dead_process_left_is_removed_after_an_hour(folder: Path) -> None:
    store = Store(folder, 1 << 20, print)
    left, fresh = folder / "plan-x.trt-new", folder / "plan-y.trt-new"
    for path in (left, fresh):
        path.write_bytes(b"half")
    os.utime(left, (1, 1))
    store.write("plan", KEY, b"whole")
    assert not left.exists() and fresh.exists()


def test_the_folder_is_bounded_and_the_least_recently_used_goes(folder: Path) -> None:
    notes: list[str] = []
    store = Store(folder, 5000, notes.append)
    for number in range(4):
        store.write("plan", {"n": number}, bytes(1000))
        os.utime(
            next(p for p in folder.iterdir() if eval_key(p) == {"n": number}), (number, number)
        )
    assert store.read("plan", {"n": 0}) == bytes(1000)  # used now
    store.write("plan", {"n": 4}, bytes(1000))
    assert [store.read("plan", {"n": n}) is not None for n in range(5)] == [
        True,
        False,
        True,
        True,
        True,
    ]
    store.write("plan", {"n": 5}, bytes(9000))
    assert "it is made at every start" in notes[0] and store.read("plan", {"n": 5}) is None


def test_a_file_of_something_else_under_the_same_name_is_not_used(folder: Path) -> None:
    notes: list[str] = []
    store = Store(folder, 1 << 20, notes.append)
    store.write("plan", {"n": 1}, b"one")
    only = next(folder.iterdir())
    only.rename(store._path(folder, "plan", {"n": 2}))
    assert store.read("plan", {"n": 2}) is None and "was made for something else" in notes[0]


def test_a_folder_that_others_may_write_to_is_not_used(trt: Any, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    runtime = TensorRT(cache=folder)
    runtime.load(step_graph([2, 2]))
    assert "others may write" in runtime.notes[0] and not list(folder.iterdir())


def test_a_folder_that_cannot_be_made_costs_a_note(trt: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    runtime = TensorRT(cache=tmp_path / "file" / "plans")
    assert runtime.load(step_graph([2, 2])) and "plans are not kept" in runtime.notes[0]


def test_an_unreadable_file_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    store = Store(folder, 1 << 20, notes.append)
    store.write("plan", KEY, b"x")

    def fail(*_: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(_store.os, "utime", fail)
    assert store.read("plan", KEY) is None and "cannot be read (Input/output error)" in notes[0]


def test_the_folder_is_the_services_or_the_users(
    monkeypatch: pytest.MonkeyPatch, trt: Any, tmp_path: Path
) -> None:
    assert default_folder() == tmp_path / "cache" / "edgeadapt" / "tensorrt"
    TensorRT().load(step_graph([2, 2]))
    assert len(plans(default_folder())) == 1 and default_folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/edgeadapt")
    assert default_folder() == Path("/var/cache/edgeadapt/tensorrt")
    monkeypatch.delenv("CACHE_DIRECTORY")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "edgeadapt" / "tensorrt"


def test_nothing_is_kept_where_nothing_is_to_be_kept(trt: Any, tmp_path: Path) -> None:
    graph = TensorRT(cache=None).load(
        GraphFile("neg", build([helper.make_node("Neg", ["x"], ["y"])], {"x": [2]}, {"y": [2]}))
    )
    assert graph({"x": np.ones(2, np.float32)}, Tensors())[0]["y"].tolist() == [
        -1,
        -1,
    ] and not list(tmp_path.rglob("*.trt"))
