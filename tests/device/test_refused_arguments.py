"""Arguments of another kind, names without end, files that went away: refused by name."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from feature_vectors import samples
from golden_files import GOLDEN
from learner_steps import Opener

import edgeadapt
from edgeadapt.bundle import Bundle
from edgeadapt.bundle.signature import write_keypair
from edgeadapt.errors import BudgetError, BundleError, InputError, StorageError
from edgeadapt.testing import inspect_state


@pytest.mark.parametrize("bundle", [None, 3, "", b"x", "a\0b"])
def test_what_is_no_path_is_refused_by_name(bundle: Any, tmp_path: Path) -> None:
    for call in (
        lambda: edgeadapt.open(bundle),
        lambda: edgeadapt.read_bundle(bundle),
        lambda: edgeadapt.migrate(bundle, GOLDEN / "vectors.edge"),
        lambda: edgeadapt.migrate(tmp_path, bundle),
    ):
        with pytest.raises(InputError, match="is a path, got"):
            call()


@pytest.mark.parametrize(
    "settings",
    [
        {"state": 3},
        {"state": ""},
        {"policy": "act"},
        {"budget": 3},
        {"keep": {}},
        {"trust": None},
        {"trust": [3]},
        {"runtime": None},
    ],
    ids=str,
)
def test_arguments_of_another_kind_are_refused_by_name(
    vectors: Bundle, settings: dict[str, Any]
) -> None:
    (name,) = settings
    with pytest.raises(InputError, match=f"^{name} is "):
        edgeadapt.open(vectors, **settings)


def test_a_budget_without_end_is_one_and_a_text_is_none(open_vectors: Opener) -> None:
    with pytest.raises(BudgetError, match="write_mib_per_day is a number > 0, got 'x'"):
        edgeadapt.Budget(write_mib_per_day="x")  # type: ignore[arg-type]
    endless = edgeadapt.Budget(write_mib_per_day=float("inf"), memory_mib=float("inf"))
    with open_vectors(budget=endless) as learner:
        learner.learn(*samples(4, [0, 1], 1))
        assert learner.settle()


def test_a_class_name_of_a_megabyte_is_refused_and_one_of_255_characters_is_not(
    open_vectors: Opener,
) -> None:
    policy = edgeadapt.Policy(new_classes="add")
    x, _ = samples(1, [0], 1)
    with open_vectors(policy=policy) as learner:
        for call in (
            lambda: learner.add_class("a" * (1 << 20)),
            lambda: learner.learn(x, ["a" * 256]),
        ):
            with pytest.raises(InputError, match="at most 255 characters, got") as refused:
                call()
            assert len(str(refused.value)) < 200
        assert learner.history() == []
        learner.add_class("é" * 255)


@pytest.mark.parametrize("gone", ["learner.db", "learner.db-wal"])
def test_a_label_is_refused_when_the_database_was_removed_and_taken_when_it_is_back(
    open_vectors: Opener, tmp_path: Path, gone: str
) -> None:
    x, names = samples(8, [0, 1, 2], 1)
    with open_vectors(state=tmp_path) as learner:
        learner.learn(x[:4], names[:4])
        learner.settle()
        os.rename(tmp_path / gone, tmp_path / "elsewhere")
        for replaced in (False, True):
            if replaced:
                (tmp_path / gone).write_bytes(b"")
            with pytest.raises(StorageError, match=f"{gone} was removed or replaced"):
                learner.learn(x[4:], names[4:])
        os.replace(tmp_path / "elsewhere", tmp_path / gone)
        learner.learn(x[4:], names[4:])
        learner.settle()
    with open_vectors(state=tmp_path) as learner:
        assert sum(learner.counters()["evidence"].values()) == 8


def test_a_key_that_a_full_disk_cut_short_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) in (1, 3):  # the private key of the first try, the public one of the second
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for _ in range(2):
        with pytest.raises(BundleError, match="No space left on device; nothing was left"):
            write_keypair(tmp_path / "key")
        assert list(tmp_path.iterdir()) == []
    assert write_keypair(tmp_path / "key").startswith("ed25519:")


def test_a_full_disk_at_the_first_opening_says_what_to_do_and_leaves_nothing_half_made(
    open_vectors: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"No space left.*make room") as refused:
            open_vectors(state=tmp_path)
        assert "tried again" not in str(refused.value)
    assert not (tmp_path / "learner.db").exists()
    with open_vectors(state=tmp_path) as learner:
        assert inspect_state(learner).journal.is_new
