"""A merged model in the format of open_clip: open_clip alone loads it, and nothing else of the folder goes along."""

import open_clip
import pytest
import torch
from checkpoint_toys import biomedclip, open_clip_architecture, open_clip_safetensors, pair

from domainvl import hub
from domainvl.adapters import LoRA
from domainvl.backbones import OpenClip


def trained(backbone, **options):
    adapter = LoRA(rank=2, dropout=0.0, **options)
    adapter.attach(backbone)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
        backbone.logit_scale.fill_(2.5)
    return adapter.eval()


ROWS = {
    "ViT": (open_clip_safetensors, {}),
    "ViT, pissa": (open_clip_safetensors, {"parts": ["up", "down"], "variant": "pissa"}),
    "timm and BERT, dora": (biomedclip, {"variant": "dora"}),
    "architecture and weights": (open_clip_architecture, {}),
}


@pytest.mark.parametrize("name", ROWS)
def test_open_clip_alone_loads_a_merged_model(tmp_path, name):
    make, options = ROWS[name]
    torch.manual_seed(0)
    home = tmp_path / "home"
    home.mkdir()
    saved = make(home)
    (home / "patients.json").write_text("{}")
    (home / "notes.txt").write_text("seen on Monday")
    backbone = saved.load()
    adapter = trained(backbone, **options)
    assert hub.write_merged(adapter, backbone, saved.load(), tmp_path / "merged") < 1e-5
    assert not {"patients.json", "notes.txt"} & {path.name for path in (tmp_path / "merged").iterdir()}
    assert str(tmp_path) not in (tmp_path / "merged" / "open_clip_config.json").read_text()
    assert float(OpenClip(str(tmp_path / "merged")).logit_scale) == 2.5
    if make is biomedclip:
        return  # open_clip itself asks the Hub for the text encoder's config.
    alone = open_clip.create_model(f"local-dir:{tmp_path / 'merged'}").eval()
    images, inputs = torch.randn(3, 3, saved.size, saved.size), backbone.tokenize(["a heart", "no effusion in it"])
    ids = torch.nn.functional.pad(inputs.ids, (0, alone.context_length - inputs.ids.shape[1]))
    with torch.no_grad():
        wanted = adapter.encode("image", backbone.image, images)["image.pooled"]
        words = adapter.encode("text", backbone.text, inputs)["text.pooled"]
        torch.testing.assert_close(alone.encode_image(images), wanted, rtol=0, atol=2e-5)
        torch.testing.assert_close(alone.encode_text(ids), words, rtol=0, atol=2e-5)


def test_a_model_without_a_format_of_its_own_is_refused_by_name(tmp_path):
    saved = pair(tmp_path)
    backbone = saved.load()
    with pytest.raises(ValueError, match="Pair has no format that is written here; HuggingFace and OpenClip have"):
        hub.write_merged(trained(backbone), backbone, saved.load(), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    with pytest.raises(TypeError, match="Pair has no format"):
        backbone.write(tmp_path / "merged")
