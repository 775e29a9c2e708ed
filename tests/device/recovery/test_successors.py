"""Bundles that must not follow the one that serves: each is refused while predictions go on, and
nothing that was learned changes.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sample_images import images

from edgeadapt.bundle import FROZEN, Bundle, read_bundle
from edgeadapt.bundle._container import member_order, pack, read_directory, read_entry
from edgeadapt.bundle.schema import encoder_tensors, space_of
from edgeadapt.bundle.signature import encode_signature, generate_key, key_id, sign
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.recovery.trust import Remembered, check_offer, check_successor
from edgeadapt.device.resources.budget import Budget
from edgeadapt.device.storage.journal import Journal
from edgeadapt.errors import BudgetError, BundleError, StateError
from edgeadapt.runtime import Runtime
from edgeadapt.testing import inspect_state

MANIFEST, SIGNATURE, ENCODE = "manifest.json", "manifest.sig", "graphs/encode.onnx"
MAKER, STRANGER = generate_key(), generate_key()
TRUST = MAKER[1]
Members = dict[str, bytes]


def members_of(path: Path) -> Members:
    with path.open("rb") as file:
        return {
            name: read_entry(file, entry)
            for name, entry in read_directory(file, path.stat().st_size).items()
        }


def write(path: Path, members: Mapping[str, bytes]) -> Path:
    path.write_bytes(pack((name, members[name]) for name in sorted(members, key=member_order)))
    return path


def made(members: Mapping[str, bytes], key: bytes | None = MAKER[0], **fields: Any) -> Members:
    """The members as somebody with this key would ship them: fields of the manifest replaced,
    everything hashed and signed.
    """
    kept = {name: data for name, data in members.items() if name not in (MANIFEST, SIGNATURE)}
    listed = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in kept.items()
    }
    manifest = msgspec.json.encode(
        json.loads(members[MANIFEST]) | {"members": listed} | fields, order="sorted"
    )
    return (
        kept
        | {MANIFEST: manifest}
        | ({SIGNATURE: encode_signature(sign(manifest, key))} if key else {})
    )


def flipped(data: bytes) -> bytes:
    """The last byte is another one."""
    return data[:-1] + bytes([data[-1] ^ 1])


def with_another_encoder(members: Members) -> Members:
    """A bit of the encoder's first tensor is another one."""
    data = bytearray(members[FROZEN])
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    data[8 + length + header["encoder.network.stem.0.weight"]["data_offsets"][0]] ^= 1
    return members | {FROZEN: bytes(data)}


@pytest.fixture(scope="module")
def shipped() -> Members:
    """Version 5, signed by the maker."""
    return made(members_of(bundle_path()), version=5)


@pytest.fixture(scope="module")
def learner(
    shipped: Members, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Learner]:
    folder = tmp_path_factory.mktemp("served")
    bundle = read_bundle(write(folder / "model.edge", shipped), trust=TRUST)
    with open_learner(
        bundle, state=folder / "state", runtime=runtime, budget=Budget(busy_fraction=1.0)
    ) as opened:
        opened.learn(*images(24, seed=3), source="owner")
        opened.settle()
        yield opened


@pytest.fixture
def remembered(learner: Learner) -> Remembered:
    return check_successor(None, learner.bundle, trust=TRUST)


PROBE, _ = images(4, seed=4)
FRAMES, _ = images(8, seed=5)


@contextmanager
def serving(learner: Learner) -> Iterator[None]:
    """Two threads predict and one observes, before, during and after; not one call fails or answers
    differently, and the digest stays.
    """
    digest, before = learner.digest(), learner.predict(PROBE, stream="probe")
    stop, calls, faults = threading.Event(), [0, 0, 0], []

    def predict(index: int) -> None:
        answer = learner.predict(PROBE, stream="probe")
        if answer.probs.tobytes() != before.probs.tobytes():
            faults.append("another answer")

    def observe(index: int) -> None:
        learner.observe(FRAMES, stream="camera")

    def serve(index: int, task: Callable[[int], None]) -> None:
        while not stop.is_set():
            try:
                task(index)
            except BaseException as error:
                faults.append(error)
                return
            calls[index] += 1

    threads = [
        threading.Thread(target=serve, args=(i, task))
        for i, task in enumerate((predict, predict, observe))
    ]
    for thread in threads:
        thread.start()
    try:
        _wait_for(calls, 3, faults)
        yield
        _wait_for(calls, 3, faults)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert learner.settle() and learner.digest() == digest


def _wait_for(calls: list[int], more: int, faults: list[Any]) -> None:
    """Until every thread has served ``more`` calls from now on."""
    wanted, deadline = [count + more for count in calls], time.monotonic() + 20
    while not faults and any(count < least for count, least in zip(calls, wanted, strict=True)):
        assert time.monotonic() < deadline, f"served {calls}, wanted {wanted}"
        time.sleep(0.002)


ATTACKS: dict[str, tuple[Callable[[Members], Members], str]] = {
    "wrong key": (
        lambda m: made(m, STRANGER[0], version=6),
        f"signed by the unknown key {key_id(STRANGER[1])}; trusted: {key_id(TRUST)}",
    ),
    "edited member": (
        lambda m: m | {"graphs/read.onnx": flipped(m["graphs/read.onnx"])},
        r"graphs/read\.onnx: its sha256 is not that of the manifest; it was edited",
    ),
    "edited weights": (
        lambda m: m | {FROZEN: flipped(m[FROZEN])},
        r"weights/frozen\.safetensors: its sha256 is not that of the manifest",
    ),
    "older version": (
        lambda m: made(m, version=4),
        r"version 4 is older than 5, which this state folder has seen; pass allow_older=True",
    ),
    "swapped encoder": (
        lambda m: made(with_another_encoder(m), version=6),
        "the encoder is not the one that the feature space names",
    ),
    "added file": (
        lambda m: m | {"graphs/more.onnx": m[ENCODE]},
        r"graphs/more\.onnx: not listed in the manifest",
    ),
    "removed file": (
        lambda m: {n: data for n, data in m.items() if n != "weights/guard.safetensors"},
        r"guard\.safetensors: listed in the manifest but absent",
    ),
    "manifest of format 0": (
        lambda m: made(m, version=6, format=0),
        r"Expected `int` >= 1 - at `\$\.format`",
    ),
    "unknown field": (lambda m: made(m, version=6, run="curl"), "unknown field `run`"),
    "stripped signature": (
        lambda m: made(m, None, version=6),
        r"manifest\.sig: absent; an unsigned bundle is refused here",
    ),
    "signature of another manifest": (
        lambda m: made(m, version=6) | {SIGNATURE: m[SIGNATURE]},
        f"the signature of key {key_id(TRUST)} does not match manifest.json",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_an_attacker_offers_is_refused_while_serving_goes_on(
    attack: str, learner: Learner, shipped: Members, remembered: Remembered, tmp_path: Path
) -> None:
    build, message = ATTACKS[attack]
    path = write(tmp_path / "offered.edge", build(shipped))
    with serving(learner), pytest.raises(BundleError, match=rf"offered\.edge: .*{message}"):
        check_offer(path, inspect_state(learner).program, remembered, trust=TRUST)


def test_without_a_key_at_hand_the_folder_remembers_whom_it_trusts(
    learner: Learner, shipped: Members, remembered: Remembered, tmp_path: Path
) -> None:
    """Nobody passes ``trust`` any more: hashes and signature of a stranger's bundle are in order,
    and it is refused all the same.
    """
    stranger, unsigned = (
        write(tmp_path / f"{name}.edge", made(shipped, key, version=6))
        for name, key in (("stranger", STRANGER[0]), ("unsigned", None))
    )
    with serving(learner):
        with pytest.raises(
            BundleError,
            match=(
                f"stranger.edge: is signed by key {key_id(STRANGER[1])}, but this state folder was"
                f" opened with trust in key {key_id(TRUST)}"
            ),
        ):
            check_offer(stranger, inspect_state(learner).program, remembered)
        with pytest.raises(
            BundleError,
            match=(
                "unsigned.edge: is not signed, but this state folder was opened with trust in key"
                f" {key_id(TRUST)}"
            ),
        ):
            check_offer(unsigned, inspect_state(learner).program, remembered)
        forged = write(
            tmp_path / "forged.edge", made(with_another_encoder(shipped), None, version=6)
        )
        with pytest.raises(
            BundleError, match="the encoder is not the one that the feature space names"
        ):
            # not even a folder that trusts nobody takes another encoder for its own
            check_offer(forged, inspect_state(learner).program, None)


def test_a_file_replaced_under_a_serving_learner_is_never_read(
    learner: Learner, shipped: Members, tmp_path: Path
) -> None:
    path = learner.bundle.path
    before = path.read_bytes()
    write(
        tmp_path / "evil.edge", made(with_another_encoder(shipped) | {"card.json": b"{}"}, None)
    ).replace(path)
    try:
        with serving(learner):
            with pytest.raises(
                BundleError,
                match=(
                    r"model\.edge: weights/frozen\.safetensors: changed since the bundle was opened"
                ),
            ):
                learner.bundle.weights(FROZEN)
            assert learner.bundle.graph(ENCODE) == shipped[ENCODE]
    finally:
        path.write_bytes(before)


def test_a_successor_is_checked_whole_and_given_back(
    learner: Learner, shipped: Members, remembered: Remembered, tmp_path: Path
) -> None:
    path = write(tmp_path / "next.edge", made(shipped, version=6))
    with serving(learner):
        offered = check_offer(
            path, inspect_state(learner).program, remembered, trust=TRUST, budget=Budget()
        )
        assert offered.manifest.version == 6 and offered.signed_by == key_id(TRUST)
        assert (
            check_offer(offered, inspect_state(learner).program, remembered).sha256
            == offered.sha256
        )
        older = write(tmp_path / "older.edge", made(shipped, version=2))
        assert (
            check_offer(
                older, inspect_state(learner).program, remembered, trust=TRUST, allow_older=True
            ).manifest.version
            == 2
        )
        with pytest.raises(BudgetError, match=r"declares .* MiB .* and memory_mib is 0\.01"):
            check_offer(
                offered, inspect_state(learner).program, remembered, budget=Budget(memory_mib=0.01)
            )


def in_another_space(members: Members) -> Members:
    """Another encoder under its own name: what an honest maker ships after more training."""
    from safetensors.numpy import load

    changed = with_another_encoder(members)
    arrays, graphs = load(changed[FROZEN]), read_bundle(bundle_path()).manifest.graphs_for("encode")
    space = space_of(
        changed[ENCODE], *(arrays[name].tobytes() for name in encoder_tensors(arrays, graphs))
    )
    return made(changed, version=6, space=space)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (in_another_space, r"another feature space \([0-9a-f]{12} instead of [0-9a-f]{12}\)"),
        (
            lambda m: made(m, version=6, classes=json.loads(m[MANIFEST])["classes"][::-1]),
            "other factory classes",
        ),
        (lambda m: made(m, version=6, class_slots=64), "other factory classes .*64 slots"),
        (
            lambda m: made(m, version=6, tensors=with_tensor(m, "mean.moment", persist="session")),
            r"other stored tensors \(mean\.moment\)",
        ),
    ],
)
def test_a_sound_successor_that_needs_a_migration_says_so(
    build: Callable[[Members], Members],
    message: str,
    learner: Learner,
    shipped: Members,
    remembered: Remembered,
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "next.edge", build(shipped))
    with (
        serving(learner),
        pytest.raises(
            StateError,
            match=(
                rf"next\.edge: is sound, but has {message}.*edgeadapt migrate OLD_STATE NEW\.edge"
            ),
        ),
    ):
        check_offer(path, inspect_state(learner).program, remembered, trust=TRUST)


def with_graph(members: Members, role: str, **fields: Any) -> list[dict[str, Any]]:
    return [
        graph | fields if role in graph["roles"] else graph
        for graph in json.loads(members[MANIFEST])["graphs"]
    ]


def with_outputs(members: Members, role: str, width: int) -> list[dict[str, Any]]:
    """Every output of the graphs of a role is said to be this wide."""
    outputs = [
        port
        for graph in json.loads(members[MANIFEST])["graphs"]
        if role in graph["roles"]
        for port in graph["outputs"]
    ]
    return with_graph(members, role, outputs=[port | {"shape": [None, width]} for port in outputs])


def with_tensor(members: Members, name: str, **fields: Any) -> list[dict[str, Any]]:
    return [
        spec | fields if spec["name"] == name else spec
        for spec in json.loads(members[MANIFEST])["tensors"]
    ]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda m: made(m, graphs=with_outputs(m, "encode", 7)),
            r"encode\.onnx: does not run on zeros: no output z of dtype float32 and shape \(1, 7\)",
        ),
        (
            lambda m: made(m, graphs=with_graph(m, "encode", ports=[])),
            r"encode\.onnx: does not run on zeros: .*'x'",
        ),
        (
            lambda m: made(m, graphs=with_graph(m, "learn", writes=["ridge.gram", "norm.mean"])),
            r"learn\.onnx: does not run on zeros: it does not write norm\.mean",
        ),
        (
            lambda m: made(m | {"graphs/learn.onnx": b"\x3a\x04\x0a\x02\x22\x00"}),
            "graphs/learn.onnx",
        ),
    ],
)
def test_a_signed_successor_whose_graphs_do_not_work_here_is_refused_before_it_serves(
    build: Callable[[Members], Members],
    message: str,
    learner: Learner,
    shipped: Members,
    remembered: Remembered,
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "next.edge", build(shipped))
    with serving(learner), pytest.raises(BundleError, match=message):
        check_offer(path, inspect_state(learner).program, remembered, trust=TRUST)


# -- what a folder remembers -----------------------------------------------------------------------
def edition(
    bundle: Bundle,
    version: int = 1,
    signed_by: str | None = None,
    name: str = "screws",
    form: int = 1,
) -> Bundle:
    manifest = msgspec.structs.replace(bundle.manifest, name=name, version=version, format=form)
    return replace(bundle, manifest=manifest, signed_by=signed_by, sha256=f"{version:064x}")


def test_versions_only_grow_unless_someone_goes_back_on_purpose(bundle: Bundle) -> None:
    seen = check_successor(None, edition(bundle, 3))
    assert (seen.name, seen.version, seen.signed_by) == ("screws", 3, "")
    assert check_successor(seen, edition(bundle, 3)) == seen
    newer = check_successor(seen, edition(bundle, 5))
    assert newer.version == 5
    with pytest.raises(
        BundleError,
        match=(
            r"'screws' version 3 is older than 5, which this state folder has seen; pass"
            r" allow_older=True to go back on purpose"
        ),
    ):
        check_successor(newer, edition(bundle, 3))
    back = check_successor(newer, edition(bundle, 3), allow_older=True)
    assert back.version == 3 and check_successor(back, edition(bundle, 4)).version == 4


def test_the_way_back_does_not_lead_over_another_name(bundle: Bundle, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state")
    # another product counts for itself
    for version, name in ((5, "screws"), (1, "bolts"), (2, "nuts")):
        journal.set_meta(
            check_successor(
                Remembered.read(journal.meta), edition(bundle, version, name=name)
            ).as_meta()
        )
    seen = Remembered.read(journal.meta)
    assert seen is not None and seen.others == (("bolts", 1), ("screws", 5))
    with pytest.raises(
        BundleError, match="'screws' version 4 is older than 5, which this state folder has seen"
    ):
        check_successor(seen, edition(bundle, 4))
    journal.set_meta(check_successor(seen, edition(bundle, 4), allow_older=True).as_meta())
    back = Remembered.read(journal.meta)
    assert back == check_successor(back, edition(bundle, 4)) and back.others == (
        ("bolts", 1),
        ("nuts", 2),
    )
    journal.close()


def test_an_older_format_is_refused_whatever_its_name(bundle: Bundle) -> None:
    seen = check_successor(None, edition(bundle, form=2))
    for name in ("screws", "bolts"):
        with pytest.raises(
            BundleError, match="manifest format 1 is older than 2, which this state folder has seen"
        ):
            check_successor(seen, edition(bundle, 9, name=name))
    assert check_successor(seen, edition(bundle, 9), allow_older=True).format == 1


def test_a_maker_may_begin_to_sign_and_the_first_trust_binds(bundle: Bundle) -> None:
    ours, other = key_id(MAKER[1]), key_id(STRANGER[1])
    seen = check_successor(None, edition(bundle))
    # nobody asked for trust: anything goes, and nothing is bound
    for signer in (ours, None, other):
        seen = check_successor(seen, edition(bundle, signed_by=signer))
        assert seen.signed_by == ""
    bound = check_successor(seen, edition(bundle, signed_by=ours), trust=MAKER[1])
    assert bound.signed_by == ours
    assert check_successor(bound, edition(bundle, 2, signed_by=ours)).signed_by == ours
    for signer, found in ((None, "is not signed"), (other, f"is signed by key {other}")):
        for allow_older in (False, True):
            with pytest.raises(
                BundleError,
                match=(
                    f"{found}, but this state folder was opened with trust in key {ours}; pass"
                    " trust="
                ),
            ):
                check_successor(
                    bound, edition(bundle, 2, signed_by=signer), allow_older=allow_older
                )


def test_a_key_is_replaced_by_trusting_the_new_one(bundle: Bundle, tmp_path: Path) -> None:
    ours, new = key_id(MAKER[1]), key_id(STRANGER[1])
    file = tmp_path / "new.pub"
    file.write_text(STRANGER[1] + "\n")
    bound = check_successor(None, edition(bundle, signed_by=ours), trust=[MAKER[1]])
    rotated = check_successor(bound, edition(bundle, 2, signed_by=new), trust=[MAKER[1], file])
    assert rotated.signed_by == new
    with pytest.raises(
        BundleError,
        match=f"is signed by key {ours}, but this state folder was opened with trust in key {new}",
    ):
        check_successor(rotated, edition(bundle, 3, signed_by=ours))


@pytest.mark.parametrize(
    ("signer", "found"),
    [
        (None, "not signed"),
        (key_id(STRANGER[1]), f"signed by the unknown key {key_id(STRANGER[1])}"),
    ],
    ids=["unsigned", "stranger"],
)
def test_a_bundle_that_was_read_without_trust_does_not_slip_past_it(
    signer: str | None, found: str, bundle: Bundle
) -> None:
    with pytest.raises(BundleError, match=rf"manifest\.sig: {found}; trusted: {key_id(TRUST)}"):
        check_successor(None, edition(bundle, signed_by=signer), trust=TRUST)


def test_what_a_folder_remembers_survives_its_journal(bundle: Bundle, tmp_path: Path) -> None:
    seen = check_successor(None, edition(bundle, 7, signed_by=key_id(TRUST)), trust=TRUST)
    journal = Journal(tmp_path / "state")
    assert Remembered.read(journal.meta) is None
    journal.set_meta(seen.as_meta())
    journal.close()
    journal = Journal(tmp_path / "state")
    assert Remembered.read(journal.meta) == seen
    journal.close()


def test_a_folder_from_before_there_were_versions_has_seen_version_1() -> None:
    old = {"bundle": "screws", "sha256": "a" * 64, "space": "b" * 64}
    assert Remembered.read(old.get) == Remembered("screws", 1, 1, "a" * 64, "")
