"""Networks of timm by name, prepared as encoders and compared with the untouched ones.

    python -m edgeadapt_bench.precision.encoder_parity --compile --out docs/encoders_by_name.md

needs the extra ``timm`` and downloads nothing: weights are random, and batch-norms have statistics
as after training, so that dropping one would show. ``--compile`` compiles one or
more of each family too, in one thread, and compares the graph.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeadapt.errors import EdgeadaptError
from edgeadapt.host.assembly.composition import compile_encoder
from edgeadapt.host.encoders.dispatch import as_encoder
from edgeadapt.host.encoders.named_networks import input_config, size_option
from edgeadapt.host.encoders.networks import Normalised, build_network
from edgeadapt.host.encoders.torch_module import ModuleEncoder

SIDE = 96
TOLERANCE = 1e-4  # of the largest value of a feature
_NAMES = {
    "ResNet": (
        """
        resnet10t resnet18 resnet26d resnext26ts seresnet18 ecaresnet26t skresnet18
        res2net50_14w_8s resnest14d legacy_seresnet18
    """
    ),
    "ResNet v2, NF": (
        """
        resnetv2_50 nf_regnet_b0 eca_nfnet_l0 bat_resnext26ts gcresnext26ts
    """
    ),
    "VGG, DarkNet": (
        """
        vgg11 vgg11_bn repvgg_a0 darknet17 cspdarknet53 cs3darknet_s cspresnet50
    """
    ),
    "DenseNet, DLA": (
        """
        densenet121 dla34 dla46_c dpn48b ese_vovnet19b_slim selecsls42
    """
    ),
    "RegNet": (
        """
        regnetx_002 regnety_002 regnetz_005
    """
    ),
    "MobileNet": (
        """
        mobilenetv1_100 mobilenetv2_050 mobilenetv3_small_050 mobilenetv3_large_100
        mobilenetv4_conv_small mobilenetv4_hybrid_medium mobilenet_edgetpu_v2_xs lcnet_050
        mnasnet_small semnasnet_075 fbnetc_100 spnasnet_100 mobileone_s0
    """
    ),
    "EfficientNet": (
        """
        efficientnet_b0 efficientnet_lite0 efficientnet_es tf_efficientnetv2_b0 tinynet_e
        mixnet_s rexnet_100 hardcorenas_a ghostnet_050 ghostnetv2_100 ghostnetv3_050
    """
    ),
    "ConvNeXt": (
        """
        convnext_atto convnext_atto_ols convnextv2_atto convnext_zepto_rms
        inception_next_atto mambaout_femto poolformer_s12 poolformerv2_s12 convmixer_768_32
    """
    ),
    "RepViT, FastViT, StarNet": (
        """
        repvit_m0_9 repghostnet_050 fastvit_t8 starnet_s1 starnet_s050 fasternet_t0
        fastvit_mci0
    """
    ),
    "Inception, HRNet": (
        """
        inception_v3 inception_v4 xception41 hrnet_w18_small crossvit_tiny_240
    """
    ),
    "ViT": (
        """
        vit_tiny_patch16_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224
        deit3_small_patch16_224 vit_tiny_r_s16_p8_224 eva02_tiny_patch14_224
        beit_base_patch16_224 flexivit_small visformer_tiny cait_xxs24_224
        xcit_nano_12_p16_224 tnt_s_legacy_patch16_224
    """
    ),
    "Hierarchical transformers": (
        """
        swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swin_s3_tiny_224 pvt_v2_b0
        twins_svt_small pit_ti_224 pit_ti_distilled_224 focalnet_tiny_srf davit_tiny
        nest_tiny hiera_tiny_224 mvitv2_tiny gcvit_xxtiny maxvit_rmlp_pico_rw_256
        coatnet_pico_rw_224 tiny_vit_5m_224 nextvit_small rdnet_tiny
    """
    ),
    "Light hybrids": (
        """
        levit_128s levit_conv_128s efficientvit_b0 efficientvit_m0 edgenext_xx_small
        mobilevit_xxs mobilevitv2_050 efficientformer_l1 efficientformerv2_s0 swiftformer_xs
        shvit_s1 coat_tiny convit_tiny sequencer2d_s lambda_resnet26t halonet26t
        botnet26t_256
    """
    ),
    "MLP": (
        """
        mixer_s32_224 gmixer_12_224 resmlp_12_224 gmlp_ti16_224
    """
    ),
}
_HEAD = """# Encoders by name: what was tried

{passing} of {count} networks of timm {version}, in {families} families, give the feature of the
untouched network to {tolerance:g} of its largest value when they are prepared for export: random
weights, batch-norms with statistics as after training, four random images. This page is written by

```sh
python -m edgeadapt_bench.precision.encoder_parity --compile --out docs/encoders_by_name.md
```

It says that an encoder is prepared rightly, not how good it is. `export` checks the graph that it
compiles against the prepared module; with `--compile` {compiled} of them were compiled here,
{soon} in at most 30 s of one thread, the slowest in {slowest:.0f} s. `taps` are places where
conditions are told apart, `adapt` counts batch-norms whose statistics can adapt, `stay` those that
cannot. A network stands at 96 px, or at its own size where it takes no other. How to use one:
[training](training.md#encoders-by-name).

| family | network | px | feature | taps | adapt | stay | worst error | seconds to prepare | to compile | |
|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501 - a table
COMPILED = (
    "resnet18",
    "resnetv2_50",
    "vgg11_bn",
    "densenet121",
    "regnety_002",
    "mobilenetv4_conv_small",
    "ghostnetv2_100",
    "efficientnet_lite0",
    "convnext_atto",
    "repvit_m0_9",
    "hrnet_w18_small",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "gcvit_xxtiny",
    "mobilevit_xxs",
    "levit_128s",
    "coat_tiny",
    "mixer_s32_224",
)
"""What ``--compile`` compiles."""
FAMILIES = {family: tuple(names.split()) for family, names in _NAMES.items()}


@dataclass(frozen=True)
class Row:
    """What became of one network; ``error`` is of the feature, relative to its largest value."""

    name: str
    side: int = 0
    dim: int = 0
    taps: int = 0
    norms: int = 0
    left: int = 0
    error: float = float("nan")
    seconds: float = 0.0
    compile_s: float = 0.0
    reason: str = ""

    @property
    def passes(self) -> bool:
        return not self.reason

    def line(self, family: str) -> str:
        cells = (
            family,
            f"`{self.name}`",
            self.side or "",
            self.dim or "",
            self.taps,
            self.norms,
            self.left,
        )
        compiled = f"{self.compile_s:.1f}" if self.compile_s else ""
        end = (
            f"{self.error:.1e} | {self.seconds:.1f} | {compiled} | passes"
            if self.passes
            else f" | | | {self.reason}"
        )
        return f"| {' | '.join(map(str, cells))} | {end} |"


def checked(name: str, *, is_compiled: bool = False) -> Row:
    """The network at 96 px, or at its own size where it takes no other.

    Args:
        is_compiled: it is compiled too, and the graph compared; ``compile_s`` is processor time.
    """
    own = input_config(f"timm:{name}").size[0]
    row = Row(name)
    for side in dict.fromkeys((SIDE, own)):
        row = _checked_at(name, side, is_compiled)
        if row.passes or row.dim:
            break
    return row


def _checked_at(name: str, side: int, is_compiled: bool) -> Row:
    spec, generator = f"timm:{name}", torch.Generator().manual_seed(0)
    x = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
    pixels = torch.from_numpy(x).float().permute(0, 3, 1, 2)
    dim = 0
    try:
        network = build_network(spec, 0, 3, **size_option(spec, (side, side)))
        module = Normalised(network, *network.input_moments).eval()  # type: ignore[misc]
        _as_after_training(module, generator)
        with torch.no_grad():
            want: Tensor = module(pixels)
        dim = int(want.shape[1])
        if not bool(want.isfinite().all()):
            return Row(name, side, dim, reason="random weights give values that are not finite")
        start = time.perf_counter()
        encoder = as_encoder(module, x)
        seconds = time.perf_counter() - start
        assert isinstance(encoder, ModuleEncoder)
        with torch.no_grad():
            z = encoder.encode({"x": torch.from_numpy(x)}, encoder.frozen)["z"]
        start = time.process_time()
        if is_compiled:
            compile_encoder(encoder)
        compile_s = time.process_time() - start if is_compiled else 0.0
        want = want.mean((2, 3)) if want.dim() == 4 else want
    except (
        EdgeadaptError,
        RuntimeError,
        AssertionError,
        ValueError,
        TypeError,
        AttributeError,
        NotImplementedError,
    ) as failed:
        reason = (str(failed).strip().splitlines() or ["no message"])[0]
        return Row(
            name, side, dim, reason=f"{type(failed).__name__}: {reason[:160]}".replace("|", "/")
        )
    found = (len(encoder._taps), len(encoder.norms), len(encoder.left_frozen))
    if z.shape != want.shape:
        return Row(
            name,
            side,
            dim,
            *found,
            reason=f"a feature of shape {tuple(z.shape)}, not {tuple(want.shape)}",
        )
    error = float((z - want).abs().max() / want.abs().max())
    return Row(
        name,
        side,
        dim,
        *found,
        error,
        seconds,
        compile_s,
        "" if error <= TOLERANCE else f"off by {error:.1e}",
    )


def _as_after_training(module: nn.Module, generator: torch.Generator) -> None:
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for part, low, high in (
                ("weight", 0.5, 1.5),
                ("bias", -0.3, 0.3),
                ("running_mean", -0.3, 0.3),
                ("running_var", 0.5, 2.0),
            ):
                if getattr(norm, part) is not None:
                    getattr(norm, part).data.uniform_(low, high, generator=generator)


def page(rows: dict[str, list[Row]]) -> str:
    import timm

    every = [row for family in rows.values() for row in family]
    passing = sum(row.passes for row in every)
    families = sum(any(r.passes for r in found) for found in rows.values())
    head = _HEAD.format(
        passing=passing,
        count=len(every),
        version=timm.__version__,
        families=families,
        tolerance=TOLERANCE,
        compiled=sum(row.compile_s > 0 for row in every),
        soon=sum(0 < row.compile_s <= 30 for row in every),
        slowest=max(row.compile_s for row in every),
    )
    lines = [row.line(family) for family, found in rows.items() for row in found]
    return head + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--compile", action="store_true", help=f"compile {len(COMPILED)} of them")
    parser.add_argument("names", nargs="*", help="these alone (default: all)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.compile:
        torch.set_num_threads(1)
    rows: dict[str, list[Row]] = {}
    for family, names in FAMILIES.items():
        for name in names:
            if not args.names or name in args.names:
                rows.setdefault(family, []).append(
                    checked(name, is_compiled=args.compile and name in COMPILED)
                )
                print(rows[family][-1].line(family), flush=True)
                args.out.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
