"""The sections of a recipe, their keys and what each may be; ``recipe.py`` reads and checks it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from edgeadapt.host.training.augmentation import Augment
from edgeadapt.host.training.settings import DeviceName, OptimiserName, PrecisionName

Positive = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are errors: a typo must not silently leave a default in place."""


class InputSection(_Section, frozen=True, kw_only=True):
    """What an ONNX file expects of pixels: ``(pixel / scale - mean) / std``, see
    ``host.PixelInput``.

    ``mean`` and ``std`` have one value, or one for every channel in the model's order, ``colour``;
    ``size`` is (height, width).
    """

    scale: Annotated[float, Meta(gt=0)]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["", "NCHW", "NHWC"] = ""
    colour: Literal["rgb", "bgr"] = "rgb"
    size: tuple[Positive, Positive] | None = None


class EncoderSection(_Section, frozen=True, kw_only=True):
    """Which encoder: one that we train (``network``), or a trained one (``file``).

    ``network`` and ``options`` are those of ``build_network``; ``weights`` is a safetensors state
    dict of the trained ``Normalised`` network, which replaces training. ``file`` is an exported
    torch or ONNX encoder, used as it is. ``pretrained`` is where ``timm:NAME`` or
    ``torchvision:NAME`` has its weights from: a file, a folder of timm's, or ``hub:huggingface.co``
    and ``hub:download.pytorch.org``, which alone download. ``hf:FOLDER`` has its weights in its
    folder. Such a network is exported as it is, without its classifier; ``edgeadapt train`` gives
    it a new one and goes on from there.
    """

    network: str = "small-residual"
    options: dict[str, Any] = {}
    weights: str = ""
    file: str = ""
    pretrained: str = ""
    input: InputSection | None = None


class DataSection(_Section, frozen=True, kw_only=True):
    """Which images or sensor data.

    ``kind`` is ``fashion-mnist``; ``folder`` (a folder of images per class); ``npz`` (arrays x, y
    and, if there are any, classes and groups; x is uint8 images, or float32 signals (N, C, L) or
    vectors (N, F)); ``torchvision:NAME`` (the training part of a data set of torchvision whose
    files are in ``path``); or ``module:factory`` (a function of your own that returns a map-style
    data set). ``path`` is the folder or file (for ``fashion-mnist`` empty: where Debian's package
    puts it).

    ``classes`` are the known ones, which are trained and exported (empty: all but ``new_classes``);
    ``new_classes`` are kept back, to be met as something unknown. ``validation_path`` holds
    validation samples of the same kind; without it ``validation`` is the fraction held out, except
    for ``fashion-mnist``, whose test images are used. ``groups`` names the array of an ``npz``, or
    the attribute of a data set of your own, with the recording, person, day or site of every
    sample; no group is then on both sides of a split, and rows of a group are in the order of time.
    By default it is ``groups`` where that is there; ``""`` takes samples as independent.
    ``options`` are arguments of the data set of torchvision or of the factory;
    ``validation_options`` those with which it is called a second time, for validation (``{ train =
    false }``: the test part). ``size`` is (height, width) in pixels and ``colour`` rgb or gray: of
    ``folder`` by default 96 x 96 in colour, of ``torchvision:NAME`` and ``module:factory`` as they
    are.
    """

    kind: str
    path: str = ""
    classes: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()
    validation: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    validation_path: str = ""
    groups: str | None = None
    size: tuple[Positive, Positive] | None = None
    colour: Literal["rgb", "gray"] | None = None
    options: dict[str, Any] = {}
    validation_options: dict[str, Any] = {}


class TrainSection(_Section, frozen=True, kw_only=True):
    """The settings of ``edgeadapt.host.training.train.train``, with the same defaults; those of
    ``lr`` and ``weight_decay`` go with the optimiser.
    """

    epochs: Positive = 3
    batch: Annotated[int, Meta(ge=2)] = 128
    optimiser: OptimiserName = "sgd"
    lr: Annotated[float, Meta(gt=0, lt=1000)] | None = None
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Meta(ge=0, lt=1)] | None = None
    augment: Augment = "plain"
    patience: Annotated[int, Meta(ge=0)] = 0
    precision: PrecisionName = "auto"
    device: DeviceName = "auto"
    threads: Positive | None = None


class BudgetSection(_Section, frozen=True, kw_only=True):
    """The most that a tuned encoder's numbers may take: one of ``bytes`` in the ``.delta``,
    ``parameters``, or a ``share`` of the weights that may be tuned. The classifier is not counted.
    """

    bytes: Positive | None = None
    parameters: Positive | None = None
    share: Annotated[float, Meta(gt=0, le=1)] | None = None


class TuneSection(_Section, frozen=True, kw_only=True):
    """Which numbers inside the encoder are trained by ``edgeadapt tune``, and how.

    ``method`` is a delta and ``options`` its settings; ``size`` is what every site gets without a
    ``budget``, such as a rank; ``sites`` are shell patterns of paths. ``start`` names other first
    values than the delta's own. ``budget`` bounds all sites together and ``allocate`` is the score
    that shares it, or ``"uniform"``. ``codec`` is how the numbers are stored. ``epochs`` to
    ``augment`` are those of training, by AdamW; ``lr`` by default goes with the method.
    ``control`` is a data section: what must not be lost.
    """

    method: str = "low_rank"
    options: dict[str, Any] = {}
    size: Positive = 4
    sites: tuple[str, ...] = ("*",)
    start: str = ""
    start_options: dict[str, Any] = {}
    budget: BudgetSection | None = None
    allocate: str = "uniform"
    codec: Literal["float32", "float16", "8bit", "4bit", "2bit", "1bit"] = "float16"
    epochs: Positive = 20
    batch: Annotated[int, Meta(ge=2)] = 32
    lr: Annotated[float, Meta(gt=0, lt=1000)] | None = None
    weight_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    augment: Augment = "plain"
    control: DataSection | None = None


class ExportSection(_Section, frozen=True, kw_only=True):
    """What the bundle is called, its number (raise ``version`` with every bundle that you ship),
    and how much it can grow.

    ``adapt`` and ``novelty`` set to ``"auto"`` let the stress card and the held-out classes choose;
    ``novelty`` may also name a method, which the export checks. ``state_kib`` is the most that the
    head may take in memory: the best that fits is chosen. ``head`` names it instead.
    ``novelty_kib`` is the same for the novelty score; ``adaptors = "family"`` puts adaptors into
    the bundle that a condition may grow. ``label_free`` names the method that corrects without
    labels (``"auto"`` chooses by the encoder, ``adapt = "off"`` takes none); ``smooth = "lame"``
    lets the answers of a batch speak for each other where a stream shows one class after the other.
    ``stress`` runs the stress streams, short ones or, with ``"long"``, the full card; without them
    the bundle only advises. ``precisions`` adds encoders in ``float16`` and ``int8``, each of which
    may lose ``precision_margin`` of held-out accuracy.
    """

    name: Name
    class_slots: Positive = 32
    domain_slots: Positive = 8
    batches: tuple[Positive, ...] = (1, 8, 32)
    adapt: Literal["auto", "act", "advise", "off"] = "auto"
    novelty: str = "auto"
    version: Positive = 1
    state_kib: Annotated[float, Meta(gt=0)] | None = None
    novelty_kib: Annotated[float, Meta(gt=0)] | None = None
    adaptors: Literal["none", "family"] = "none"
    label_free: str = "auto"
    head: Literal["ridge", "nearest_mean", "key_value"] = "ridge"
    smooth: Literal["none", "lame"] = "none"
    stress: bool | Literal["short", "long"] = True
    precisions: tuple[Literal["float16", "int8"], ...] = ()
    precision_margin: Annotated[float, Meta(ge=0, le=1)] = 0.01


class Recipe(_Section, frozen=True, kw_only=True):
    """The whole file. With ``tune`` the network is tuned where it would be trained. ``seed`` (0 to
    2**31 - 1) is that of initial weights, order, augmentation and hold-out.
    """

    data: DataSection
    export: ExportSection
    encoder: EncoderSection = EncoderSection()
    train: TrainSection = TrainSection()
    tune: TuneSection | None = None
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0


__all__ = [
    "BudgetSection",
    "DataSection",
    "EncoderSection",
    "ExportSection",
    "InputSection",
    "Recipe",
    "TrainSection",
    "TuneSection",
]
