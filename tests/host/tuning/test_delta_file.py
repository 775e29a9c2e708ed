"""A delta file comes back bit for bit, or is refused with its name, the member and the reason."""

from __future__ import annotations

import copy
import hashlib
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from toy_training import stripes

from edgeadapt.bundle._container import SIGNATURE, pack, read_directory
from edgeadapt.bundle.signature import encode_signature, generate_key, key_id, sign
from edgeadapt.errors import BundleError, InputError
from edgeadapt.host.encoders.networks import SmallResidual
from edgeadapt.host.tuning.codecs import CODECS, codec
from edgeadapt.host.tuning.contracts import Delta
from edgeadapt.host.tuning.delta_file import (
    VALUES,
    About,
    DeltaFile,
    apply_delta,
    fingerprint,
    plan_of,
    read_delta,
    write_delta,
    write_tuned,
)
from edgeadapt.host.tuning.delta_manifest import DeltaManifest
from edgeadapt.host.tuning.deltas.low_rank import LowRank
from edgeadapt.host.tuning.deltas.residual_scale import ResidualScale
from edgeadapt.host.tuning.deltas.scale_shift import ScaleShift
from edgeadapt.host.tuning.deltas.union import Union
from edgeadapt.host.tuning.deltas.whole import Bias, Full, Head
from edgeadapt.host.tuning.members import DELTAS
from edgeadapt.host.tuning.network import TunedNetwork
from edgeadapt.host.tuning.plan import Plan, key_of, uniform_plan
from edgeadapt.host.tuning.run import TuneSettings, tune
from edgeadapt.host.tuning.sites import Site, site_at, sites_of

ABOUT = About(
    "screws",
    start="explained_variance",
    score="squared_gradient",
    classes=("good", "bad", "worse"),
    seed=7,
    created="2026-01-02T03:04:05+00:00",
    figures={"accuracy": 0.875, "numbers": 123},
)
MANIFEST, CARD = "manifest.json", "card.json"
TRIED = [LowRank(scale=2.0, by_rank=True), ScaleShift(), Bias(), Full(), Head()]


class Network(nn.Module):
    """Strided, grouped and depth-wise convolutions, a norm, and a classifier."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, 2, 1)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.each = nn.Conv2d(12, 12, 3, groups=12)
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        z = self.each(self.norm(self.grouped(self.first(x)).relu())).relu()
        out: Tensor = self.head(z.mean((2, 3)))
        return out


def network(seed: int = 0, classes: int = 3) -> Network:
    torch.manual_seed(seed)
    return Network(classes).eval()


def tuned(
    delta: Delta, base: nn.Module, size: int = 2, seed: int = 0
) -> tuple[Plan, dict[str, Tensor]]:
    """A plan over all sites but the classifier, and values that change every weight."""
    sites = sites_of(base, torch.zeros(1, 2, 16, 16), ("first", "grouped", "norm", "each"))
    whole = {name: tuple(v.shape) for name, v in base.named_parameters() if "head" in name}
    plan, draw = uniform_plan(delta, sites, size, whole), torch.Generator().manual_seed(seed)
    return plan, {
        name: torch.randn(shape, generator=draw) / 8 for name, shape in plan.shapes.items()
    }


@pytest.fixture
def base() -> Network:
    return network()


@pytest.fixture
def written(tmp_path: Path, base: Network) -> DeltaFile:
    return write_delta(tmp_path / "a.delta", base, *tuned(LowRank(), base), ABOUT)


def parts_of(data: bytes) -> dict[str, bytes]:
    found = read_directory(BytesIO(data), len(data))
    return {name: data[e.offset : e.offset + e.size] for name, e in found.items()}


def forge(path: Path, members: Mapping[str, bytes]) -> Path:
    """A sound container of these members."""
    path.write_bytes(pack(members.items()))
    return path


def relisted(members: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    """The members with a manifest that lists them as they are, and has other fields."""
    fields = msgspec.json.decode(members[MANIFEST]) | changes
    fields["members"] = {
        name: {"bytes": len(members[name]), "sha256": hashlib.sha256(members[name]).hexdigest()}
        for name in (VALUES, CARD)
    }
    return {**members, MANIFEST: msgspec.json.encode(fields)}


def nested(depth: int) -> dict[str, object]:
    """Options of unions of unions."""
    found: dict[str, object] = {}
    for _ in range(depth):
        found = {"parts": [{"name": "union", "options": found}]}
    return found


def refused(path: Path, why: str, **options: object) -> None:
    with pytest.raises(BundleError, match=rf"^{path.name}: {why}"):
        read_delta(path, **options)  # type: ignore[arg-type]


# -- what comes back -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("delta", TRIED, ids=lambda one: one.name)
def test_numbers_come_back_as_their_codec_gives_them_and_apply(
    tmp_path: Path, base: Network, delta: Delta, name: str
) -> None:
    plan, values = tuned(delta, base)
    about = msgspec.structs.replace if False else ABOUT
    about = About(**{**vars(about), "codec": name})
    before = {key: value.clone() for key, value in base.state_dict().items()}
    written = write_delta(tmp_path / "a.delta", base, plan, values, about)
    file = read_delta(tmp_path / "a.delta")
    assert set(file.values) == set(values) == set(written.values)
    for key, value in values.items():
        kind = codec("float16" if key in plan.whole else name)
        want = kind.decode(kind.encode(value.numpy()), tuple(value.shape))
        assert np.array_equal(file.values[key], want)
        assert np.array_equal(written.values[key], want)
        assert not file.values[key].flags.writeable
    merged = apply_delta(base, file)
    stored = {key: torch.tensor(value) for key, value in file.values.items()}
    x = torch.randn(4, 2, 16, 16)
    assert torch.equal(merged(x), TunedNetwork(base, plan, stored).eval()(x))
    assert not torch.equal(merged(x), base(x))
    assert all(torch.equal(before[key], value) for key, value in base.state_dict().items())
    assert plan_of(base, file).sizes == plan.sizes and plan_of(base, file).delta == delta


def test_what_a_file_says_of_itself(written: DeltaFile, base: Network) -> None:
    file = read_delta(written.path)
    assert file.manifest == DeltaManifest(
        name="screws",
        base=fingerprint(base, ["head.weight", "head.bias"]),
        delta="low_rank",
        options={"scale": 1.0, "by_rank": False},
        start="explained_variance",
        score="squared_gradient",
        values=("down", "up"),
        sites={"first": "2 1x2x18 1x8x2", "grouped": "2 2x2x36 2x6x2"},
        whole={"head.weight": (3, 12), "head.bias": (3,)},
        codec="float16",
        whole_codec="float16",
        classes=("good", "bad", "worse"),
        seed=7,
        created="2026-01-02T03:04:05+00:00",
        members=file.manifest.members,
    )
    assert file.manifest.sizes == {"first": 2, "grouped": 2}
    assert file.figures == {"accuracy": 0.875, "numbers": 123} and file.signed_by is None
    assert file.bytes == file.path.stat().st_size
    assert (file.manifest, file.sha256) == (written.manifest, written.sha256)


def test_a_file_without_a_date_gets_the_present_one(tmp_path: Path, base: Network) -> None:
    file = write_delta(tmp_path / "a.delta", base, *tuned(Bias(), base), About("now"))
    assert file.manifest.created.startswith("20") and file.manifest.created.endswith("+00:00")


def test_constants_of_a_start_come_back_too(tmp_path: Path, base: Network) -> None:
    plan, values = tuned(LowRank(), base)
    kept = {key.replace(":up", ":up0"): value * 0.5 for key, value in values.items()}
    values |= {key.replace(":down", ":down0"): value for key, value in kept.items()}
    values = {key: value for key, value in values.items() if key in plan.shapes or ":" in key}
    file = write_delta(tmp_path / "a.delta", base, plan, values, ABOUT)
    assert file.manifest.constants == ("down0", "up0")
    assert file.manifest.sites["grouped"] == "2 2x2x36 2x6x2 2x2x36 2x6x2"
    stored = {key: torch.tensor(value) for key, value in file.values.items()}
    x = torch.randn(4, 2, 16, 16)
    want = TunedNetwork(base, plan, stored).eval()(x)
    assert torch.equal(apply_delta(base, read_delta(file.path))(x), want)


@dataclass(frozen=True)
class OneNumber:
    """A scalar at every site, and at convolutions one a channel."""

    name: ClassVar[str] = "one_number"

    def sizes(self, site: Site) -> tuple[int, ...]:
        return (0, 1)

    def shapes(self, site: Site, size: int) -> dict[str, tuple[int, ...]]:
        return {"all": ()} | ({"each": site.channels} if site.kind == "conv" else {})

    def merged(
        self, site: Site, w: Mapping[str, Tensor], p: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        each = site.per_channel(p["each"]) if "each" in p else 1.0
        return {site.weight: w[site.weight] * (p["all"] * each)}


class Residual(nn.Module):
    """A branch that ends in a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        out: Tensor = z + self.last(self.inner(z).relu())
        return out


def test_what_only_a_run_shows_of_a_site_is_in_the_file(tmp_path: Path) -> None:
    base = Residual().eval()
    sites = sites_of(base, torch.zeros(1, 2, 8, 8))
    plan = uniform_plan(Union((ResidualScale(), LowRank())), sites, 2, {})
    values = {name: torch.randn(shape) / 8 for name, shape in plan.shapes.items()}
    file = read_delta(write_delta(tmp_path / "a.delta", base, plan, values, ABOUT).path)
    assert file.manifest.branch_ends == {"first", "last"}
    assert file.manifest.sites["inner"].startswith("2 - 4 ")
    assert file.manifest.sites["last"].startswith("1+ 4 4 ")
    assert plan_of(base, file).shapes == plan.shapes
    assert plan_of(base, file).delta == plan.delta
    stored = {key: torch.tensor(value) for key, value in file.values.items()}
    x = torch.randn(2, 2, 8, 8)
    assert torch.equal(apply_delta(base, file)(x), TunedNetwork(base, plan, stored).eval()(x))


def test_single_numbers_and_sites_that_lack_a_value(
    tmp_path: Path, base: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DELTAS, "one_number", OneNumber)
    delta: Delta = OneNumber()  # type: ignore[assignment]
    file = write_delta(tmp_path / "a.delta", base, *tuned(delta, base), ABOUT)
    assert file.manifest.sites == {
        "first": "1 . 8",
        "grouped": "1 . 12",
        "norm": "1 . -",
        "each": "1 . 12",
    }
    assert file.values["norm:all"].shape == ()
    want = base.norm.weight * float(file.values["norm:all"])
    assert torch.equal(dict(apply_delta(base, file).named_parameters())["norm.weight"], want)


@settings(max_examples=25)
@given(size=st.integers(1, 8), name=st.sampled_from(sorted(CODECS)), seed=st.integers(0, 9))
def test_any_size_comes_back_and_takes_the_bytes_that_it_says(
    tmp_path_factory: pytest.TempPathFactory, size: int, name: str, seed: int
) -> None:
    base, path = network(), tmp_path_factory.getbasetemp() / "any.delta"
    plan, values = tuned(LowRank(), base, size, seed)
    file = write_delta(path, base, plan, values, About("any", codec=name, whole_codec=name))
    assert file.manifest.sizes == {s.path: n for s, n in zip(plan.sites, plan.sizes, strict=True)}
    want = {key: codec(name).nbytes(tuple(value.shape)) for key, value in values.items()}
    assert file.manifest.nbytes() == sum(want.values())
    data = parts_of(path.read_bytes())[VALUES]
    assert len(data) == file.manifest.nbytes() + 8 + int.from_bytes(data[:8], "little")


def test_the_values_are_a_safetensors_file(written: DeltaFile) -> None:
    from safetensors.numpy import load

    (blob,) = load(parts_of(written.path.read_bytes())[VALUES]).values()
    assert blob.dtype == np.uint8 and blob.shape == (written.manifest.nbytes(),)


def test_equal_content_gives_equal_bytes(tmp_path: Path, base: Network) -> None:
    plan, values = tuned(LowRank(), base)
    again = dict(reversed(list(values.items())))
    key, _ = generate_key()
    first = write_delta(tmp_path / "a.delta", base, plan, values, ABOUT, private_key=key)
    second = write_delta(tmp_path / "b.delta", base, plan, again, ABOUT, private_key=key)
    assert first.path.read_bytes() == second.path.read_bytes()


def test_a_file_that_was_read_is_written_again_byte_for_byte(
    written: DeltaFile, base: Network
) -> None:
    file = read_delta(written.path)
    before = file.path.read_bytes()
    write_delta(file.path, base, plan_of(base, file), file.values, ABOUT)
    assert file.path.read_bytes() == before


def test_thirty_sites_cost_two_and_a_half_kilobytes(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    from edgeadapt.host.encoders.efficientnet_lite import efficientnet_lite0

    base = efficientnet_lite0(classes=14).eval()
    sites = sites_of(base, torch.zeros(1, 3, 64, 64))
    inside = [site for site in sites if site.kind == "conv" and len(LowRank().sizes(site)) > 1]
    whole = {"_fc.weight": (14, 1280), "_fc.bias": (14,)}
    names = tuple(f"class {k}" for k in range(14))
    about = replace(ABOUT, classes=names, codec="4bit")
    plan = uniform_plan(LowRank(), inside[-30:], 4, whole)
    values = {name: torch.randn(shape) for name, shape in plan.shapes.items()}
    file = write_delta(tmp_path / "a.delta", base, plan, values, about)
    named = len(msgspec.json.encode(names))
    assert len(plan.sites) == 30
    assert file.bytes - file.manifest.nbytes() - named <= 2500
    assert torch.isfinite(apply_delta(base, file)(torch.zeros(1, 3, 64, 64))).all()


def test_reading_needs_no_torch(written: DeltaFile) -> None:
    code = (
        "import sys; from edgeadapt.host.tuning.delta_file import read_delta;"
        f" read_delta({str(written.path)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", ["float16", "1bit"])
def test_a_run_leaves_the_network_that_it_reported(tmp_path: Path, name: str) -> None:
    settings = TuneSettings(LowRank(), codec=name, epochs=1, seed=3)
    torch.manual_seed(0)
    run = tune(SmallResidual(2), stripes(32), stripes(32, 1), settings, progress=lambda _: None)
    file = read_delta(write_tuned(tmp_path / "a.delta", "stripes", run, with_classifier=True).path)
    assert {key: value.tolist() for key, value in file.values.items()} == {
        key: value.tolist() for key, value in run.values.items()
    }
    x = torch.randn(3, 1, 12, 12)
    assert torch.equal(apply_delta(run.base.network, file)(x), run.network.network(x))
    assert (file.manifest.seed, file.manifest.classes) == (3, ("horizontal", "vertical"))
    assert file.figures["accuracy"] == run.report.accuracy
    inside = read_delta(write_tuned(tmp_path / "b.delta", "stripes", run).path)
    assert set(file.values) - set(inside.values) == {"head.weight", "head.bias"}
    other = copy.deepcopy(run.base.network)
    other.head = torch.nn.Linear(8, 5)  # of other classes
    merged = apply_delta(other, inside).state_dict()
    want = run.network.network.state_dict()
    assert all(torch.equal(value, want[key]) for key, value in merged.items() if "head" not in key)


# -- damage ----------------------------------------------------------------------------------------
def test_every_truncation_is_refused(written: DeltaFile, tmp_path: Path) -> None:
    data, path = written.path.read_bytes(), tmp_path / "cut.delta"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refused(path, "archive")


def test_every_flipped_byte_is_refused(written: DeltaFile, tmp_path: Path) -> None:
    data, path = written.path.read_bytes(), tmp_path / "flipped.delta"
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])
        refused(path, "")


@pytest.mark.parametrize("member", [MANIFEST, VALUES, CARD, SIGNATURE])
def test_a_byte_flipped_in_a_member_with_the_right_sum_is_refused(
    tmp_path: Path, base: Network, member: str
) -> None:
    key, public = generate_key()
    plan, values = tuned(LowRank(), base)
    signed = write_delta(tmp_path / "a.delta", base, plan, values, ABOUT, private_key=key)
    members = parts_of(signed.path.read_bytes())
    for at in range(0, len(members[member]), 5):
        flipped = bytearray(members[member])
        flipped[at] ^= 1
        path = forge(tmp_path / "b.delta", {**members, member: bytes(flipped)})
        where = SIGNATURE if member == MANIFEST else member
        refused(path, f"{where}: ", trust=public)


def test_appended_bytes_and_a_foreign_file_are_refused(written: DeltaFile, tmp_path: Path) -> None:
    path = tmp_path / "b.delta"
    path.write_bytes(written.path.read_bytes() + b"x")
    refused(path, "archive: the end record is not the end")
    path.write_bytes(b"x" * 200)
    refused(path, "archive: not a zip file")
    with pytest.raises(BundleError, match="No such file"):
        read_delta(tmp_path / "absent.delta")
    with pytest.raises(BundleError, match="not a regular file"):
        read_delta(tmp_path)


@pytest.mark.parametrize("member", [VALUES, CARD])
def test_a_member_of_another_delta_is_refused(
    written: DeltaFile, base: Network, tmp_path: Path, member: str
) -> None:
    about = replace(ABOUT, figures={"accuracy": 0.999, "numbers": 124})
    other = write_delta(tmp_path / "o.delta", base, *tuned(LowRank(), base, seed=1), about)
    members = parts_of(written.path.read_bytes())
    theirs = parts_of(other.path.read_bytes())
    assert len(theirs[member]) == len(members[member])
    path = forge(tmp_path / "b.delta", {**members, member: theirs[member]})
    refused(path, f"{member}: its sha256 is not that of the manifest; it was edited")


def test_members_that_are_missing_added_or_in_another_order_are_refused(
    written: DeltaFile, tmp_path: Path
) -> None:
    members, path = parts_of(written.path.read_bytes()), tmp_path / "b.delta"
    for gone in (VALUES, CARD):
        forge(path, {name: data for name, data in members.items() if name != gone})
        refused(path, f"{gone}: absent")
    more = {MANIFEST: members[MANIFEST], "graphs/a.onnx": b"x", **members}
    refused(forge(path, more), "graphs/a.onnx: no member of a delta")
    refused(forge(path, dict(reversed(members.items()))), "card.json: the first member must be")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil", "a member name that leaves the archive"),
        ("/etc/passwd", "an absolute member name"),
        ("weights\\x", "a backslash"),
        ("weights/values.npy", "not one of manifest.json"),
    ],
)
def test_a_path_is_refused(written: DeltaFile, tmp_path: Path, name: str, why: str) -> None:
    members = parts_of(written.path.read_bytes())
    path = tmp_path / "b.delta"
    with pytest.raises(BundleError, match=why):
        read_delta(forge(path, {MANIFEST: members[MANIFEST], name: b"x"}))
    assert list(tmp_path.parent.rglob("evil")) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": 2}, "format 2 is newer than 1"),
        ({"colour": "red"}, "Object contains unknown field `colour`"),
        ({"codec": "int8"}, "no codec 'int8'"),
        ({"base": "x"}, "Expected `str` matching regex"),
        ({"sites": {"first": "0 1x2x18 1x8x2"}}, "Expected `str` matching regex"),
        ({"sites": {"first": "2 1x0x18 1x8x2"}}, "Expected `str` matching regex"),
        ({"sites": {"first": "2 1x2x18"}}, "first has '2 1x2x18', for 2 values"),
        ({"values": ["up", "up"]}, "two values of a site have one name"),
        ({"whole": {"head.weight": [-3, 12]}}, "Expected `int` >= 1"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    written: DeltaFile, tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    members = relisted(parts_of(written.path.read_bytes()), **changes)
    refused(forge(tmp_path / "b.delta", members), f"{MANIFEST}: {why}")


def test_numbers_of_another_amount_or_that_no_codec_writes_are_refused(
    written: DeltaFile, tmp_path: Path
) -> None:
    members, path = parts_of(written.path.read_bytes()), tmp_path / "b.delta"
    fewer = relisted(members, sites={"first": "2 1x2x18 1x8x2"})
    refused(forge(path, fewer), f"{VALUES}: not one tensor of the 182 bytes")
    longer = relisted({**members, VALUES: members[VALUES] + b"\0"})
    refused(forge(path, longer), f"{VALUES}: not one tensor of")
    data = bytearray(members[VALUES])
    data[-2:] = np.array([np.nan], "<f2").tobytes()
    nan = relisted({**members, VALUES: bytes(data)})
    refused(forge(path, nan), f"{VALUES}: head.bias: float16: damaged, a value is not finite")
    refused(forge(path, relisted({**members, CARD: b"[1]"})), f"{CARD}: Expected `object`")
    lost = msgspec.json.decode(members[MANIFEST])
    del lost["members"][CARD]
    members[MANIFEST] = msgspec.json.encode(lost)
    refused(forge(path, members), f"{MANIFEST}: its members are not")


# -- who signed ------------------------------------------------------------------------------------
def test_signatures(tmp_path: Path, base: Network, written: DeltaFile) -> None:
    (key, public), (other_key, other) = generate_key(), generate_key()
    path = tmp_path / "s.delta"
    plan, values = tuned(LowRank(), base)
    assert write_delta(path, base, plan, values, ABOUT, private_key=key).signed_by == key_id(public)
    for trust in (public, [other, public], ()):
        assert read_delta(path, trust=trust, require_signature=True).signed_by == key_id(public)
    refused(path, f"{SIGNATURE}: signed by the unknown key {key_id(public)}", trust=other)
    refused(written.path, f"{SIGNATURE}: absent; an unsigned delta is refused here", trust=public)
    refused(written.path, f"{SIGNATURE}: absent; an unsigned delta", require_signature=True)
    members = parts_of(path.read_bytes())
    edited = relisted(members, name="other")
    refused(forge(tmp_path / "b.delta", edited), f"{SIGNATURE}: the signature of key")
    resigned = {**edited, SIGNATURE: encode_signature(sign(edited[MANIFEST], other_key))}
    refused(forge(tmp_path / "b.delta", resigned), f"{SIGNATURE}: signed by the un", trust=public)
    with pytest.raises(BundleError, match=r"s\.delta: manifest\.sig: the private key cannot be"):
        write_delta(path, base, plan, values, ABOUT, private_key=b"no key")
    assert read_delta(path, trust=public).signed_by == key_id(public)


# -- writing ---------------------------------------------------------------------------------------
def test_what_cannot_be_written_leaves_the_old_file(
    written: DeltaFile, base: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, values = tuned(LowRank(), base)
    before = written.path.read_bytes()

    def killed(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgeadapt._durable.os.replace", killed)
    with pytest.raises(BundleError, match="No space left"):
        write_delta(written.path, base, plan, values, About("other"))
    assert written.path.read_bytes() == before
    assert [file.name for file in written.path.parent.iterdir()] == ["a.delta"]


def test_values_that_do_not_fit_the_plan_are_refused(tmp_path: Path, base: Network) -> None:
    plan, values = tuned(LowRank(), base)
    path = tmp_path / "a.delta"

    def with_(**changes: Tensor) -> dict[str, Tensor]:
        return {**values, **{key.replace("_", ":", 1): v for key, v in changes.items()}}

    cases: list[tuple[dict[str, Tensor], str]] = [
        ({k: v for k, v in values.items() if k != "first:up"}, "trains first:up, which has no"),
        (with_(first_up=torch.zeros(2)), r"first:up has the shape \(2,\), the plan has \(1, 8, 2"),
        (with_(last_up=torch.zeros(2)), "last:up belongs to no site of the plan"),
        (with_(first_up=torch.full((1, 8, 2), torch.nan)), "first:up: float16 cannot hold"),
    ]
    for wrong, why in cases:
        with pytest.raises(InputError, match=why):
            write_delta(path, base, plan, wrong, ABOUT)
    with pytest.raises(InputError, match="figures: "):
        about = replace(ABOUT, figures={"x": object()})
        write_delta(path, base, plan, values, about)
    with pytest.raises(InputError, match="no codec '3bit'"):
        write_delta(path, base, plan, values, About("a", codec="3bit"))
    assert not path.exists()


# -- applying --------------------------------------------------------------------------------------
def test_another_base_is_refused(written: DeltaFile, base: Network) -> None:
    for changed in (network(1), network(0)):
        with torch.no_grad():
            changed.norm.running_mean[0] += 1e-6  # type: ignore[index]
        with pytest.raises(
            BundleError, match=r"^a\.delta: manifest\.json: of the base [0-9a-f]{16}"
        ):
            apply_delta(changed, written)
    with pytest.raises(BundleError, match=r"there is none"):
        apply_delta(nn.Linear(2, 2), written)
    with pytest.raises(
        BundleError, match=r"it has the shape \(5, 12\).* a classifier of 3 classes"
    ):
        apply_delta(network(0, classes=5), written)


def test_any_classifier_may_stand_in_the_base(written: DeltaFile, base: Network) -> None:
    other = network()
    with torch.no_grad():
        other.head.weight.zero_()
    x = torch.randn(2, 2, 16, 16)
    assert torch.equal(apply_delta(other, written)(x), apply_delta(base, written)(x))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"delta": "unheard_of"}, "delta = 'unheard_of'; allowed: "),
        ({"options": {"colour": 1}}, "delta 'low_rank' has no option 'colour'"),
        ({"options": {"scale": "big"}}, "delta 'low_rank': '>' not supported"),
        ({"delta": "union", "options": nested(150)}, "delta"),
        ({"delta": "scale_shift", "options": {}}, "scale_shift has no size 2 at first"),
        ({"options": {"scale": -1.0}}, "low_rank has a scale above 0, got -1.0"),
        ({"sites": {"gone": "2 1x2x18 1x8x2", "x": "2 2x2x36 2x6x2"}}, "has no module 'gone'"),
        ({"sites": {"": "2 1x2x18 1x8x2", "x": "2 2x2x36 2x6x2"}}, "'' is Network, which has no"),
        (
            {"sites": {"grouped": "2 1x2x18 1x8x2", "first": "2 2x2x36 2x6x2"}},
            r"grouped:down has the shape \(1, 2, 18\), expected \(2, 2, 36\)",
        ),
    ],
)
def test_what_does_not_fit_the_network_is_refused(
    written: DeltaFile, base: Network, tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    members = relisted(parts_of(written.path.read_bytes()), **changes)
    file = read_delta(forge(tmp_path / "b.delta", members))
    with pytest.raises(BundleError, match=f"^b.delta: {MANIFEST}: .*{why}"):
        apply_delta(base, file)


def test_a_site_by_its_path_merges_as_one_that_was_found_by_running(base: Network) -> None:
    for site in sites_of(base, torch.zeros(1, 2, 16, 16)):
        alone = site_at(base, site.path)
        assert (alone.weight, alone.bias, alone.kind) == (site.weight, site.bias, site.kind)
        assert alone.matrix_shape == site.matrix_shape and key_of(alone, "a") == key_of(site, "a")
