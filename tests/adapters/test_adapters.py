"""Every adapter on every tower family: add a row to ADAPTERS, or a toy to toys.TOYS."""

import inspect
from functools import partial

import pytest
import torch
from adapters.toys import CLASSES, TOYS, attached, class_features, moved, pictures, scores, texts, toy
from torch.nn.functional import cross_entropy

from domainvl import adapters
from domainvl.adapters import (
    CLAP,
    DCAR,
    MMRL,
    VPT,
    CLIPAdapter,
    CoCoOp,
    Compose,
    CoOp,
    Crane,
    DepthEmbedding,
    JointStack,
    LinearProbe,
    LoRA,
    MaPLe,
    MMRLpp,
    PromptSRC,
    SgVA,
    SideTuning,
    SliceAttention,
    SliceTransformer,
    STAdapter,
    TipAdapter,
)
from domainvl.adapters._scores import cosine_logits
from domainvl.adapters.base import SIDES, Adapter
from domainvl.hub import make_adapter

ADAPTERS = {
    "CoOp": partial(CoOp, tokens=3),
    "CoOp from words": partial(CoOp, init="a photo of"),
    "CoOp in the middle": partial(CoOp, tokens=3, position="middle"),
    "CoOp per class": partial(CoOp, init="a photo of", class_specific=True, position="front"),
    "LoRA": partial(LoRA, rank=2, dropout=0.0),
    "LoRA late": partial(LoRA, rank=3, alpha=2.0, parts=["up", "down"], dropout=0.0, first_block=1),
    "LoRA text": partial(LoRA, parts=["up"], sides=["text"], dropout=0.0, scaling="alpha/rank"),
    "LoRA dora": partial(LoRA, parts=["up", "down"], dropout=0.0, variant="dora"),
    "LoRA pissa": partial(LoRA, parts=["up", "down"], dropout=0.0, variant="pissa", scaling="alpha/rank"),
    "MMRL": partial(MMRL, tokens=3, width=16),
    "MMRL from 0": partial(MMRL, tokens=2, width=8, first_block=0, alpha=0.4, scale=30.0),
    "MMRLpp": partial(MMRLpp, tokens=3, width=16, rank=2, head_rank=4, beta=0.6),
    "CLAP": partial(CLAP, length=2.0, views=2),
    "CLIPAdapter": partial(CLIPAdapter, ratio=0.3, reduction=2),
    "JointStack": partial(JointStack, blocks=2, expansion=3),
    "JointStack of a layer": partial(JointStack, blocks=0, normalise=False),
    "LoRA and JointStack": lambda: Compose([LoRA(parts=["up"], dropout=0.0), JointStack(blocks=1)]),
    "DCAR": partial(DCAR, text_tokens=3, image_tokens=2, depth=2),
    "SgVA": partial(SgVA, views=2, share=0.6),
    "STAdapter": partial(STAdapter, width=8),
    "STAdapter late": partial(STAdapter, width=4, kernel=[3, 3, 1], first_block=2),
    "DepthEmbedding": DepthEmbedding,
    "DepthEmbedding and MMRL": lambda: Compose([DepthEmbedding(), MMRL(tokens=2, width=8, first_block=0)]),
    "SideTuning": partial(SideTuning, width=6),
    "SideTuning, LoRA and VPT": lambda: Compose([LoRA(parts=["up"], dropout=0.0), VPT(tokens=2), SideTuning(width=6)]),
    "SliceAttention": partial(SliceAttention, width=8),
    "SliceTransformer": partial(SliceTransformer, width=8, layers=2, heads=2),
    "LoRA and SliceAttention": lambda: Compose([LoRA(parts=["up"], dropout=0.0), SliceAttention(width=8)]),
    "CoOp and SgVA": lambda: Compose([CoOp(tokens=3), SgVA()]),
    "TipAdapter-F": partial(TipAdapter, alpha=1.7, beta=2.0, learn_keys=True, views=2),
    "LoRA and MMRL": lambda: Compose([LoRA(dropout=0.0, first_block=1), MMRL(tokens=3, width=16, first_block=2)]),
    "CoOp, LoRA and CLIPAdapter": lambda: Compose(
        [CoOp(tokens=3), LoRA(parts=["up"], dropout=0.0), CLIPAdapter(reduction=2)]
    ),
    "LoRA and LinearProbe": lambda: Compose([LoRA(parts=["down"], sides=["image"]), LinearProbe()]),
    "CoCoOp": partial(CoCoOp, init="a photo", reduction=2),
    "CoCoOp from nothing": partial(CoCoOp, tokens=3, init=None, reduction=4),
    "Crane": partial(Crane, tokens=4, deep_tokens=2),
    "Crane shallow": partial(Crane, tokens=3, deep_tokens=3, depth=1),
    "MaPLe": partial(MaPLe, tokens=2, init="a photo of a"),
    "MaPLe deep": partial(MaPLe, tokens=3, depth=3, init=None),
    "PromptSRC": partial(PromptSRC, tokens=3),
    "PromptSRC shallow": partial(PromptSRC, tokens=2, depth=1, mean=None),
    "VPT": partial(VPT, tokens=3),
    "VPT shallow": partial(VPT, tokens=2, depth=1),
    "VPT and CoOp": lambda: Compose([VPT(tokens=2, depth=2), CoOp(tokens=2, position="front")]),
    "LinearProbe": LinearProbe,
    "LinearProbe without bias": partial(LinearProbe, bias=False),
}
TOKENS = [name for name in ADAPTERS if not name.startswith("LinearProbe")]
LABEL = torch.tensor([0, 1, 2, 0, 1])

# What pools slices has nothing to pool elsewhere.
SLICES = {"SliceAttention", "SliceTransformer", "LoRA and SliceAttention"}

everywhere = pytest.mark.parametrize("where", TOYS)
every = pytest.mark.parametrize("name", ADAPTERS)
pairs = pytest.mark.parametrize(
    ("name", "where"), [(name, where) for name in ADAPTERS for where in TOYS if where == "slices" or name not in SLICES]
)


def trained(name, where):
    backbone = toy(where)
    return moved(attached(ADAPTERS[name](), backbone)), backbone


@pairs
def test_only_the_adapter_learns(name, where):
    adapter, backbone = trained(name, where)
    own = {id(parameter) for parameter in adapter.parameters()}
    others = {key: p for key, p in [*backbone.named_parameters(), *backbone.named_buffers()] if id(p) not in own}
    before = {key: value.detach().clone() for key, value in others.items()}
    start = {key: value.detach().clone() for key, value in adapter.named_parameters()}
    everything = torch.nn.ModuleList([backbone, adapter])
    optimizer = torch.optim.SGD([p for p in everything.parameters() if p.requires_grad], lr=0.1)
    cross_entropy(scores(adapter.train(), backbone)["image.logits"], LABEL).backward()
    optimizer.step()
    for key, parameter in adapter.named_parameters():
        assert parameter.grad is not None, key
        assert float(parameter.grad.abs().max()) > 0, key
        assert not torch.equal(parameter, start[key]), key
    for key, value in others.items():
        assert not value.requires_grad, key
        assert torch.equal(value, before[key]), key


@pairs
def test_it_changes_what_is_predicted(name, where):
    adapter, backbone = trained(name, where)
    plain = scores(Adapter(), toy(where))["image.logits"]
    assert float((scores(adapter, backbone)["image.logits"] - plain).detach().abs().max()) > 1e-3


@pairs
def test_off_is_the_base_model_to_the_bit(name, where):
    adapter, backbone = trained(name, where)
    untouched = toy(where)
    words = untouched.tokenize(CLASSES)
    with torch.no_grad(), adapter.off():
        assert torch.equal(backbone.image(pictures()), untouched.image(pictures()))
        assert torch.equal(backbone.text(words), untouched.text(words))
    again = scores(adapter, backbone)["image.logits"]
    assert torch.equal(again, scores(*trained(name, where))["image.logits"])


@pairs
def test_evaluation_without_gradients_says_the_same(name, where):
    """Libraries take other kernels there, some of which read weights behind an adapter's back."""
    adapter, backbone = trained(name, where)
    slow = scores(adapter, backbone)["image.logits"]
    with torch.no_grad():
        torch.testing.assert_close(scores(adapter, backbone)["image.logits"], slow, rtol=1e-4, atol=1e-4)


@pairs
def test_off_in_the_middle_of_a_step_leaves_the_gradient_alone(name, where):
    gradients = []
    for interrupted in (False, True):
        adapter, backbone = trained(name, where)
        loss = cross_entropy(scores(adapter, backbone)["image.logits"], LABEL)
        if interrupted:
            with torch.no_grad(), adapter.off():
                backbone.image(pictures())
        loss.backward()
        gradients.append([parameter.grad for parameter in adapter.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pairs
@pytest.mark.parametrize("side", SIDES)
def test_first_block_is_honest(name, where, side):
    """The state in front of it is the base model's, the state behind it is not, and going on from there is exact."""
    adapter, backbone = trained(name, where)
    tower, base = getattr(backbone, side), getattr(toy(where), side)
    inputs = pictures() if side == "image" else texts(adapter, backbone)
    first = adapter.first_block(side, tower)
    words = adapter.words if side == "text" else None
    edit = partial(adapter.edit, side)
    with torch.no_grad():
        whole = adapter.readout(side, tower, tower.run(tower.embed(inputs, words), edit))
        prefix = adapter.prefix(side, tower, inputs)
        resumed = adapter.finish(side, tower, prefix)
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
        if first > 0:
            assert torch.equal(prefix.tokens, base.run(base.embed(inputs), stop=first).tokens)
        if first < tower.depth:
            behind = tower.run(prefix, edit, start=first, stop=first + 1)
            plain = base.run(base.embed(inputs), stop=first + 1).tokens
            assert behind.notes or behind.tokens.shape != plain.shape or not torch.equal(behind.tokens, plain)


@pairs
def test_novel_classes(name, where):
    adapter, backbone = trained(name, where)
    classes = ["cardiomegaly", "fracture", "edema", "a pneumothorax on the left"]
    if adapter.only_known_classes():
        with pytest.raises(ValueError, match="novel"):
            scores(adapter, backbone, classes, novel=True)
    else:
        assert scores(adapter, backbone, classes, novel=True)["image.logits"].shape == (5, 4)


@pairs
def test_config_makes_the_same_method_again(name, where):
    made = ADAPTERS[name]()
    assert set(made.config()) == set(inspect.signature(type(made)).parameters)
    again = make_adapter(type(made).__name__, made.config())
    assert again.config() == made.config()
    backbone = toy(where)
    given = getattr(ADAPTERS[name], "keywords", {})
    assert {key: made.config()[key] for key in given} == given
    assert attached(again, backbone).tensors().keys() == attached(made, toy(where)).tensors().keys()


@every
def test_tensors_that_do_not_fit_are_refused(name):
    adapter, _ = trained(name, "slices" if name in SLICES else "hf_clip")
    tensors = adapter.tensors()
    key = next(iter(tensors))
    adapter.load_tensors(dict(tensors))
    for broken, message in [
        ({k: v for k, v in tensors.items() if k != key}, "missing"),
        (tensors | {"extra": torch.zeros(1)}, "extra"),
        (tensors | {key: torch.zeros(7, 7)}, r"\(7, 7\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            adapter.load_tensors(broken)


@pytest.mark.parametrize("name", [n for n in TOKENS if n.startswith("MMRL")])
def test_token_adapters_refuse_a_cnn_by_name(name):
    with pytest.raises(TypeError, match=r"MMRL.*TimmCNN.*LinearProbe"):
        ADAPTERS[name]().attach(toy("cnn"))


@pytest.mark.parametrize("name", ["LinearProbe", "CoOp", "CLAP", "CLIPAdapter", "Crane", "SgVA", "TipAdapter-F"])
def test_what_leaves_the_image_tower_alone_works_on_a_cnn(name):
    backbone = toy("cnn")
    adapter = attached(ADAPTERS[name](), backbone)
    assert scores(adapter, backbone)["image.logits"].shape == (5, 3)


@everywhere
def test_probe_starts_as_the_zero_shot_classifier(where):
    backbone = toy(where)
    adapter = attached(LinearProbe(), backbone)
    image = backbone.image(pictures())
    zero_shot = cosine_logits(image, class_features(backbone), backbone.scale())
    torch.testing.assert_close(scores(adapter, backbone)["image.logits"], zero_shot, rtol=0, atol=1e-5)


NO_STRENGTH = {
    "CLIPAdapter": partial(CLIPAdapter, ratio=1e-7),
    "DepthEmbedding": DepthEmbedding,
    "LinearProbe": LinearProbe,
    "LoRA": partial(LoRA, dropout=0.0),
    "STAdapter": partial(STAdapter, width=8),
    "SideTuning": partial(SideTuning, width=6),
}
"""Methods that have a strength, or start without any; learned tokens are there or not."""


@everywhere
@pytest.mark.parametrize("name", NO_STRENGTH)
def test_no_strength_is_the_untouched_model(name, where):
    backbone = toy(where)
    with torch.no_grad():
        base = cosine_logits(backbone.image(pictures()), class_features(backbone), backbone.scale())
        adapter = attached(NO_STRENGTH[name](), backbone)
        torch.testing.assert_close(scores(adapter, backbone)["image.logits"], base, rtol=0, atol=2e-5)


def test_probe_wants_prime_first():
    with pytest.raises(RuntimeError, match="prime"):
        LinearProbe().logits({"image.pooled": torch.zeros(1, 4)}, torch.tensor(1.0))


def test_every_method_is_in_the_table():
    # Heads over bags of tiles have a table of their own, in test_bags.py.
    exported = set(adapters.__all__) - {"Adapter", "ABMIL", "CLAM", "ViLaMIL"}
    assert exported == {type(make()).__name__ for make in ADAPTERS.values()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(CoOp, tokens=0), "CoOp: tokens"),
        (partial(CoOp, init="  "), "CoOp: init"),
        (partial(CoOp, position="back"), "CoOp: position 'back' is not one of end, middle, front"),
        (partial(LoRA, rank=0), "LoRA: rank"),
        (partial(LoRA, dropout=1.0), "LoRA: dropout"),
        (partial(LoRA, parts=["query"]), "q, k, v, o, up, down"),
        (partial(LoRA, sides=[]), "image, text"),
        (partial(LoRA, scaling="alpha"), "alpha/rank"),
        (partial(LoRA, variant="vera"), "lora, dora or pissa"),
        (partial(MMRL, tokens=0), "MMRL: tokens"),
        (partial(MMRL, alpha=1.5), "MMRL: alpha"),
        (partial(MMRL, scale=-1.0), "MMRL: scale"),
        (partial(MMRLpp, beta=0.0), "MMRLpp: beta"),
        (partial(CLAP, strength=-1.0), "CLAP: strength"),
        (partial(CLAP, length=0.0), "CLAP: length"),
        (partial(CLIPAdapter, ratio=0.0), "CLIPAdapter: ratio"),
        (partial(CLIPAdapter, reduction=0), "CLIPAdapter: reduction"),
        (partial(JointStack, blocks=-1), "JointStack: blocks"),
        (partial(JointStack, dropout=1.0), "JointStack: dropout"),
        (partial(DCAR, depth=0), "DCAR: text_tokens"),
        (partial(DCAR, temperature=0.0), "DCAR: share"),
        (partial(STAdapter, kernel=(2, 1, 1)), r"kernel three odd numbers, got 64 and \(2, 1, 1\)"),
        (partial(SideTuning, width=0), "SideTuning: width"),
        (partial(SliceAttention, width=0), "SliceAttention: width"),
        (partial(SliceTransformer, width=9), "heads divide width, got 9, 1 and 4"),
        (partial(SgVA, share=0.0), "SgVA: share"),
        (partial(SgVA, views=0), "SgVA: widen and views"),
        (partial(CoCoOp, reduction=0), "CoCoOp: tokens and reduction"),
        (partial(CoCoOp, init=" "), "CoCoOp: init"),
        (partial(Crane, depth=0), "Crane: depth"),
        (partial(Crane, tokens=3), "Crane: tokens must be positive and deep_tokens lie in 1..tokens, got 3 and 4"),
        (partial(MaPLe, depth=0), "MaPLe: tokens and depth"),
        (partial(PromptSRC, tokens=0), "PromptSRC: tokens and depth"),
        (partial(PromptSRC, deviation=0.0), "PromptSRC: deviation"),
        (partial(VPT, tokens=0), "VPT: tokens and depth"),
        (partial(TipAdapter, alpha=0.0), "TipAdapter: alpha"),
        (partial(TipAdapter, views=0), "TipAdapter: views"),
        (partial(TipAdapter, largest_beta=0.0), "largest_beta"),
        (partial(MMRLpp, rank=0), "MMRLpp: rank"),
        (partial(MMRLpp, alpha=1.5), "MMRLpp: alpha"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [SliceAttention, SliceTransformer])
def test_what_pools_slices_refuses_other_towers(make):
    with pytest.raises(TypeError, match=f"{make.__name__} pools the slices .*HFClipImage does not"):
        make().attach(toy("hf_clip"))


@pytest.mark.parametrize("make", [partial(LoRA, first_block=3), partial(MMRL, first_block=3)])
def test_first_block_beyond_the_tower_names_tower_and_depth(make):
    with pytest.raises(ValueError, match=r"first_block must lie in 0\.\.2 for the text tower .*3 blocks.*got 3"):
        make().attach(toy("hf_clip"))
