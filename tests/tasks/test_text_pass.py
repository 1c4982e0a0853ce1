"""What the frozen text tower says is computed once and read afterwards, bit for bit."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from adapters.toys import hf_clip, toy
from checkpoint_toys import BUILDERS, pair, pair_llm
from lightning.pytorch import seed_everything
from tasks.test_alignment import Pairs, trainer

from domainvl import samples
from domainvl.adapters import MMRL, VPT, CLIPAdapter, CoCoOp, Compose, CoOp, JointStack, LinearProbe, LoRA
from domainvl.adapters.base import Adapter
from domainvl.backbones import Pair
from domainvl.cli import main
from domainvl.objectives import InfoNCE
from domainvl.speed import FAST, Speed
from domainvl.tasks import Alignment
from domainvl.tasks.pairs import PairPass
from domainvl.tasks.text_pass import TextPass, leaves_texts_alone
from domainvl.towers.locals import pool_words

RECIPE = Path(__file__).parents[2] / "recipes" / "cxr-align-llm.yaml"
TEXTS = [
    "A chest x-ray. No large effusion",
    "finding",
    "x-ray with a large right effusion",
    "finding",
    "",
    "chest " * 40,
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOMAINVL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["hf_clip", "hf_siglip", "open_clip_safetensors", "coca", "biomedclip", "pair", "pair_llama"])
def saved(request, tmp_path):
    torch.manual_seed(0)
    (tmp_path / "checkpoint").mkdir()
    return BUILDERS[request.param](tmp_path / "checkpoint")


def counted(backbone):
    """How many texts went through the first block."""
    seen = []
    backbone.text.layers[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    return seen


def plain(backbone, adapter, texts, tokens):
    """The way without a memory."""
    tower = backbone.text
    inputs = backbone.structured(texts)
    features = adapter.encode("text", tower, inputs, FAST)
    if not tokens:
        return features
    state = adapter.prefix("text", tower, inputs)
    features = adapter.readout("text", tower, state)
    local, mask = adapter.locals("text", tower, state)
    words, _, sentences = pool_words(local, inputs.words, inputs.sentences)
    tokens = torch.where(mask[..., None], local, 0)
    return features | {"text.tokens": tokens, "text.mask": mask, "text.words": words, "text.sentences": sentences}


def remembered(text_pass, adapter, texts):
    found = text_pass(texts)
    features = adapter.readout("text", found.tower, found.state)
    if found.words is None:
        return features
    local, mask = adapter.locals("text", found.tower, found.state)
    words, _, sentences = pool_words(local, found.words, found.sentences)
    tokens = torch.where(mask[..., None], local, 0)
    return features | {"text.tokens": tokens, "text.mask": mask, "text.words": words, "text.sentences": sentences}


DISTINCT = [text for index, text in enumerate(TEXTS) if text not in TEXTS[:index]]


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("make", [Adapter, partial(JointStack, blocks=1)])
def test_the_same_bits_and_no_second_forward(saved, tokens, make):
    backbone = saved.load().requires_grad_(False)
    torch.manual_seed(1)
    adapter = make()
    adapter.attach(backbone)
    assert leaves_texts_alone(adapter, backbone)
    expected = plain(backbone, adapter, DISTINCT, tokens)
    again = saved.load().requires_grad_(False)
    for run, model in enumerate((backbone, again)):
        seen = counted(model)
        text_pass = TextPass(model, FAST, tokens, "32 cpu")
        for _ in range(2):
            found = remembered(text_pass, adapter, DISTINCT)
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                assert torch.equal(found[key], value), key
        assert sum(seen) == (len(DISTINCT) if run == 0 else 0)
    # Every text once, however often it is asked for; other batches are summed otherwise.
    shuffled = remembered(text_pass, adapter, TEXTS[::-1])
    assert sum(seen) == 0
    whole = plain(backbone, adapter, TEXTS[::-1], tokens)
    for key, value in whole.items():
        torch.testing.assert_close(shuffled[key], value, atol=1e-5, rtol=1e-5)


def test_gradients_of_what_lies_behind(saved):
    backbone = saved.load().requires_grad_(False)
    torch.manual_seed(1)
    adapter = JointStack(blocks=2)
    adapter.attach(backbone)
    text_pass = TextPass(backbone, FAST, True, "32 cpu")
    gradients = []
    for features in (plain(backbone, adapter, DISTINCT, True), remembered(text_pass, adapter, DISTINCT)):
        loss = features["text.pooled"].square().sum() + features["text.words"].square().sum()
        gradients.append(torch.autograd.grad(loss, list(adapter.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [None, 2])
def test_pairs_are_the_same_with_and_without(saved, chunk):
    """Also in the role of the untouched model, and chunk by chunk."""
    backbone = saved.load().requires_grad_(False)
    torch.manual_seed(1)
    adapter = JointStack(blocks=1)
    adapter.attach(backbone)
    wanted = {"text.pooled", "text.tokens", "text.mask", "text.sentences", "frozen/text.pooled", "text@caption.pooled"}
    batch = {"text": DISTINCT, "text@caption": TEXTS}
    found, losses = [], []
    for texts in (None, TextPass(backbone, FAST, True, "32 cpu")):
        pairs = PairPass(backbone, adapter, FAST, wanted, {"text@caption"}, chunk, texts)
        features = pairs.student(batch) | pairs.frozen(batch)
        assert wanted <= set(features)
        found.append(features)
        losses.append(torch.autograd.grad(features["text.tokens"].square().sum(), adapter.stack[-1].weight)[0])
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)


def test_texts_that_come_later_join(tmp_path):
    pair_llm(tmp_path)
    backbone = pair_llm(tmp_path).load().requires_grad_(False)
    seen = counted(backbone)
    text_pass = TextPass(backbone, FAST, True, "")
    text_pass(DISTINCT[:2])
    text_pass(DISTINCT)
    assert sum(seen) == len(DISTINCT)
    part = text_pass(DISTINCT).rows(slice(1, 3))
    assert len(part) == 2
    assert torch.equal(part.words, text_pass(DISTINCT).words[1:3])


def test_whatever_changes_the_numbers_has_its_own_shelf(tmp_path, own_cache):
    pair_llm(tmp_path)
    places = {"image": str(tmp_path / "image"), "text": str(tmp_path / "llm")}
    variants = [
        Pair(**places, out_dim=24),
        Pair(**places, out_dim=24, seed=1),
        Pair(**places, out_dim=24, pooling="last"),
        Pair(**places, out_dim=24, causal=True),
        Pair(**places, out_dim=24, context=8),
        Pair(**places, out_dim=24, instruction="no finding"),
    ]
    for backbone in variants:
        seen = counted(backbone)
        TextPass(backbone, FAST, False, "")(TEXTS)
        assert sum(seen) == len(DISTINCT)
    for options in ({"tokens": True, "setting": ""}, {"tokens": False, "setting": "bf16-mixed"}):
        TextPass(variants[0], FAST, **options)(TEXTS)
    TextPass(variants[0], Speed(unread=False), False, "")(TEXTS)
    assert len([folder for folder in (own_cache / "texts").iterdir() if folder.is_dir()]) == 9


def test_no_text_reaches_the_disk(tmp_path, own_cache):
    backbone = pair_llm(tmp_path).load()
    TextPass(backbone, FAST, True, "")(TEXTS)
    files = [file for file in own_cache.rglob("*") if file.is_file()]
    assert files
    for word in (b"chest", b"effusion", b"finding"):
        assert not any(word in file.read_bytes() or word.decode() in str(file.relative_to(own_cache)) for file in files)


def test_without_room_everything_is_computed(tmp_path, own_cache):
    backbone = pair_llm(tmp_path).load().requires_grad_(False)
    expected = plain(backbone, Adapter(), DISTINCT, False)["text.pooled"]
    for cache in (0.0, 1e-9):
        seen = counted(backbone)
        text_pass = TextPass(backbone, Speed(cache=cache), False, "")
        for _ in range(2):
            assert torch.equal(remembered(text_pass, Adapter(), DISTINCT)["text.pooled"], expected)
        assert sum(seen) == 2 * len(DISTINCT)
        assert not list(own_cache.rglob("pooled.bin"))
    assert (own_cache / "texts").exists()


@pytest.mark.parametrize(
    ("make", "alone"),
    [
        (Adapter, True),
        (JointStack, True),
        (CLIPAdapter, True),
        (LinearProbe, True),
        (VPT, True),
        (partial(LoRA, sides=["image"]), True),
        (lambda: Compose([LoRA(sides=["image"]), JointStack()]), True),
        (partial(LoRA, sides=["text"]), False),
        (lambda: Compose([LoRA(sides=["text"]), JointStack()]), False),
        (CoOp, False),
        (CoCoOp, False),
        (MMRL, False),
    ],
)
def test_which_adapters_leave_texts_alone(make, alone):
    assert leaves_texts_alone(make(), toy("hf_clip")) is alone


def test_what_is_finished_has_no_blocks(tmp_path):
    pair(tmp_path)
    tower = TextPass(Pair(str(tmp_path / "image"), str(tmp_path / "text")), FAST, False, "")(["finding"]).tower
    with pytest.raises(TypeError, match="use the tower itself"):
        tower.embed(None)
    with pytest.raises(IndexError, match="no block 0"):
        tower.block(0, None)
    with pytest.raises(TypeError, match="no layers"):
        tower.lora_targets(["q"])
    assert not list(tower.parameters())


def test_alignment_reads_reports_once(tmp_path, monkeypatch):
    """The same training with and without; a later run computes no text."""
    computed = []
    compute = TextPass._compute
    monkeypatch.setattr(TextPass, "_compute", lambda self, texts: computed.append(len(texts)) or compute(self, texts))

    def trained(cache):
        seed_everything(3, verbose=False)
        adapter = LoRA(rank=2, dropout=0.0, sides=["image"])
        optimizer = partial(torch.optim.SGD, lr=0.01)
        model = Alignment(hf_clip(), adapter, {"pairs": InfoNCE()}, optimizer, speed=Speed(cache=cache))
        trainer(tmp_path).fit(model, Pairs())
        return torch.cat([value.flatten() for value in model.adapter.state_dict().values()])

    plain = trained(0.0)
    assert not computed
    torch.testing.assert_close(trained(1.0), plain, atol=1e-6, rtol=1e-5)
    # Two more are looked at to find out sizes.
    assert sum(computed) == len({row["text"] for row in Pairs().rows}) + 2
    computed.clear()
    torch.testing.assert_close(trained(1.0), plain, atol=1e-6, rtol=1e-5)
    assert not computed


@pytest.mark.slow
def test_a_second_run_of_the_recipe_reads_its_reports_from_disk(tmp_path, own_cache, monkeypatch):
    """The language model computes every text once, in the first run."""
    folder = samples.write("cxr-reports", tmp_path / "archive", seed=3, patients=40)
    computed = []
    compute = TextPass._compute
    monkeypatch.setattr(TextPass, "_compute", lambda self, texts: computed.append(len(texts)) or compute(self, texts))

    def run(name):
        computed.clear()
        few = ["--trainer.max_epochs", "1", "--data.loading.batch_size", "8"]
        words = ["fit", str(RECIPE), "--data.root", str(folder), *few, "--run-dir", str(tmp_path / name)]
        assert main(words) == 0
        return sum(computed), (tmp_path / name / "predictions.csv").read_bytes()

    (first, found), (second, again) = run("first"), run("second")
    files = {file: file.stat().st_size for file in (own_cache / "texts").rglob("*.bin")}
    assert files
    assert first > 0
    assert second == 0
    assert again == found
