"""TokenState: what moves with the tokens when some are inserted."""

import pytest
import torch

from domainvl.tokens import TokenState


def state(batch=2, length=5, width=3, **fields):
    tokens = torch.arange(batch * length * width, dtype=torch.float32).view(batch, length, width)
    return TokenState(tokens, **fields)


@pytest.mark.parametrize("at", [0, 1, 3, 5])
def test_insert_shifts_everything_behind_it(at):
    keep = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    before = state(keep=keep, readout=torch.tensor([3, 4]), prefix=1)
    after = before.insert(torch.full((2, 3), -1.0), at=at, name="new")
    assert after.length == 7
    assert torch.equal(after.take("new"), torch.full((2, 2, 3), -1.0))
    rows = torch.arange(2)
    assert torch.equal(after.tokens[rows, after.readout], before.tokens[rows, before.readout])
    assert torch.equal(after.keep.sum(1), keep.sum(1) + 2)
    assert after.prefix == (3 if at == 0 else 1)
    back = after.original()
    assert torch.equal(back.tokens, before.tokens)
    assert torch.equal(back.keep, keep)
    assert torch.equal(back.readout, before.readout)
    assert back.prefix == before.prefix


def test_a_second_span_moves_the_first():
    after = state().insert(torch.zeros(1, 3), at=2, name="a").insert(torch.ones(2, 3), at=1, name="b")
    assert after.spans == {"a": slice(4, 5), "b": slice(1, 3)}
    assert torch.equal(after.take("a"), torch.zeros(2, 1, 3))
    assert torch.equal(after.overwrite(torch.full((1, 3), 9.0), "a").tokens[:, 4], torch.full((2, 3), 9.0))


def test_per_sample_tokens_and_gradient():
    new = torch.zeros(2, 1, 3, requires_grad=True)
    after = state().insert(new, at=1, name="a")
    after.tokens.sum().backward()
    assert torch.equal(new.grad, torch.ones_like(new))


def test_marked_tokens_are_a_span():
    after = state().mark(1, 2, "a")
    assert torch.equal(after.take("a"), state().tokens[:, 1:3])
    after = after.insert(torch.ones(1, 3), at=0, name="b").overwrite(torch.zeros(2, 3), "a")
    assert torch.equal(after.tokens[:, 2:4], torch.zeros(2, 2, 3))
    assert torch.equal(after.original().tokens, state().tokens[:, [0, 3, 4]])


@pytest.mark.parametrize("at", [[1, 1], [1, 4], [5, 2]])
def test_scatter_is_insert_row_by_row(at):
    keep = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    fields = {"keep": keep, "readout": torch.tensor([3, 4]), "prefix": 1}
    new = torch.tensor([[[-1.0] * 3, [-2.0] * 3], [[-3.0] * 3, [-4.0] * 3]])
    after = state(**fields).scatter(new, torch.tensor(at))
    assert after.spans == {}
    assert after.prefix == 1
    for row in range(2):
        alone = state(**fields).insert(new, at=at[row], name="new")
        for key in ("tokens", "keep", "readout"):
            assert torch.equal(getattr(after, key)[row], getattr(alone, key)[row]), key


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.insert(torch.zeros(1, 3), 9, "a"), "outside a sequence of 5"),
        (lambda s: s.insert(torch.zeros(1, 4), 0, "a"), "do not fit"),
        (lambda s: s.insert(torch.zeros(1, 3), 0, "a").insert(torch.zeros(1, 3), 0, "a"), "there already"),
        (lambda s: s.insert(torch.zeros(2, 3), 0, "a").insert(torch.zeros(1, 3), 1, "b"), "inside the span"),
        (lambda s: s.insert(torch.zeros(2, 3), 0, "a").overwrite(torch.zeros(1, 3), "a"), "holds 2 tokens"),
        (lambda s: s.step(torch.zeros(2, 4, 3)), "use insert"),
        (lambda s: s.mark(4, 2, "a"), "outside a sequence of 5"),
        (lambda s: s.mark(0, 2, "a").mark(3, 1, "a"), "there already"),
        (lambda s: s.scatter(torch.zeros(1, 3), torch.tensor([1, 6])), r"1 to 6 are outside 0\.\.5"),
        (lambda s: s.insert(torch.zeros(1, 3), 0, "a").scatter(torch.zeros(1, 3), torch.tensor([1, 1])), "spans"),
    ],
)
def test_misuse_says_what_is_wrong(act, message):
    with pytest.raises(ValueError, match=message):
        act(state())
    with pytest.raises(KeyError, match="no span 'x'"):
        state().take("x")


def test_mask_is_causal_hides_padding_and_never_leaves_a_row_empty():
    assert state().mask() is None
    keep = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    mask = state(keep=keep, causal=True).mask()
    assert mask.shape == (2, 1, 5, 5)
    visible = mask[:, 0] == 0
    for row in range(2):
        for query in range(5):
            for key in range(5):
                expected = key == query or (key < query and bool(keep[row, key]))
                assert bool(visible[row, query, key]) == expected
    assert torch.isfinite(mask.softmax(-1)).all()


def test_mask_is_kept_while_the_layout_is():
    causal = state(causal=True)
    mask = causal.mask()
    assert causal.step(causal.tokens + 1).mask() is mask
    assert causal.insert(torch.zeros(1, 3), 1, "a").mask().shape[-1] == 6
