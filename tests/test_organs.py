"""Pooling under label maps: closed forms, planted structure, what is refused."""

import pytest
import torch

from domainvl.organs import organ_coverage, organ_pool

GRID = (2, 3, 2)
ORGANS = [[1, 2], [7], [9]]


def labelled():
    """Two volumes of 4 x 6 x 4 voxels in patches of 2 x 2 x 2; the second one has no organ 7."""
    labels = torch.zeros(2, 4, 6, 4, dtype=torch.int16)
    labels[0, :2, :2, :2] = 1
    labels[0, :2, :2, 2] = 2
    labels[0, 2:, 4:, 2:] = 7
    labels[1, 0, 0, 0] = 2
    labels[1, 3] = 300
    return labels


def tokens():
    return torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0))


def test_coverage_is_the_share_of_voxels():
    found = organ_coverage(labelled(), ORGANS, GRID)
    expected = torch.zeros(2, 3, 12)
    expected[0, 0, 0] = 1
    expected[0, 0, 1] = 0.5
    expected[0, 1, 11] = 1
    expected[1, 0, 0] = 1 / 8
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_patches_are_counted_in_the_order_of_tokens():
    for index in range(12):
        z, y, x = index // 6, index // 2 % 3, index % 2
        labels = torch.zeros(1, 4, 6, 4, dtype=torch.long)
        labels[0, 2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = 7
        assert organ_coverage(labels, [[7]], GRID)[0, 0].nonzero().item() == index


def test_pooled_is_the_weighted_mean():
    found = organ_pool(tokens(), organ_coverage(labelled(), ORGANS, GRID))
    torch.testing.assert_close(found.pooled[0, 0], (tokens()[0, 0] + 0.5 * tokens()[0, 1]) / 1.5)
    torch.testing.assert_close(found.pooled[0, 1], tokens()[0, 11])
    torch.testing.assert_close(found.pooled[1, 0], tokens()[1, 0])
    assert found.valid.tolist() == [[True, True, False], [True, False, False]]
    assert not found.pooled[~found.valid].any()


def test_a_change_in_one_organ_moves_that_organ_alone():
    coverage = organ_coverage(labelled(), ORGANS, GRID)
    before = organ_pool(tokens(), coverage).pooled
    for organ, patch in ((0, 1), (1, 11)):
        changed = tokens()
        changed[0, patch] += 3
        moved = (organ_pool(changed, coverage).pooled - before).abs().amax(dim=-1) > 1e-3
        expected = torch.zeros(2, 3, dtype=torch.bool)
        expected[0, organ] = True
        assert torch.equal(moved, expected)


def test_gradient_reaches_the_patches_of_the_organ_alone():
    given = tokens().requires_grad_(True)
    organ_pool(given, organ_coverage(labelled(), ORGANS, GRID)).pooled[:, 0].sum().backward()
    assert given.grad.abs().sum(dim=-1).nonzero().tolist() == [[0, 0], [0, 1], [1, 0]]
    assert torch.isfinite(given.grad).all()


def test_slivers_are_not_there():
    coverage = organ_coverage(labelled(), ORGANS, GRID)
    assert organ_pool(tokens(), coverage, least=0.5).valid.tolist() == [[True, True, False], [False, False, False]]
    assert organ_pool(tokens(), coverage, least=1.5).valid[:, 0].tolist() == [True, False]


def test_half_precision():
    found = organ_pool(tokens().bfloat16(), organ_coverage(labelled(), ORGANS, GRID))
    assert found.pooled.dtype == torch.bfloat16
    assert torch.isfinite(found.pooled).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: organ_coverage(labelled().float(), ORGANS, GRID), "whole numbers"),
        (lambda: organ_coverage(labelled()[0], ORGANS, GRID), r"\[B, D, H, W\]"),
        (lambda: organ_coverage(labelled(), [], GRID), "at least one label"),
        (lambda: organ_coverage(labelled(), [[1], []], GRID), "at least one label"),
        (lambda: organ_coverage(labelled(), ORGANS, (3, 3, 2)), "equal patches"),
        (lambda: organ_pool(tokens(), torch.ones(2, 3, 11)), r"\[B, O, L\]"),
        (lambda: organ_pool(tokens(), torch.ones(2, 3, 12), least=-1.0), "least"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
