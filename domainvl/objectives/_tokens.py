"""What objectives over local features share: patches or words `[B, L, D]` with a mask `[B, L]`."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from domainvl.features import FeatureKey, Features
from domainvl.objectives.base import Context, alone
from domainvl.objectives.contrast_parts import wide


def beside(key: str, stream: str) -> str:
    """The key of another stream of the same thing: `image.tokens` to `image.mask`."""
    return str(replace(FeatureKey.parse(key), stream=stream))


def tokens_key(owner: str, key: str) -> str:
    """A checked key of local features."""
    found = FeatureKey.parse(key)
    if found.stream != "tokens":
        raise ValueError(f"{owner}: reads local features, 'image.tokens' or the like, got {key!r}")
    return str(found)


def real_tokens(features: Features, key: str) -> tuple[Tensor, Tensor]:
    """Tokens `[B, L, D]` in fp32 at least, zero where padded, and their mask `[B, L]`.

    Whatever padding holds, infinity included, is gone here: a share of zero times infinity would still be felt.
    """
    mask = features[beside(key, "mask")]
    return wide(features[key]).where(mask[..., None], 0.0), mask


def exact(like: Tensor) -> torch.autocast:
    """Where autocast has no say: sums of exponentials want fp32."""
    return torch.autocast(like.device.type, enabled=False)


def never_empty(mask: Tensor) -> Tensor:
    """The mask `[B, L]`, all True where it has no True, so that a softmax has something to look at.

    Whoever uses it leaves those rows out afterwards.
    """
    return mask | ~mask.any(dim=1, keepdim=True)


def gather_tokens(tokens: Tensor, mask: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Tokens `[M, L, D]` and mask `[M, L]` of all processes, whose longest sequences may differ in length."""
    if context.gather is alone:
        return tokens, mask
    lengths = context.gather(torch.tensor([tokens.shape[1]], device=tokens.device))
    missing = int(lengths.max()) - tokens.shape[1]
    return context.gather(F.pad(tokens, (0, 0, 0, missing))), context.gather(F.pad(mask, (0, missing)))
