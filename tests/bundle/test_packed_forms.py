"""A weight file keeps fewer bytes and gives back the same bits, and an older bundle reads as it
did.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forged
import numpy as np
import pytest
import tiny_bundle as tiny
from golden_files import GOLDEN
from safetensors.numpy import load, save

from edgeadapt.bundle import FACTORY, FROZEN, GUARD, read_bundle, write_bundle
from edgeadapt.bundle._packed_forms import forms, packed, unpacked
from edgeadapt.bundle.packed_gram import packed_runs, packed_size, packed_width
from edgeadapt.bundle.schema import FORMAT, PLAIN_FORMAT, TensorSpec
from edgeadapt.demo.sample import bundle_path
from edgeadapt.errors import BundleError

EXTREMES = np.array(
    [3.4e38, -3.4e38, 1e-45, -0.0, 0.0, 65504.0, 65520.0, 1 + 2.0**-23, 2.0**-24], np.float32
)


def spec(
    shape: tuple[int, ...], kind: Any = "evidence", axis: int | None = None, dtype: Any = "float32"
) -> TensorSpec:
    return TensorSpec(name="a.b", dtype=dtype, shape=shape, kind=kind, class_axis=axis)


def symmetric(width: int, scale: float = 1.0) -> np.ndarray:
    """Sums of products whose sizes span 24 decades: ill-conditioned beyond any float16."""
    columns = np.random.default_rng(width).standard_normal((3 * width, width)) * np.logspace(
        -6, 6, width
    )
    gram = (scale * columns.T @ columns).astype(np.float32)
    return np.triu(gram) + np.triu(gram, 1).T


def runs_of(square: np.ndarray) -> np.ndarray:
    pieces = [square[start:end, start:].reshape(-1) for start, end in packed_runs(len(square))]
    return np.concatenate(pieces)


def comes_back(given: TensorSpec, value: np.ndarray, classes: int = 2) -> np.ndarray:
    """The stored form, once it has given every bit of the value back."""
    stored = packed(given, classes, value)
    assert (stored.dtype.name, stored.shape) in forms(given, classes)
    assert unpacked(given, stored).tobytes() == value.tobytes()
    return stored


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 16, 33, 130])
def test_a_symmetric_matrix_is_a_triangle_whole_or_in_runs(width: int) -> None:
    square, triangle = symmetric(width), width * (width + 1) // 2
    assert comes_back(spec((width, width)), square).size == triangle
    assert comes_back(spec((packed_size(width),)), runs_of(square)).size == triangle


def test_the_width_of_a_packed_matrix_follows_from_its_size_and_of_other_sizes_there_is_none() -> (
    None
):
    sizes = {packed_size(width): width for width in range(1, 1500)}
    assert len(sizes) == 1499 and all(packed_width(size) == width for size, width in sizes.items())
    assert all(packed_width(size) == sizes.get(size, 0) for size in range(5000))


def test_one_bit_of_asymmetry_keeps_the_square() -> None:
    square = symmetric(16)
    square[3, 2] = np.nextafter(square[3, 2], np.float32(np.inf))
    assert comes_back(spec((16, 16)), square).shape == (16, 16)


def test_only_values_that_float16_has_are_halved_and_extremes_stay() -> None:
    exact = np.random.default_rng(0).standard_normal(50).astype(np.float16).astype(np.float32)
    assert comes_back(spec((50,), "frozen"), exact).dtype == np.float16
    for extreme in (3.4e38, 1e-45, 65520.0, 1 + 2.0**-23):
        assert (
            comes_back(spec((51,), "frozen"), np.append(exact, np.float32(extreme))).dtype
            == np.float32
        )
    assert comes_back(spec((9,), "frozen"), EXTREMES).dtype == np.float32
    assert (
        comes_back(spec((3,), "frozen"), np.array([-0.0, 65504.0, 2.0**-24], np.float32)).dtype
        == np.float16
    )


def test_empty_class_slots_are_left_out_and_one_value_in_them_keeps_all() -> None:
    sums = np.zeros((5, 8), np.float32)
    sums[:, :2] = np.pi
    assert comes_back(spec((5, 8), axis=1), sums).shape == (5, 2)
    assert comes_back(spec((8, 5), axis=0), np.ascontiguousarray(sums.T)).shape == (2, 5)
    assert comes_back(spec((8,), axis=0, dtype="int64"), np.arange(8) // 7 * 0 + 0).shape == (2,)
    for value in (1e-45, -0.0):
        sums[4, 7] = value
        assert comes_back(spec((5, 8), axis=1), sums).shape == (5, 8)


def written(
    path: Path, manifest: Any, weights: dict[str, dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays as they lie in the factory's file."""
    write_bundle(path, manifest, tiny.graphs(), weights, tiny.CARD)
    return load(tiny.members_of(path.read_bytes())[FACTORY])


def test_a_bundle_keeps_half_of_a_gram_matrix_and_reads_all_of_it(tmp_path: Path) -> None:
    weights = tiny.weights()
    weights[FACTORY]["ridge.gram"] = symmetric(tiny.DIM)
    lies = written(tmp_path / "a.edge", tiny.manifest(), weights)
    assert lies["ridge.gram"].shape == (tiny.DIM * (tiny.DIM + 1) // 2,)
    bundle = read_bundle(tmp_path / "a.edge")
    # an older reader says which version it needs
    assert bundle.manifest.format == FORMAT > PLAIN_FORMAT
    read = bundle.weights(FACTORY)["ridge.gram"]
    assert read.tobytes() == weights[FACTORY]["ridge.gram"].tobytes() and not read.flags.writeable


def test_a_manifest_of_the_first_format_is_written_and_read_plainly(tmp_path: Path) -> None:
    lies = written(tmp_path / "a.edge", tiny.manifest(format=PLAIN_FORMAT), tiny.weights())
    assert (
        lies["ridge.gram"].shape == (tiny.DIM, tiny.DIM) and lies["ridge.gram"].dtype == np.float32
    )
    members = tiny.members_of((tmp_path / "a.edge").read_bytes())
    short = save(
        {
            "ridge.gram": np.ones(tiny.DIM * (tiny.DIM + 1) // 2, np.float32),
            "ridge.count": np.array(7),
        }
    )
    with pytest.raises(BundleError, match=r"ridge\.gram is float32"):
        read_bundle(forged.forge(tmp_path / "b.edge", members | {FACTORY: short}))


@pytest.mark.parametrize(
    "path", [bundle_path(), *sorted(GOLDEN.glob("*.edge"))], ids=lambda path: path.stem
)
def test_bundles_of_the_first_format_read_as_they_lie(path: Path) -> None:
    members = tiny.members_of(path.read_bytes())
    assert json.loads(members["manifest.json"])["format"] == PLAIN_FORMAT
    bundle = read_bundle(path)
    for member in {FROZEN, FACTORY, GUARD} & members.keys():
        lies, read = load(members[member]), bundle.weights(member)
        assert lies.keys() == read.keys()
        assert all(read[name].tobytes() == value.tobytes() for name, value in lies.items())


def test_tensors_of_the_encoder_are_never_halved_and_a_halved_one_is_refused(
    tmp_path: Path,
) -> None:
    manifest, graphs, weights = forged.parts()
    write_bundle(tmp_path / "a.edge", manifest, graphs, weights, tiny.CARD)
    members = tiny.members_of((tmp_path / "a.edge").read_bytes())
    lies = load(members[FROZEN])
    halves = {
        name: value.astype(np.float16) if name == "encoder.weight" else value
        for name, value in lies.items()
    }
    with pytest.raises(BundleError, match=r"encoder\.weight is float16"):
        read_bundle(forged.forge(tmp_path / "b.edge", members | {FROZEN: save(halves)}))


@pytest.mark.parametrize(
    "shape", [(tiny.DIM,), (2, tiny.DIM), (tiny.DIM * (tiny.DIM + 1) // 2 - 1,), (0,)]
)
def test_a_forged_form_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    written(tmp_path / "a.edge", tiny.manifest(), tiny.weights())
    members = tiny.members_of((tmp_path / "a.edge").read_bytes())
    bad = save({"ridge.gram": np.ones(shape, np.float32), "ridge.count": np.array(7)})
    with pytest.raises(BundleError, match=r"ridge\.gram is float32"):
        read_bundle(forged.forge(tmp_path / "b.edge", members | {FACTORY: bad}))


def test_a_flipped_byte_and_a_value_that_is_not_finite_are_found_in_packed_tensors(
    tmp_path: Path,
) -> None:
    weights = tiny.weights()
    weights[FACTORY]["ridge.gram"] = symmetric(tiny.DIM)
    written(tmp_path / "a.edge", tiny.manifest(), weights)
    data = (tmp_path / "a.edge").read_bytes()
    members = tiny.members_of(data)
    at = data.index(members[FACTORY]) + len(members[FACTORY]) - 9
    (tmp_path / "b.edge").write_bytes(tiny.patch(data, at, "B", data[at] ^ 1))
    with pytest.raises(BundleError, match="CRC-32"):
        read_bundle(tmp_path / "b.edge")
    infinite = load(members[FACTORY]) | {"ridge.gram": np.full(136, np.inf, np.float16)}
    bundle = read_bundle(forged.forge(tmp_path / "c.edge", members | {FACTORY: save(infinite)}))
    with pytest.raises(BundleError, match=r"ridge\.gram has values that are not finite"):
        bundle.weights(FACTORY)


def test_a_small_file_that_promises_terabytes_is_refused_before_memory_is_taken(
    tmp_path: Path,
) -> None:
    written(tmp_path / "a.edge", tiny.manifest(), tiny.weights())
    members = tiny.members_of((tmp_path / "a.edge").read_bytes())
    tensors = json.loads(members["manifest.json"])["tensors"]
    huge = [
        (
            {**spec, "shape": [tiny.DIM, 1 << 40], "class_axis": 1}
            if spec["name"] == "ridge.gram"
            else spec
        )
        for spec in tensors
    ]
    few = save({"ridge.gram": np.ones((tiny.DIM, 2), np.float32), "ridge.count": np.array(7)})
    with pytest.raises(BundleError, match="its tensors take 70368744177672 bytes, the limit is"):
        read_bundle(
            forged.forge(tmp_path / "b.edge", members | {FACTORY: few}, manifest={"tensors": huge})
        )
