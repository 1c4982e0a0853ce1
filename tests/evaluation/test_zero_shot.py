import numpy as np
import pytest
import torch
import torch.nn.functional as F

from domainvl.evaluation.zero_shot import ensemble, one_of, two_prompt


def rows(count, seed):
    return (np.random.default_rng(seed).normal(size=(count, 5)) * [[1, 3, 1, 2, 1]]).astype(np.float32)


def test_two_prompts_are_a_softmax_with_the_scale():
    images, yes, no = rows(4, 0), rows(3, 1), rows(3, 2)
    unit = [F.normalize(torch.from_numpy(part).double(), dim=-1) for part in (images, yes, no)]
    scores = 30 * torch.stack([unit[0] @ unit[1].T, unit[0] @ unit[2].T])
    assert two_prompt(images, yes, no, 30) == pytest.approx(scores.softmax(dim=0)[0].numpy())
    assert two_prompt(images * 7, yes, no / 3, 30) == pytest.approx(two_prompt(images, yes, no, 30))
    assert two_prompt(images, yes, yes, 30) == pytest.approx(np.full((4, 3), 0.5))
    extreme = two_prompt(yes, yes, -yes, 1e6)
    assert np.isfinite(extreme).all()
    assert extreme.diagonal() == pytest.approx(np.ones(3))


def test_one_of_is_a_softmax_over_classes():
    images, classes = rows(4, 0), rows(3, 1)
    unit = [F.normalize(torch.from_numpy(part).double(), dim=-1) for part in (images, classes)]
    assert one_of(images, classes, 100) == pytest.approx((100 * unit[0] @ unit[1].T).softmax(dim=1).numpy())


def test_prompts_count_by_direction():
    prompts = np.array([[2.0, 0], [0, 9], [0, 1]])
    found = ensemble(prompts, [0, 0, 1], 2)
    assert found == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0, 1]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: two_prompt(rows(2, 0), rows(3, 1), rows(2, 1), 1), r"yes is \(3, 5\) and no is \(2, 5\)"),
        (lambda: two_prompt(rows(2, 0), rows(3, 1), rows(3, 1), 0), "scale is 0"),
        (lambda: one_of(rows(2, 0) * 0, rows(3, 1), 1), "2 rows of images have no direction"),
        (lambda: ensemble(rows(3, 0), [0, 0, 2], 3), "at least one prompt"),
        (lambda: ensemble(np.array([[1.0, 0], [-1, 0]]), [0, 0], 1), "1 rows of mean prompts have no direction"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
