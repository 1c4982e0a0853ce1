"""TCL's local-global term: closed forms, pooling, and what it sees that a global term does not."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from domainvl.objectives import Context, InfoNCE, TclLocalGlobal
from domainvl.objectives._tokens import gather_tokens
from domainvl.objectives.tcl import pooled

WORDS = {"anchor": "text.pooled", "tokens": "ema/text.tokens"}


def context(scale=1 / 0.07):
    return Context(scale=torch.tensor(scale), epoch=0)


def test_equal_cosines():
    features = {
        "text.pooled": torch.ones(6, 8),
        "ema/text.tokens": torch.ones(6, 4, 8),
        "ema/text.mask": torch.ones(6, 4, dtype=torch.bool),
    }
    loss = TclLocalGlobal(**WORDS)(features, {}, context())["loss"]
    assert loss.item() == pytest.approx(math.log(1 + 5 * 4), abs=1e-5)


def test_other_locals_of_the_same_record_do_not_count():
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 4, 8, generator=draw)
    features = {
        "text.pooled": torch.randn(1, 8, generator=draw),
        "ema/text.tokens": tokens,
        "ema/text.mask": torch.ones(1, 4, dtype=torch.bool),
    }
    assert TclLocalGlobal(**WORDS)(features, {}, context())["loss"].item() == 0


def test_processes_may_hold_texts_of_different_length():
    draw = torch.Generator().manual_seed(0)
    mine, theirs = torch.randn(2, 3, 4, generator=draw), torch.randn(3, 5, 4, generator=draw)
    masks = [torch.ones(part.shape[:2], dtype=torch.bool) for part in (mine, theirs)]
    answers = iter([torch.tensor([5]), theirs, masks[1]])
    context = Context(scale=torch.tensor(1.0), epoch=0, gather=lambda rows: torch.cat([rows, next(answers)]))
    tokens, mask = gather_tokens(mine, masks[0], context)
    assert torch.equal(tokens[mask], torch.cat([mine.flatten(0, 1), theirs.flatten(0, 1)]))
    assert mask.sum(dim=1).tolist() == [3, 3, 5, 5, 5]


def twins(records=8, locals_=16, width=32):
    """Records in pairs that differ in one local alone: locals `[B, L, D]` and where the twin lies, `[B]`."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(records, locals_, width, generator=draw)
    tokens[1::2, 1:] = tokens[::2, 1:]
    return tokens, torch.arange(records) ^ 1


@pytest.mark.parametrize(("name", "lowest", "highest"), [("local", 0.2, 1.0), ("global", -1e-4, 1e-4)])
def test_what_the_global_feature_lost_comes_back(name, lowest, highest):
    """Twins differ in one local that the teacher's global feature ignores: only the locals tell them apart."""
    tokens, twin = twins()
    fixed = {
        "ema/text.tokens": tokens,
        "ema/text.mask": torch.ones(tokens.shape[:2], dtype=torch.bool),
        "ema/text.pooled": normalize(tokens[:, 1:], dim=-1).mean(dim=1),
    }
    one_way = InfoNCE("text.pooled", "text.pooled", symmetric=False, teacher=True)
    objective = {"local": TclLocalGlobal(**WORDS), "global": one_way}[name]
    learned = fixed["ema/text.pooled"].clone().requires_grad_()
    optimizer = torch.optim.SGD([learned], lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        objective(fixed | {"text.pooled": learned}, {}, context())["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        own, detail = normalize(learned, dim=-1), normalize(tokens[:, 0], dim=-1)
        apart = (own * (detail - detail[twin])).sum(-1).mean().item()
    assert lowest < apart < highest


@pytest.mark.parametrize("grid", [[5, 3], [3, 2, 5]])
def test_windows_average_real_tokens(grid):
    draw = torch.Generator().manual_seed(0)
    length = math.prod(grid)
    tokens = torch.randn(2, length, 3, generator=draw)
    mask = torch.rand(2, length, generator=draw) > 0.3
    mask.view(2, *grid)[0, :2, :2] = False
    found, filled = pooled(tokens.where(mask[..., None], 0.0), mask, grid, 2)
    cells = torch.cartesian_prod(*(torch.arange(side) // 2 for side in grid))
    expected = torch.unique(cells, dim=0)
    assert found.shape == (2, len(expected), 3)
    assert not filled.all()
    for number, cell in enumerate(expected):
        inside = (cells == cell).all(dim=1)
        for row in range(2):
            real = tokens[row, inside & mask[row]]
            assert filled[row, number] == (len(real) > 0)
            if len(real):
                assert torch.allclose(found[row, number], real.mean(dim=0), atol=1e-6)


@pytest.mark.parametrize(("settings", "named"), [({"pool": 0}, "pool"), ({"tokens": "image.pooled"}, "local features")])
def test_refused_settings(settings, named):
    with pytest.raises(ValueError, match=named):
        TclLocalGlobal(**settings)
