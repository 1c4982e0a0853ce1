"""Merlin's image encoder (Blankemeier et al., arXiv 2406.06512): a ResNet-152 inflated to three dimensions (I3D).

    stem       3 x 7 x 7 convolution, 3 x 3 x 3 maximum; the 3 x 3 convolutions of the blocks are 3 x 3 x 3
    feature    the mean over the last map, then one 1 x 1 x 1 convolution into the shared space of 512 values

The network has a second head for 1,692 diagnoses, which stays loaded and unused. Which way H and W
run is the preset's business (`domainvl.data.volumes.preset.MERLIN`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from domainvl.tokens import TokenState
from domainvl.towers._shared import fill, no_words
from domainvl.towers.base import Tower, Words

_STAGES = ("layer1", "layer2", "layer3", "layer4")
_COLOURS = 3


class MerlinModel(nn.Module):
    """The weights, under the names that they were published with.

    Args:
        blocks: Number of bottlenecks of the four stages.
        out_dim: Size of the shared space.
        classes: Diagnoses that the second head knows.
    """

    def __init__(self, blocks: tuple[int, int, int, int], out_dim: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(_COLOURS, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        width = 64
        for stage, (name, count) in enumerate(zip(_STAGES, blocks, strict=True)):
            inner = 64 * 2**stage
            made = []
            for index in range(count):
                made.append(_Bottleneck(width, inner, 2 if stage and not index else 1))
                width = 4 * inner
            self.add_module(name, nn.Sequential(*made))
        self.classifier = nn.Conv3d(width, classes, 1)
        self.contrastive_head = nn.Conv3d(width, out_dim, 1)

    @classmethod
    def from_published(cls, tensors: Mapping[str, Tensor]) -> MerlinModel:
        """The model for `encode_image.i3_resnet.*` of a published checkpoint, that prefix taken off."""
        missing = {"conv1.weight", "contrastive_head.weight", "classifier.weight"} - tensors.keys()
        if missing:
            raise ValueError(f"MerlinCNN: the checkpoint lacks {sorted(missing)}; it is no Merlin")
        first, second, third, fourth = (
            len({name.split(".")[1] for name in tensors if name.startswith(f"{stage}.")}) for stage in _STAGES
        )
        heads = (tensors[name].shape[0] for name in ("contrastive_head.weight", "classifier.weight"))
        model = cls((first, second, third, fourth), *heads)
        fill("MerlinCNN", model, tensors)
        return model.eval()


class _Bottleneck(nn.Module):
    def __init__(self, outer: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(outer, inner, 1, bias=False), nn.BatchNorm3d(inner)
        self.conv2, self.bn2 = nn.Conv3d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm3d(inner)
        self.conv3, self.bn3 = nn.Conv3d(inner, 4 * inner, 1, bias=False), nn.BatchNorm3d(4 * inner)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or outer != 4 * inner:
            conv = nn.Conv3d(outer, 4 * inner, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm3d(4 * inner))

    def forward(self, volume: Tensor) -> Tensor:
        out = self.bn1(self.conv1(volume)).relu()
        out = self.bn2(self.conv2(out)).relu()
        return (self.bn3(self.conv3(out)) + self.downsample(volume)).relu()


class MerlinCNN(Tower):
    """Merlin's image encoder as a tower: no blocks, token adapters refuse it.

    Args:
        model: The network.
        path: Name of `model` inside the library's model.
    """

    token_editing = False

    def __init__(self, model: MerlinModel, path: str = "") -> None:
        super().__init__()
        self.model, self.path = model, path
        self.depth = 0
        self.width, self.out_dim = model.contrastive_head.in_channels, model.contrastive_head.out_channels

    def embed(self, inputs: Tensor, words: Words | None = None) -> TokenState:
        """Volumes `[B, 1, D, H, W]` to the last feature map as tokens `[B, D' H' W', width]`."""
        no_words(self, words)
        if inputs.dim() != 5 or inputs.shape[1] != 1:
            raise ValueError(f"MerlinCNN: expected volumes [B, 1, D, H, W], got {tuple(inputs.shape)}")
        model = self.model
        maps = inputs.expand(-1, _COLOURS, -1, -1, -1)
        maps = model.maxpool(model.bn1(model.conv1(maps)).relu())
        for name in _STAGES:
            stage = cast(nn.Module, getattr(model, name))
            maps = checkpoint(stage, maps, use_reentrant=False) if self._recomputes else stage(maps)
        return TokenState(maps.flatten(2).transpose(1, 2), grid=tuple(maps.shape[2:]))

    def block(self, index: int, state: TokenState) -> TokenState:
        """There are none."""
        raise IndexError(f"MerlinCNN has no block {index}: its depth is 0")

    def norm(self, tokens: Tensor) -> Tensor:
        """Nothing."""
        return tokens

    def pool(self, state: TokenState) -> Tensor:
        """The mean over the feature map."""
        return state.tokens.mean(dim=1)

    def project(self, pooled: Tensor) -> Tensor:
        """The contrastive head."""
        head = self.model.contrastive_head
        return nn.functional.linear(pooled, head.weight.flatten(1), head.bias)

    def lora_targets(self, parts: Collection[str]) -> list[str]:
        """A CNN has none of these layers."""
        raise ValueError(
            f"MerlinCNN.lora_targets: {sorted(parts)} are layers of a transformer, Merlin's network has none; use "
            "LinearProbe with this backbone, or LoRA with sides: [text]"
        )
