"""A ViT-B/16 with query, key and value apart, for counts: on the meta device it has no weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeadapt.host.tuning.sites import Site, sites_of

WIDTH, BLOCKS, HEADS = 768, 12, 12


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (
            layer(h).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        h = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(h.transpose(1, 2).flatten(2))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    """(B, 3, 224, 224) to features (B, 768)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 16, stride=16)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.blocks(self.patches(x).flatten(2).transpose(1, 2)))[:, 0]
        return out


def vit_sites(*patterns: str) -> tuple[Site, ...]:
    with torch.device("meta"):
        return sites_of(VisionTransformer().eval(), torch.empty(2, 3, 224, 224), patterns or ("*",))
