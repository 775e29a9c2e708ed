"""Engines of ONNX Runtime's TensorRT provider, built ahead. The provider is not here: a stand-in
keeps engines as its source says, and computes on the CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from device_day import day_of_one_runtime
from edgeadapt_onnxruntime import TensorrtRuntime, _probe, _runtime
from edgeadapt_onnxruntime._device_executable import DeviceExecutable
from edgeadapt_onnxruntime._providers import CPU, CUDA, TENSORRT

import edgeadapt
from edgeadapt import cli
from edgeadapt.bundle import Bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.inference.prebuild import Result, build_ahead, requests
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.onnx_file import OnnxFile
from edgeadapt.runtime import BuildsAhead, GraphFile

pytest.importorskip("onnx")
from tiny_models import predict_graph, step_graph


class Provider:
    """What it built, and by which profiles; ``takes`` says whether it computes graphs at all,
    ``takes_parts`` that it refuses profiles as it takes them in parts.
    """

    def __init__(self) -> None:
        self.builds = 0
        self.profiles: list[dict[str, str]] = []
        self.takes, self.takes_parts = True, False

    def load(self, model: bytes, options: Mapping[str, str]) -> None:
        """An engine for all free inputs is built with the session; without a profile it waits for a
        run.
        """
        shapes = {key: value for key, value in options.items() if key.startswith("trt_profile")}
        self.profiles.append(shapes)
        if self.takes_parts and shapes:
            raise RuntimeError(
                "[ONNXRuntimeError] : 11 : EP_FAIL : User needs to provide all the dynamic shape"
                " inputs with associated profiles if they want to explicitly set profiles through"
                " provider options. Following input(s) has no associated shape profiles provided:"
                " /Slice_output_0"
            )
        if not self.takes or (OnnxFile("main", model).free_inputs and not shapes):
            return
        place = Path(options["trt_engine_cache_path"])
        engine = place / "TensorrtExecutionProvider_TRTKernel_graph_main_1_0_sm86.engine"
        profile = place / "main.profile"
        if engine.exists() and profile.read_text() == str(shapes):
            if engine.read_bytes() != b"a whole engine":
                raise RuntimeError(
                    "[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not deserialize engine"
                    f" from cache: {engine}"
                )
            return
        self.builds += 1
        profile.write_text(str(shapes))
        engine.write_bytes(b"a whole engine")


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    found, real = Provider(), onnxruntime.InferenceSession

    class Session(real):  # type: ignore[misc, valid-type]
        def __init__(
            self,
            model: bytes,
            options: Any,
            names: list[str],
            values: list[dict[str, str]],
            enable_fallback: int,
            disabled_optimizers: Any,
        ) -> None:
            if TENSORRT in names:
                found.load(model, dict(zip(names, values, strict=True))[TENSORRT])
            super().__init__(
                model,
                options,
                [CPU],
                enable_fallback=enable_fallback,
                disabled_optimizers=disabled_optimizers,
            )
            self._asked = names

        def get_providers(self) -> list[str]:
            return self._asked

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(_probe, "_passed", {(TENSORRT, 0): "passed"})
    monkeypatch.setattr(_runtime, "_gpu_of", lambda given: "cpu")
    return found


def ahead(bundle: Bundle, folder: Path | None) -> list[Result]:
    runtime = TensorrtRuntime(cache=folder)
    assert isinstance(runtime, BuildsAhead)
    return list(build_ahead(runtime, requests(bundle)))


def test_a_learner_on_a_bundle_that_was_built_ahead_builds_nothing_and_stays_within_the_profiles(
    provider: Provider, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = ahead(bundle, tmp_path / "cache")
    assert [result.outcome for result in results] == 5 * ["built"] + ["none"] and results[
        -1
    ].note == "no engine: a re-folded encoder runs with CUDA"
    assert all(
        result.nbytes == len(b"a whole engine")
        and result.files[0].parent.parent == tmp_path / "cache"
        for result in results[:-1]
    )
    largest: dict[int, int] = {}
    real = DeviceExecutable.__call__

    def counted(self: DeviceExecutable, ports: Mapping[str, Any], tensors: Any) -> Any:
        free = [
            np.shape(ports[port.name])[0] for port in self.signature.ports if None in port.shape
        ]
        largest[id(self)] = max([largest.get(id(self), 0), *free])
        return real(self, ports, tensors)

    monkeypatch.setattr(DeviceExecutable, "__call__", counted)
    runtime = TensorrtRuntime(cache=tmp_path / "cache")
    with edgeadapt.open(
        bundle, state=tmp_path / "state", runtime=runtime, budget=Budget(busy_fraction=1.0)
    ) as learner:
        assert day_of_one_runtime(learner)["domain"]
        assert provider.builds == 5
        for spec in bundle.manifest.graphs:  # those that are loaded, from the runtime's cache
            graph = bundle.graph_file(spec)
            assert largest[id(runtime.load(graph))] <= max(graph.batches, default=0)
    assert max(largest.values()) == 64, "a refresh brings the whole memory at once"


def test_what_is_kept_is_not_built_again(
    provider: Provider, bundle: Bundle, tmp_path: Path
) -> None:
    ahead(bundle, tmp_path)
    assert [result.outcome for result in ahead(bundle, tmp_path)] == 5 * ["kept"] + [
        "none"
    ] and provider.builds == 5


def test_an_engine_that_is_refused_is_built_again(
    provider: Provider, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of one is left where a process was killed; one of another TensorRT looks the same to
    ONNX Runtime.
    """
    first = ahead(bundle, tmp_path)
    first[1].files[0].write_bytes(b"a whole")
    with caplog.at_level(logging.WARNING, "edgeadapt.onnxruntime"):
        again = ahead(bundle, tmp_path)
    assert [result.outcome for result in again] == [
        "kept",
        "built",
        "kept",
        "kept",
        "kept",
        "none",
    ] and provider.builds == 6
    assert (
        "graph 'graphs/read.onnx': the kept engine is refused, and built again" in caplog.text
        and first[1].files[0].read_bytes() == b"a whole engine"
    )


def test_another_failure_of_the_provider_leaves_what_is_kept(
    provider: Provider, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ahead(bundle, tmp_path)

    def fail(*_: Any) -> None:
        raise RuntimeError(
            "[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not build execution context"
        )

    monkeypatch.setattr(provider, "load", fail)
    results = ahead(bundle, tmp_path)
    assert [result.outcome for result in results] == 5 * ["failed"] + ["none"] and all(
        "could not build execution context" in result.note for result in results[:-1]
    )
    assert all(result.files[0].exists() for result in first[:-1])


def test_a_profile_is_of_the_batches_that_a_graph_brings_else_of_the_runtime(
    provider: Provider, tmp_path: Path
) -> None:
    file, runtime = predict_graph(8, 4), TensorrtRuntime(cache=tmp_path, batches=(4, 16))
    runtime.load(GraphFile(file.name, file.model, batches=(32, 64)))
    TensorrtRuntime(cache=tmp_path, batches=(4, 16)).load(file)
    assert [tuple(profile.values()) for profile in provider.profiles] == [
        ("x:1x8", "x:64x8", "x:64x8"),
        ("x:1x8", "x:16x8", "x:16x8"),
    ]


def test_a_graph_that_tensorrt_takes_in_parts_is_loaded_without_a_profile(
    provider: Provider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider.takes_parts = True
    file, runtime = predict_graph(8, 4), TensorrtRuntime(cache=tmp_path)
    with caplog.at_level(logging.WARNING, "edgeadapt.onnxruntime"):
        graph = runtime.load(GraphFile(file.name, file.model, batches=(1, 8)))
    assert (
        "graph 'predict': TensorRT takes it in parts" in caplog.text
        and "/Slice_output_0" in caplog.text
    )
    assert [bool(profile) for profile in provider.profiles] == [
        True,
        False,
    ] and graph.signature.ports[0].shape == (None, 8)
    built = runtime.build(GraphFile(file.name, file.model, batches=(1, 8)))
    assert (
        not built.files
        and "whose sizes only a run shows" in built.note
        and len(provider.profiles) == 3
    )


def test_a_stale_engine_of_a_graph_that_is_taken_in_parts_is_gone_around_twice(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.takes_parts = True
    runtime, takes = TensorrtRuntime(cache=tmp_path), provider.load
    kept = runtime._folder(tmp_path, predict_graph(8, 4)) / "left.engine"
    kept.parent.mkdir()
    kept.write_bytes(b"of another TensorRT")

    def load(model: bytes, options: Mapping[str, str]) -> None:
        takes(model, options)
        if kept.exists():
            raise RuntimeError(
                "[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not deserialize engine from"
                " cache"
            )

    monkeypatch.setattr(provider, "load", load)
    file = predict_graph(8, 4)
    assert (
        runtime.load(GraphFile(file.name, file.model, batches=(1, 8))).signature.ports[0].shape
        == (None, 8)
        and not kept.exists()
    )


def test_a_profile_that_was_given_as_an_option_is_not_taken_away(
    provider: Provider, tmp_path: Path
) -> None:
    provider.takes_parts = True
    shapes = {f"trt_profile_{which}_shapes": "x:4x8" for which in ("min", "opt", "max")}
    with pytest.raises(RuntimeUnavailable, match="associated profiles"):
        TensorrtRuntime(cache=tmp_path, options=shapes).load(predict_graph(8, 4))


def test_a_graph_of_which_tensorrt_takes_nothing_has_no_engine_and_says_so(
    provider: Provider, tmp_path: Path
) -> None:
    provider.takes = False
    built = TensorrtRuntime(cache=tmp_path).build(step_graph([4]))
    assert not built.files and not built.was_kept and "TensorRT takes no part of it" in built.note


def test_nothing_is_built_where_nothing_is_kept(provider: Provider, bundle: Bundle) -> None:
    with pytest.raises(RuntimeUnavailable, match="where nothing is kept"):
        ahead(bundle, None)
    with pytest.raises(RuntimeUnavailable, match="cache=None keeps no engines"):
        TensorrtRuntime(cache=None).build(step_graph([4]))
    assert provider.builds == 0


def test_the_command_builds_into_the_folder_of_a_service(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(
            [
                "build",
                str(bundle_path()),
                "--runtime",
                "onnxruntime-tensorrt",
                "--cache",
                str(tmp_path),
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].endswith(
            f"6 graphs for onnxruntime-tensorrt, kept in {tmp_path / 'onnxruntime-tensorrt'}"
        )
        and len(list(tmp_path.rglob("*.engine"))) == 5
    )
    assert lines[6].endswith(
        "graphs/encode.onnx, weights that change  no engine: a re-folded encoder runs with CUDA"
    )
    assert lines[7].endswith("0 kept from before, 1 without an engine")


def test_the_cuda_provider_alone_compiles_nothing(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(_probe._passed, (CUDA, 0), "passed")
    assert cli.main(["build", str(bundle_path()), "--runtime", "onnxruntime-cuda"]) == 0
    assert (
        "onnxruntime-cuda compiles nothing that could be kept" in capsys.readouterr().out
        and provider.builds == 0
    )
