"""A bundle with encoders in float16 and int8 on a device: which graph and which thresholds are
used, and what may follow what in a state folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from ramp_images import CLASSES, PRECISE, dimmed, ramps

import edgeadapt
from edgeadapt.bundle import FACTORY, FROZEN, GUARD, Bundle, read_bundle, write_bundle
from edgeadapt.bundle.codec import decode_manifest, encode_manifest
from edgeadapt.bundle.schema import Manifest, encoder_tensors, space_of
from edgeadapt.cli import main
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.inference.precision_check import probe_features, probe_inputs
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import Learner
from edgeadapt.errors import BundleError, InputError, RuntimeUnavailable
from edgeadapt.runtime import Runtime

PRECISIONS = ("float32", "float16", "int8")


@pytest.fixture(scope="module")
def precise() -> Bundle:
    return read_bundle(PRECISE)


def error(z: np.ndarray, reference: np.ndarray) -> float:
    return float(
        np.median(np.linalg.norm(z - reference, axis=1) / np.linalg.norm(reference, axis=1))
    )


def rewritten(bundle: Bundle, path: Path, **fields: Any) -> Bundle:
    manifest = msgspec.structs.replace(bundle.manifest, **fields)
    weights = {member: bundle.weights(member) for member in (FROZEN, FACTORY, GUARD)}
    return write_bundle(
        path,
        manifest,
        {graph.file: bundle.graph(graph.file) for graph in manifest.graphs},
        weights,
        bundle.card,
    )


def changed(manifest: Manifest, precision: str, **fields: Any) -> tuple[Any, ...]:
    return tuple(
        msgspec.structs.replace(spec, **fields) if spec.precision == precision else spec
        for spec in manifest.precisions
    )


# -- which graph, which thresholds -----------------------------------------------------------------
def test_each_precision_has_features_of_its_own_and_names_nearly_all_alike(
    precise: Bundle, runtime: Runtime
) -> None:
    x, names = ramps(300, 11)
    found = {}
    for precision in PRECISIONS:
        with edgeadapt.open(precise, runtime=runtime, precision=precision) as learner:
            found[precision] = learner.predict(x)
    z = {precision: answer.embedding for precision, answer in found.items()}
    assert 1e-5 < error(z["float16"], z["float32"]) < 3e-3 < error(z["int8"], z["float32"]) < 0.05
    labels = {precision: np.array(answer.labels) for precision, answer in found.items()}
    assert (labels["float32"] == names).mean() > 0.95
    assert (labels["float16"] == labels["float32"]).mean() > 0.99 and (
        labels["int8"] == labels["float32"]
    ).mean() > 0.97


def test_without_a_word_the_encoder_is_the_float32_one(precise: Bundle, runtime: Runtime) -> None:
    x = ramps(8, 1)[0]
    with edgeadapt.open(precise, runtime=runtime) as learner:
        assert np.array_equal(learner.predict(x).embedding, Program(precise, runtime).encode(x)[0])
        assert [graph.file for graph in precise.manifest.graphs_for("encode")] == [
            "graphs/encode.onnx"
        ]


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_variant_brings_thresholds_of_its_own(
    precise: Bundle, runtime: Runtime, precision: str
) -> None:
    manifest = precise.manifest
    own = next(spec for spec in manifest.precisions if spec.precision == precision)
    assert (
        own.novelty.threshold != manifest.policy.novelty.threshold
        and own.shift.thresholds != manifest.policy.shift.thresholds
    )
    policy = Program(precise, runtime, precision).manifest.policy
    assert (policy.shift, policy.novelty) == (own.shift, own.novelty)
    assert (policy.guard, policy.learn, policy.adapt) == (
        manifest.policy.guard,
        manifest.policy.learn,
        manifest.policy.adapt,
    )


def test_the_thresholds_of_a_variant_decide(
    precise: Bundle, runtime: Runtime, tmp_path: Path
) -> None:
    """With thresholds far off in int8 alone, int8 never reads shifted and always novel, and float32
    reads as before.
    """
    spec = next(spec for spec in precise.manifest.precisions if spec.precision == "int8")
    novelty = msgspec.structs.replace(spec.novelty, threshold=-1e9)
    shift = msgspec.structs.replace(
        spec.shift, thresholds=tuple(1e9 for _ in spec.shift.thresholds)
    )
    odd = rewritten(
        precise,
        tmp_path / "odd.edge",
        precisions=changed(precise.manifest, "int8", novelty=novelty, shift=shift),
    )
    x, read = ramps(32, 4)[0], {}
    for precision in ("float32", "int8"):
        with edgeadapt.open(odd, runtime=runtime, precision=precision) as learner:
            clean = learner.observe(x, stream="clean")
            bright = learner.observe(dimmed(x), stream="bright")
            read[precision] = (bool(bright.reading.is_shifted), clean.reading.novel_share)
    assert read["float32"][0] and read["float32"][1] < 0.5  # type: ignore[operator]
    assert read["int8"] == (False, 1.0)


def test_a_precision_that_is_not_there_is_named_with_those_that_are(
    precise: Bundle, runtime: Runtime
) -> None:
    with pytest.raises(BundleError, match=r"has no int8 encoder; it has float32\. Ask"):
        edgeadapt.open(bundle_path(), runtime=runtime, precision="int8")
    with pytest.raises(InputError, match="precision is one of float32, float16, int8, got 'fp8'"):
        edgeadapt.open(precise, runtime=runtime, precision="fp8")  # type: ignore[arg-type]


def test_a_machine_on_which_a_variant_computes_something_else_is_refused(
    precise: Bundle, runtime: Runtime, tmp_path: Path
) -> None:
    spec = next(spec for spec in precise.manifest.precisions if spec.precision == "int8")
    encode = Program(precise, runtime, "int8").graphs.encode
    assert encode is not None
    here = probe_features(encode, precise.manifest.input)
    assert np.linalg.norm(here - spec.probe) < 0.03 * np.linalg.norm(here)
    x = probe_inputs(precise.manifest.input)
    assert (
        x.shape == (4, 12, 12)
        and x.dtype == np.uint8
        and x[0, 0, 0] == 0
        and x[0, -1, -1] == 255
        and np.array_equal(x[0].ravel(), x[1].ravel()[::-1])
    )
    probe = np.array(spec.probe)
    probe[:8] = probe.max()
    odd = rewritten(
        precise,
        tmp_path / "odd.edge",
        precisions=changed(precise.manifest, "int8", probe=tuple(map(float, probe))),
    )
    with pytest.raises(
        RuntimeUnavailable, match="int8 encoder does not compute here what it did on the host"
    ):
        edgeadapt.open(odd, runtime=runtime, precision="int8")
    with edgeadapt.open(odd, runtime=runtime, precision="float16"):
        pass


def test_verify_runs_the_probes(
    precise: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = next(spec for spec in precise.manifest.precisions if spec.precision == "int8")
    for probe, told in (
        (tuple(value + 1.0 for value in spec.probe), "int8 encoder does not compute here"),
        ((0.0,), "probe of the int8 encoder has 1 numbers, it gives 128"),
    ):
        odd = rewritten(
            precise,
            tmp_path / "odd.edge",
            precisions=changed(precise.manifest, "int8", probe=probe),
        )
        assert main(["verify", str(odd.path)]) != 0
        assert told in capsys.readouterr().err


# -- one state, any precision ----------------------------------------------------------------------
def teach(learner: Learner, seed: int) -> None:
    x, names = ramps(24, seed)
    learner.learn(x, list(names))
    learner.learn(255 - x[:10], ["inverse"] * 10)
    learner.settle()


def test_labels_learned_in_int8_are_answered_in_float32_and_the_other_way_round(
    precise: Bundle, runtime: Runtime, tmp_path: Path
) -> None:
    x = 255 - ramps(60, 21)[0][np.arange(60) % 3 == 0][:20]
    digests = []
    for first, then in (("int8", "float32"), ("float32", "int8"), ("float16", "int8")):
        state = tmp_path / first / then
        with edgeadapt.open(
            precise, state, runtime, precision=first, policy=edgeadapt.Policy(new_classes="add")
        ) as learner:
            teach(learner, 5)
            there = learner.predict(x).labels
            digest = learner.digest()
        with edgeadapt.open(precise, state, runtime, precision=then) as learner:
            assert learner.digest() == digest and learner.classes == (*CLASSES, "inverse")
            here = learner.predict(x)
            assert np.mean(np.array(here.labels) == "inverse") > 0.8
            assert np.mean(np.array(here.labels) == np.array(there)) > 0.9
            learner.rollback()
            learner.settle()
        digests.append(digest)
    assert digests[0] != digests[1]  # what was stored are features of the precision that served


def test_the_space_is_that_of_the_float32_encoder_alone(precise: Bundle) -> None:
    manifest = precise.manifest
    frozen = precise.weights(FROZEN)
    names = encoder_tensors(frozen, manifest.graphs_for("encode"))
    assert manifest.space == space_of(
        precise.graph("graphs/encode.onnx"), *(frozen[name].tobytes() for name in names)
    )
    assert manifest.at("int8").space == manifest.space


def test_a_bundle_without_variants_follows_one_with_them(
    precise: Bundle, runtime: Runtime, tmp_path: Path
) -> None:
    without = rewritten(
        precise,
        tmp_path / "without.edge",
        version=2,
        precisions=(),
        graphs=tuple(graph for graph in precise.manifest.graphs if graph.precision == "float32"),
    )
    with edgeadapt.open(
        precise,
        tmp_path / "state",
        runtime,
        precision="int8",
        policy=edgeadapt.Policy(new_classes="add"),
    ) as learner:
        teach(learner, 6)
        with pytest.raises(BundleError, match="version 2 has no int8 encoder; it has float32"):
            learner.offer(without)
        assert learner.offer(without, precision="float32") is without
    with edgeadapt.open(without, tmp_path / "state", runtime) as learner:
        assert "inverse" in learner.classes


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_an_encoder_that_was_refolded_for_a_condition_stays_in_its_precision(
    precise: Bundle, runtime: Runtime, precision: str
) -> None:
    x, names = ramps(664, 31)
    bright = dimmed(x)
    programs = {name: Program(precise, runtime, name) for name in ("float32", precision)}
    factory = programs["float32"].factory_domain().over(programs["float32"].factory())
    written = programs["float32"].adapt(factory, bright[:64], np.ones(64, np.float32))[1]
    tensors = written.over(factory)
    z, right = {}, {}
    for name, program in programs.items():
        encode = program.refold(tensors)
        assert encode is not None
        features, taps = program.encode(bright[64:], encode)
        slots = program.forward_head(features, taps, tensors).logits.argmax(axis=1)
        z[name], right[name] = (
            features,
            float((np.array(CLASSES)[slots.clip(0, 2)] == names[64:]).mean()),
        )
        # it is another encoder than the factory's
        assert error(features, program.encode(bright[64:])[0]) > 0.05
    unfolded = float(
        (
            np.array(CLASSES)[
                programs["float32"]
                .forward_head(*programs["float32"].encode(bright[64:]), factory)
                .logits.argmax(axis=1)
                .clip(0, 2)
            ]
            == names[64:]
        ).mean()
    )
    assert right["float32"] > unfolded + 0.02  # so that the correction has something to lose
    assert right[precision] > right["float32"] - 0.02
    assert 1e-6 < error(z[precision], z["float32"]) < 0.05


def test_where_constants_become_inputs_a_condition_under_int8_is_served_in_float32(
    precise: Bundle, runtime: Runtime
) -> None:
    class ByInput:
        """The same runtime, as one that folds nothing when constants change."""

        name, refolds_by_input = "by-input", True
        load, upload, download = runtime.load, runtime.upload, runtime.download

    x = ramps(16, 3)[0]
    z = {}
    for name, precision, engine in (
        ("float32", "float32", runtime),
        ("float16", "float16", ByInput()),
        ("int8", "int8", ByInput()),
    ):
        program = Program(precise, engine, precision)  # type: ignore[arg-type]
        tensors = program.factory_domain().over(program.factory())
        z[name] = program.encode(x, program.refold(tensors))[0]
    assert np.array_equal(z["int8"], z["float32"]) and not np.array_equal(
        z["float16"], z["float32"]
    )


# -- what the manifest must say --------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda m: {"precisions": m.precisions[:1]},
            "encoders in float16, int8, but precisions lists float16",
        ),
        (
            lambda m: {"graphs": m.graphs[:-1]},
            "encoders in float16, but precisions lists float16, int8",
        ),
        (
            lambda m: {
                "graphs": (
                    *m.graphs[:-1],
                    msgspec.structs.replace(m.graphs[-1], precision="float16"),
                )
            },
            "encoders in float16, float16",
        ),
        (
            lambda m: {
                "graphs": (
                    *m.graphs[:-1],
                    msgspec.structs.replace(m.graphs[-1], frozen=("route.centre",)),
                )
            },
            "is no variant of it",
        ),
        (
            lambda m: {"graphs": (*m.graphs[:-1], msgspec.structs.replace(m.graphs[-1], ports=()))},
            "is no variant of it",
        ),
        (
            lambda m: {
                "precisions": (
                    m.precisions[0],
                    msgspec.structs.replace(
                        m.precisions[1], shift=msgspec.structs.replace(m.policy.shift, groups=(1,))
                    ),
                )
            },
            "int8 shift policy has thresholds for other groups",
        ),
        (
            lambda m: {
                "precisions": changed(
                    m,
                    "int8",
                    shift=msgspec.structs.replace(m.precisions[1].shift, signature=(0, 3)),
                )
            },
            "int8 policy has another shift.signature than policy",
        ),
        (
            lambda m: {
                "precisions": changed(
                    m, "int8", shift=msgspec.structs.replace(m.precisions[1].shift, window=5)
                )
            },
            "int8 policy has another shift.window",
        ),
        (
            lambda m: {
                "precisions": changed(
                    m,
                    "int8",
                    novelty=msgspec.structs.replace(m.precisions[1].novelty, method="other"),
                )
            },
            "int8 policy has another novelty.method",
        ),
    ],
)
def test_a_manifest_whose_variants_contradict_it_is_refused(
    precise: Bundle, change: Any, told: str
) -> None:
    manifest = precise.manifest
    assert manifest.graphs[-1].precision == "int8"
    with pytest.raises(BundleError, match=told):
        decode_manifest(encode_manifest(msgspec.structs.replace(manifest, **change(manifest))))


def test_a_manifest_from_before_precisions_is_read(precise: Bundle) -> None:
    manifest = read_bundle(bundle_path()).manifest
    assert manifest.precisions == () and {graph.precision for graph in manifest.graphs} == {
        "float32"
    }
    assert manifest.at("float32") is manifest


# -- commands --------------------------------------------------------------------------------------
def test_inspect_prints_what_each_variant_costs(
    precise: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(PRECISE)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    for spec in precise.manifest.precisions:
        assert (
            f"accuracy {spec.report.accuracy:.3f} (float32 {spec.report.float32_accuracy:.3f})"
            in lines[spec.precision]
        )
        assert (
            f"of {spec.report.samples}" in lines[spec.precision]
            and f"{spec.report.false_alarms:.2%}" in lines[spec.precision]
        )


def test_run_takes_a_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, _ = ramps(64, 2)
    np.savez(tmp_path / "x.npz", x=x)
    said = {}
    for precision in PRECISIONS:
        assert (
            main(
                [
                    "run",
                    str(PRECISE),
                    "--source",
                    str(tmp_path / "x.npz"),
                    "--precision",
                    precision,
                    "--json",
                ]
            )
            == 0
        )
        said[precision] = capsys.readouterr().out
    assert said["int8"] != said["float32"]
    assert (
        main(
            ["run", str(bundle_path()), "--source", str(tmp_path / "x.npz"), "--precision", "int8"]
        )
        != 0
    )
    assert "has no int8 encoder; it has float32" in capsys.readouterr().err


def test_every_graph_of_every_precision_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(PRECISE)]) == 0
    assert "graphs/encode_int8.onnx: opens in" in capsys.readouterr().out
