"""Latent attention pooling (Lee et al., NV-Embed, ICLR 2025, arXiv 2405.17428), as LLM2Vec4CXR uses it.

Every token asks a learned dictionary, and the answers are averaged:

    pooled = mean over tokens of MLP(attention(token, latents, latents))      MLP: linear, GELU, linear

Differs from the authors' code: rows are not handled one by one, and the latents' keys and values, which are the same
for all of them, are computed once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentAttention(nn.Module):
    """What follows a language model in place of a mean. Names of parameters are those of the published weights.

    Args:
        width: Size of a token.
        latents: Number of vectors in the dictionary.
        heads: Attention heads.
    """

    def __init__(self, width: int, latents: int = 512, heads: int = 8) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"LatentAttention: width {width} is no multiple of heads={heads}")
        self.latents = nn.Parameter(torch.randn(latents, width))
        self.multihead_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[..., D]` to what each of them adds to the mean, `[..., D]`."""
        asking, known = tokens.reshape(1, -1, tokens.shape[-1]), self.latents[None]
        return self.mlp(self.multihead_attn(asking, known, known, need_weights=False)[0]).view(tokens.shape)
