"""``edgeadapt dataset``: what a state keeps, to four forms and back, and other tools' files."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_docs import DOCS, run_page

import edgeadapt
from edgeadapt import cli
from edgeadapt.dataset import FORMS, export_dataset, import_dataset
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.snapshot_copy import copied
from edgeadapt.errors import InputError, StateError
from edgeadapt.testing import inspect_state

BUNDLE = str(bundle_path())
BAG = 'Bag / "new" <1>, é'  # no file system and no mark-up takes it as it is


def images(name: str, first: int, last: int) -> Any:
    sample = load_sample()
    return sample.x[np.flatnonzero(sample.y == CLASSES.index(name))[first:last]]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of three sources, a corrected and a withdrawn one, samples with and without inputs."""
    state = tmp_path_factory.mktemp("taught") / "state"
    with edgeadapt.open(BUNDLE, state=state, keep=edgeadapt.Keep(raw_per_class=6)) as learner:
        learner.add_class(BAG)
        for name in KNOWN[:3]:
            learner.learn(images(name, 0, 8), [name] * 8, source="line 1")
        ids = learner.learn(images("Bag", 0, 12), [BAG] * 12, source="", stream="cam, 2")
        seen = learner.observe(images(KNOWN[1], 20, 24))
        learner.label(seen.ids[:2], [KNOWN[1]] * 2, source="foreman", trusted=True)
        learner.label(ids[0], KNOWN[0], source="foreman", trusted=True)
        learner.settle()
        learner.withdraw(ids[1])
    return state


def rows(state: Path) -> list[Any]:
    """Everything that a labelled row is, its kept input included."""
    with copied(state) as copy:
        journal = Journal(copy)
        try:
            newest = {row.id: row for row in journal.evidence()}
            raws = {row.id: journal.raw_of(row.seq) for row in newest.values()}
        finally:
            journal.close()
    return sorted(
        (
            r.id,
            r.label,
            r.source,
            r.stream,
            r.time,
            r.status,
            r.met,
            r.trusted,
            r.weight,
            r.features.tobytes(),
            None if raws[r.id] is None else raws[r.id].tobytes(),
        )
        for r in newest.values()
    )


def command(*arguments: str | Path, code: int = 0) -> None:
    assert cli.main([str(a) for a in arguments]) == code


def into(state: Path, path: Path, form: str, *more: str | Path, code: int = 0) -> None:
    command("dataset", "import", state, path, "--as", form, "--bundle", BUNDLE, *more, code=code)


@pytest.mark.parametrize("form", FORMS)
def test_a_new_state_gets_the_same_labelled_rows_back(
    taught: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, new = tmp_path / "out", tmp_path / "new"
    command("dataset", "export", taught, "--as", form, "-o", out, "--bundle", BUNDLE)
    assert "forget() does not reach these files" in capsys.readouterr().out
    into(new, out, form, "--new-classes", "add")
    before = rows(taught)
    assert len(before) == 38 and rows(new) == before
    assert {row[5] for row in before} >= {"learned", "held_out", "withdrawn"}
    assert sum(row[10] is not None for row in before) >= 20
    into(new, out, form)
    assert "38 there already" in capsys.readouterr().out and rows(new) == before
    command("replay", new, "--bundle", BUNDLE)
    assert "equal" in capsys.readouterr().out


def test_a_label_that_the_table_says_does_not_count_is_not_taught(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, new = tmp_path / "out", tmp_path / "new"
    command("dataset", "export", taught, "--as", "csv", "-o", out)
    table = (out / "labels.csv").read_text(encoding="utf-8")
    (out / "labels.csv").write_text(table.replace(",learned,", ",withdrawn,", 1), encoding="utf-8")
    into(new, out, "csv", "--new-classes", "add")
    assert len(rows(new)) == 37 and "1 without a label" in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMS)
def test_what_somebody_changes_in_the_file_is_a_correction(
    taught: Path, tmp_path: Path, form: Any
) -> None:
    state = Path(shutil.copytree(taught, tmp_path / "state"))
    out = tmp_path / "out"
    export_dataset(state, out, form)
    old, new = KNOWN[0], KNOWN[2]
    sample = relabelled(out, form, old, new)
    with edgeadapt.open(BUNDLE, state=state) as learner:
        report = import_dataset(learner, out, form, source="reviewer")
        learner.settle()
        assert (report.new, report.corrected, report.bad) == (0, 1, {})
        (found,) = learner.label_states(sample)
    assert found.label == new


def relabelled(out: Path, form: str, old: str, new: str) -> str:
    """One sample of a class gets another; returns its id."""
    if form == "folder":
        file = sorted((out / old.replace("/", "%2F")).iterdir())[0]
        file.rename(out / new / file.name)
        return file.stem
    if form == "csv":
        with open(out / "labels.csv", newline="", encoding="utf-8") as file_:
            table = list(csv.DictReader(file_))
        row = next(row for row in table if row["label"] == old and row["file"])
        row["label"] = new
        with open(out / "labels.csv", "w", newline="", encoding="utf-8") as file_:
            writer = csv.DictWriter(file_, list(row))
            writer.writeheader()
            writer.writerows(table)
        return row["id"]
    path = out / ("annotations.json" if form == "coco" else "tasks.json")
    found = json.loads(path.read_text())
    if form == "coco":
        number = {c["name"]: c["id"] for c in found["categories"]}
        annotation = next(a for a in found["annotations"] if a["category_id"] == number[old])
        annotation["category_id"] = number[new]
        image = next(i for i in found["images"] if i["id"] == annotation["image_id"])
        sample = image["edgeadapt_id"]
    else:
        task = next(t for t in found if choice_of(t) == old)
        task["annotations"][0]["result"][0]["value"]["choices"] = [new]
        sample = task["data"]["edgeadapt_id"]
    path.write_text(json.dumps(found))
    return str(sample)


def choice_of(task: Any) -> str:
    return (
        str(task["annotations"][0]["result"][0]["value"]["choices"][0])
        if task["annotations"]
        else ""
    )


def test_the_table_says_what_the_state_answers_who_said_what_and_when(
    taught: Path, tmp_path: Path
) -> None:
    export_dataset(taught, tmp_path / "out", "csv", bundle=BUNDLE)
    with open(tmp_path / "out" / "labels.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    learned = [row for row in table if row["status"] == "learned"]
    right = [row["predicted"] == row["label"] for row in learned]
    assert len(table) == 38 and sum(right) >= 0.7 * len(right)
    kept = {row[0]: np.frombuffer(row[9], np.float16) for row in rows(taught)}
    state = shutil.copytree(taught, tmp_path / "state")
    with edgeadapt.open(BUNDLE, state=state) as learner:
        stored = np.stack([kept[row["id"]] for row in table]).astype(np.float32)
        dim = learner.manifest.feature_dim
        found = learner.predict(features={"z": stored[:, :dim], "taps": stored[:, dim:]})
    assert list(found.labels) == [row["predicted"] for row in table]
    told = [float(row["confidence"]) for row in table]
    np.testing.assert_allclose(found.probs.max(axis=1), told, atol=1e-5)
    assert {row["source"] for row in table} == {"line 1", "", "foreman"}
    assert all(row["time"].startswith("20") and 0 < float(row["confidence"]) <= 1 for row in table)
    shown = [row for row in table if row["file"]]
    with Image.open(tmp_path / "out" / shown[0]["file"]) as picture:
        assert picture.format == "PNG" and picture.size == (28, 28)


@pytest.mark.parametrize("form", FORMS)
def test_what_was_answered_when_a_sample_was_met_is_written_and_comes_back(
    tmp_path: Path, form: Any
) -> None:
    keep = edgeadapt.Keep(raw_per_class=9)
    with edgeadapt.open(BUNDLE, state=tmp_path / "state", keep=keep) as learner:
        seen = learner.observe(load_sample().x[:6])
        answered = dict(zip(seen.ids, seen.prediction.labels, strict=True))
        for number, (id, predicted) in enumerate(answered.items()):
            field = inspect_state(learner).conditions.field_accuracy
            field.asked(id, "default", "source", predicted, is_random=number < 3)
        wrong = [next(name for name in KNOWN if name != label) for label in answered.values()]
        learner.label(list(answered), wrong, source="foreman", trusted=True)
        learner.learn(images(KNOWN[0], 0, 4), [KNOWN[0]] * 4, source="line 1")
        learner.settle()
        quality = learner.quality()
    export_dataset(tmp_path / "state", tmp_path / "out", form, bundle=BUNDLE)
    rows_out = side_rows(tmp_path / "out")
    met = {id: row["predicted"] for id, row in rows_out.items() if row["predicted_when"] == "met"}
    today = [row for row in rows_out.values() if row["predicted_when"] == "today"]
    assert met == answered and len(today) == 4 and all(row["confidence"] for row in today)
    into(tmp_path / "new", tmp_path / "out", form)
    export_dataset(tmp_path / "new", tmp_path / "again", form)
    again = side_rows(tmp_path / "again")
    for id, row in rows_out.items():
        when = ("met", row["predicted"], row["random"]) if id in met else ("", "", False)
        assert (again[id]["predicted_when"], again[id]["predicted"], again[id]["random"]) == when
    with edgeadapt.open(BUNDLE, state=tmp_path / "new") as learner:
        told = learner.quality()
    assert (told.accuracy, told.chosen) == (quality.accuracy, quality.chosen) and told.answers == 6
    assert set(told.confusion) == set(quality.confusion)


def side_rows(out: Path) -> dict[str, Any]:
    """Rows of the side file by id."""
    lines = (out / "edgeadapt.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    return {row["id"]: row for row in map(json.loads, lines)}


def pictures(folder: Path, name: str, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"a {n}.png" for n in range(count)]
    for path, x in zip(paths, images(name, 30, 30 + count), strict=True):
        Image.fromarray(np.asarray(x).reshape(28, 28)).save(path)
    return paths


def test_class_folders_of_another_tool_are_learned_and_what_cannot_be_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in KNOWN[1:3]:
        pictures(tmp_path / "set" / name, name, 6)
    shutil.copy(tmp_path / "set" / KNOWN[1] / "a 0.png", tmp_path / "set" / KNOWN[1] / "again.png")
    (tmp_path / "set" / KNOWN[1] / "broken.png").write_bytes(b"no picture")
    pictures(tmp_path / "set" / "Spoon", KNOWN[3], 1)
    into(tmp_path / "state", tmp_path / "set", "folder", code=1)
    out, error = capsys.readouterr()
    assert "12 new" in out and "1 the same picture once more" in out and "2 refused" in out
    assert (
        "broken.png" in error
        and "unknown class 'Spoon'" in error
        and "2 rows were refused" in error
    )
    assert [row[1:3] for row in rows(tmp_path / "state")].count((KNOWN[1], "set")) == 6


def test_a_table_of_another_tool_needs_two_columns(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "set", KNOWN[0], 3)
    lines = [f"{path.name},{KNOWN[0]}" for path in paths] + ["gone.png,x", f"{paths[0].name},"]
    (tmp_path / "set" / "y.csv").write_text("\n".join(["image,class", *lines]))
    with edgeadapt.open(BUNDLE, policy=edgeadapt.Policy(new_classes="add")) as learner:
        report = import_dataset(learner, tmp_path / "set" / "y.csv", "csv", source="line 7")
        learner.settle()
        assert report.new == 3 and {where.rpartition(" ")[2] for where in report.bad} == {"5", "6"}
        assert sum(learner.labelled().values()) == 3


def test_coco_images_take_the_category_on_which_their_annotations_agree(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "set", KNOWN[0], 4)
    said = [(1, 7), (1, 7), (2, 7), (2, 9), (3, 5), (9, 7)]
    found = {
        "images": [{"id": n, "file_name": path.name} for n, path in enumerate(paths, 1)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c} for n, (i, c) in enumerate(said)
        ],
        "categories": [{"id": 7, "name": KNOWN[0]}, {"id": 9, "name": KNOWN[1]}],
    }
    (tmp_path / "set" / "instances.json").write_text(json.dumps(found))
    with edgeadapt.open(BUNDLE) as learner:
        report = import_dataset(learner, tmp_path / "set" / "instances.json", "coco")
    assert (report.new, report.unlabelled, len(report.bad)) == (1, 1, 3)
    assert any("several categories" in why for why in report.bad.values())


def test_a_label_studio_export_gives_its_newest_annotation_and_who_made_it(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "set" / "upload" / "1", KNOWN[0], 4)
    region = {"type": "choices", "value": {"choices": [KNOWN[0]]}}
    other = {"type": "choices", "value": {"choices": [KNOWN[1]]}}
    uri = "data:image/png;base64," + base64.b64encode(paths[3].read_bytes()).decode()
    who = {"id": 3, "email": "ann@example.com"}
    tasks: list[Any] = [
        {
            "data": {"image": f"/data/upload/1/{paths[0].name.replace(' ', '%20')}"},
            "annotations": [
                {"result": [other], "updated_at": "2026-01-01", "completed_by": 1},
                {"result": [region], "updated_at": "2026-02-01", "completed_by": who},
                {"result": [other], "updated_at": "2026-03-01", "was_cancelled": True},
            ],
        },
        {"data": {"image": "https://example.com/a.png"}, "annotations": [{"result": [region]}]},
        {"data": {"pic": f"/data/local-files/?d=upload/1/{paths[1].name}"}, "annotations": []},
        {"data": {"image": uri}, "annotations": [{"result": [region, other]}]},
        {"data": {"image": uri}, "annotations": [{"result": [region]}]},
    ]
    (tmp_path / "set" / "export.json").write_text(json.dumps(tasks))
    into(tmp_path / "state", tmp_path / "set" / "export.json", "label-studio", code=1)
    assert sorted(row[1:3] for row in rows(tmp_path / "state")) == [
        (KNOWN[0], "label-studio"),
        (KNOWN[0], "label-studio ann@example.com"),
    ]


@pytest.mark.parametrize(
    "name",
    ["../out.png", "/etc/out.png", "a/../../out.png", "..\\out.png", "C:\\out.png", "link.png"],
)
@pytest.mark.parametrize("form", ["csv", "coco", "label-studio"])
def test_a_file_that_names_one_elsewhere_is_refused_whole(
    tmp_path: Path, form: Any, name: str
) -> None:
    pictures(tmp_path, KNOWN[0], 1)[0].rename(tmp_path / "out.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "out.png")
    region = {"type": "choices", "value": {"choices": [KNOWN[0]]}}
    text = {
        "csv": f"file,label\n{name},{KNOWN[0]}\n",
        "coco": json.dumps({"images": [{"id": 1, "file_name": name}]}),
        "label-studio": json.dumps(
            [
                {
                    "data": {"image": f"/data/local-files/?d={name}"},
                    "annotations": [{"result": [region]}],
                }
            ]
        ),
    }[form]
    (tmp_path / "set" / "file").write_text(text)
    into(tmp_path / "state", tmp_path / "set" / "file", form, code=2)
    assert not (tmp_path / "state").exists()


def test_a_state_in_use_can_be_exported_and_takes_no_import(taught: Path, tmp_path: Path) -> None:
    state = Path(shutil.copytree(taught, tmp_path / "state"))
    with edgeadapt.open(BUNDLE, state=state) as learner:
        assert export_dataset(state, tmp_path / "out", "folder").samples == 38
        into(state, tmp_path / "out", "folder", code=4)
        with pytest.raises(InputError, match="there already"):
            export_dataset(state, tmp_path / "out", "csv")
        learner.forget(source="line 1")
        left = export_dataset(state, tmp_path / "later", "csv")
    assert left.samples < 38 and "line 1" not in (tmp_path / "later" / "labels.csv").read_text()
    with pytest.raises(StateError, match="not a state folder"):
        export_dataset(tmp_path / "out", tmp_path / "no", "csv")


@pytest.mark.parametrize(
    "form, name",
    [
        ("csv", "labels.csv"),
        ("csv", "edgeadapt.jsonl"),
        ("coco", "annotations.json"),
        ("label-studio", "tasks.json"),
        ("label-studio", "edgeadapt.jsonl"),
    ],
)
def test_a_file_of_any_size_is_not_read_into_memory(
    taught: Path, tmp_path: Path, form: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_dataset(taught, tmp_path / "out", form)
    monkeypatch.setattr("edgeadapt.dataset.checks._MOST_BYTES", 1 << 16)
    with open(tmp_path / "out" / name, "ab") as file:
        file.truncate(1 << 17)
    why = f"{name}: 131072 bytes, a file of labels has at most 65536: split it"
    with edgeadapt.open(BUNDLE) as learner, pytest.raises(InputError, match=why):
        import_dataset(learner, tmp_path / "out", form)


def test_an_import_that_fails_while_it_is_written_leaves_no_row(
    taught: Path, tmp_path: Path
) -> None:
    export_dataset(taught, tmp_path / "out", "csv")
    lines = (
        (tmp_path / "out" / "edgeadapt.jsonl")
        .read_text()
        .replace('"met":"factory"', '"met":"seen"', 1)
    )
    (tmp_path / "out" / "edgeadapt.jsonl").write_text(lines)
    with edgeadapt.open(
        BUNDLE,
        policy=edgeadapt.Policy(new_classes="add"),
        budget=edgeadapt.Budget(write_mib_per_day=0.001),
    ) as learner:
        with pytest.raises(
            InputError, match=r"edgeadapt.jsonl, line 2: no sample is met as 'seen'"
        ):
            import_dataset(learner, tmp_path / "out", "csv")
        (tmp_path / "out" / "edgeadapt.jsonl").write_text(lines.replace('"seen"', '"factory"'))
        with pytest.raises(edgeadapt.EdgeadaptError, match="write_mib_per_day"):
            import_dataset(learner, tmp_path / "out", "csv")
        assert learner.counters()["evidence"] == {}


def test_new_samples_and_corrections_are_written_all_or_none(taught: Path, tmp_path: Path) -> None:
    state, out = Path(shutil.copytree(taught, tmp_path / "state")), tmp_path / "out"
    export_dataset(state, out, "csv")
    sample = relabelled(out, "csv", BAG, KNOWN[2])
    with edgeadapt.open(BUNDLE, state=state) as learner:
        forgotten = learner.forget(source="line 1").removed
        learner.settle()
        before, journal = rows(state), inspect_state(learner).journal
        corrected = f"SELECT count(*) FROM evidence WHERE id = '{sample}' AND label = '{KNOWN[2]}'"

        def fails(point: str) -> None:
            if point == "before_commit" and journal._db.execute(corrected).fetchone()[0]:
                raise sqlite3.OperationalError("database or disk is full")

        journal.at = fails
        with pytest.raises(edgeadapt.EdgeadaptError, match="disk is full"):
            import_dataset(learner, out, "csv")
        journal.at = lambda point: None
        assert rows(state) == before
        report = import_dataset(learner, out, "csv")
        assert (report.new, report.corrected, report.bad) == (forgotten, 1, {})
        assert sample in report.samples and len(report.samples) == 38


def test_the_page_on_data_in_and_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_page(DOCS / "dataset.md", capsys) == 3


def test_imported_samples_are_forgotten_rolled_back_and_replayed_like_any(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_dataset(taught, tmp_path / "out", "csv")
    into(tmp_path / "new", tmp_path / "out", "csv", "--new-classes", "add")
    with edgeadapt.open(BUNDLE, state=tmp_path / "new") as learner:
        commits = len(learner.history())
        assert learner.forget(source="line 1").removed == 24
        learner.rollback()
        learner.settle()
        assert len(learner.history()) > commits
    assert not [row for row in rows(tmp_path / "new") if row[2] == "line 1"]
    command("replay", tmp_path / "new", "--bundle", BUNDLE)
    assert "equal" in capsys.readouterr().out


def test_classes_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / "set" / f"class {number}").mkdir(parents=True)
        x = np.full((28, 28), number, np.uint8)
        Image.fromarray(x).save(tmp_path / "set" / f"class {number}" / "a.png")
    with edgeadapt.open(BUNDLE, policy=edgeadapt.Policy(new_classes="add")) as learner:
        classes = learner.classes
        with pytest.raises(edgeadapt.EdgeadaptError, match="slots"):
            import_dataset(learner, tmp_path / "set", "folder")
        assert learner.counters()["evidence"] == {} and learner.classes == classes
