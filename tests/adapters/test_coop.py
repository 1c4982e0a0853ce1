"""CoOp against a forward pass of the transformers model that was handed the same embeddings."""

import pytest
import torch
from adapters.toys import CLASSES, END, attached, moved, toy
from torch import nn

from domainvl.adapters import CoOp, MaPLe, PromptSRC
from domainvl.adapters._words import words_end
from domainvl.features import TextInputs

TOKENS = 3


@pytest.fixture
def learned():
    backbone = toy("hf_clip")
    return moved(attached(CoOp(tokens=TOKENS), backbone)), backbone


def by_hand(model, inputs, context):
    """Look up embeddings with fillers behind the start token, and put `context` in their place."""
    filler = torch.zeros(len(inputs), TOKENS, dtype=torch.long)
    ids = torch.cat([inputs.ids[:, :1], filler, inputs.ids[:, 1:]], dim=1)

    def replace(module, args, output):
        return torch.cat([output[:, :1], context.expand(len(ids), -1, -1), output[:, 1 + TOKENS :]], dim=1)

    table = model.text_model.embeddings.token_embedding
    handle = table.register_forward_hook(replace)
    try:
        return model.get_text_features(input_ids=ids).pooler_output
    finally:
        handle.remove()


def test_features_and_gradient_are_those_of_the_library(learned):
    adapter, backbone = learned
    inputs = backbone.tokenize([adapter.prompt("a photo of {}").replace("{}", name) for name in CLASSES])
    ours = adapter.encode("text", backbone.text, inputs)["text.pooled"]
    context = adapter.context.detach().clone().requires_grad_()
    theirs = by_hand(backbone.model, inputs, context)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    target = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(3))
    (ours * target).sum().backward()
    (theirs * target).sum().backward()
    torch.testing.assert_close(adapter.context.grad, context.grad, rtol=1e-5, atol=1e-5)
    assert float(context.grad.abs().max()) > 1e-2


def test_the_name_alone_stands_behind_the_context(learned):
    adapter, _ = learned
    assert adapter.prompt("an X-ray that shows {}.") == "{}."
    assert adapter.prompt("an X-ray without {}.", negative=True) == "an X-ray without {}."


def test_start_from_words_is_their_embeddings():
    backbone = toy("hf_clip")
    adapter = attached(CoOp(tokens=99, init="a photo of a"), backbone)
    ids = backbone.tokenize(["a photo of a"]).ids[0, 1:-1]
    assert len(ids) == 4
    table = backbone.model.text_model.embeddings.token_embedding.weight
    assert torch.equal(adapter.context, nn.Parameter(table[ids]))


def test_start_from_words_is_the_whole_prompt():
    """With the template's own words the model is the zero-shot model."""
    backbone = toy("hf_clip")
    adapter = attached(CoOp(init="a photo of"), backbone)
    inputs = backbone.tokenize([adapter.prompt("ignored {}").replace("{}", name) for name in CLASSES])
    plain = backbone.text(backbone.tokenize([f"a photo of {name}." for name in CLASSES]))
    torch.testing.assert_close(adapter.encode("text", backbone.text, inputs)["text.pooled"], plain, rtol=0, atol=1e-6)


def test_random_start_is_small():
    backbone = toy("hf_clip")
    adapter = attached(CoOp(tokens=64), backbone)
    assert adapter.context.shape == (64, 32)
    assert float(adapter.context.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_words_without_a_token_are_refused(learned):
    _, backbone = learned
    with pytest.raises(ValueError, match="makes no token"):
        CoOp(init="@").attach(backbone)


def test_context_that_does_not_fit_says_so():
    backbone = toy("hf_clip")
    adapter = attached(CoOp(tokens=40), backbone)
    inputs = TextInputs(torch.tensor([[61, 5, END]]))
    with pytest.raises(ValueError, match="40 of them inserted"):
        adapter.encode("text", backbone.text, inputs)


@pytest.mark.parametrize("make", [MaPLe, PromptSRC])
@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_deep_prompts_start_as_the_whole_prompt(make, tokens):
    """The first tokens of the words are learned, the others stay."""
    backbone = toy("hf_clip")
    adapter = attached(make(tokens=tokens, depth=1), backbone)
    inputs = backbone.tokenize([adapter.prompt("ignored {}").replace("{}", name) for name in CLASSES])
    plain = backbone.text(backbone.tokenize([f"a photo of a {name}." for name in CLASSES]))
    torch.testing.assert_close(adapter.encode("text", backbone.text, inputs)["text.pooled"], plain, rtol=0, atol=1e-6)
    assert adapter.prompt("no {}.", negative=True) == "a photo of a no {}."


def test_words_with_too_few_tokens_are_refused():
    with pytest.raises(ValueError, match="MaPLe: init='a photo' is 2 tokens here, fewer than tokens=3"):
        MaPLe(tokens=3, init="a photo").attach(toy("hf_clip"))


@pytest.mark.parametrize("make", [MaPLe, PromptSRC])
def test_more_prompted_blocks_than_there_are_names_both_towers(make):
    with pytest.raises(ValueError, match=r"depth must lie in 1\.\.3 for HFClipImage \(4 blocks\) and HFClipText"):
        make(depth=4).attach(toy("hf_clip"))


def test_name_ends_in_front_of_the_full_stop_if_there_is_one():
    ids = torch.tensor(
        [[61, 5, 6, 7, END, 60], [61, 5, 6, 8, END, 60], [61, 7, END, END, END, END], [61, 5, 6, 6, 6, 6]]
    )
    assert words_end(ids, 1, END, torch.tensor([7])).tolist() == [3, 4, 1, 6]
    assert words_end(ids, 1, END, torch.tensor([], dtype=torch.long)).tolist() == [4, 4, 2, 6]
