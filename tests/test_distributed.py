"""What several processes exchange; two real ones with gloo."""

import multiprocessing
import os
import socket

import pytest
import torch
import torch.distributed as dist

from domainvl.distributed import gather, gather_sizes
from domainvl.objectives import Context, InfoNCE, LabelContrast, SigLIP
from domainvl.objectives.targets import SameGroup

SIZES = (2, 5)


def test_a_process_alone_gets_its_own_rows_back():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather(rows) is rows


def two(target, *given):
    """Run `target(rank, port, *given)` in two processes."""
    spawn = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    parts = [spawn.Process(target=target, args=(rank, port, *given)) for rank in range(2)]
    for part in parts:
        part.start()
    for part in parts:
        part.join(timeout=120)
    assert [part.exitcode for part in parts] == [0, 0]


def start(rank, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)


def whole():
    draw = torch.Generator().manual_seed(0)
    image, text = (torch.randn(sum(SIZES), 6, generator=draw) for _ in range(2))
    return image, text, torch.tensor([0, 0, 1, 1, 2, 2, 0])


def objectives():
    return {
        "InfoNCE": InfoNCE(targets=[SameGroup("group")]),
        "SigLIP": SigLIP(own_bias=-3.0),
        "LabelContrast": LabelContrast(targets=[SameGroup("group")]),
    }


def losses(rows, gather, offset):
    """Loss and gradients of every objective over these rows."""
    image, text, group = whole()
    done = {}
    for name, objective in objectives().items():
        leaves = [side[rows].clone().requires_grad_() for side in (image, text)]
        scale = torch.tensor(5.0, requires_grad=True)
        context = Context(scale, epoch=0, gather=gather, offset=offset)
        features = {"image.pooled": leaves[0], "text.pooled": leaves[1]}
        loss = objective(features, {"group": group[rows]}, context)["loss"]
        loss.backward()
        done[name] = [loss.detach(), scale.grad, leaves[0].grad, leaves[1].grad]
    return done


def half(rank, port, folder):
    start(rank, port)
    first = sum(SIZES[:rank])
    rows = slice(first, first + SIZES[rank])
    mine = whole()[0][rows]
    flags = mine > 0
    joined = gather(mine)
    results = {
        "sizes": torch.tensor(gather_sizes(len(mine), mine.device)),
        "rows": joined,
        "flags": gather(flags),
        "numbers": gather(torch.arange(len(mine)) + first),
        "bf16": gather(mine.bfloat16()).float(),
    }
    torch.save((results, losses(rows, gather, first)), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gather")
    two(half, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_rows_come_in_order_of_rank_also_where_one_process_has_fewer(found):
    image = whole()[0]
    for results, _ in found:
        assert results["sizes"].tolist() == list(SIZES)
        assert torch.equal(results["rows"], image)
        assert torch.equal(results["flags"], image > 0)
        assert results["flags"].dtype == torch.bool
        assert torch.equal(results["numbers"], torch.arange(sum(SIZES)))
        assert torch.equal(results["bf16"], image.bfloat16().float())


@pytest.mark.parametrize("name", list(objectives()))
def test_an_uneven_batch_gives_the_gradients_of_one_process(found, name):
    """Losses divide by the mean number of rows per process, so that a short last batch weighs what it should."""
    wanted = losses(slice(None), lambda rows: rows, 0)[name]
    parts = [losses[name] for _, losses in found]
    for i in range(2):
        assert torch.allclose((parts[0][i] + parts[1][i]) / 2, wanted[i], rtol=1e-5)
    for i in (2, 3):
        assert torch.allclose(torch.cat([part[i] for part in parts]) / 2, wanted[i], atol=1e-6)
