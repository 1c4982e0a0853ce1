"""LoRA, as CLIP-LoRA uses it (Hu et al., ICLR 2022, arXiv 2106.09685; Zanella and Ben Ayed, arXiv 2405.18541).

For a frozen weight W of the attention layers, in both towers:

    y = x W^T + s dropout(x) A^T B^T        A [r, d_in] Kaiming uniform, B [d_out, r] zero, s = alpha / sqrt(r)

so the start is the base model bit for bit, and W + s B A is the whole model afterwards: no cost at inference. The
authors' loss is the cross-entropy of s cos(f, t).

s = alpha / sqrt(r) is also rsLoRA (arXiv 2312.03732); `alpha/rank` is LoRA's own. Two variants more:

    dora    y = x V^T, V = m (W + s B A) / |W + s B A| by rows, m learned, no gradient of the norm (arXiv 2402.09353)
    pissa   A, B start as the r largest singular directions of W, what they started as is subtracted (arXiv 2404.02948)

The layers are peft's, injected in place, and are exported in peft's own format; pissa as plain LoRA of rank 2 r, so
that it loads onto an untouched model. Differs from the authors' code: q, k and v are not split out of a fused weight
(timm, open_clip), so the three share one A there; and in open_clip, whose fused weight is a bare parameter, dropout
has to be 0 (peft adds B A to the weight, no input is left to drop) and the variants are not possible.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import nn

from domainvl.adapters._peft import NAME, block_of, ending_like, factors_of, start_from_principal_part, write_pair
from domainvl.adapters._towers import require_block
from domainvl.adapters.base import SIDES, Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.towers.base import LORA_PARTS, Tower

Scaling = Literal["alpha/sqrt(rank)", "alpha/rank"]
Variant = Literal["lora", "dora", "pissa"]


class LoRA(Adapter):
    """Low-rank updates of attention (and MLP) weights.

    Args:
        rank: Rank r.
        alpha: Numerator of the factor s.
        parts: Layers to update: q, k, v, o (attention), up, down (MLP).
        sides: Towers to update.
        dropout: Share of the inputs of A that is dropped in training.
        scaling: The factor s.
        first_block: First block that is updated, from 0, in both towers.
        variant: `lora`, `dora` or `pissa`.
    """

    def __init__(
        self,
        rank: int = 2,
        alpha: float = 1.0,
        parts: Sequence[str] = ("q", "k", "v"),
        sides: Sequence[Side] = SIDES,
        dropout: float = 0.25,
        scaling: Scaling = "alpha/sqrt(rank)",
        first_block: int = 0,
        variant: Variant = "lora",
    ) -> None:
        super().__init__()
        if rank < 1 or alpha <= 0:
            raise ValueError(f"LoRA: rank and alpha must be positive, got {rank} and {alpha}")
        if not 0 <= dropout < 1:
            raise ValueError(f"LoRA: dropout must lie in 0..1 (1 excluded), got {dropout}")
        for name, given, known in (("parts", parts, LORA_PARTS), ("sides", sides, SIDES)):
            if not given or not set(given) <= set(known):
                raise ValueError(f"LoRA: {name} must be some of {', '.join(known)}, got {list(given)}")
        if scaling not in ("alpha/sqrt(rank)", "alpha/rank"):
            raise ValueError(f"LoRA: scaling must be alpha/sqrt(rank) or alpha/rank, got {scaling!r}")
        if variant not in ("lora", "dora", "pissa"):
            raise ValueError(f"LoRA: variant must be lora, dora or pissa, got {variant!r}")
        self.rank, self.alpha, self.parts, self.sides = rank, alpha, tuple(parts), tuple(sides)
        self.dropout, self.scaling, self._first, self.variant = dropout, scaling, first_block, variant

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "parts": list(self.parts),
            "sides": list(self.sides),
            "dropout": self.dropout,
            "scaling": self.scaling,
            "first_block": self._first,
            "variant": self.variant,
        }

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`. The layers become part of `backbone.library`, so a backbone takes one LoRA."""
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        library = backbone.library
        if any(isinstance(module, LoraLayer) for module in library.modules()):
            raise RuntimeError("LoRA: this backbone carries LoRA layers already; load the backbone once more")
        names = [name for side in self.sides for name in self._targets(side, getattr(backbone, side))]
        known = {name for name, _ in library.named_parameters()}
        parameters = [name for name in names if name in known]
        modules = sorted(set(names) - set(parameters))
        if parameters and self.dropout:
            raise ValueError(
                f"LoRA: dropout={self.dropout} is not possible here, {parameters[0]} (and {len(parameters) - 1} more) "
                "are fused weights that are updated themselves; set dropout: 0"
            )
        if parameters and self.variant != "lora":
            raise ValueError(
                f"LoRA: variant {self.variant} is not possible here, {parameters[0]} (and {len(parameters) - 1} more) "
                "are fused weights without a layer of their own; use variant lora, or parts up and down alone"
            )
        meant_too = ending_like(parameters, known)
        if meant_too:
            raise ValueError(
                f"LoRA: sides={list(self.sides)} is not possible here, peft takes {meant_too[0]} for "
                f"{parameters[0]}, as one name ends like the other; update both sides, or parts up and down alone"
            )
        self._peft = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft says int and divides
            use_rslora=self.scaling == "alpha/sqrt(rank)",
            lora_dropout=self.dropout,
            target_modules=modules,
            exclude_modules=ending_like(modules, {name for name, _ in library.named_modules()}) or None,
            target_parameters=parameters or None,
            use_dora=self.variant == "dora",
        )
        # Of a copy: peft shortens the names in what it is given to endings, which another model might share.
        inject_adapter_in_model(copy.deepcopy(self._peft), library, NAME)
        self._layers = {name: module for name, module in library.named_modules() if isinstance(module, LoraLayer)}
        if len(self._layers) != len(names):
            raise RuntimeError(f"LoRA: peft updated {len(self._layers)} layers, expected {len(names)}: {names[:3]}...")
        if self.variant == "pissa":
            start_from_principal_part(library, self._peft, self._layers)
        # Registered here too, so that parameters(), train() and state_dict() of the adapter reach them.
        self.factors = nn.ModuleDict(
            {name.replace(".", "/"): factors_of(layer) for name, layer in self._layers.items()}
        )

    def _targets(self, side: Side, tower: Tower) -> list[str]:
        first = self.first_block(side, tower)
        names = tower.lora_targets(self.parts)
        blocks = [block_of(name) for name in names]
        if set(blocks) != set(range(tower.depth)):
            raise RuntimeError(
                f"LoRA: {type(tower).__name__}.lora_targets names blocks {sorted(set(blocks))}, "
                f"it should name all of its {tower.depth}"
            )
        return [name for name, block in zip(names, blocks, strict=True) if block >= first]

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        if side not in self.sides:
            return tower.depth
        return require_block("LoRA", self._first, side, tower)

    def same_rows(self) -> bool:
        """See `Adapter.same_rows`: dropout draws for every row by itself."""
        return not (self.training and self.dropout)

    @contextmanager
    def off(self) -> Iterator[None]:
        """See `Adapter.off`: the base layers run alone."""
        wanted = [parameter.requires_grad for parameter in self.parameters()]
        self._enable(False, wanted)
        try:
            yield
        finally:
            self._enable(True, wanted)

    def _enable(self, enabled: bool, wanted: list[bool]) -> None:
        for layer in self._layers.values():
            layer.enable_adapters(enabled)
        # peft freezes what it disables and thaws what it enables; that is not ours to decide here.
        for parameter, flag in zip(self.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)

    def export(self, folder: Path, base: str | None) -> None:
        """See `Adapter.export`: `adapter_config.json` and `adapter_model.safetensors`, as peft reads them."""
        write_pair(folder, self._peft, self._layers, base)
