"""Two processes under torchrun learn what one learns, print once, and resume."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_training import WithoutNorm, run, stripes

from edgeadapt import cli
from edgeadapt.errors import InputError
from edgeadapt.host.training.parallel import Order, Ranks
from edgeadapt.host.training.settings import Settings

OWN_NETWORK = '''"""Networks of a user, beside the recipe."""

import os

import torch
from torch import nn


class Plain(nn.Module):
    """Neither batch norm nor dropout: a batch's gradient is the mean of those of its halves."""

    def __init__(self, classes, in_channels):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(in_channels, 6, 3, 2), nn.Linear(6, classes)

    def forward(self, x):
        return self.head(torch.relu(self.convolution(x)).mean((2, 3)))


class Noisy(Plain):
    """With both; and it fails in the third epoch where the environment says so."""

    def __init__(self, classes, in_channels):
        super().__init__(classes, in_channels)
        self.norm, self.calls = nn.BatchNorm2d(6), 0

    def forward(self, x):
        self.calls += self.training
        if self.calls > 14 and "POWER_CUT" in os.environ:
            raise SystemExit("power cut")
        z = torch.relu(self.norm(self.convolution(x))).mean((2, 3))
        return self.head(nn.functional.dropout(z, 0.3, self.training))
'''

RECIPE = """seed = 3
[encoder]
network = "own_network:NETWORK"
[data]
kind = "npz"
path = "data.npz"
[train]
epochs = 4
batch = 16
optimiser = "adamw"
lr = 0.01
augment = "AUGMENT"
threads = 1
[export]
name = "x"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = stripes(120)
    np.savez(tmp_path / "data.npz", x=data.x, y=data.y)
    (tmp_path / "own_network.py").write_text(OWN_NETWORK, encoding="utf-8")
    for network, augment in (("Plain", "none"), ("Noisy", "robust")):
        (tmp_path / f"{network}.toml").write_text(
            RECIPE.replace("NETWORK", network).replace("AUGMENT", augment), encoding="utf-8"
        )
    return tmp_path


def torchrun(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "--",
        "edgeadapt",
        *map(str, arguments),
    ]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=settings)


def log(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_two_halves_of_a_batch_are_one_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = torchrun(
        "train", folder / "Plain.toml", "--out", folder / "two.safetensors", "--log", folder / "two"
    )
    assert done.returncode == 0 and "edgeadapt: warning" not in done.stderr, done.stderr
    assert (
        done.stdout.count("wrote ")
        == done.stdout.count("train: epoch 4 of 4  loss")
        == done.stdout.count(", 2 processes")
        == 1
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert (
        cli.main(
            [
                "train",
                str(folder / "Plain.toml"),
                "--out",
                str(folder / "one.safetensors"),
                "--log",
                str(folder / "one"),
            ]
        )
        == 0
    )
    two, one = load_file(folder / "two.safetensors"), load_file(folder / "one.safetensors")
    assert set(two) == set(one)
    for name, value in one.items():
        assert value.shape == two[name].shape
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=2e-5)
    for a, b in zip(log(folder / "two"), log(folder / "one"), strict=True):
        assert a["validation_accuracy"] == b["validation_accuracy"] and float(
            a["loss"]
        ) == pytest.approx(float(b["loss"]), rel=1e-4)
    assert not list(folder.glob("*checkpoint*"))


@pytest.mark.slow
def test_processes_resume_bit_for_bit(folder: Path) -> None:
    """Four starts of torch in two processes each."""
    recipe = folder / "Noisy.toml"
    outs = [folder / f"{name}.safetensors" for name in ("whole", "again", "resumed")]
    for out in outs[:2]:
        assert torchrun("train", recipe, "--out", out).returncode == 0
    assert torchrun("train", recipe, "--out", outs[2], POWER_CUT="1").returncode != 0
    checkpoint = folder / "resumed.checkpoint.safetensors"
    assert checkpoint.exists() and not outs[2].exists()
    done = torchrun("train", recipe, "--out", outs[2], "--resume")
    assert done.returncode == 0 and "after epoch 2 of 4" in done.stdout, done.stderr
    whole = load_file(outs[0])
    for other in map(load_file, outs[1:]):
        assert all(torch.equal(whole[name], other[name]) for name in whole)


def test_export_refuses_several_processes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["export", str(folder / "Plain.toml"), "-o", str(folder / "x.edge")]) == 2
    assert "export runs in one process" in capsys.readouterr().err


def test_every_sample_of_a_batch_belongs_to_one_process_and_the_order_to_all() -> None:
    orders = [Order(50, 7, Ranks(rank, 3), done=2).of(2) for rank in range(3)]
    assert all(torch.equal(orders[0], order) for order in orders)
    parts = [Ranks(rank, 3).part(orders[0][:12]) for rank in range(3)]
    assert torch.equal(torch.cat(parts), orders[0][:12])
    whole = Order(50, 7, Ranks(0, 3), done=0)
    # as if it had not been interrupted
    assert torch.equal([whole.of(epoch) for epoch in range(3)][2], orders[0])
    draws = []
    for rank in range(3):
        Order(50, 7, Ranks(rank, 3), done=0).of(0)
        draws.append(torch.rand(4))
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[1], draws[2])


def test_processes_that_nobody_joins_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="start them with torchrun"):
        run(WithoutNorm())


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    for batch, ranks in ((15, 2), (4, 4)):
        with pytest.raises(InputError, match="processes share every batch"):
            Settings(1, batch, "sgd", 0.1, 0.9, 0.0, "none", 0, "float32", "cpu", ranks, 0, "")


RANKS = """import os, sys
import torch
from torch import nn
from edgeadapt.host.training.parallel import joined_ranks
with joined_ranks("cpu") as ranks:
    torch.manual_seed(ranks.rank)
    network = nn.ModuleList([nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 2)])
    ranks.begin_alike(network)
    first, second, third = network
    loss = first(torch.full((1, 3), 1.0 + ranks.rank)).sum()
    if ranks.rank:
        loss = loss + second(torch.ones(1, 2)).sum()
    loss.backward()
    ranks.average_gradients(network)
    assert torch.equal(first.weight.grad, torch.full((2, 3), 1.5))
    assert torch.equal(second.weight.grad, torch.full((2, 2), 0.5))
    assert third.weight.grad is None, "no process used it"
    weights = ranks.share(first.weight.detach())
    assert torch.equal(weights, first.weight)
tasks = os.listdir("/proc/self/task")
left = sorted(open(f"/proc/self/task/{task}/comm").read().strip() for task in tasks)
assert not [name for name in left if "gloo" in name], left
print("rank", ranks.rank, "done", flush=True)
"""


def test_gradients_become_their_mean_and_no_thread_outlives_the_group(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(RANKS, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(tmp_path / "ranks.py"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    # both write to one pipe: their lines may run into each other
    assert done.returncode == 0 and done.stdout.count("done") == 2, done.stderr
