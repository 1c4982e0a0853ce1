"""Backbones for volumes: published files, and 2-D backbones lifted."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize
from transformers import LongformerConfig, LongformerModel

from domainvl.adapters import VPT, LinearProbe, LoRA, SliceAttention
from domainvl.adapters.base import Adapter
from domainvl.backbones import CTCLIP, HLIP, HuggingFace, InflatedVolume, Merlin, SliceVolume
from domainvl.backbones._published import below, bert_of, longformer_of
from domainvl.data.volumes.preset import VolumePreset
from domainvl.features import TextInputs
from domainvl.towers.merlin import MerlinModel

REFERENCE = Path(__file__).parents[1] / "reference"
TOY = VolumePreset("toy", (1.0, 1.0, 2.0), (6, 96, 96))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "effusion", "heart", "is", "large", ".", ",", "the"]


def golden(name):
    with np.load(REFERENCE / f"{name}-tiny.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def tokenizer(folder):
    """A vocabulary as CXR-BERT has it."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*WORDS, *(f"w{i}" for i in range(50 - len(WORDS)))]))
    return str(folder)


def file_of(tensors, folder, kind):
    """As training code writes it."""
    if kind == "safetensors":
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
        return str(folder / "model.safetensors")
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in tensors.items()}}
    torch.save(wrapped if kind == "wrapped" else tensors, folder / "model.pt")
    return str(folder / "model.pt")


def ctclip(folder, kind="plain", **changes):
    found = golden("ctclip")
    tensors = below(found, "weight/") | changes
    return CTCLIP(file_of(tensors, folder, kind), tokenizer(folder / "words"), patch=(2, 4, 4))


def hlip(folder, kind="wrapped", **changes):
    tensors = below(golden("hlip"), "weight/") | changes
    return HLIP(file_of(tensors, folder, kind), tokenizer(folder / "words"), heads=2, whole=[1, 3])


@pytest.mark.parametrize("kind", ["plain", "wrapped", "safetensors"])
@torch.no_grad()
def test_ctclip_is_the_published_model(tmp_path, kind):
    found, backbone = golden("ctclip"), ctclip(tmp_path, kind)
    image = backbone.image(found["in/volume"])
    text = backbone.text(TextInputs(found["in/ids"], found["in/mask"].bool()))
    torch.testing.assert_close(normalize(image, dim=-1), found["out/image"], rtol=0, atol=1e-5)
    torch.testing.assert_close(normalize(text, dim=-1), found["out/text"], rtol=0, atol=1e-5)
    logits = backbone.scale() * (normalize(image, dim=-1) * normalize(text, dim=-1)).sum(dim=-1)
    torch.testing.assert_close(logits, found["out/logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "wrapped", "safetensors"])
@torch.no_grad()
def test_hlip_is_the_published_model(tmp_path, kind):
    found, backbone = golden("hlip"), hlip(tmp_path, kind)
    torch.testing.assert_close(backbone.image(found["same/in"]), found["same/out"], rtol=0, atol=1e-5)
    ids = found["in/ids"]
    torch.testing.assert_close(backbone.text(TextInputs(ids, ids != 0)), found["out/text"], rtol=0, atol=1e-5)


def longformer():
    config = LongformerConfig(
        vocab_size=50,
        hidden_size=64,
        num_attention_heads=1,
        intermediate_size=32,
        num_hidden_layers=2,
        attention_window=[4, 4],
        max_position_embeddings=40,
        type_vocab_size=1,
        pad_token_id=1,
        layer_norm_eps=1e-5,
    )
    torch.manual_seed(0)
    model = LongformerModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def merlin_file(folder):
    torch.manual_seed(0)
    image, text = MerlinModel((1, 1, 1, 1), 512, 11), longformer()
    linear = torch.nn.Linear(64, 512)
    parts = {"encode_image.i3_resnet.": image, "encode_text.text_encoder.": text, "encode_text.linear_layer.": linear}
    tensors = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    return file_of(tensors | {"logit_scale": torch.tensor(1.0)}, folder, "plain"), text, linear


def roberta_words(folder):
    """A vocabulary as Clinical-Longformer has it, saved by transformers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "<pad>", "</s>", "<unk>", *WORDS[5:]]
    core = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", cls_token="<s>"
    )
    fast.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def test_merlin_is_the_published_model(tmp_path):
    path, text, linear = merlin_file(tmp_path)
    backbone = Merlin(path, roberta_words(tmp_path / "words"), window=4)
    assert float(backbone.logit_scale) == 1.0
    inputs = backbone.tokenize(["The heart is large.", "No effusion, no heart,the effusion."])
    assert inputs.keep is not None
    expected = linear(text(inputs.ids, attention_mask=inputs.keep.long()).last_hidden_state[:, 0])
    torch.testing.assert_close(backbone.text(inputs), expected, rtol=0, atol=4e-6)
    # Lower case, signs apart from words, as their code prepares a report.
    assert inputs.ids[1, : int(inputs.keep[1].sum())].tolist() == [0, 4, 5, 10, 4, 6, 10, 11, 5, 9, 2]
    assert backbone.image(torch.randn(1, 1, 33, 33, 33)).shape == (1, 512)
    with pytest.raises(TypeError, match="list of texts"):
        backbone.tokenize("The heart is large.")


def shapes(name):
    found = json.loads((REFERENCE / f"{name}-keys.json").read_text())
    with torch.device("meta"):
        return {key: torch.empty(shape) for key, shape in found.items()}


def test_text_encoders_of_the_published_sizes():
    with torch.device("meta"):
        for name, prefix in (("ctclip", "text_transformer."), ("hlip", "text.transformer.")):
            config = bert_of("Test", below(shapes(name), prefix)).config
            assert (config.vocab_size, config.num_hidden_layers, config.num_attention_heads) == (30522, 12, 12)
        config = longformer_of("Test", below(shapes("merlin"), "encode_text.text_encoder."), 512).config
        assert (config.vocab_size, config.num_hidden_layers, config.max_position_embeddings) == (50265, 12, 4098)


@pytest.mark.parametrize("make", [ctclip, hlip])
def test_a_published_backbone_keeps_the_contract(tmp_path, make):
    backbone = make(tmp_path)
    spec = backbone.spec()
    assert spec.kind == type(backbone).__name__
    assert spec.name == "model.pt"
    assert str(tmp_path) not in json.dumps(spec.as_dict())
    assert spec.preset == backbone.preset.digest
    inputs = backbone.tokenize(["No effusion.", "the heart is large, no effusion"])
    assert inputs.ids[0].tolist() == [2, 5, 6, 10, 3, 0, 0, 0, 0]
    library = {id(parameter) for parameter in backbone.library.parameters()}
    assert {id(p) for tower in (backbone.image, backbone.text) for p in tower.parameters()} <= library
    for side in (backbone.image, backbone.text):
        for name in side.lora_targets(("q", "k", "v", "o", "up", "down")):
            assert isinstance(backbone.library.get_submodule(name), torch.nn.Linear)
    assert backbone.blank().shape == (1, 1, *backbone.preset.size)


@pytest.mark.parametrize("make", [ctclip, hlip])
def test_lora_learns_on_a_published_backbone(tmp_path, make):
    backbone = make(tmp_path)
    backbone.requires_grad_(False)
    volume = golden("ctclip")["in/volume"] if make is ctclip else golden("hlip")["same/in"]
    plain = backbone.image(volume)
    adapter = LoRA(parts=["q", "k", "v"], dropout=0.0)
    adapter.attach(backbone)
    start = adapter.encode("image", backbone.image, volume)["image.pooled"]
    torch.testing.assert_close(start, plain, rtol=0, atol=0)
    start.square().sum().backward()
    moved = [name for name, p in adapter.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert len([name for name in moved if "image" in name]) == backbone.image.depth * (2 if make is ctclip else 1)


def test_ctclip_refuses_tokens(tmp_path):
    backbone = ctclip(tmp_path)
    with pytest.raises(TypeError, match="VPT puts tokens between transformer blocks, which CTViT does not take"):
        VPT(tokens=2).attach(backbone)
    LinearProbe().attach(backbone)


class Harmful:
    def __reduce__(self):
        return (print, ("executed",))


def test_files_that_are_no_checkpoint(tmp_path, capsys):
    words = tokenizer(tmp_path / "words")
    bad = tmp_path / "bad.pt"
    bad.write_bytes(pickle.dumps({"weight": Harmful()}))
    with pytest.raises(ValueError, match="cannot be read as tensors alone"):
        CTCLIP(str(bad), words)
    torch.save({"weight": Harmful()}, bad)
    with pytest.raises(ValueError, match="convert it to safetensors"):
        HLIP(str(bad), words)
    assert "executed" not in capsys.readouterr().out
    torch.save({"epoch": 3}, bad)
    with pytest.raises(ValueError, match="holds no tensors by name"):
        Merlin(str(bad), words)
    bad.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match="cannot be read"):
        CTCLIP(str(bad), words)
    with pytest.raises(ValueError, match=r"'gone.pt' is no file"):
        CTCLIP(str(tmp_path / "gone.pt"), words)
    (tmp_path / "model.onnx").write_text("")
    with pytest.raises(ValueError, match=r"none of \.safetensors"):
        CTCLIP(str(tmp_path / "model.onnx"), words)


def test_checkpoints_of_other_models(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=r"1 tensors that this model lacks, e.g. \['mlm.weight'\]"):
        ctclip(tmp_path / "a", **{"mlm.weight": torch.zeros(1)})
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="several scans of a study"):
        hlip(tmp_path / "b", **{"visual.trunk.sequential_posemb": torch.zeros(1, 40, 24)})
    (tmp_path / "c").mkdir()
    lora = {"text.transformer.base_model.model.encoder.layer.0.attention.self.query.lora_A": torch.zeros(1)}
    with pytest.raises(ValueError, match="unknown"):
        hlip(tmp_path / "c", **lora)
    (tmp_path / "d").mkdir()
    with pytest.raises(ValueError, match="no BERT with heads of 64"):
        hlip(tmp_path / "d", **{"text.transformer.embeddings.word_embeddings.weight": torch.zeros(50, 60)})


@pytest.fixture(scope="module")
def tiny():
    return HuggingFace("builtin:tiny")


LIFTED = {
    "slices": lambda base, **options: SliceVolume(base, **{"preset": TOY, **options}),
    "inflated": lambda base, **options: InflatedVolume(base, **{"preset": TOY, "patch_depth": 2, **options}),
}


@pytest.mark.parametrize("kind", LIFTED)
@torch.no_grad()
def test_a_lifted_backbone_takes_volumes(tiny, kind):
    backbone = LIFTED[kind](tiny)
    side = tiny.preset.size
    assert backbone.blank().shape == (1, 1, 6, side, side)
    assert backbone.image(backbone.blank()).shape == (1, tiny.image.out_dim)
    texts = ["an effusion", "no finding"]
    assert torch.equal(backbone.text(backbone.tokenize(texts)), tiny.text(tiny.tokenize(texts)))
    assert float(backbone.scale()) == float(tiny.scale())
    mean = sum(tiny.preset.mean) / 3
    assert backbone.preset.mean == pytest.approx((mean,))
    assert LIFTED[kind](tiny, normalise_as_base=False).preset == TOY
    spec = backbone.spec()
    assert (spec.kind, spec.name) == (type(backbone).__name__, "builtin:tiny")
    assert spec.preset == backbone.preset.digest != tiny.preset.digest


@torch.no_grad()
def test_a_volume_of_one_picture_is_the_picture(tiny):
    """Three windows as colours: normalised as the 2-D model's own preset does."""
    side = tiny.preset.size
    window = (0.0, 255.0)
    preset = VolumePreset("colours", (1.0, 1.0, 1.0), (4, side, side), (window,) * 3, (0.0,) * 3, (1.0,) * 3)
    backbone = SliceVolume(tiny, preset)
    picture = torch.randint(0, 256, (1, side, side), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    expected = tiny.image(tiny.preset.normalise(picture.expand(3, -1, -1).float())[None])
    volume = backbone.preset.normalise(picture.expand(4, -1, -1)[None])
    torch.testing.assert_close(backbone.image(volume), expected, rtol=1e-4, atol=1e-5)


def test_the_spec_knows_how_a_model_was_inflated(tiny):
    ways = [{}, {"init": "centre"}, {"positions": "learned"}, {"patch_depth": 3}]
    digests = {LIFTED["inflated"](tiny, **way).spec().weights for way in ways}
    assert len(digests) == len(ways)
    assert LIFTED["inflated"](tiny).spec() == LIFTED["inflated"](tiny).spec()


@pytest.mark.parametrize("kind", LIFTED)
def test_adapters_work_on_a_lifted_backbone(kind):
    backbone = LIFTED[kind](HuggingFace("builtin:tiny"))
    backbone.requires_grad_(False)
    volume = torch.randn(2, 1, 6, backbone.preset.size[1], backbone.preset.size[2])
    made = [VPT(tokens=2), LoRA(dropout=0.0)] + ([SliceAttention(width=8)] if kind == "slices" else [])
    plain = Adapter().encode("image", backbone.image, volume)["image.pooled"]
    for adapter in made:
        adapter.attach(backbone)
        feature = adapter.encode("image", backbone.image, volume)["image.pooled"]
        assert feature.shape == plain.shape
        feature.square().sum().backward()
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in adapter.parameters())


def test_what_cannot_be_lifted(tiny):
    two = VolumePreset("two", (1.0, 1.0, 1.0), (6, 64, 64), ((0, 1), (1, 2)), (0.0, 0.0), (1.0, 1.0))
    with pytest.raises(ValueError, match=r"one window, or 3 for the colours of HuggingFace; got 2"):
        SliceVolume(tiny, two)
    with pytest.raises(TypeError, match="SliceVolume takes volumes already"):
        InflatedVolume(SliceVolume(tiny, TOY), TOY, 2)
    with pytest.raises(ValueError, match=r"slices of this model are \d+ x \d+"):
        SliceVolume(tiny, VolumePreset("odd", (1.0, 1.0, 1.0), (6, 48, 64)))
