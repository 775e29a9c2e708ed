"""Builds with a real TensorRT compiler where it is installed, and what becomes of a build that
hangs, grows, dies or lies.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorrt_operators as operators
from edgeadapt_bench.steps import adaptor_step, entropy_step
from gallery import GALLERY
from golden_files import GOLDEN
from keep_gallery import folder_of
from onnx import TensorProto, helper

from edgeadapt import cli
from edgeadapt.bundle import read_bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt.errors import CompileError, InputError, RuntimeUnavailable
from edgeadapt.host.compile import compile_graph, engine
from edgeadapt.host.compile.engine import DEFAULT_TARGETS, Limits, build
from edgeadapt.host.compile.lint import operator_table
from edgeadapt.onnx_file import OnnxFile

needs_compiler = pytest.mark.skipif(
    not engine.is_installed(), reason="needs the rtx extra (tensorrt-rtx)"
)
QUICK = Limits(seconds=20, memory_mib=2048, plan_mib=1)


def model(nodes, inputs, outputs, constants=()) -> bytes:
    """A small ONNX model; ports are ``(name, element type, shape)``."""
    ports = [[helper.make_tensor_value_info(*port) for port in side] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "g", *ports, list(constants))
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()


X, OUT = ("x", TensorProto.FLOAT, ["batch", 4]), ("out", TensorProto.FLOAT, ["batch", 4])
SCALED = model([helper.make_node("Mul", ["x", "k.scale"], ["out"])], [X], [OUT])


def with_frozen(name="k.scale", dims=(4,)) -> bytes:
    """``out = x * k.scale`` with the scale at ``bundle:``."""
    proto = onnx.load_from_string(SCALED)
    tensor = proto.graph.initializer.add(
        name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value="bundle:")
    return proto.SerializeToString()


MODEL, FROZEN = with_frozen(), {"k.scale": np.arange(4, dtype=np.float32)}


# -- a worker that fails ---------------------------------------------------------------------------
@pytest.fixture
def worker(monkeypatch, tmp_path):
    """Put a script in the place of the compiler; it has ``folder``, ``order`` and
    ``answer(**changes)``.
    """
    prelude = """
        import ctypes, json, os, subprocess, sys, time
        folder = sys.argv[1]
        order = json.load(open(folder + "/order.json"))
        def answer(**changes):
            found = {"layers": 1, "inputs": [["x", "FLOAT", [-1, 4]]],
                     "outputs": [["out", "FLOAT", [-1, 4]]], "seconds": 0.1, "plan_bytes": 4,
                     "peak_kib": 2048, "version": "0"}
            open(folder + "/plan", "wb").write(b"plan")
            json.dump({**found, **changes}, open(folder + "/answer.json", "w"))
    """

    def install(script):
        path = tmp_path / "worker.py"
        path.write_text(textwrap.dedent(prelude) + textwrap.dedent(script))
        monkeypatch.setattr(engine, "WORKER", (sys.executable, str(path)))
        monkeypatch.setattr(engine, "is_installed", lambda: True)

    return install


def test_an_answer_becomes_a_built_graph(worker):
    worker("answer()")
    built = build("g", MODEL, FROZEN, target="sm_120")
    assert (built.name, built.target, built.plan, built.layers, built.peak_memory_mib) == (
        "g",
        "sm_120",
        b"plan",
        1,
        2.0,
    )


def test_the_order_has_the_whole_model_and_the_sorted_profile(worker, tmp_path):
    worker(f"import shutil; shutil.copytree(folder, {str(tmp_path / 'seen')!r}); answer()")
    build(
        "g",
        MODEL,
        FROZEN,
        batches=(32, 1, 4, 8),
        limits=Limits(seconds=20, plan_mib=3, workspace_mib=5),
    )
    order = json.loads((tmp_path / "seen/order.json").read_text())
    assert (
        order["batches"] == [1, 8, 32]
        and order["capability"] == "SM86"
        and order["workspace_bytes"] == 5 << 20
    )
    proto = onnx.load(tmp_path / "seen/model.onnx")
    (scale,) = proto.graph.initializer
    assert scale.name == "k.scale" and scale.data_location == TensorProto.DEFAULT
    assert np.array_equal(onnx.numpy_helper.to_array(scale), FROZEN["k.scale"])
    assert order["plan_bytes"] == (3 << 20) + scale.ByteSize()


CRASHES = {
    "abort": (
        "os.write(2, b'assertion 17 failed'); os.abort()",
        "crashed with SIGABRT. Last messages: assertion 17 failed",
    ),
    "segfault": ("ctypes.string_at(0)", "crashed with SIGSEGV. It said nothing"),
    "exit": (
        "sys.exit('no such library')",
        "failed with exit code 1. Last messages: no such library",
    ),
    "silence": ("", r"left no answer \(.*answer.json.*\). It said nothing"),
    "broken answer": ("open(folder + '/answer.json', 'w').write('{')", "left no answer"),
    "refusal": (
        "print('node 3'); answer(refused='Det is unknown')",
        "refuses the graph: Det is unknown. Last messages: node 3",
    ),
    "big plan": (
        "answer(plan_bytes=order['plan_bytes'] + 1)",
        "plan of 1 MiB, over the limit of 1 MiB; unrolled loops",
    ),
    "renamed port": (
        "answer(inputs=[['__x', 'FLOAT', [-1, 4]]])",
        "changes the ports: inputs .*__x.* where the graph has .*'x'",
    ),
    "narrowed port": (
        "answer(outputs=[['out', 'HALF', [-1, 4]]])",
        "changes the ports: outputs .*HALF.* where the graph has .*FLOAT",
    ),
    "flood": (
        "while True: os.write(2, b'x' * 4096)",
        "MiB of files and messages, over the limit of 2 MiB. Last messages: xxx",
    ),
    "memory": (
        "held = bytearray(400 << 20); held[::4096] = b'1' * len(held[::4096]); time.sleep(60)",
        "of memory, over the limit of 100 MiB",
    ),
    "hang": (
        "print('tactic 9', flush=True); time.sleep(60)",
        "no result after 2 s.*Last messages: tactic 9",
    ),
}


@pytest.mark.parametrize("kind", CRASHES)
def test_a_failed_build_is_a_named_error_with_the_last_messages(worker, kind):
    script, message = CRASHES[kind]
    limits = Limits(
        seconds=2 if kind == "hang" else 20,
        memory_mib=100 if kind == "memory" else 2048,
        plan_mib=1,
    )
    worker(script)
    start = time.monotonic()
    with pytest.raises(CompileError, match=f"(?s)g: tensorrt-rtx for sm_86 .*{message}"):
        build("g", MODEL, FROZEN, limits=limits)
    assert time.monotonic() - start < 15


def test_nothing_of_a_stopped_build_is_left(worker, tmp_path):
    worker(f"""
        child = subprocess.Popen(["sleep", "60"])
        open({str(tmp_path / "ids")!r}, "w").write(f"{{os.getpid()}} {{child.pid}} {{folder}}")
        time.sleep(60)
    """)
    with pytest.raises(CompileError, match="no result after 2 s"):
        build("g", MODEL, FROZEN, limits=Limits(seconds=2))
    own, child, folder = (tmp_path / "ids").read_text().split()
    assert not Path(folder).exists() and not Path(f"/proc/{own}").exists()
    for _ in range(100):  # an orphan is gone, or a zombie until its adopter looks
        status = Path(f"/proc/{child}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.02)
    pytest.fail("a child of the worker lives on")


# -- what is refused before a process starts -------------------------------------------------------
def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(engine, "is_installed", lambda: False)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'edgeadapt\[rtx\]'"):
        build("g", MODEL, FROZEN)


def test_a_gpu_it_does_not_know_is_refused():
    with pytest.raises(
        InputError, match="no target 'sm_87': tensorrt-rtx compiles for sm_80, sm_86"
    ):
        build("g", MODEL, FROZEN, target="sm_87")


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ({}, "frozen tensor 'k.scale' has no value"),
        ({"k.scale": np.zeros(4)}, r"'k.scale' is float64\[4\], not as the graph says"),
        ({"k.scale": np.zeros(3, np.float32)}, r"'k.scale' is float32\[3\], not as the graph says"),
    ],
)
def test_a_frozen_value_that_does_not_fit_is_refused(worker, frozen, message):
    worker("answer()")
    with pytest.raises(CompileError, match=message):
        build("g", MODEL, frozen)


def test_batches_must_be_sizes(worker):
    worker("answer()")
    with pytest.raises(InputError, match=r"batches \[0, 8\]"):
        build("g", MODEL, FROZEN, batches=(0, 8))


# -- the command -----------------------------------------------------------------------------------
BUNDLE = str(bundle_path())


def test_verify_without_the_compiler_is_5(monkeypatch, capsys):
    monkeypatch.setattr(engine, "is_installed", lambda: False)
    assert cli.main(["verify", BUNDLE, "--engine", "tensorrt-rtx"]) == cli.UNAVAILABLE
    out, error = capsys.readouterr()
    assert out == "" and "edgeadapt[rtx]" in error and error.count("\n") == 1


def test_verify_with_an_unknown_target_is_2(capsys):
    assert (
        cli.main(["verify", BUNDLE, "--engine", "tensorrt-rtx", "--target", "sm_87"]) == cli.REFUSED
    )
    assert cli.main(["verify", BUNDLE, "--target", "sm_86"]) == cli.REFUSED
    assert "belong to --engine" in capsys.readouterr().err


def test_verify_names_every_graph_that_fails_and_goes_on(worker, capsys):
    worker("""
        print("no tactic")
        answer(refused="node 4") if order["capability"] == "SM89" else os.abort()
    """)
    assert (
        cli.main(
            [
                "verify",
                BUNDLE,
                "--engine",
                "tensorrt-rtx",
                "--target",
                "sm_89",
                "--target",
                "sm_120",
            ]
        )
        == cli.FAILED
    )
    lines = capsys.readouterr().out.splitlines()
    files = [spec.file for spec in read_bundle(BUNDLE).manifest.graphs]
    assert [line.split()[0] for line in lines[1:-1:2]] == files and lines[
        -1
    ] == f"0 of {2 * len(files)} builds succeeded"
    assert all(
        "sm_89" in line and "FAILED" in line and "refuses the graph: node 4" in line
        for line in lines[1:-1:2]
    )
    assert all("sm_120" in line and "crashed with SIGABRT" in line for line in lines[2:-1:2])


# -- the page --------------------------------------------------------------------------------------
PAGE = Path(__file__).parents[3] / "docs/tensorrt.md"


def table_of_page(name: str) -> list[str]:
    """The lines between ``<!-- name -->`` and ``<!-- end -->``."""
    return (
        PAGE.read_text(encoding="utf-8")
        .partition(f"<!-- {name} -->\n")[2]
        .partition("\n<!-- end -->")[0]
        .splitlines()
    )


def operators_of_page() -> list[str]:
    return [line.split("|")[1].strip() for line in table_of_page("operators")[2:]]


def test_the_operator_table_of_the_page_is_that_of_lint():
    names = operators_of_page()
    assert table_of_page("operators") == operators.table(names).splitlines() and len(names) > 40
    bundles = [read_bundle(path) for path in (BUNDLE, GOLDEN / "precise.edge")]
    used = set().union(
        *(
            operators.operators(bundle.graph(spec.file))
            for bundle in bundles
            for spec in bundle.manifest.graphs
        )
    )
    assert len(used) > 20 and not used - set(names), "add them with the command that the page names"
    rows = {name: row for name, row in operator_table().items() if not name.startswith("_")}
    # none was withdrawn, as the page says
    assert not [
        name for name, row in rows.items() if row["supported_10_1"] and not row["supported"]
    ]


def test_the_builds_of_the_page_are_those_of_the_shipped_bundle():
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table_of_page("builds")[2:]
    ]
    expected = [
        (spec.file, target)
        for spec in read_bundle(BUNDLE).manifest.graphs
        for target in DEFAULT_TARGETS
    ]
    assert [(graph, target) for graph, target, *_ in rows] == expected
    assert all(
        int(layers) > 0 and int(plan) > 0 and float(seconds) > 0
        for _, _, layers, plan, seconds in rows
    )


@needs_compiler
def test_the_example_of_the_page_runs(capsys):
    (example,) = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    exec(compile(example, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.startswith("Built(name='learn', target='sm_86'")


# -- the compiler ----------------------------------------------------------------------------------
@needs_compiler
def test_every_graph_of_the_shipped_bundle_builds_for_two_targets(capsys):
    assert cli.main(["verify", BUNDLE, "--engine", "tensorrt-rtx", "--json"]) == cli.OK
    found = json.loads(capsys.readouterr().out)
    expected = [
        (spec.file, target)
        for spec in read_bundle(BUNDLE).manifest.graphs
        for target in DEFAULT_TARGETS
    ]
    assert [(row["graph"], row["target"]) for row in found["builds"]] == expected and len(
        expected
    ) >= 10
    weights = {row["graph"]: row["plan_kib"] for row in found["builds"]}
    assert weights["graphs/encode.onnx"] > 700  # its frozen weights are in the plan
    assert all(row["layers"] > 50 and row["peak_mib"] < 1024 for row in found["builds"])


def gallery_model(entry):
    kept = (
        folder_of(entry, Path(os.environ.get("EDGEADAPT_KEPT_GALLERY", "nowhere"))) / "model.onnx"
    )
    if kept.exists():
        return kept.read_bytes()
    constants = entry.frozen if entry.is_step else tuple(entry.tensors)
    return compile_graph(
        entry.name,
        entry.fn,
        entry.make_ports,
        entry.tensors,
        frozen=constants,
        check=False,
        **entry.options,
    ).model


def check_gallery_graph(entry):
    """Compiled without the comparison with torch, which the gallery's own tests make, unless they
    kept it; built; every operator on the page.
    """
    model = gallery_model(entry)
    frozen = {name: entry.tensors[name].numpy() for name in OnnxFile(entry.name, model).external}
    for target in DEFAULT_TARGETS:
        built = build(entry.name, model, frozen, target=target)
        assert (
            built.target == target
            and built.layers >= len(onnx.load_from_string(model).graph.node) / 2
        )
    missing = operators.operators(model) - set(operators_of_page())
    assert not missing, "add them with the command that the page names"


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "entry", [entry for entry in GALLERY if entry.is_quick], ids=lambda entry: entry.name
)
def test_a_graph_of_the_gallery_builds_for_two_targets(entry):
    check_gallery_graph(entry)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "entry", [entry for entry in GALLERY if not entry.is_quick], ids=lambda entry: entry.name
)
def test_the_rest_of_the_gallery_builds_for_two_targets(entry):
    check_gallery_graph(entry)


@needs_compiler
@pytest.mark.parametrize("batch", [None, 1], ids=["free batch", "batch 1"])
def test_the_adaptor_step_of_the_bench_builds(batch):
    learn, make_ports, tensors = adaptor_step.step(0)
    graph = compile_graph(
        "adaptor",
        learn,
        make_ports,
        tensors,
        dynamic_batch=batch is None,
        batch=batch or 8,
        check=False,
    )
    assert build("adaptor", graph.model, {}).layers >= graph.nodes


@pytest.mark.slow
@needs_compiler
def test_the_entropy_step_of_the_bench_through_a_whole_encoder_builds():
    try:
        learn, make_ports, tensors = entropy_step.step(0)
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    graph = compile_graph(
        "entropy",
        learn,
        make_ports,
        tensors,
        frozen=entropy_step.frozen(tensors),
        dynamic_batch=False,
        batch=8,
        check=False,
    )
    for target in DEFAULT_TARGETS:
        built = build(
            "entropy",
            graph.model,
            {name: tensors[name].numpy() for name in graph.frozen},
            target=target,
        )
        assert built.layers > 1000 and built.peak_memory_mib < 2048


@needs_compiler
def test_the_table_for_the_documents_has_a_row_for_each_build(capsys):
    assert (
        cli.main(["verify", BUNDLE, "--engine", "tensorrt-rtx", "--target", "sm_89", "--markdown"])
        == cli.OK
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| graph |") and len(lines) == 2 + len(
        read_bundle(BUNDLE).manifest.graphs
    )
    assert {line.count("|") for line in lines} == {6}


@needs_compiler
@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs", "message"),
    [
        (
            [helper.make_node("Det", ["x"], ["out"])],
            [("x", 1, [3, 3])],
            [("out", 1, [])],
            "refuses the graph: Det",
        ),
        (
            [helper.make_node("TopK", ["x", "k"], ["v", "out"])],
            [("x", 1, [2, 9]), ("k", 7, [1])],
            [("v", 1, [2, None])],
            "input k decides a shape",
        ),
        (
            [helper.make_node("Identity", ["x"], ["y"])],
            [("x", 1, [2])],
            [("x", 1, [2]), ("y", 1, [2])],
            "changes the ports: inputs .*__x",
        ),
        (
            [helper.make_node("Neg", ["x"], ["y"])],
            [("x", 11, [2])],
            [("y", 11, [2])],
            "changes the ports: .*FLOAT",
        ),
    ],
)
def test_the_compiler_says_why_it_refuses(nodes, inputs, outputs, message):
    with pytest.raises(CompileError, match=f"(?s)g: tensorrt-rtx for sm_86 .*{message}"):
        build("g", model(nodes, inputs, outputs), {}, limits=QUICK)


def eliminate(size: int) -> bytes:
    """The inverse of ``a`` by elimination, one step per row; each step needs every element of the
    last.
    """
    nodes, a, inverse = [], "a", "one"
    constants = [onnx.numpy_helper.from_array(np.eye(size, dtype=np.float32), "one")]
    for i in range(size):
        constants.append(onnx.numpy_helper.from_array(np.array(i), f"at{i}"))
        constants.append(
            onnx.numpy_helper.from_array(np.eye(size, dtype=np.float32)[:, i : i + 1], f"unit{i}")
        )
        nodes += [
            helper.make_node("Gather", [a, f"at{i}"], [f"column{i}"], axis=1),
            helper.make_node("Gather", [f"column{i}", f"at{i}"], [f"pivot{i}"], axis=0),
            helper.make_node("Unsqueeze", [f"column{i}", "axis1"], [f"tall{i}"]),
            helper.make_node("Sub", [f"tall{i}", f"unit{i}"], [f"factor{i}"]),
        ]
        for kind, old in (("a", a), ("inverse", inverse)):
            nodes += [
                helper.make_node("Gather", [old, f"at{i}"], [f"{kind}row{i}"], axis=0),
                helper.make_node("Div", [f"{kind}row{i}", f"pivot{i}"], [f"{kind}scaled{i}"]),
                helper.make_node("Mul", [f"factor{i}", f"{kind}scaled{i}"], [f"{kind}gone{i}"]),
                helper.make_node("Sub", [old, f"{kind}gone{i}"], [f"{kind}{i}"]),
            ]
        a, inverse = f"a{i}", f"inverse{i}"
    constants.append(onnx.numpy_helper.from_array(np.array([1]), "axis1"))
    return model(
        [*nodes, helper.make_node("Identity", [inverse], ["out"])],
        [("a", 1, [size] * 2)],
        [("out", 1, [size] * 2)],
        constants,
    )


def iterate(size: int) -> bytes:
    """The same by thirty Newton-Schulz steps ``x (2 - a x)`` from a start ``x``: matrix products
    only.
    """
    nodes, x = [], "x"
    for i in range(30):
        nodes += [
            helper.make_node("MatMul", ["a", x], [f"ax{i}"]),
            helper.make_node("Sub", ["two", f"ax{i}"], [f"rest{i}"]),
        ]
        nodes += [helper.make_node("MatMul", [x, f"rest{i}"], [f"x{i}"])]
        x = f"x{i}"
    constants = [onnx.numpy_helper.from_array(2 * np.eye(size, dtype=np.float32), "two")]
    ports = [("a", 1, [size] * 2), ("x", 1, [size] * 2)]
    return model(
        [*nodes, helper.make_node("Identity", [x], ["out"])],
        ports,
        [("out", 1, [size] * 2)],
        constants,
    )


def test_the_elimination_is_a_correct_inverse():
    a = np.random.default_rng(0).random((8, 8), np.float32) + 4 * np.eye(8, dtype=np.float32)
    session = onnxruntime.InferenceSession(eliminate(8), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"a": a})[0] @ a, np.eye(8), atol=1e-4)


@needs_compiler
def test_an_unrolled_elimination_is_stopped_and_matrix_products_build():
    with pytest.raises(
        CompileError, match=r"eliminate: tensorrt-rtx for sm_86 was stopped: .*take fewer steps"
    ):
        build("eliminate", eliminate(32), {}, limits=Limits(seconds=4))
    built = build("iterate", iterate(32), {}, limits=QUICK)
    assert len(built.plan) < 1 << 20
