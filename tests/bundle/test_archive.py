"""Write, read, and what a bundle gives back."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny_bundle as tiny

from edgeadapt.bundle import FACTORY, FROZEN, GUARD, describe, read_bundle, write_bundle
from edgeadapt.bundle._container import pack
from edgeadapt.bundle.schema import GraphSpec, TensorSpec
from edgeadapt.errors import BundleError


def test_what_is_written_is_what_is_read(signed: Path, keys: tuple[bytes, str]) -> None:
    bundle = read_bundle(signed, trust=[keys[1]])
    assert bundle.manifest.classes == ("scratch", "dent")
    assert bundle.card == tiny.CARD
    assert {file: bundle.graph(file) for file in tiny.graphs()} == tiny.graphs()
    for member, arrays in tiny.weights().items():
        read = bundle.weights(member)
        assert read.keys() == arrays.keys()
        for name, array in arrays.items():
            assert read[name].dtype == array.dtype and read[name].shape == array.shape
            np.testing.assert_array_equal(read[name], array)
            assert not read[name].flags.writeable
    assert bundle.bytes == signed.stat().st_size
    assert (
        bundle.sha256
        == hashlib.sha256(tiny.members_of(signed.read_bytes())["manifest.json"]).hexdigest()
    )


def test_ordinary_zip_tools_see_the_same_members_in_the_canonical_order(signed: Path) -> None:
    with zipfile.ZipFile(signed) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        assert {name: archive.read(name) for name in names} == tiny.members_of(signed.read_bytes())
    assert names == [
        "manifest.json",
        tiny.LEARN,
        tiny.PREDICT,
        FACTORY,
        FROZEN,
        GUARD,
        "card.json",
        "manifest.sig",
    ]


def test_a_bundle_repacked_by_an_ordinary_zip_tool_still_opens(
    signed: Path, tmp_path: Path
) -> None:
    path = tmp_path / "repacked.edge"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in tiny.members_of(signed.read_bytes()).items():
            archive.writestr(name, data)
    assert read_bundle(path).sha256 == read_bundle(signed).sha256


def test_equal_content_gives_an_equal_file(
    signed: Path, tmp_path: Path, keys: tuple[bytes, str]
) -> None:
    def backwards(mapping: dict[str, Any]) -> dict[str, Any]:
        return dict(reversed(mapping.items()))

    weights = {member: backwards(arrays) for member, arrays in backwards(tiny.weights()).items()}
    weights[FROZEN]["stem.whiten"] = np.asfortranarray(weights[FROZEN]["stem.whiten"]).astype(">f4")
    write_bundle(
        tmp_path / "again.edge",
        tiny.manifest(),
        backwards(tiny.graphs()),
        weights,
        backwards(tiny.CARD),
        keys[0],
    )
    assert (tmp_path / "again.edge").read_bytes() == signed.read_bytes()


def test_graphs_share_frozen_arrays_and_run_with_them(unsigned: Path) -> None:
    bundle = read_bundle(unsigned)
    predict, learn = (bundle.graph_file(spec) for spec in bundle.manifest.graphs)
    assert predict.frozen["stem.whiten"] is learn.frozen["stem.whiten"]
    options = onnxruntime.SessionOptions()
    options.add_external_initializers(
        list(predict.frozen),
        [onnxruntime.OrtValue.ortvalue_from_numpy(v) for v in predict.frozen.values()],
    )
    session = onnxruntime.InferenceSession(
        predict.model, options, providers=["CPUExecutionProvider"]
    )
    z = np.ones((2, tiny.DIM), np.float32)
    weight = np.full((tiny.DIM, tiny.SLOTS), 0.25, np.float32)
    (logits,) = session.run(None, {"z": z, "ridge.weight": weight})
    np.testing.assert_allclose(
        logits, z @ tiny.weights()[FROZEN]["stem.whiten"] @ weight + 0.5, rtol=1e-5
    )


def test_describe_is_plain_json_and_counts_shared_weights_once(
    signed: Path, keys: tuple[bytes, str]
) -> None:
    bundle = read_bundle(signed)
    found = describe(bundle)
    assert json.loads(json.dumps(found)) == found
    assert found["roles"] == {"predict": [tiny.PREDICT], "learn": [tiny.LEARN]}
    assert (
        found["shared_weight_bytes"]
        == 4 * tiny.DIM**2
        == found["graphs"][tiny.LEARN]["frozen_bytes"]
    )
    assert found["graphs"][tiny.PREDICT]["bytes"] == len(tiny.graphs()[tiny.PREDICT])
    assert found["signed_by"] == bundle.signed_by is not None
    assert found["parity"][tiny.LEARN]["cases"] == 8 and found["provenance"]["torch"] == "2.13"
    assert {"policy", "classes", "weights"} <= found.keys()


def test_a_failed_write_leaves_the_previous_file_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.edge"
    path.write_bytes(b"before")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BundleError, match="No space left"):
        write_bundle(path, tiny.manifest(), tiny.graphs(), tiny.weights(), tiny.CARD)
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["tiny.edge"]


def test_a_member_that_changes_after_opening_is_refused_when_read(
    unsigned: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.edge"
    path.write_bytes(unsigned.read_bytes())
    bundle = read_bundle(path)
    members = tiny.members_of(path.read_bytes())
    path.write_bytes(pack({**members, tiny.PREDICT: members[tiny.PREDICT] + b"\0"}.items()))
    with pytest.raises(
        BundleError, match=r"tiny.edge: graphs/predict.onnx: changed since the bundle was opened"
    ):
        bundle.graph(tiny.PREDICT)
    path.write_bytes(pack((name, data) for name, data in members.items() if name != FROZEN))
    with pytest.raises(BundleError, match=r"frozen.safetensors: gone"):
        bundle.weights(FROZEN)
    with pytest.raises(BundleError, match=r"nothing.onnx: no such member"):
        bundle.graph("graphs/nothing.onnx")
    path.unlink()
    with pytest.raises(BundleError, match="No such file"):
        bundle.graph(tiny.PREDICT)


def _edited(member: str, name: str, value: Any) -> dict[str, dict[str, np.ndarray]]:
    weights = tiny.weights()
    weights[member][name] = value
    return weights


def _without(member: str, name: str) -> dict[str, dict[str, np.ndarray]]:
    weights = tiny.weights()
    del weights[member][name]
    return weights


NAN = np.full((tiny.DIM, tiny.DIM), np.nan, np.float32)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            lambda: _edited(FROZEN, "stem.whiten", NAN),
            "frozen.safetensors: stem.whiten has values that are not finite",
        ),
        (
            lambda: _edited(FROZEN, "stem.whiten", NAN.astype(np.float64)),
            r"frozen.safetensors: stem.whiten is float64\[16, 16\]",
        ),
        (
            lambda: _edited(FROZEN, "stem.whiten", NAN[:3]),
            r"stem.whiten is float32\[3, 16\], the manifest says float32\[16, 16\]",
        ),
        (
            lambda: _edited(FROZEN, "ridge.gram", NAN),
            "frozen.safetensors: ridge.gram is evidence and belongs in weights/factory",
        ),
        (
            lambda: _edited(FACTORY, "ridge.other", NAN),
            "factory.safetensors: ridge.other is not a tensor of the manifest",
        ),
        (
            lambda: _without(FACTORY, "ridge.count"),
            "factory.safetensors: no value for ridge.count, which the manifest .* as evidence",
        ),
        (
            lambda: {FACTORY: tiny.weights()[FACTORY]},
            "frozen.safetensors: no value for stem.whiten",
        ),
        (
            lambda: _edited(GUARD, "y", np.full(10, 2)),
            "guard.safetensors: y has labels 2 to 2, the manifest has 2 classes",
        ),
        (
            lambda: _edited(GUARD, "y", np.zeros(9, np.int64)),
            r"guard.safetensors: y is int64\[9\], expected int64\[10\]",
        ),
        (lambda: _without(GUARD, "taps"), "guard.safetensors: has"),
        (
            lambda: tiny.weights() | {"weights/x.safetensors": {}},
            "weights/x.safetensors: weight files are",
        ),
    ],
)
def test_weights_that_disagree_with_the_manifest_are_not_written(
    weights: Callable[[], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "tiny.edge", tiny.manifest(), tiny.graphs(), weights(), tiny.CARD)
    assert os.listdir(tmp_path) == []


def test_a_graph_without_a_spec_and_a_spec_without_a_graph_are_not_written(tmp_path: Path) -> None:
    one = {tiny.PREDICT: tiny.graphs()[tiny.PREDICT]}
    with pytest.raises(BundleError, match=r"graphs/learn.onnx: absent"):
        write_bundle(tmp_path / "a.edge", tiny.manifest(), one, tiny.weights(), tiny.CARD)
    with pytest.raises(BundleError, match=r"graphs/more.onnx: no graph of the manifest"):
        write_bundle(
            tmp_path / "a.edge",
            tiny.manifest(),
            tiny.graphs() | {"graphs/more.onnx": b""},
            tiny.weights(),
            tiny.CARD,
        )
    with pytest.raises(BundleError, match=r"'../up.onnx': a member name that leaves"):
        write_bundle(
            tmp_path / "a.edge",
            tiny.manifest(),
            tiny.graphs() | {"../up.onnx": b""},
            tiny.weights(),
            tiny.CARD,
        )


def test_what_is_not_frozen_cannot_be_taken_as_frozen(tmp_path: Path) -> None:
    specs = tiny.manifest().graphs
    wrong = GraphSpec(
        **{field: getattr(specs[0], field) for field in specs[0].__struct_fields__}
        | {"frozen": ("ridge.gram",)}
    )
    with pytest.raises(BundleError, match=r"takes ridge.gram as frozen, but its kind is evidence"):
        write_bundle(
            tmp_path / "a.edge",
            tiny.manifest(graphs=(wrong, specs[1])),
            tiny.graphs(),
            tiny.weights(),
            tiny.CARD,
        )


def test_a_graph_lies_in_its_folder(tmp_path: Path) -> None:
    changes = {
        field: getattr(tiny.manifest().graphs[0], field) for field in GraphSpec.__struct_fields__
    } | {"file": "card.json"}
    with pytest.raises(
        BundleError, match=r"manifest.json: the graph 'card.json' is not one of graphs/"
    ):
        write_bundle(
            tmp_path / "a.edge",
            tiny.manifest(graphs=(GraphSpec(**changes),)),
            {},
            tiny.weights(),
            tiny.CARD,
        )


def test_a_card_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"card.json: "):
        write_bundle(
            tmp_path / "a.edge", tiny.manifest(), tiny.graphs(), tiny.weights(), {"x": object()}
        )


def test_a_bundle_without_frozen_tensors_needs_no_frozen_file(tmp_path: Path) -> None:
    spec = TensorSpec(name="ncm.sum", dtype="float16", shape=(2, 0), kind="evidence")
    factory = {"ncm.sum": np.zeros((2, 0), np.float16)}
    write_bundle(
        tmp_path / "a.edge", tiny.manifest(tensors=(spec,), graphs=()), {}, {FACTORY: factory}, {}
    )
    bundle = read_bundle(tmp_path / "a.edge")
    assert bundle.frozen == {} and bundle.weights(FACTORY)["ncm.sum"].shape == (2, 0)
