"""A LoRA written into the weights of its model, in the model's own format: loads without us and without peft."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from domainvl.adapters import LoRA
from domainvl.adapters.base import Adapter
from domainvl.backbones import HuggingFace, OpenClip
from domainvl.backbones.base import Backbone

_CLOSE = 1e-4


def write_merged(adapter: Adapter, trained: Backbone, fresh: Backbone, folder: Path) -> float:
    """Write the merged model and compare its image features with those of the adapter, as loaded from `folder`.

    Args:
        adapter: A loaded adapter, attached to `trained`.
        trained: The model that carries it, with the temperature that it learned.
        fresh: The same model untouched; it is merged into and of no use afterwards.
        folder: Where to.

    Returns:
        The largest difference that was found, of features of unit length.
    """
    from peft import PeftModel

    name = type(adapter).__name__
    if not isinstance(adapter, LoRA):
        raise ValueError(
            f"--merge: {name} is no change of the model's own weights, so it cannot be merged into them; LoRA can "
            "(lora, dora, pissa). Export it without --merge"
        )
    if type(fresh).write is Backbone.write:
        raise ValueError(
            f"--merge: {type(fresh).__name__} has no format that is written here; HuggingFace and OpenClip have. The "
            "PEFT pair of the adapter folder holds the same update"
        )
    with tempfile.TemporaryDirectory(prefix="domainvl-") as pair, warnings.catch_warnings():
        # peft asks transformers in a way that transformers will take back in its next major version.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        adapter.export(Path(pair), None)
        PeftModel.from_pretrained(fresh.library, pair).merge_and_unload()
    with torch.no_grad():
        fresh.logit_scale.copy_(trained.logit_scale)
    fresh.write(folder)
    again = (OpenClip if isinstance(fresh, OpenClip) else HuggingFace)(str(folder))
    return _checked(adapter, trained, again, folder)


def _checked(adapter: Adapter, trained: Backbone, merged: Backbone, folder: Path) -> float:
    shape = (3, *trained.blank().shape[1:])
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = adapter.encode("image", trained.image, images)["image.pooled"]
        worst = float((_unit(merged.image(images)) - _unit(wanted)).abs().max())
    if not worst <= _CLOSE:
        shutil.rmtree(folder)
        raise RuntimeError(
            f"--merge: features of the merged model differ by {worst:.1e} from those of the adapter, more than "
            f"{_CLOSE:.0e}; nothing was written"
        )
    return worst


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features, dim=-1)
