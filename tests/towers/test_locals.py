"""Local features over the table of towers, and words from word pieces."""

from __future__ import annotations

import math
from dataclasses import replace

import library_toys as library
import pytest
import timm
import torch
import torch.nn.functional as F
from adapters import toys as adapter_toys
from tower_toys import IMAGES, TEXTS, TOYS, toy

from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers import CTViT, CTViTModel, MerlinCNN, MerlinModel, timm_tower
from domainvl.towers.locals import own_tokens, pool_words

LENGTHS = (9, 4, 6)
FIXED = [name for name in TEXTS if toy(name).fixed]


def inputs_of(name):
    one = toy(name)
    return one.inputs if one.padded is None else one.padded


def finished(name, inputs=None):
    tower = toy(name).tower
    return tower.run(tower.embed(inputs_of(name) if inputs is None else inputs))


@pytest.mark.parametrize("name", TOYS)
@torch.no_grad()
def test_shapes_and_masks(name):
    tower, inputs, state = toy(name).tower, inputs_of(name), finished(name)
    tokens, mask = tower.locals(state)
    assert torch.isfinite(tokens).all()
    if name in IMAGES:
        grid = tower.local_grid(state)
        assert len(grid) == inputs.dim() - 2
        assert tokens.shape == (len(inputs), math.prod(grid), tower.out_dim)
        assert mask.all()
    else:
        assert tower.local_grid(state) is None
        assert tokens.shape == (*inputs.ids.shape, tower.out_dim)
        # Texts of SigLIP have no start, and padding alone tells where they end.
        # Which tokens of a language model are special is not known without its tokenizer.
        bare = "siglip" in name or "llm" in name
        lengths = torch.tensor(LENGTHS if "longformer" not in name else (13, *LENGTHS[1:]))[:, None]
        place = torch.arange(mask.shape[1])
        assert torch.equal(mask, (place >= (0 if bare else 1)) & (place < (lengths if bare else lengths - 1)))


@pytest.mark.parametrize("name", [name for name in TOYS if name not in FIXED and name in TEXTS])
@torch.no_grad()
def test_what_padding_says_changes_nothing(name):
    one = toy(name)
    ids, keep = one.padded.ids, one.padded.keep
    noise = torch.randint(5, 90, ids.shape, generator=torch.Generator().manual_seed(4))
    changed = torch.where(keep, ids, noise)
    if "llm" in name or "bert" in name or "biomed" in name or "openclip_hf" in name:
        # Their masks come with the inputs, so even words in the place of padding must not be seen.
        same = TextInputs(changed, keep)
    else:
        same = TextInputs(torch.where(keep, ids, ids.new_tensor(library.PAD)), keep)
    longer = TextInputs(
        F.pad(ids, (0, 3), value=1 if name in ("roberta", "text_longformer") else library.PAD), F.pad(keep, (0, 3))
    )
    expected, mask = one.tower.locals(finished(name))
    for other in (same, longer):
        tokens, seen = one.tower.locals(finished(name, other))
        width = mask.shape[1]
        assert torch.equal(seen[:, :width], mask)
        assert not seen[:, width:].any()
        torch.testing.assert_close(tokens[:, :width][mask], expected[mask], atol=4e-6, rtol=0.0)


@pytest.mark.parametrize("name", TOYS)
@torch.no_grad()
def test_inserted_tokens_are_left_out(name):
    tower, state = toy(name).tower, finished(name)
    loud = 100 * torch.randn(3, tower.width)
    for at in (state.prefix, state.length):
        more = state.insert(loud, at=at, name="loud")
        for found, expected in zip(tower.locals(more), tower.locals(state), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("name", TOYS)
def test_tokens_inserted_on_the_way_are_left_out_and_learn(name):
    one, inputs = toy(name), inputs_of(name)
    new = torch.nn.Parameter(torch.randn(2, one.tower.width))

    def edit(index: int, state: TokenState) -> TokenState:
        return state.insert(new, at=state.prefix, name="prompt") if index == 1 else state

    state = one.tower.run(one.tower.embed(inputs), edit)
    tokens, mask = one.tower.locals(state)
    plain, same = one.tower.locals(finished(name))
    assert tokens.shape == plain.shape
    assert torch.equal(mask, same)
    span = state.spans["prompt"]
    kept = torch.cat([state.tokens[:, : span.start], state.tokens[:, span.stop :]], dim=1)
    kept = kept[:, state.prefix :] if name in IMAGES else kept[:, : mask.shape[1]]
    assert torch.equal(tokens, one.tower.project(one.tower.alone(kept)).view_as(tokens))
    tokens[mask].square().sum().backward()
    assert new.grad.abs().max() > 1e-7


READS_ONE = [name for name in TOYS if finished(name).readout is not None]


@pytest.mark.parametrize("name", READS_ONE)
@torch.no_grad()
def test_the_pooled_token_alone_is_the_pooled_feature(name):
    tower, state = toy(name).tower, finished(name)
    read = state.tokens[torch.arange(len(state.tokens)), state.readout][:, None]
    found = state.whole(tower.alone(read)[:, 0])
    torch.testing.assert_close(tower.project(found), tower.project(tower.pool(state)), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("name", [name for name in TOYS if name not in READS_ONE])
@torch.no_grad()
def test_a_picture_of_one_patch_pools_to_its_local_feature(name):
    """True of means and of attention: where all tokens are the same, so is what is pooled."""
    tower, state = toy(name).tower, finished(name)
    same = replace(state, tokens=state.tokens[:1, -1:].expand_as(state.tokens))
    expected = tower.project(tower.pool(same))
    found = tower.project(tower.alone(same.tokens))
    torch.testing.assert_close(found, expected[:1, None].expand_as(found), atol=5e-6, rtol=0.0)


@pytest.mark.parametrize("name", [name for name in IMAGES if toy(name).inputs.dim() == 5])
@torch.no_grad()
def test_patches_of_volumes_lie_as_their_grid_says(name):
    """A patch that enters twice as large comes out changed in its place, and in no other where blocks are left out."""
    tower = toy(name).tower
    inputs = toy(name).inputs
    state = tower.embed(inputs)
    grid = tower.local_grid(state)
    sides = [n // count for n, count in zip(inputs.shape[2:], grid, strict=True)]
    place = (grid[0] - 1, 0, grid[2] - 1)
    changed = inputs.clone()
    z, y, x = (slice(at * side, (at + 1) * side) for at, side in zip(place, sides, strict=True))
    changed[1, :, z, y, x] += 1
    moved = (tower.locals(tower.embed(changed))[0] - tower.locals(state)[0]).abs().amax(dim=-1) > 1e-5
    assert moved.unflatten(1, grid).nonzero().tolist() == [[1, *place]]


@torch.no_grad()
def test_a_map_of_three_dimensions():
    model = MerlinModel((1, 1, 1, 1), 24, 5).eval()
    tower = MerlinCNN(model)
    state = tower.run(tower.embed(torch.randn(2, 1, 32, 64, 32)))
    tokens, mask = tower.locals(state)
    assert tokens.shape == (2, math.prod(tower.local_grid(state)), 24)
    assert mask.all()
    torch.testing.assert_close(tokens.mean(1), tower.project(tower.pool(state)), atol=1e-6, rtol=0.0)


@torch.no_grad()
def test_slices_and_whole_scans_by_turns():
    one = adapter_toys.hlip()
    volumes = torch.randn(2, 3, 32, 32)
    state = one.image.run(one.image.embed(volumes))
    tokens, _ = one.image.locals(state)
    assert one.image.local_grid(state) == (3, 2, 2)
    assert torch.equal(tokens, one.image.project(one.image.norm(state.tokens[:, 1:])))


def test_a_tower_that_flattens_slices_refuses_by_name():
    tower = CTViT(CTViTModel(16, (2, 4, 4), 1, 2, 2, 8, 6), torch.nn.Linear(2 * 2 * 16, 4))
    with pytest.raises(TypeError, match="CTViT gives no local features"):
        tower.locals(tower.embed(torch.randn(1, 1, 4, 8, 8)))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
@torch.no_grad()
def test_cells_of_a_cnn(name):
    model = library.shuffled(timm.create_model(name, pretrained=False, num_classes=7))
    tower = timm_tower(model)
    state = tower.run(tower.embed(library.images(64)))
    tokens, mask = tower.locals(state)
    assert tokens.shape == (3, state.grid[0] * state.grid[1], 7)
    assert mask.all()
    same = replace(state, tokens=state.tokens[:, -1:].expand_as(state.tokens))
    found = tower.locals(same)[0]
    torch.testing.assert_close(found[:, 0], tower.project(tower.pool(same)), atol=2e-6, rtol=0.0)
    if name == "test_resnet":
        torch.testing.assert_close(tokens.mean(1), tower.project(tower.pool(state)), atol=2e-6, rtol=0.0)


@pytest.mark.parametrize("name", ["hf_clip_image", "hf_clip_text", "timm_vit"])
@torch.no_grad()
def test_a_state_of_read_tokens_alone_is_refused(name):
    tower = toy(name).tower
    state = tower.run(tower.embed(inputs_of(name)), reads=())
    with pytest.raises(RuntimeError, match="does not hold all tokens"):
        tower.locals(state)


@torch.no_grad()
def test_learned_words_in_the_place_of_words_are_refused():
    tower = toy("hf_clip_text").tower

    def words(state, inputs):
        return state.mark(1, 2, "learned").overwrite(torch.zeros(2, tower.width), "learned")

    def between(state, inputs):
        return state.scatter(torch.zeros(2, tower.width), torch.tensor([1, 2, 3]))

    for edit in (words, between):
        with pytest.raises(RuntimeError, match="stand among the words"):
            tower.locals(tower.run(tower.embed(inputs_of("hf_clip_text"), edit)))


@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_structured_inputs_say_what_is_content(name):
    tower, plain = toy(name).tower, inputs_of(name)
    sentences = torch.full_like(plain.ids, -1)
    sentences[:, 2:4] = 0
    state = finished(name, replace(plain, sentences=sentences, words=sentences))
    tokens, mask = tower.locals(state)
    assert torch.equal(mask, sentences >= 0)
    assert torch.equal(tokens, tower.locals(finished(name))[0])


@torch.no_grad()
def test_padding_that_made_room_comes_back():
    """Learned vectors push padding out of the context; words keep their columns."""
    tower, inputs = toy("hf_clip_text").tower, library.texts(LENGTHS, library.CONTEXT)
    new = 0.1 * torch.randn(3, tower.width)
    state = tower.run(tower.embed(inputs, lambda state, _: state.insert(new, at=state.prefix, name="words")))
    assert state.length == library.CONTEXT
    tokens, mask = own_tokens(state)
    assert tokens.shape[:2] == mask.shape == inputs.ids.shape
    assert torch.equal(tokens[0, 1:8], state.tokens[0, 4:11])


WORDS = torch.tensor([[-1, 0, 0, -1, 2, -1], [-1, 0, 1, 1, 1, -1], [-1] * 6])
SENTENCES = torch.tensor([[-1, 0, 0, 0, 1, -1], [-1, 0, 0, 0, 0, -1], [-1] * 6])


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_words_are_pooled(reduce):
    tokens = torch.randn(3, 6, 4, dtype=torch.double, requires_grad=True)
    found, mask, sentences = pool_words(tokens, WORDS, SENTENCES, reduce)
    assert mask.tolist() == [[True, False, True], [True, True, False], [False] * 3]
    assert sentences.tolist() == [[0, -1, 1], [0, 0, -1], [-1] * 3]
    for row in range(3):
        for word in range(3):
            pieces = tokens[row][WORDS[row] == word]
            expected = getattr(pieces, reduce)(0) if len(pieces) else torch.zeros(4).double()
            torch.testing.assert_close(found[row, word], expected)
    assert torch.autograd.gradcheck(lambda x: pool_words(x, WORDS, SENTENCES, reduce)[0], tokens)
    found.sum().backward()
    assert not tokens.grad[WORDS < 0].any()


def test_pool_words_says_what_does_not_fit():
    with pytest.raises(ValueError, match="should agree"):
        pool_words(torch.zeros(3, 5, 2), WORDS, SENTENCES)
    with pytest.raises(ValueError, match="'max' is not one of mean, sum"):
        pool_words(torch.zeros(3, 6, 2), WORDS, SENTENCES, "max")
    empty = torch.full((2, 3), -1)
    assert pool_words(torch.zeros(2, 3, 4), empty, empty)[0].shape == (2, 1, 4)
