"""Every command on the shipped bundle: exit codes, one-line errors, and JSON that parses."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Shell
from golden_files import GOLDEN

from edgeadapt import cli
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_host = pytest.mark.skipif(not HAS_TORCH, reason="needs the host extra (torch)")
needs_pillow = pytest.mark.skipif(
    importlib.util.find_spec("PIL") is None, reason="needs the images extra (Pillow)"
)
BUNDLE = str(bundle_path())


@pytest.fixture
def edgeadapt(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    sample = load_sample()
    rows = sample.rows(KNOWN, np.random.default_rng(0))[:96]
    np.savez(tmp_path / "stream.npz", x=sample.x[rows], y=np.array(CLASSES)[sample.y[rows]])
    return tmp_path / "stream.npz"


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


# -- usage -----------------------------------------------------------------------------------------
def test_help_names_every_command_and_exit_code(edgeadapt: Shell) -> None:
    out = edgeadapt("--help")
    for word in (
        "build",
        "export",
        "train",
        "inspect",
        "verify",
        "run",
        "demo",
        "bench",
        "runtimes",
        "doctor",
        "keygen",
        "130  interrupted",
    ):
        assert word in out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("run", BUNDLE),
        ("demo", "--seed", "x"),
        ("run", BUNDLE, "--source", "x", "--batch", "0"),
    ],
)
def test_wrong_usage_is_2(edgeadapt: Shell, arguments: Sequence[str]) -> None:
    edgeadapt(*arguments, code=2)


def test_debug_shows_where(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="No such file"):
        cli.main(["inspect", str(tmp_path / "absent.edge"), "--debug"])


def test_interrupted_is_130(edgeadapt: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeadapt.commands.bundles.read_bundle", interrupted)
    assert cli.main(["inspect", BUNDLE]) == 130


def test_what_has_no_name_is_one_line_and_1(
    edgeadapt: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("edgeadapt.commands.bundles.read_bundle", broken)
    edgeadapt("inspect", BUNDLE, code=1)
    assert (
        edgeadapt.error
        == "edgeadapt: error: unexpected ZeroDivisionError: two lines (--debug shows where)\n"
    )


# -- bundles ---------------------------------------------------------------------------------------
def test_inspect_shows_what_is_inside(edgeadapt: Shell) -> None:
    out = edgeadapt("inspect", BUNDLE)
    assert all(
        word in out for word in ("fashion", "T-shirt/top", "graphs/encode.onnx", "adapts", "sha256")
    )
    found = json.loads(edgeadapt("inspect", BUNDLE, "--json"))
    assert found["classes"] == list(KNOWN) and set(found["roles"]) >= {"encode", "predict", "learn"}


def test_verify_runs_the_graphs_of_adaptors_with_their_own_tensors(edgeadapt: Shell) -> None:
    growing = GOLDEN / "growing.edge"
    assert "graphs/read_low_rank_4.onnx: opens" in edgeadapt("verify", growing)


def test_verify_runs_every_graph_at_every_batch(edgeadapt: Shell) -> None:
    assert re.search(
        r"graphs/learn.onnx: opens in [\d.]+ ms and runs in onnxruntime at batch 1, 8, 32",
        edgeadapt("verify", BUNDLE),
    )
    found = json.loads(edgeadapt("verify", BUNDLE, "--json"))
    assert found["graphs"]["graphs/encode.onnx"] == [1, 8, 32]


def test_refusals_of_a_bundle_are_3(edgeadapt: Shell, tmp_path: Path) -> None:
    edgeadapt("inspect", tmp_path / "absent.edge", code=3)
    edited = bytearray(bundle_path().read_bytes())
    edited[len(edited) // 2] ^= 1
    (tmp_path / "edited.edge").write_bytes(edited)
    edgeadapt("verify", tmp_path / "edited.edge", code=3)
    assert "edited.edge" in edgeadapt.error
    (tmp_path / "cut.edge").write_bytes(bundle_path().read_bytes()[:-100])
    edgeadapt("run", tmp_path / "cut.edge", "--source", tmp_path, code=3)


def test_trust_needs_a_signature(edgeadapt: Shell, tmp_path: Path) -> None:
    public = edgeadapt("keygen", tmp_path / "key").strip()
    assert (
        public == (tmp_path / "key.pub").read_text().strip()
        and (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    )
    edgeadapt("keygen", tmp_path / "key", code=3)
    assert "never overwritten" in edgeadapt.error
    edgeadapt("verify", BUNDLE, "--trust", public, code=3)
    assert "manifest.sig" in edgeadapt.error


def test_an_unknown_runtime_is_5(edgeadapt: Shell) -> None:
    edgeadapt("verify", BUNDLE, "--runtime", "abacus", code=5)
    assert "'abacus'" in edgeadapt.error and "onnxruntime" in edgeadapt.error


# -- run -------------------------------------------------------------------------------------------
def test_run_prints_one_object_per_batch_and_a_summary(
    edgeadapt: Shell, npz: Path, tmp_path: Path
) -> None:
    found = lines(
        edgeadapt("run", BUNDLE, "--source", npz, "--state", tmp_path / "state", "--json")
    )
    assert [len(batch["labels"]) for batch in found[:-1]] == [32, 32, 32]
    assert found[-1]["summary"]["samples"] == 96 and found[-1]["summary"]["accuracy"] > 0.85
    # a quiet day's first
    assert len(found[-1]["questions"]) <= 2 and (tmp_path / "state" / "learner.db").exists()


def test_labels_are_learned_and_survive_the_process(
    edgeadapt: Shell, npz: Path, tmp_path: Path
) -> None:
    truth = np.load(npz)["y"]
    (tmp_path / "labels.csv").write_text(
        "# sample,label\n" + "".join(f"{i},{truth[i]}\n" for i in range(0, 96, 6))
    )
    out = edgeadapt(
        "run",
        BUNDLE,
        "--source",
        npz,
        "--state",
        tmp_path / "state",
        "--labels",
        tmp_path / "labels.csv",
    )
    assert "held_out" in out and sum(int(n) for n in re.findall(r"; (\d+) learned", out)) == 16
    evidence = lines(
        edgeadapt("run", BUNDLE, "--source", npz, "--state", tmp_path / "state", "--json")
    )[-1]["summary"]["evidence"]
    assert sum(evidence.values()) == 16


def test_a_new_class_is_refused_unless_asked_for(
    edgeadapt: Shell, npz: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text("3,Bag\n")
    edgeadapt("run", BUNDLE, "--source", npz, "--labels", tmp_path / "labels.csv", code=2)
    assert "'Bag'" in edgeadapt.error
    found = lines(
        edgeadapt(
            "run",
            BUNDLE,
            "--source",
            npz,
            "--labels",
            tmp_path / "labels.csv",
            "--new-classes",
            "add",
            "--json",
        )
    )
    assert "Bag" in found[-1]["summary"]["classes"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1;Coat\n", "line 1"),
        ("0,Coat\nx9,Coat\n", "line 2"),
        ("96,Coat\n", "no sample '96'"),
        ("0,Coat\nsample,label\n", "line 2"),
        ("1,\n", "line 1"),
    ],
)
def test_a_wrong_line_of_labels_is_named(
    edgeadapt: Shell, npz: Path, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    edgeadapt("run", BUNDLE, "--source", npz, "--labels", tmp_path / "labels.csv", code=2)
    assert says in edgeadapt.error


def test_wrong_sources_are_2(edgeadapt: Shell, tmp_path: Path) -> None:
    np.savez(tmp_path / "no-x.npz", z=np.zeros(3))
    np.savez(tmp_path / "float.npz", x=np.zeros((2, 28, 28), np.float32))
    np.savez(tmp_path / "pickle.npz", x=np.array([{}, {}], object))
    (tmp_path / "text.npz").write_text("not a zip")
    (tmp_path / "empty").mkdir()
    for name in ("no-x.npz", "float.npz", "pickle.npz", "text.npz", "empty", "absent"):
        edgeadapt("run", BUNDLE, "--source", tmp_path / name, code=2)


def test_a_state_folder_of_something_else_is_4(edgeadapt: Shell, npz: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.txt").write_text("meow")
    edgeadapt("run", BUNDLE, "--source", npz, "--state", tmp_path / "photos", code=4)
    assert "cat.txt" in edgeadapt.error


@needs_pillow
def test_run_reads_a_folder_of_images(edgeadapt: Shell, tmp_path: Path) -> None:
    from PIL import Image

    sample = load_sample()
    rows = sample.rows(("Sandal",), np.random.default_rng(0))[:5]
    for i, row in enumerate(rows):
        Image.fromarray(sample.x[row]).resize((56, 56)).convert("RGB").save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("ignored")
    found = lines(edgeadapt("run", BUNDLE, "--source", tmp_path, "--json"))
    assert (
        found[0]["samples"] == [f"{i}.png" for i in range(5)]
        and found[0]["labels"].count("Sandal") >= 4
    )


@needs_pillow
def test_one_broken_picture_does_not_stop_a_run_and_is_named_and_counted(
    edgeadapt: Shell, tmp_path: Path
) -> None:
    from PIL import Image

    sample = load_sample()
    for i, row in enumerate(sample.rows(("Sandal",), np.random.default_rng(0))[:4]):
        Image.fromarray(sample.x[row]).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_text("not an image")
    (tmp_path / "labels.csv").write_text(
        "filename,label\n0.png,Sandal\n1.png,Sandal\n3.png,Sandal\n"
    )
    out = edgeadapt(
        "run",
        BUNDLE,
        "--source",
        tmp_path,
        "--labels",
        tmp_path / "labels.csv",
        "--batch",
        "2",
        code=1,
    )
    assert re.findall(r"^  (\d\.png): (\S+)", out, re.MULTILINE) == [
        ("0.png", "Sandal"),
        ("1.png", "not"),
        ("2.png", "Sandal"),
        ("3.png", "Sandal"),
    ]
    assert "3 samples, 1 not read; " in out and re.findall(r"; (\d+) learned", out) == ["1", "1"]
    assert (
        "1 of 4 pictures could not be read, the first: " in edgeadapt.error
        and "1.png" in edgeadapt.error
    )
    found = lines(edgeadapt("run", BUNDLE, "--source", tmp_path, "--json", code=1))
    assert (
        list(found[0]["broken"]) == ["1.png"]
        and found[-1]["summary"]["broken"] == 1
        and found[-1]["summary"]["samples"] == 3
    )
    for i in (0, 2, 3):
        (tmp_path / f"{i}.png").write_text("nor is this")
    edgeadapt("run", BUNDLE, "--source", tmp_path, code=2)
    assert "none of 4 pictures could be read; 0.png" in edgeadapt.error


def test_run_answers_for_each_sample(edgeadapt: Shell, npz: Path) -> None:
    found = lines(edgeadapt("run", BUNDLE, "--source", npz, "--json"))
    said = re.findall(
        r"^  (\d+): (.+) \d+%(?: \(abstained\))?$",
        edgeadapt("run", BUNDLE, "--source", npz),
        re.MULTILINE,
    )
    assert said == [
        (name, label)
        for batch in found[:-1]
        for name, label in zip(batch["samples"], batch["labels"], strict=True)
    ]


@pytest.mark.parametrize("header", ["sample,label", "Filename,Class", "\ufeffindex,label"])
def test_a_header_of_the_labels_is_no_label(
    edgeadapt: Shell, npz: Path, tmp_path: Path, header: str
) -> None:
    (tmp_path / "labels.csv").write_text(f"{header}\n0,Coat\n")
    assert "; 1 learned" in edgeadapt(
        "run", BUNDLE, "--source", npz, "--labels", tmp_path / "labels.csv"
    )


# -- machine ---------------------------------------------------------------------------------------
def test_runtimes_and_doctor(edgeadapt: Shell, tmp_path: Path) -> None:
    assert [
        r["name"] for r in json.loads(edgeadapt("runtimes", "--json")) if r["is_available"]
    ] == ["onnxruntime"]
    found = json.loads(edgeadapt("doctor", "--json"))
    assert found["ok"] and {"python", "sqlite", "bundle", "state", "host"} <= {
        check["name"] for check in found["checks"]
    }
    (tmp_path / "file").write_text("")
    assert "MISSING  state" in edgeadapt("doctor", "--state", tmp_path / "file", code=1)


def test_bench_lists_its_suites_and_names_them_when_one_is_unknown(edgeadapt: Shell) -> None:
    if importlib.util.find_spec("edgeadapt_bench.suites") is None:
        pytest.skip("no suites in this installation")
    assert "overhead" in edgeadapt("bench", "list")
    edgeadapt("bench", "underhead", code=2)
    assert "'underhead'" in edgeadapt.error and "overhead" in edgeadapt.error


def test_the_installed_command_starts_fast_and_without_numpy() -> None:
    script = (
        "import sys, edgeadapt.cli as cli\ntry: cli.main(['--version'])\nexcept SystemExit:"
        " pass\nassert 'numpy' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 and done.stdout.startswith("edgeadapt ")


def test_a_command_imports_its_own_file_and_no_other_command() -> None:
    script = (
        "import sys, edgeadapt.cli as cli\ntry: cli.main(['ctl', '--help'])\nexcept SystemExit:"
        " pass\nprint(*[name for name in sys.modules if name.startswith('edgeadapt.commands.')])\n"
        "assert 'numpy' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    imported = set(done.stdout.splitlines()[-1].split())
    assert imported == {"edgeadapt.commands._arguments", "edgeadapt.commands.ctl"}


# -- host ------------------------------------------------------------------------------------------
RECIPE = """
[data]
kind = "npz"
path = "images.npz"
classes = ["a", "b", "c"]
[encoder]
options = {widths = [4, 8, 8]}
[train]
epochs = 1
batch = 16
augment = "none"
[export]
name = "tiny"
class_slots = 4
adapt = "ADAPT"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Three classes of 12 x 12 images, told apart by where the light is; a fourth is in the data
    and not in the recipe.
    """
    rng = np.random.default_rng(0)
    y = np.arange(480) % 4
    x = rng.integers(0, 90, (480, 12, 12))
    for k in range(4):
        x[y == k, 3 * k : 3 * k + 3] += 120
    np.savez(
        tmp_path / "images.npz", x=x.astype(np.uint8), y=y, classes=np.array(["a", "b", "c", "d"])
    )
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("ADAPT", "off"))
    return tmp_path / "tiny.toml"


@needs_host
def test_train_then_export_with_those_weights_and_a_signature(
    edgeadapt: Shell, recipe: Path, tmp_path: Path
) -> None:
    assert "validation accuracy" in edgeadapt("train", recipe, "--resume")
    assert (tmp_path / "tiny.safetensors").exists() and not (
        tmp_path / "tiny.checkpoint.safetensors"
    ).exists()
    text = recipe.read_text().replace("[encoder]", '[encoder]\nweights = "tiny.safetensors"')
    recipe.write_text(text)
    public = edgeadapt("keygen", tmp_path / "key").strip()
    out = edgeadapt("export", recipe, "-o", tmp_path / "tiny.edge", "--key", tmp_path / "key")
    assert "train:" not in out and "wrote" in out
    edgeadapt("verify", tmp_path / "tiny.edge", "--trust", public)
    found = json.loads(edgeadapt("inspect", tmp_path / "tiny.edge", "--json"))
    assert (
        found["classes"] == ["a", "b", "c"]
        and found["signed_by"]
        and found["policy"]["adapt"]["mode"] == "off"
    )
    assert (
        len(found["provenance"]["recipe"]) == 64
        and found["provenance"]["encoder"] == "small-residual"
    )


@needs_host
def test_export_trains_when_there_is_no_finished_encoder(
    edgeadapt: Shell, recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text(RECIPE.replace("ADAPT", "advise"))
    out = edgeadapt("export", recipe, "-o", tmp_path / "tiny.edge")
    assert (
        "train: epoch 1 of 1" in out
        and json.loads(edgeadapt("inspect", tmp_path / "tiny.edge", "--json"))["policy"]["adapt"][
            "mode"
        ]
        == "advise"
    )


@needs_host
def test_refusals_of_the_host_come_before_the_work(
    edgeadapt: Shell, recipe: Path, tmp_path: Path
) -> None:
    edgeadapt("export", recipe, "-o", tmp_path / "no" / "tiny.edge", code=2)
    edgeadapt("export", tmp_path / "absent.toml", "-o", tmp_path / "tiny.edge", code=2)
    edgeadapt(
        "export", recipe, "-o", tmp_path / "tiny.edge", "--key", tmp_path / "absent.pem", code=2
    )
    edgeadapt("train", recipe, "--data", tmp_path / "absent.npz", code=2)
    shutil.copy(bundle_path(), tmp_path / "weights.safetensors")
    recipe.write_text(
        recipe.read_text().replace("[encoder]", '[encoder]\nweights = "weights.safetensors"')
    )
    edgeadapt("export", recipe, "-o", tmp_path / "tiny.edge", code=2)
    assert "weights.safetensors" in edgeadapt.error


@pytest.mark.skipif(HAS_TORCH, reason="the host extra is installed")
def test_without_the_host_extra_the_error_says_how_to_get_it(
    edgeadapt: Shell, recipe: Path, tmp_path: Path
) -> None:
    edgeadapt("export", recipe, "-o", tmp_path / "tiny.edge", code=5)
    assert "edgeadapt[host]" in edgeadapt.error
