import pytest
import torch
import torch.nn.functional as F

from domainvl.adapters import LoRA
from domainvl.backbones import HuggingFace
from domainvl.data.prompts import PromptSet
from domainvl.speed import FAST
from domainvl.tasks.class_maps import ClassMaps

CLASSES = ["Cardiomegaly", "Pneumothorax", "Effusion"]
PROMPTS = PromptSet(templates=["a {}"], negatives=["no {}"])


@pytest.fixture(scope="module")
def backbone():
    return HuggingFace("builtin:tiny")


def text(backbone, template):
    inputs = backbone.tokenize([template.format(name) for name in CLASSES])
    return F.normalize(backbone.text(inputs), dim=-1)


@pytest.mark.parametrize("multilabel", [True, False])
def test_maps_are_cosines_of_patches_and_class_texts(backbone, multilabel):
    image = torch.randn(2, *backbone.preset.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = backbone.image.run(backbone.image.embed(image))
        patches = F.normalize(backbone.image.locals(state)[0], dim=-1)
        yes = patches @ text(backbone, "a {}").T
        expected = yes - (patches @ text(backbone, "no {}").T if multilabel else yes.mean(dim=-1, keepdim=True))
    found = ClassMaps(CLASSES, multilabel, PROMPTS, backbone, None, FAST)(image)
    assert set(found) == {"zero_shot"}
    side = int(patches.shape[1] ** 0.5)
    assert found["zero_shot"].shape == (2, 3, side, side)
    assert torch.allclose(found["zero_shot"].flatten(2).transpose(1, 2), expected, atol=1e-5)


def test_the_untouched_model_is_untouched_beside_an_adapter():
    backbone = HuggingFace("builtin:tiny")
    image = torch.randn(1, *backbone.preset.shape, generator=torch.Generator().manual_seed(0))
    before = ClassMaps(CLASSES, True, PROMPTS, backbone, None, FAST)(image)["zero_shot"]
    adapter = LoRA(rank=2)
    adapter.attach(backbone)
    for weight in adapter.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    found = ClassMaps(CLASSES, True, PROMPTS, backbone, adapter.eval(), FAST)(image)
    assert torch.equal(found["zero_shot"], before)
    assert not torch.allclose(found["adapted"], before, atol=1e-3)
