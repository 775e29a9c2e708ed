"""Vision networks from a local folder as Hugging Face has them, with the pixels they expect.

A folder holds ``config.json``, ``model.safetensors`` (or its shards and their index) and
``preprocessor_config.json``. Nothing is downloaded, no code of the folder runs, no pickle is read.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.host.encoders.input_config import InputConfig

Pooling = Literal["auto", "pooler", "first", "mean"]
_INSTALL = "pip install 'edgeadapt[transformers]'"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def folder_config(folder: str) -> InputConfig:
    """Size, moments and order of channels, from ``preprocessor_config.json``.

    The size is that of the crop, or else of the resized image, whose shortest edge alone makes a
    square; where images are not resized, the ``image_size`` of ``config.json``. Without
    ``do_normalize`` the moments are 0 and 1 in units of ``rescale_factor``.

    Raises:
        InputError: a file is missing or says nothing of the size.
    """
    path = _folder(folder)
    found, source = _preprocessing(path)
    factor = float(found.get("rescale_factor", 1 / 255)) if found.get("do_rescale", True) else 1.0
    if found.get("rescale_offset") or found.get("do_rescale_offset"):
        raise InputError(f"{source}: rescale_offset is not known here; make the network a module")
    mean, std = [0.0] * 3, [1.0] * 3
    if found.get("do_normalize", "image_mean" in found):
        try:
            mean, std = (_three(found[key]) for key in ("image_mean", "image_std"))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{source}: do_normalize needs image_mean and image_std of three channels: {error}"
            ) from error
    is_bgr = bool(found.get("do_flip_channel_order", False))
    if is_bgr and (len(set(mean)) > 1 or len(set(std)) > 1):
        raise InputError(
            f"{source}: do_flip_channel_order with moments that differ leaves open which comes "
            "first; make the network a module with its own normalisation"
        )
    return InputConfig(
        _size(path, source, found),
        tuple(value / factor for value in mean),
        tuple(value / factor for value in std),
        is_bgr=is_bgr,
    )


def folder_network(folder: str, classes: int, options: dict[str, Any]) -> FolderNetwork:
    """The network of a folder, whose moments of pixels are its ``input_moments``.

    Args:
        classes: logits of a new classifier behind the feature; 0: none, the output is the feature.
        options: ``feature``: ``"auto"``, ``"pooler"``, ``"first"`` or ``"mean"``, see
            ``FolderNetwork``.

    Raises:
        InputError: a folder, file or option that does not fit.
        RuntimeUnavailable: transformers is not installed.
    """
    unknown, pooling = options.keys() - {"feature"}, options.get("feature", "auto")
    if unknown or pooling not in get_args(Pooling):
        given = f"option {min(unknown)!r}" if unknown else f"feature = {pooling!r}"
        raise InputError(
            f"network 'hf:{folder}' takes no {given}; it takes the option feature, one of "
            f"{', '.join(map(repr, get_args(Pooling)))}"
        )
    path = _folder(folder)
    config = folder_config(folder)
    model, place = _featured(path, *_loaded(path), pooling)
    network = FolderNetwork(model, place, is_bgr=config.is_bgr)
    network.input_moments = config.moments(3)
    if classes:
        with torch.no_grad():
            width = network.eval()(torch.zeros(1, 3, *config.size)).shape[1]
        network.head = nn.Linear(width, classes)
    return network


class FolderNetwork(nn.Module):
    """Normalised pixels to one vector, from a network whose output has several fields.

    What the vector is, by ``place``: ``classifier``, what the network's own classifier takes (a
    folder with one); ``pooler``, its ``pooler_output``; ``first``, the first token of its last
    layer; ``mean``, the mean of that layer over tokens or space.

    Args:
        model: of transformers. place: as above. is_bgr: it takes blue first.
    """

    def __init__(self, model: nn.Module, place: str, *, is_bgr: bool = False) -> None:
        super().__init__()
        self.model, self.place, self.is_bgr = model, place, is_bgr
        self.head: nn.Module = nn.Identity()
        self.input_moments: Any = None
        self._own_size = _image_size(model)
        self._interpolates = (
            "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        )

    @property
    def output_is_feature(self) -> bool:
        """Whether there is no classifier; a pooler looks like one, a linear layer at the end."""
        return isinstance(self.head, nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) float32, normalised -> (B, D)."""
        if self.is_bgr:
            x = torch.cat([x[:, 2:], x[:, 1:2], x[:, :1]], 1)
        options = {}
        if self._interpolates and self._own_size and tuple(x.shape[2:]) != self._own_size:
            options["interpolate_pos_encoding"] = True
        out = self.model(pixel_values=x, return_dict=True, **options)
        if self.place == "classifier":
            feature = out.logits  # of an Identity
        elif self.place == "pooler":
            feature = out.pooler_output.flatten(1)
        else:
            last = out.last_hidden_state
            first = last[:, 0] if self.place == "first" else None
            feature = last.mean((2, 3) if last.dim() == 4 else 1) if first is None else first
        vector: Tensor = self.head(feature)
        return vector


def _folder(folder: str) -> Path:
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise InputError(
            f"{path}: no folder with a config.json; nothing downloads: "
            "hf download OWNER/NAME --local-dir FOLDER brings one"
        )
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object")
    return found


def _preprocessing(path: Path) -> tuple[dict[str, Any], Path]:
    for name, key in (
        ("preprocessor_config.json", ""),
        ("processor_config.json", "image_processor"),
    ):
        if (path / name).is_file():
            found = _read(path / name)
            found = found.get(key, {}) if key else found
            if found:
                return found, path / name
    raise InputError(
        f"{path}: no preprocessor_config.json, which says what pixels the network expects; take it "
        "from where the weights are from"
    )


def _three(values: Any) -> list[float]:
    found = [float(v) for v in (values if isinstance(values, (list, tuple)) else [values] * 3)]
    if len(found) != 3:
        raise ValueError(f"{len(found)} values")
    return found


def _size(path: Path, source: Path, found: Mapping[str, Any]) -> tuple[int, int]:
    keys = [
        key
        for key, switch in (("crop_size", "do_center_crop"), ("size", "do_resize"))
        if found.get(switch, switch == "do_resize") and found.get(key) is not None
    ]
    own = _read(path / "config.json")
    own = own.get("vision_config", own)
    given = found[keys[0]] if keys else own.get("image_size")
    if isinstance(given, Mapping):
        edge = given.get("shortest_edge") or given.get("longest_edge")
        given = (given.get("height") or edge, given.get("width") or edge)
    pair = tuple(given) if isinstance(given, (list, tuple)) else (given, given)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise InputError(
            f"{source}: says no size of images, as size = {{height, width}} or {{shortest_edge}} "
            f"does; got {given!r}"
        )
    return pair


def _loaded(path: Path) -> tuple[Any, list[str]]:
    """The model, and the names of its tensors that the folder has no weights for: of a pooler."""
    _require_safetensors(path)
    try:
        import transformers
    except ImportError as error:
        raise RuntimeUnavailable(
            f"'hf:{path}' needs transformers, which cannot be imported ({error}): {_INSTALL}"
        ) from error
    try:
        config = transformers.AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        model, report = _class_of(transformers, config).from_pretrained(
            path,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            attn_implementation="eager",
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        ImportError,
        RuntimeError,
        AttributeError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: not a vision network that transformers {transformers.__version__} has: "
            f"{reason}"
        ) from error
    missing = sorted(report["missing_keys"])
    absent = [name for name in missing if not name.startswith("pooler.")]
    if absent:
        raise InputError(
            f"{path}: has no weights for {len(absent)} tensors of {type(model).__name__}: "
            f"{', '.join(absent[:3])}"
        )
    return model.float().eval(), missing


def _class_of(transformers: Any, config: Any) -> Any:
    """The classifier that ``config.json`` names, or else the network without one, of images."""
    classifiers = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    found = classifiers.get(type(config), ())
    for kind in found if isinstance(found, tuple) else (found,):
        if kind.__name__ in (config.architectures or ()):
            return kind
    return transformers.MODEL_MAPPING[type(getattr(config, "vision_config", config))]


def _require_safetensors(path: Path) -> None:
    if any((path / name).is_file() for name in _WEIGHTS):
        return
    pickled = next(iter(sorted([*path.glob("*.bin"), *path.glob("*.pth")])), None)
    if pickled is not None:
        raise InputError(
            f"{pickled}: a pickle, which can run code when it is read; convert it where you trust "
            "it: model.save_pretrained(FOLDER, safe_serialization=True)"
        )
    raise InputError(f"{path}: no {_WEIGHTS[0]}, the weights of the network")


def _featured(path: Path, model: Any, missing: list[str], wanted: str) -> tuple[nn.Module, str]:
    """The network without its classifier, and where its feature is."""
    if wanted == "auto" and isinstance(getattr(model, "classifier", None), nn.Module):
        linear = [name for name, m in model.classifier.named_modules() if isinstance(m, nn.Linear)]
        if len(linear) == 1:
            model.set_submodule(".".join(filter(None, ("classifier", *linear))), nn.Identity())
            return model, "classifier"
    inner = model.base_model
    with torch.no_grad():
        out = inner(torch.zeros(1, 3, *(_image_size(inner) or (64, 64))))
    has_pooler = getattr(out, "pooler_output", None) is not None and not missing
    has_first = out.last_hidden_state.dim() == 3 and any(
        name.endswith(("cls_token", "class_embedding")) for name, _ in inner.named_parameters()
    )
    if wanted == "auto":
        return inner, "pooler" if has_pooler else "first" if has_first else "mean"
    if not {"pooler": has_pooler, "first": has_first, "mean": True}[wanted]:
        raise InputError(
            f"{path}: {type(inner).__name__} has no trained "
            f'{"pooler" if wanted == "pooler" else "first token"}; feature = "mean" is always there'
        )
    return inner, wanted


def _image_size(model: Any) -> tuple[int, int] | None:
    """(height, width) that a network has positions for, in pixels; None: it takes any."""
    side = getattr(model.config, "image_size", None)
    return (side, side) if isinstance(side, int) else tuple(side) if side else None


__all__ = ["FolderNetwork", "folder_config", "folder_network"]
