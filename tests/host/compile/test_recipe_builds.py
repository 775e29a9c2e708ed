"""Every choice of a recipe that changes a graph is in a recipe whose graphs build with TensorRT for
RTX, and the page says which and when.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import onnx
import pytest
import recipe_choices
from onnx import TensorProto
from recipe_builds import AS_INPUTS, Builder, Loaded, loaded_by_device
from recipe_choices import options, uncovered
from recipe_encoders import SOURCES
from recipe_page import head_text, with_tables
from recipe_table import RECIPES, Recipe, graphs_of
from tensorrt_operators import operators

from edgeadapt.bundle import read_bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt.host.compile import engine
from edgeadapt.host.exporting.settings import NOVELTY, Settings
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.novelty.cosine import Cosine

PAGE = (Path(__file__).parents[3] / "docs/tensorrt.md").read_text(encoding="utf-8")
QUICK = [recipe for recipe in RECIPES if recipe.is_quick]
REST = [recipe for recipe in RECIPES if not recipe.is_quick]


# -- the table of recipes --------------------------------------------------------------------------
def test_every_value_of_every_choice_is_in_a_recipe() -> None:
    assert uncovered() == {}


def test_a_new_score_that_no_recipe_takes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NOVELTY, "newest", Cosine)
    assert uncovered() == {"novelty": {"newest"}}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_no_recipe_is_there_for_nothing(recipe: Recipe) -> None:
    assert uncovered([other for other in RECIPES if other is not recipe]) or recipe.is_quick


def test_a_new_field_of_a_head_has_to_be_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Newer(Ridge):
        rounds: int = 1

    monkeypatch.setitem(
        recipe_choices.NUMBERS, "Newer", recipe_choices.NUMBERS["Ridge"] | {"random_features"}
    )
    with pytest.raises(KeyError, match="rounds"):
        list(options(Newer))


def test_a_new_setting_has_to_be_placed() -> None:
    graphs, others = recipe_choices.SETTINGS_OF_GRAPHS, recipe_choices.SETTINGS_OF_OTHERS
    assert {item.name for item in fields(Settings)} == graphs | others and not graphs & others


def test_recipes_have_names_of_their_own_and_every_encoder_is_used() -> None:
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES) and {
        recipe.source for recipe in RECIPES
    } == set(SOURCES)


def test_the_quick_recipes_and_the_demo_have_every_kind_of_graph() -> None:
    of_demo = {Path(graph.file).stem for graph in read_bundle(bundle_path()).manifest.graphs} | {
        "encode" + AS_INPUTS
    }
    assert set().union(*map(kinds, QUICK)) | of_demo == set().union(*map(kinds, RECIPES))


def kinds(recipe: Recipe) -> set[str]:
    """Graphs without the name of their adaptor."""
    return {
        next(
            (
                graph.removesuffix(adaptor.name)
                for adaptor in recipe.adaptors
                if graph.endswith(adaptor.name)
            ),
            graph,
        )
        for graph in graphs_of(recipe)
    }


# -- the page --------------------------------------------------------------------------------------
def cells(marker: str) -> list[list[str]]:
    """Rows of the page's table."""
    table = PAGE.partition(f"<!-- {marker} -->\n")[2].partition("\n<!-- end -->")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ][2:]


def test_the_page_lists_the_recipes_as_they_are() -> None:
    listed = [row[:5] for row in cells("recipes")]
    assert listed == [
        [
            recipe.name,
            recipe.source,
            head_text(recipe.head),
            f"`{recipe.novelty}`",
            f"`{recipe.adapt}`",
        ]
        for recipe in RECIPES
    ]


def test_the_page_has_exactly_the_graphs_that_the_recipes_make_and_all_are_built() -> None:
    found: dict[str, set[str]] = {}
    for graph, recipes, layers, plan, seconds in cells("recipe graphs"):
        for recipe in recipes.split("; "):
            found.setdefault(recipe, set()).add(graph.strip("`"))
        assert int(layers) > 0 and int(plan) > 0 and float(seconds) > 0
    assert found == {recipe.name: graphs_of(recipe) for recipe in RECIPES}
    assert [row[6] for row in cells("recipes")] == [
        f"{len(graphs_of(recipe))} of {len(graphs_of(recipe))}" for recipe in RECIPES
    ]
    assert re.search(
        rf"^{len(cells('recipe graphs'))} distinct graphs of {len(RECIPES)} recipes,"
        rf" {len(cells('recipe graphs'))} built; 20\d\d-\d\d-\d\d, tensorrt-rtx \d",
        PAGE,
        re.MULTILINE,
    )


def test_a_page_without_a_marker_is_refused() -> None:
    assert (
        with_tables("<!-- a -->\nold\n<!-- end -->\nkept", {"a": "new\\1"})
        == "<!-- a -->\nnew\\1\n<!-- end -->\nkept"
    )
    with pytest.raises(ValueError, match="0 markers <!-- b -->"):
        with_tables("<!-- a -->\nold\n<!-- end -->", {"b": ""})


# -- the builds ------------------------------------------------------------------------------------
def check_recipe(recipe: Recipe, folder: Path) -> None:
    """Its bundle has the graphs and operators that the page names, a device loads them all, and
    each builds.
    """
    bundle = recipe.export(folder)
    graphs = loaded_by_device(bundle)
    assert {graph.name for graph in graphs} == graphs_of(recipe)
    assert {Path(graph.file).stem for graph in bundle.manifest.graphs} == {
        graph.name for graph in graphs if not graph.replaced
    }
    assert all(int8_weights(graph) == set() for graph in graphs), (
        "TensorRT builds no cast of an int8 constant, see methods/whole_bytes.py"
    )
    missing = set().union(*(operators(graph.model) for graph in graphs)) - {
        row[0] for row in cells("operators")
    }
    assert not missing, "add them to the page with the command that it names"
    trt: Any = pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'edgeadapt[rtx]'"
    )
    builder = Builder(trt, folder)
    failed = {
        graph.name: built.error
        for graph in graphs
        if (built := builder.build(graph)).error or built.plan_kib < 1
    }
    assert failed == {}


def int8_weights(graph: Loaded) -> set[str]:
    """Int8 initialisers that anything but a dequantisation reads."""
    proto = onnx.load_from_string(graph.model).graph
    whole = {tensor.name for tensor in proto.initializer if tensor.data_type == TensorProto.INT8}
    return {
        name for node in proto.node if node.op_type != "DequantizeLinear" for name in node.input
    } & whole


@pytest.mark.slow
@pytest.mark.parametrize("recipe", QUICK, ids=lambda recipe: recipe.name)
def test_every_kind_of_graph_builds(recipe: Recipe, tmp_path: Path) -> None:
    check_recipe(recipe, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", REST, ids=lambda recipe: recipe.name)
def test_the_rest_of_the_recipes_builds(recipe: Recipe, tmp_path: Path) -> None:
    check_recipe(recipe, tmp_path)


@pytest.mark.skipif(not engine.is_installed(), reason="needs the rtx extra (tensorrt-rtx)")
def test_a_cast_of_an_int8_constant_does_not_build(tmp_path: Path) -> None:
    """What the int8 check above is for; once it builds, frozen bytes may be int8 again."""
    import tensorrt_rtx

    weight = onnx.helper.make_tensor("k.whole", TensorProto.INT8, [4], [1, -2, 3, -4])
    nodes = [
        onnx.helper.make_node("Cast", ["k.whole"], ["k"], to=TensorProto.FLOAT),
        onnx.helper.make_node("Mul", ["x", "k"], ["out"]),
    ]
    x, out = (
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])
        for name in ("x", "out")
    )
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [x], [out], [weight]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    graph = Loaded("cast", model.SerializeToString(), {})
    assert int8_weights(graph) == {"k.whole"}
    assert "Quantized constant" in Builder(tensorrt_rtx, tmp_path).build(graph).error
