"""A recipe is checked to the last key, and its errors say what is allowed."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

import edgeadapt.demo
from edgeadapt.errors import InputError, RecipeError
from edgeadapt.host.data.images import ImageData
from edgeadapt.host.data.sensors import SensorData
from edgeadapt.host.recipe import DataSection, EncoderSection, TrainSection, load_data, load_recipe
from edgeadapt.host.training.train import train

MINIMAL = '[data]\nkind = "fashion-mnist"\n[export]\nname = "x"\n'
FOLDER = '[data]\nkind = "folder"\npath = "p"\n{}\n[export]\nname = "x"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_demo_recipe_knows_six_clothes_and_keeps_four_back() -> None:
    recipe = load_recipe(Path(edgeadapt.demo.__file__).parent / "recipe.toml")
    assert recipe.data.classes == ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal")
    assert recipe.data.new_classes == ("Shirt", "Sneaker", "Bag", "Ankle boot")
    assert (
        recipe.encoder.network == "small-residual"
        and recipe.train.epochs == 6
        and recipe.train.augment == "plain"
    )


def test_a_minimal_recipe_has_the_documented_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL))
    assert (recipe.export.class_slots, recipe.export.domain_slots, recipe.export.batches) == (
        32,
        8,
        (1, 8, 32),
    )
    assert (recipe.export.adapt, recipe.export.novelty, recipe.seed) == ("auto", "auto", 0)


def test_train_section_has_the_defaults_of_train() -> None:
    parameters = inspect.signature(train).parameters
    for name in TrainSection.__struct_fields__:
        assert getattr(TrainSection(), name) == parameters[name].default, name


def test_the_rate_goes_with_the_optimiser_unless_it_is_given(tmp_path: Path) -> None:
    found = {}
    for optimiser in ("sgd", "adamw", "lamb"):
        section = load_recipe(
            write(tmp_path, f'{MINIMAL}[train]\noptimiser = "{optimiser}"\n')
        ).train
        found[optimiser] = section.lr, section.weight_decay
    assert found == {"sgd": (0.2, 5e-4), "adamw": (0.004, 0.02), "lamb": (0.01, 0.02)}
    section = load_recipe(
        write(tmp_path, MINIMAL + '[train]\noptimiser = "lamb"\nlr = 3\nweight_decay = 0\n')
    ).train
    assert (section.lr, section.weight_decay) == (3.0, 0.0)


def test_the_demo_recipe_shows_every_key_of_its_encoder_data_and_training() -> None:
    text = (Path(edgeadapt.demo.__file__).parent / "recipe.toml").read_text(encoding="utf-8")
    for section in (EncoderSection, DataSection, TrainSection):
        assert [key for key in section.__struct_fields__ if key not in text] == []


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        (
            MINIMAL + "[train]\nepoch = 3\n",
            "unknown key train.epoch;",
            "did you mean 'epochs'? allowed: epochs, batch, optimiser, lr",
        ),
        (
            MINIMAL + "[training]\n",
            "unknown key training;",
            "allowed: data, export, encoder, train, tune, seed",
        ),
        (MINIMAL + "[train]\nepochs = 0\n", "train.epochs = 0;", "a whole number >= 1"),
        (MINIMAL + '[train]\nepochs = "six"\n', "train.epochs = 'six';", "a whole number >= 1"),
        (MINIMAL + "[train]\nmomentum = 1.0\n", "train.momentum = 1.0;", "a number >= 0 and < 1"),
        (
            MINIMAL + '[train]\naugment = "strong"\n',
            "train.augment = 'strong';",
            "'none' or 'plain' or 'robust'",
        ),
        (MINIMAL + "[train]\nthreads = 0\n", "train.threads = 0;", "a whole number >= 1"),
        (
            MINIMAL + 'adapt = "always"\n',
            "export.adapt = 'always';",
            "'act' or 'advise' or 'auto' or 'off'",
        ),
        (
            MINIMAL + 'batches = [1, "8"]\n',
            "export.batches = [1, '8'];",
            "a list, each a whole number >= 1",
        ),
        (
            MINIMAL + 'precisions = ["int4"]\n',
            "export.precisions = ['int4'];",
            "each 'float16' or 'int8'",
        ),
        (MINIMAL + "precision_margin = 1.5\n", "export.precision_margin = 1.5;", ">= 0 and <= 1"),
        (MINIMAL + "batches = [8, 1]\n", "export.batches = [8, 1];", "increasing"),
        (MINIMAL.replace('"x"', '"../x"'), "export.name = '../x';", "a text that matches"),
        (
            MINIMAL.replace("fashion-mnist", "cifar"),
            "data.kind = 'cifar';",
            "'fashion-mnist' or 'folder' or 'npz'",
        ),
        (MINIMAL.replace("fashion-mnist", "npz"), "data.path is missing;", "an .npz"),
        (FOLDER.format("size = [1, 2, 3]"), "data.size = [1, 2, 3];", "a list of 2, each"),
        (FOLDER.format("validation = 1.0"), "data.validation = 1.0;", "a number > 0 and < 1"),
        (
            '[data]\nkind = "fashion-mnist"\n',
            "export is missing;",
            "a section with name, class_slots",
        ),
        (
            '[data]\nkind = "fashion-mnist"\n[export]\n',
            "export.name is missing;",
            "a text that matches",
        ),
        ("seed = -1\n" + MINIMAL, "seed = -1;", "a whole number >= 0 and < 2147483648"),
        ("train = 3\n" + MINIMAL, "train = 3;", "a section with epochs"),
        (FOLDER.format('classes = ["A"]'), "data.classes names one", "at least two"),
        (
            FOLDER.format('classes = ["A", "B"]\nnew_classes = ["A"]'),
            "'A' twice",
            "every class once",
        ),
        (
            FOLDER.format('classes = ["A", "B"]') + "class_slots = 1\n",
            "export.class_slots = 1;",
            "at least the 2",
        ),
        (
            MINIMAL + '[encoder]\nfile = "a.onnx"\nweights = "b"\n',
            "encoder.file",
            "allowed only without it",
        ),
        (MINIMAL + "[train\n", "cannot be read as TOML", "line 5"),
        (
            MINIMAL + '[train]\noptimiser = "adam"\n',
            "train.optimiser = 'adam';",
            "'adamw' or 'lamb' or 'sgd'",
        ),
        (
            MINIMAL + '[train]\nprecision = "int8"\n',
            "train.precision = 'int8';",
            "'auto' or 'bfloat16' or 'float16' or 'float32'",
        ),
        (
            MINIMAL + '[train]\ndevice = "tpu"\n',
            "train.device = 'tpu';",
            "'auto' or 'cpu' or 'cuda'",
        ),
        (MINIMAL + "[train]\npatience = -1\n", "train.patience = -1;", "a whole number >= 0"),
        (MINIMAL + "[train]\nlr = 0\n", "train.lr = 0;", "a number > 0 and < 1000"),
        (
            MINIMAL.replace("fashion-mnist", "a:"),
            "data.kind = 'a:';",
            "'torchvision:NAME' or 'module:factory'",
        ),
        (
            MINIMAL.replace("fashion-mnist", "torchvision:CIFAR10"),
            "data.path is missing;",
            "the folder with its files",
        ),
        (
            FOLDER.replace("folder", "a:b").format(""),
            "data.path is not allowed for a:b;",
            "data.options",
        ),
        (
            FOLDER.format("options = { a = 1 }"),
            "data.options are not allowed for folder;",
            "'module:factory'",
        ),
        (
            FOLDER.replace("folder", "torchvision:CIFAR10").format("options = { root = '.' }"),
            "data.options.root is not allowed;",
            "data.path",
        ),
    ],
)
def test_an_error_names_file_key_and_allowed_values(
    tmp_path: Path, text: str, key: str, allowed: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    message = str(caught.value)
    assert str(tmp_path / "recipe.toml") in message and key in message and allowed in message, (
        message
    )


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml"):
        load_recipe(tmp_path / "none.toml")


def test_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    text = (
        '[data]\nkind = "npz"\npath = "d.npz"\n[encoder]\nweights ='
        ' "/w.safetensors"\n[export]\nname = "x"\n'
    )
    recipe = load_recipe(write(tmp_path, text))
    assert (
        recipe.data.path == str(tmp_path / "d.npz")
        and recipe.encoder.weights == "/w.safetensors"
        and recipe.encoder.file == ""
    )


def test_data_comes_with_known_classes_first_and_the_rest_left_out(tmp_path: Path) -> None:
    y = np.repeat(np.arange(4), 10)
    np.savez(
        tmp_path / "d.npz",
        x=np.zeros((40, 4, 4), np.uint8),
        y=y,
        classes=np.array(["a", "b", "c", "d"]),
    )
    text = '[data]\nkind = "npz"\npath = "d.npz"\nvalidation = 0.2\n{}\n[export]\nname = "x"\n'
    training, validation = load_data(
        load_recipe(write(tmp_path, text.format('classes = ["d", "b"]\nnew_classes = ["a"]')))
    )
    assert training.classes == validation.classes == ("d", "b", "a")
    assert training.counts == (8, 8, 8) and validation.counts == (2, 2, 2)
    training, _ = load_data(load_recipe(write(tmp_path, text.format('new_classes = ["a"]'))))
    assert training.classes == ("b", "c", "d", "a")
    with pytest.raises(InputError, match=r"d\.npz: no class called 'z'"):
        load_data(load_recipe(write(tmp_path, text.format('classes = ["a", "z"]'))))


def test_an_npz_of_floats_is_sensor_data_and_one_of_bytes_is_images(tmp_path: Path) -> None:
    y = np.repeat(np.arange(2), 10)
    text = '[data]\nkind = "npz"\npath = "d.npz"\n[export]\nname = "x"\n'
    for x, kind in (
        (np.zeros((20, 3, 8)), SensorData),
        (np.zeros((20, 5), np.float32), SensorData),
        (np.zeros((20, 4, 4), np.uint8), ImageData),
    ):
        np.savez_compressed(tmp_path / "d.npz", x=x, y=y)
        training, validation = load_data(load_recipe(write(tmp_path, text)))
        assert type(training) is type(validation) is kind
        assert (len(training), len(validation)) == (18, 2) and training.x.shape[1:] == x.shape[1:]


OWN_DATA = """import numpy as np


class Steps:
    classes = ["down", "up"]

    def __init__(self, count, start=0):
        self.count, self.start = count, start

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        label = row % 2
        end = self.start + (1 if label else -1)
        return np.linspace(self.start, end, 16, dtype=np.float32)[None], label
"""


def test_data_of_ones_own_is_called_with_its_options_and_again_for_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_steps.py").write_text(OWN_DATA, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (
        '[data]\nkind = "own_steps:Steps"\noptions = {{ count = 40 }}\n{}\n[export]\nname = "x"\n'
    )
    training, validation = load_data(load_recipe(write(tmp_path, text.format("validation = 0.2"))))
    assert (
        training.classes == ("down", "up")
        and (len(training), len(validation)) == (32, 8)
        and training.x.shape[1:] == (1, 16)
    )
    training, validation = load_data(
        load_recipe(write(tmp_path, text.format("validation_options = { count = 6, start = 3 }")))
    )
    assert (
        (len(training), len(validation)) == (40, 6)
        and training.x[0, 0, 0] == 0.0
        and validation.x[0, 0, 0] == 3.0
    )
    with pytest.raises(InputError, match=r"own_steps:Steps.*hue"):
        load_data(load_recipe(write(tmp_path, text.format("").replace("count = 40", "hue = 1"))))


def test_a_data_set_of_torchvision_is_read_from_its_folder(tmp_path: Path) -> None:
    text = (
        '[data]\nkind = "torchvision:FashionMNIST"\npath = "."\nvalidation_options = { train ='
        ' false }\n[export]\nname = "x"\n'
    )
    with pytest.raises(InputError, match="FashionMNIST is not here"):
        load_data(load_recipe(write(tmp_path, text)))
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        images = np.full((count, 28, 28), count, np.uint8)
        header = b"\0\0\x08"
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            header + b"\x03" + np.array(images.shape, ">u4").tobytes() + images.tobytes()
        )
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            header + b"\x01" + np.array([count], ">u4").tobytes() + labels.tobytes()
        )
    training, validation = load_data(load_recipe(write(tmp_path, text)))
    assert (len(training), len(validation)) == (40, 20) and training.classes[9] == "Ankle boot"
    assert training.x.shape == (40, 28, 28) and set(validation.x.ravel()) == {20}
