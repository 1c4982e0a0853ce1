"""What the frozen image tower says about training pictures is computed once and read afterwards."""

from functools import partial

import numpy as np
import pytest
import torch
from adapters.toys import PRESET, hf_clip
from lightning.pytorch import seed_everything
from tasks.test_classification import Images, losses, trainer

from domainvl.adapters import MMRL, CoOp, LinearProbe, LoRA
from domainvl.data.views import Pictures
from domainvl.objectives import FrozenCosine
from domainvl.speed import Speed
from domainvl.tasks import Classification
from domainvl.tasks.image_pass import CachedPass, ImagePass

ADAPTERS = {
    "mmrl": partial(MMRL, tokens=2, width=8),
    "mmrl deep": partial(MMRL, tokens=2, width=8, first_block=0),
    "lora late": partial(LoRA, rank=2, dropout=0.0, first_block=1),
    "coop": partial(CoOp, tokens=2),
    "probe": LinearProbe,
}


class Pictured(Images):
    """Twelve images that stay as they are."""

    def __init__(self, name="same"):
        super().__init__()
        self.name = name
        for row in self.rows:
            row["view"] = 0

    def pictures(self):
        return Pictures(self.name, 1, np.arange(len(self.rows)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOMAINVL_CACHE", str(tmp_path / "cache"))


def fitted(adapter, folder, speed, data=None, epochs=3):
    """The task after training, and how many images went through the first image block in training."""
    seed_everything(3, verbose=False)
    seen = []
    objectives = {**losses(False), "stay": FrozenCosine("image")}
    model = Classification(hf_clip(), adapter, objectives, partial(torch.optim.SGD, lr=0.01), speed=speed)
    first = model.backbone.image.layers[0]
    first.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])) if model.training else None)
    trainer(folder, max_epochs=epochs, limit_val_batches=0).fit(model, data or Pictured())
    return model, sum(seen)


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_same_training_with_and_without(name, tmp_path):
    plain, _ = fitted(ADAPTERS[name](), tmp_path, Speed(cache=0))
    cached, _ = fitted(ADAPTERS[name](), tmp_path, Speed())
    assert isinstance(cached._cached, CachedPass)
    for key, tensor in plain.adapter.tensors().items():
        torch.testing.assert_close(cached.adapter.tensors()[key], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name != "mmrl deep"])
def test_later_epochs_and_runs_read(name, tmp_path):
    # A blank image at set-up shows what features there are, one more image what fits.
    assert fitted(ADAPTERS[name](), tmp_path, Speed())[1] == 12 + 2
    assert fitted(ADAPTERS[name](), tmp_path, Speed())[1] == 2
    assert fitted(ADAPTERS[name](), tmp_path, Speed(), Pictured("others"))[1] == 12 + 2
    assert fitted(ADAPTERS[name](), tmp_path, Speed(cache=0))[1] >= 36


@pytest.mark.parametrize("name", ["mmrl", "coop"])
def test_a_batch_of_known_and_new_pictures(name):
    backbone, adapter = hf_clip(), ADAPTERS[name]()
    adapter.attach(backbone)
    image = ImagePass(backbone, adapter, Speed())
    cached = CachedPass(image, Pictures("mixed", 2, np.arange(4)), frozen=True, setting="")
    pixels = torch.randn(4, 3, PRESET.size, PRESET.size)
    view = torch.tensor([1, 1, 1, 1])
    for index in ([0, 1], [1, 2], [3, 0, 2]):
        chosen = torch.tensor(index)
        seen, plain = cached(pixels[chosen], chosen, view[chosen]), image(pixels[chosen], True)
        torch.testing.assert_close(seen.prefix.tokens, plain.prefix.tokens, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(seen.frozen, plain.frozen, rtol=1e-5, atol=1e-5)
        assert torch.equal(seen.prefix.readout, plain.prefix.readout)
    assert cached._store.missing(torch.arange(8)).tolist() == [True, False] * 4


def test_from_the_first_block_on_the_untouched_feature_alone_is_kept(tmp_path):
    model, _ = fitted(ADAPTERS["mmrl deep"](), tmp_path, Speed())
    assert set(model._cached._store.fields) == {"frozen"}


def test_a_small_budget_keeps_features_and_a_smaller_one_nothing(tmp_path):
    size = 12 * (24 * 4 + 1) / 2**30
    model, computed = fitted(ADAPTERS["mmrl"](), tmp_path, Speed(cache=1.01 * size))
    assert set(model._cached._store.fields) == {"frozen"}
    assert computed > 36
    model, _ = fitted(ADAPTERS["mmrl"](), tmp_path, Speed(cache=0.9 * size))
    assert model._cached._store is None


def test_random_pictures_are_never_kept(tmp_path):
    class Endless(Pictured):
        def pictures(self):
            return None

    model, computed = fitted(ADAPTERS["mmrl"](), tmp_path, Speed(), Endless())
    assert model._cached is None
    assert computed == 36 + 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["mmrl", "coop", "lora late"])
def test_frozen_blocks_in_bf16_and_learned_parts_in_fp32(name, tmp_path):
    model, _ = fitted(ADAPTERS[name](), tmp_path, Speed(frozen="bf16"))
    assert all(parameter.dtype == torch.float32 for parameter in model.adapter.parameters())
    frozen = [p for layer in model.backbone.image.layers for p in layer.parameters() if not p.requires_grad]
    assert {parameter.dtype for parameter in frozen if parameter.dim() > 1} >= {torch.bfloat16}
    exact, _ = fitted(ADAPTERS[name](), tmp_path, Speed(cache=0))
    for key, tensor in exact.adapter.tensors().items():
        assert float((model.adapter.tensors()[key] - tensor).norm() / tensor.norm()) < 0.05, key


@pytest.mark.parametrize("given", [{"cache": -1.0}, {"frozen": "fp16"}])
def test_bad_switches(given):
    with pytest.raises(ValueError, match="Speed: "):
        Speed(**given)
