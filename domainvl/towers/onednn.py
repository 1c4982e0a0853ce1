"""Frozen linear layers on the CPU by oneDNN in place of MKL: the same product, twice as fast on AMD processors.

torch multiplies fp32 matrices with MKL, which keeps to AVX2 on processors of other makers. oneDNN, which torch ships
too and uses for bf16, has AVX-512 kernels for all of them: 110 against 240 GFLOP/s measured on one core of an EPYC
(Zen 5), both 2e-7 to 4e-7 away from the product in fp64. Weights and modules stay as they are; `F.linear` is
answered in another way while a tower runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.overrides import TorchFunctionMode


class OneDnn(TorchFunctionMode):
    """Inside this context linear layers with a frozen fp32 weight on the CPU are computed by oneDNN."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answer `F.linear`, pass everything else on."""
        if func is F.linear and len(args) == 3 and not kwargs and _fits(*args):
            return _Linear.apply(*args)
        return func(*args, **(kwargs or {}))


@functools.cache
def available() -> bool:
    """Whether this build of torch has oneDNN's linear layer, found by asking it: the operator is not public."""
    if not torch.backends.mkldnn.is_available():
        return False
    one = torch.ones(1, 1)
    try:
        product = torch.ops.mkldnn._linear_pointwise(one, one, None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(product == one)


def _fits(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    parts = [tokens, weight] if bias is None else [tokens, weight, bias]
    plain = all(part.device.type == "cpu" and part.dtype == torch.float32 for part in parts)
    frozen = not any(part.requires_grad for part in parts[1:])
    return plain and frozen and not torch.is_autocast_enabled("cpu")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return torch.ops.mkldnn._linear_pointwise(tokens.contiguous(), weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return torch.ops.mkldnn._linear_pointwise(grad.contiguous(), weight.t(), None, "none", [], ""), None, None
