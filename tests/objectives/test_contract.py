"""What every objective owes the rest; one row each in `contract_cases.py`."""

import math
import multiprocessing
import os
import socket

import pytest
import torch
import torch.distributed as dist
from contract_cases import CASES, SIZE, built, context, rows_of, sample

from domainvl.distributed import gather
from domainvl.features import FeatureKey
from domainvl.objectives.base import BATCH, OPTIONAL, batch_needs, feature_needs, required

FLOATS = ("pooled", "tokens", "logits")


def reads(objective, case, features, batch):
    """Exactly what the objective says that it reads, floats as leaves that take a gradient."""
    needs = objective.needs
    kept = {key: features[key].clone() for key in feature_needs(needs) if key in features}
    for key, value in kept.items():
        value.requires_grad_(FeatureKey.parse(key).stream in FLOATS)
    wanted = {need.removeprefix(BATCH).removesuffix(OPTIONAL) for need in needs if need.startswith(BATCH)}
    return kept, {key: batch[key] for key in wanted if key in batch} | case.batch


def run(objective, features, batch, where=None):
    done = objective(features, batch, where or context())
    return done["loss"], done


def fresh(case, step=None):
    objective = built(case)
    features, batch = reads(objective, case, *(step or sample()))
    return objective, features, batch


def gradients(objective, features):
    found = {f"feature {key}": value.grad for key, value in features.items() if value.grad is not None}
    return found | {f"parameter {name}": p.grad for name, p in objective.named_parameters() if p.grad is not None}


each = pytest.mark.parametrize("case", CASES, ids=str)


@each
def test_values_are_finite_scalars_and_logs_carry_no_gradient(case):
    objective, features, batch = fresh(case)
    loss, done = run(objective, features, batch)
    for name, value in done.items():
        assert value.dim() == 0, name
        assert math.isfinite(value.item()), name
        assert name == "loss" or not value.requires_grad, name
    assert loss.dtype == torch.float32


@each
def test_every_need_is_on_offer(case):
    """A need that the sample lacks would leave a test without its point; give the sample what is missing."""
    needs = built(case).needs
    features, batch = sample()
    assert feature_needs(required(needs)) <= features.keys()
    assert batch_needs(needs) <= (batch | case.batch).keys()


@each
def test_what_is_needed_is_read(case):
    """`fresh` hands out nothing else, so everything that is read is named; without any one of them it cannot run."""
    needs = required(built(case).needs)
    for need in sorted(needs):
        objective, features, batch = fresh(case)
        (batch if need.startswith(BATCH) else features).pop(need.removeprefix(BATCH))
        with pytest.raises(KeyError):
            run(objective, features, batch)


@each
def test_optional_needs_may_be_missing(case):
    objective, features, batch = fresh(case)
    kept = required(objective.needs)
    features = {key: value for key, value in features.items() if key in kept}
    batch = {key: value for key, value in batch.items() if f"{BATCH}{key}" in kept or key in case.batch}
    if "label" in batch:
        batch["label"] = batch["label"].nan_to_num()
    assert math.isfinite(run(objective, features, batch)[0].item())


@each
def test_the_order_of_records_does_not_matter(case):
    if not case.permutes:
        pytest.skip("says so")
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    first, second = fresh(case), fresh(case, rows_of(*sample(), order))
    assert run(*first)[0].item() == pytest.approx(run(*second)[0].item(), abs=1e-5, rel=1e-5)


@each
def test_padding_is_never_read(case):
    """Neither its values nor its length; it gets no gradient."""
    objective, features, batch = fresh(case)
    run(objective, features, batch)[0].backward()
    longer, longer_batch = sample()
    for key in list(longer):
        found = FeatureKey.parse(key)
        if found.source != "text" or found.stream not in ("tokens", "mask", "sentences", "attention"):
            continue
        value = longer[key]
        if found.stream == "tokens":
            mask = longer[key.replace(".tokens", ".mask")]
            value = torch.where(mask[..., None], value, 1e4)
        more = {"tokens": 1e4, "mask": False, "sentences": -1, "attention": 9.0}[found.stream]
        longer[key] = torch.cat([value, torch.full_like(value[:, :2], more)], 1)
    again, padded, padded_batch = fresh(case, (longer, longer_batch))
    loss, _ = run(again, padded, padded_batch)
    loss.backward()
    assert loss.item() == pytest.approx(run(*fresh(case))[0].item(), abs=1e-5, rel=1e-5)
    for key, value in features.items():
        if value.grad is None:
            continue
        grad = padded[key].grad
        if FeatureKey.parse(key).stream == "tokens" and f"{key.removesuffix('tokens')}mask" in padded:
            mask = padded[key.replace(".tokens", ".mask")]
            assert grad[~mask].abs().sum() == 0, key
            grad = grad[:, : value.shape[1]]
        assert torch.allclose(grad, value.grad, atol=1e-5), key


@each
def test_gradients_reach_what_is_declared_and_nothing_else(case):
    objective, features, batch = fresh(case)
    scale = torch.tensor(7.0, requires_grad=True)
    run(objective, features, batch, context(scale))[0].backward()
    expected = case.gradient
    if expected is None:
        expected = {key for key, value in features.items() if value.requires_grad and not FeatureKey.parse(key).role}
    reached = {key for key, value in features.items() if value.grad is not None and value.grad.abs().sum() > 0}
    assert reached == set(expected)
    for name, parameter in objective.named_parameters():
        if case.idle:
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@each
def test_a_weight_of_nought_leaves_nothing(case):
    objective, features, batch = fresh(case)
    objective.weight = 0.0
    loss, _ = run(objective, features, batch)
    (objective.weight * loss).backward()
    assert all((grad == 0).all() for grad in gradients(objective, features).values())


@each
def test_bf16_autocast_stays_close(case):
    loss, _ = run(*fresh(case))
    objective, features, batch = fresh(case)
    # Round the features alike on both sides: what is tested is the arithmetic, not the input.
    rounded = {
        key: value.detach().bfloat16() if value.is_floating_point() else value for key, value in features.items()
    }
    exact = {key: value.float() if value.is_floating_point() else value for key, value in rounded.items()}
    loss, _ = run(built(case), exact, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = run(objective, rounded, batch)
    assert mixed.item() == pytest.approx(loss.item(), rel=1e-2, abs=1e-2)


@each
@pytest.mark.parametrize("edge", ["one record", "one patient", "no positive", "nothing known", "empty text"])
def test_edges_are_finite(case, edge):
    features, batch = sample()
    if edge == "one record":
        features, batch = rows_of(features, batch, torch.tensor([2]))
    elif edge == "one patient":
        batch |= {"group": torch.zeros_like(batch["group"]), "study": torch.zeros_like(batch["study"])}
    elif edge == "no positive":
        batch |= {"label": torch.zeros_like(batch["label"]), "valid": torch.ones_like(batch["valid"])}
    elif edge == "nothing known":
        batch |= {"valid": torch.zeros_like(batch["valid"]), "label": torch.full_like(batch["label"], torch.nan)}
    else:
        for key in features:
            if key.endswith(".mask") and "text" in key:
                features[key][0] = False
            if key.endswith(".sentences"):
                features[key][0] = -1
    objective, features, batch = fresh(case, (features, batch))
    loss, done = run(objective, features, batch)
    loss.backward()
    assert all(math.isfinite(value.item()) for value in done.values())
    for name, grad in gradients(objective, features).items():
        assert grad.isfinite().all(), name


@each
def test_the_queue_may_still_be_empty(case):
    features, batch = sample()
    features = {key: value[:0] if key.startswith("queue/") else value for key, value in features.items()}
    batch = {key: value[:0] if key.startswith("queue/") else value for key, value in batch.items()}
    assert math.isfinite(run(*fresh(case, (features, batch)))[0].item())


@each
def test_state_survives_save_and_load(case):
    objective, features, batch = fresh(case)
    for seed in (1, 2):
        run(objective, *reads(objective, case, *sample(seed=seed)))
    other = built(case)
    other.load_state_dict(objective.state_dict())
    assert run(objective, features, batch)[0].item() == run(other, features, batch)[0].item()


@each
def test_evaluation_leaves_the_state_alone(case):
    objective, features, batch = fresh(case)
    run(objective, features, batch)
    objective.eval()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    run(objective, features, batch)
    after = objective.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_two_processes_equal_one(tmp_path):
    """Averaged over two processes, gradients are those of one with the whole batch, parameters and scale included."""
    cases = [case for case in CASES if case.distributed]
    spawn = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    parts = [spawn.Process(target=one_of_two, args=(rank, port, tmp_path)) for rank in range(2)]
    for part in parts:
        part.start()
    for part in parts:
        part.join(timeout=120)
    assert [part.exitcode for part in parts] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for case in cases:
        loss, whole = both_passes(case, *fresh(case), context(torch.tensor(7.0, requires_grad=True)))
        parts = [rank[case.name] for rank in found]
        assert sum(part[0] for part in parts) / 2 == pytest.approx(loss, rel=1e-5, abs=1e-5), case.name
        for name, value in whole.items():
            pieces = [part[1][name] for part in parts]
            joined = torch.cat(pieces) / 2 if name.startswith("feature") else (pieces[0] + pieces[1]) / 2
            gap = (joined - value).abs().max().item()
            assert gap <= 1e-5 * max(1.0, value.abs().max().item()), f"{case.name}, {name}: {gap}"


def both_passes(case, objective, features, batch, where):
    """Loss and gradients of the second of two steps, so that running values have moved."""
    run(objective, *reads(objective, case, *halves(sample(seed=3), where)), where)
    loss, _ = run(objective, features, batch, where)
    loss.backward()
    found = gradients(objective, features)
    # Some keep their own temperature.
    return loss.item(), found | ({} if where.scale.grad is None else {"scale": where.scale.grad})


def halves(step, where):
    if where.gather is not gather:
        return step
    half = SIZE // 2
    return rows_of(*step, torch.arange(half) + where.offset)


def one_of_two(rank, port, folder):
    """What one of two processes makes of its half of every case."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    done = {}
    for case in CASES:
        if not case.distributed:
            continue
        where = context(torch.tensor(7.0, requires_grad=True), gather, rank * SIZE // 2)
        step = halves(sample(), where)
        done[case.name] = both_passes(case, *fresh(case, step), where)
    torch.save(done, folder / f"{rank}.pt")
    dist.destroy_process_group()
