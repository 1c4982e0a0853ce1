"""Whether what was saved belongs to the adapter that takes it back."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def check_tensors(method: str, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise where names, shapes or types of the saved tensors are not those of the adapter."""
    if set(own) != set(found):
        missing, unknown = sorted(set(own) - set(found)), sorted(set(found) - set(own))
        raise ValueError(f"{method}: the saved adapter does not fit; missing {missing[:5]}, unknown {unknown[:5]}")
    for name, tensor in own.items():
        if tensor.shape != found[name].shape:
            raise ValueError(
                f"{method}: the saved {name} is {tuple(found[name].shape)}, here it is {tuple(tensor.shape)}; the "
                "adapter was made for another backbone or other classes"
            )
        if tensor.dtype != found[name].dtype:
            raise ValueError(f"{method}: the saved {name} holds {found[name].dtype}, it should hold {tensor.dtype}")


def check_support(method: str, saved: Mapping[str, Tensor]) -> None:
    """Raise for a saved support, features `[N, D]` and labels `[N, C]`, that is of other shapes."""
    (first, features), (second, labels) = saved.items()
    if features.dim() != 2 or labels.dim() != 2 or len(features) != len(labels):
        raise ValueError(
            f"{method}: saved {first} {tuple(features.shape)} and {second} {tuple(labels.shape)} do not fit; "
            "[N, D] and [N, C] do"
        )
