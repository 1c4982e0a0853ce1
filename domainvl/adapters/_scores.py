"""Class scores."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosine_logits(image: Tensor, text: Tensor, scale: Tensor | float) -> Tensor:
    """`scale * cos(image, text)` for `[B, D]` and `[C, D]` or `[B, C, D]`, `[B, C]`, in fp32."""
    image = F.normalize(image.float(), dim=-1)
    text = F.normalize(text.float(), dim=-1)
    if text.dim() == 3:
        return scale * (text @ image[:, :, None]).squeeze(-1)
    return scale * image @ text.T
