"""The contrastive kernel against closed forms, and its tiled forms against the plain one."""

import math

import pytest
import torch
import torch.nn.functional as F
from memory_peak import peak_bytes

import domainvl.objectives.contrast_parts as parts
import domainvl.objectives.contrast_strips as one_way
import domainvl.objectives.contrast_tiled as symmetric
from domainvl.objectives import Context
from domainvl.objectives.contrast import both_ways, contrast, contrast_logits


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(parts, "CPU_TILE", (5, 4))
    monkeypatch.setattr(one_way, "LEAST_ROWS", 3)
    monkeypatch.setattr(one_way, "STRIP", 30)


def sides(rows, columns, width=6, dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, width, generator=draw, dtype=dtype, requires_grad=True) for n in (rows, columns))
    return a, b


def by_hand(a, b, scale, target, valid, weights, norm):
    """Loops, in fp64, straight from the definition."""
    a, b = (F.normalize(x.double(), dim=-1) for x in (a, b))
    total = count = 0.0
    for i in range(len(a)):
        columns = [j for j in range(len(b)) if valid[i, j]]
        mass = sum(float(target[i, j]) for j in columns)
        if mass == 0:
            continue
        scores = torch.stack([float(scale) * a[i] @ b[j] for j in columns])
        share = torch.tensor([float(target[i, j]) / mass for j in columns], dtype=torch.float64)
        total = total - float(weights[i]) * (share * scores.log_softmax(0)).sum()
        count += float(weights[i]) if norm == "sum" else 1.0
    return total / count


def tables(rows, columns, seed=1):
    draw = torch.Generator().manual_seed(seed)
    target = torch.rand(rows, columns, generator=draw) * (torch.rand(rows, columns, generator=draw) > 0.6)
    valid = torch.rand(rows, columns, generator=draw) > 0.3
    target[2] = 0
    valid[4] = False
    return target, valid, torch.rand(rows, generator=draw)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("norm", ["sum", "rows"])
def test_it_is_the_definition_value_and_gradient(tiled, norm, small_tiles):
    a, b = sides(7, 11)
    target, valid, weights = tables(7, 11)
    expected = by_hand(a, b, 20.0, target, valid, weights, norm)
    wanted = torch.autograd.grad(expected, (a, b))
    done = contrast(a, b, 20.0, target, valid, weights, weight_norm=norm, tiled=tiled)
    assert done.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, grad in zip(torch.autograd.grad(done.loss, (a, b)), wanted, strict=True):
        assert torch.allclose(found, grad, atol=1e-5)


@pytest.mark.parametrize("tiled", [False, True])
def test_the_way_back_takes_the_transposed_targets_normalised_twice(tiled, small_tiles):
    a, b = sides(9, 9)
    target, valid, weights = tables(9, 9)
    target = target * valid
    forth = by_hand(a, b, 5.0, target, valid, weights, "sum")
    rows = target / target.sum(1, keepdim=True).clamp_min(1e-9)
    back = by_hand(b, a, 5.0, rows.T, valid.T, weights, "sum")
    done = contrast(a, b, 5.0, target, valid, weights, symmetric=True, tiled=tiled)
    assert done.loss.item() == pytest.approx((forth + back).item() / 2, rel=1e-5)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("both", [False, True])
def test_equal_scores_give_the_log_of_the_number_of_columns(tiled, smoothing, both, small_tiles):
    same = torch.ones(13, 4)
    done = contrast(same, same, 3.0, label_smoothing=smoothing, symmetric=both, tiled=tiled)
    assert done.loss.item() == pytest.approx(math.log(13), rel=1e-6)


@pytest.mark.parametrize("tiled", [False, True])
def test_an_invalid_column_is_as_good_as_absent(tiled, small_tiles):
    a, b = sides(6, 9)
    valid = torch.ones(6, 9, dtype=torch.bool)
    valid[:, 7] = False
    with torch.no_grad():
        b[7] = 100 * a[0]
    loss = contrast(a, b, 10.0, valid=valid, label_smoothing=0.1, tiled=tiled).loss
    without = contrast(a, torch.cat([b[:7], b[8:]]), 10.0, label_smoothing=0.1, tiled=tiled).loss
    assert loss.item() == pytest.approx(without.item(), rel=1e-6)
    assert torch.equal(torch.autograd.grad(loss, b)[0][7], torch.zeros(6))


@pytest.mark.parametrize("tiled", [False, True])
def test_uniform_targets_over_a_label_are_supcon(tiled, small_tiles):
    """L_out of SupCon: the mean over positives lies outside of the logarithm; nobody is their own partner."""
    label = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1])
    a, _ = sides(8, 8)
    unit = F.normalize(a.detach().double(), dim=-1)
    rows = []
    for i in range(8):
        others = [j for j in range(8) if j != i]
        positives = [j for j in others if label[j] == label[i]]
        if positives:
            low = torch.logsumexp(torch.stack([9 * unit[i] @ unit[j] for j in others]), 0)
            rows.append(-sum(9 * unit[i] @ unit[j] - low for j in positives) / len(positives))
    apart = ~torch.eye(8, dtype=torch.bool)
    done = contrast(a, a, 9.0, (label[:, None] == label) & apart, apart, tiled=tiled)
    assert done.loss.item() == pytest.approx((sum(rows) / len(rows)).item(), rel=1e-6)


FORMS = [(False, 0), (False, 2), (True, 0)]


@pytest.mark.parametrize(("both", "offset"), FORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("given", ["nothing", "targets", "validity", "both"])
@pytest.mark.parametrize("weighted", [False, True])
def test_tiles_equal_the_plain_form(both, offset, smoothing, given, weighted, small_tiles):
    size = 13
    a, b = sides(size, size if both else 19, dtype=torch.float64)
    scale = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
    target, valid, weights = tables(*(len(x) for x in (a, b)))
    found = []
    for tiled in (False, True):
        done = contrast(
            a,
            b,
            scale,
            target if given in ("targets", "both") else None,
            valid if given in ("validity", "both") else None,
            weights if weighted else None,
            symmetric=both,
            offset=offset,
            label_smoothing=smoothing,
            tiled=tiled,
        )
        found.append((done.loss, done.accuracy, *torch.autograd.grad(-2 * done.loss, (a, b, scale))))
    for plain, ours in zip(*found, strict=True):
        assert torch.allclose(plain, ours, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("scale", [14.3, 100.0])
def test_tiles_keep_five_digits_where_scores_are_large(both, scale):
    """Against fp64, with near duplicates; one-way and symmetric, tiles of the usual size."""
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(1200, 64, generator=draw)
    a, b = ((shared + 0.5 * torch.randn(1200, 64, generator=draw)).requires_grad_() for _ in range(2))
    s = torch.tensor(scale, requires_grad=True)
    exact = [x.detach().double().requires_grad_() for x in (a, b, s)]
    wanted = torch.autograd.grad(contrast(*exact, symmetric=both, tiled=False).loss, exact)
    found = torch.autograd.grad(contrast(a, b, s, symmetric=both, tiled=True).loss, (a, b, s))
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def test_upstream_gradients_scale_and_may_come_twice(small_tiles):
    a, b = sides(8, 8)
    for both in (False, True):
        loss = contrast(a, b, 4.0, symmetric=both, tiled=True).loss
        (once,) = torch.autograd.grad(loss, a, retain_graph=True)
        (thrice,) = torch.autograd.grad(-3 * loss, a)
        assert torch.allclose(-3 * once, thrice, atol=1e-6)


@pytest.mark.parametrize("both", [False, True])
def test_large_batches_are_tiled_by_themselves(both, monkeypatch):
    module = symmetric._Sweeps if both else one_way._Strips
    calls = []
    apply = module.apply
    monkeypatch.setattr(module, "apply", lambda *given: calls.append(1) or apply(*given))
    for size in (1024, 1600):
        x = torch.randn(size, 4)
        contrast(x, x, 1.0, symmetric=both)
    assert len(calls) == 1


def test_bytes_are_counted_right():
    def work():
        held = torch.zeros(1000)
        more = torch.zeros(500)
        del more
        return held + 1

    assert 8000 <= peak_bytes(work) < 8200


@pytest.mark.parametrize("both", [False, True])
def test_tiles_take_little_memory(both):
    """At most a quarter of the plain form at B = 2048 and D = 256; linear in B, where the plain form is quadratic."""

    def peak(size, tiled):
        a, b = sides(size, size, 256)
        return peak_bytes(lambda: contrast(a, b, 14.3, symmetric=both, tiled=tiled).loss.backward())

    plain, small, large = peak(2048, False), peak(2048, True), peak(4096, True)
    assert small <= plain / 4
    assert large <= 2.3 * small


@pytest.mark.slow
def test_a_batch_of_8192_agrees_and_takes_a_third_at_most():
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(8192, 512, generator=draw)
    leaves = [(shared + torch.randn(8192, 512, generator=draw)).requires_grad_() for _ in range(2)]
    leaves.append(torch.tensor(14.3, requires_grad=True))
    found = {}

    def work(tiled):
        found[tiled] = torch.autograd.grad(contrast(*leaves, symmetric=True, tiled=tiled).loss, leaves)

    plain, ours = (peak_bytes(lambda tiled=tiled: work(tiled)) for tiled in (False, True))
    assert ours <= plain / 3
    for one, other in zip(found[True], found[False], strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def test_scores_of_somebody_else_go_through_the_same_kernel():
    a, b = sides(5, 7)
    target, valid, weights = tables(5, 7)
    scores = 3 * F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
    ours = contrast_logits(scores, target, valid, weights, label_smoothing=0.1)
    assert ours.loss.item() == pytest.approx(
        contrast(a, b, 3.0, target, valid, weights, label_smoothing=0.1).loss.item(), rel=1e-6
    )


@pytest.mark.parametrize("tiled", [False, True])
def test_accuracy_counts_rows_whose_best_valid_column_is_a_target(tiled):
    a = torch.eye(4)
    b = torch.eye(4)[[0, 1, 3, 2]]
    assert contrast(a, b, 5.0, tiled=tiled).accuracy.item() == 0.5
    valid = torch.ones(4, 4, dtype=torch.bool)
    valid[2, 3] = False
    b = b + 0.1
    assert contrast(a, b, 5.0, valid=valid, tiled=tiled).accuracy.item() >= 0.5
    nobody = torch.zeros(4, 4)
    nobody[0, 1] = nobody[1, 1] = 1
    assert contrast(a, b, 5.0, nobody, tiled=tiled).accuracy.item() == 0.5


def test_nothing_to_learn_from_is_zero_with_a_gradient():
    for tiled in (False, True):
        a, b = sides(4, 4)
        loss = contrast(a, b, 5.0, torch.zeros(4, 4), torch.zeros(4, 4, dtype=torch.bool), tiled=tiled).loss
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(a.grad, torch.zeros_like(a))


def test_autocast_does_not_reach_the_kernel():
    a, b = sides(40, 40, 32)
    for tiled in (False, True):
        plain = contrast(a, b, 100.0, symmetric=True, tiled=tiled).loss
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = contrast(a, b, 100.0, symmetric=True, tiled=tiled).loss
            mixed.backward()
        assert mixed.item() == plain.item()
        assert mixed.dtype == torch.float32


def test_both_ways_is_the_symmetric_loss_in_one_process():
    a, b = sides(6, 6)
    context = Context(torch.tensor(7.0), epoch=0)
    one = both_ways(a, b, context).loss
    two = contrast(a, b, 7.0).loss / 2 + contrast(b, a, 7.0).loss / 2
    assert one.item() == pytest.approx(two.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda a, b: contrast(a, b[:, :3], 1.0), r"wants \[B, D\] and \[M, D\]"),
        (lambda a, b: contrast(a, b, 1.0, torch.ones(4, 4)), "targets of shape"),
        (lambda a, b: contrast(a, b, 1.0, valid=torch.ones(2, 4, dtype=torch.bool)), "valid of shape"),
        (lambda a, b: contrast(a, b, 1.0, weights=torch.ones(3)), "weights of shape"),
        (lambda a, b: contrast(a, b, 1.0, symmetric=True), "use both_ways"),
        (lambda a, b: contrast(a, b, 1.0, offset=3), "have no column"),
        (lambda a, b: contrast(a, b, 1.0, label_smoothing=1.0), "label_smoothing"),
        (lambda a, b: contrast(a, a, 1.0, lambda *tile: None, symmetric=True), "takes a rule for rows"),
    ],
)
def test_misuse_of_the_kernel_says_what_is_wrong(act, message):
    with pytest.raises(ValueError, match=message):
        act(*sides(4, 6))
