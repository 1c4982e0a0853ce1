"""Alignment under DDP: two real processes with gloo learn and find what one process does."""

from __future__ import annotations

import os
import warnings
from functools import partial

import pytest
import torch
from adapters.toys import hf_clip
from lightning.pytorch import Callback, seed_everything
from tasks.test_alignment import trainer
from test_distributed import two

from data_modules import ChestXrays
from domainvl import samples
from domainvl.adapters import LoRA
from domainvl.data import Loading, TextViews
from domainvl.objectives import GloriaLocal, InfoNCE, LabelContrast, SigLIP, VillaMapping, VillaRegions
from domainvl.objectives.targets import Momentum, SameGroup, TextSimilarity
from domainvl.speed import PLAIN
from domainvl.tasks import Alignment, Queue, Teacher

STEPS, BATCH = 2, 8
UNUSED = "ddp_find_unused_parameters_true"


def villa():
    return {"villa": VillaRegions(VillaMapping(), mapping_epochs=1, regions=4)}


# What is learned from, settings of the task, the strategy.
CASES = {
    "contrast": (lambda: {"pairs": InfoNCE(targets=[SameGroup(), TextSimilarity(0.9)])}, {}, "ddp"),
    "several": (
        lambda: {"pairs": SigLIP(own_bias=-3.0), "words": GloriaLocal(weight=0.5), "labels": LabelContrast()},
        {"train_temperature": True, "encode_chunk": 3},
        "ddp",
    ),
    "memory": (
        lambda: {"pairs": InfoNCE(targets=[Momentum(alpha=0.4)], teacher=True, queue=True)},
        {"teacher": Teacher(0.9), "queue": Queue(2 * BATCH)},
        "ddp",
    ),
    "villa": (villa, {}, UNUSED),
}


class Seed(Callback):
    """The same start in both: Lightning seeds anew where processes meet."""

    def setup(self, trainer, pl_module, stage):
        seed_everything(3, verbose=False)


def fitted(name, folder, archive, **processes):
    """Weights after a few steps, and what a test then finds."""
    objectives, settings, strategy = CASES[name]
    seed_everything(3, verbose=False)
    adapter, optimizer = LoRA(rank=2, dropout=0.0), partial(torch.optim.SGD, lr=0.05)
    model = Alignment(hf_clip(), adapter, objectives(), optimizer, speed=PLAIN, **settings)
    size = BATCH // processes.get("devices", 1)
    data = ChestXrays(
        root=archive,
        texts=TextViews(views={"impression": 1.0}),
        loading=Loading(batch_size=size, eval_batch_size=7, workers=0),
    )
    if processes:
        processes |= {"strategy": strategy}
    # Two epochs, so that stages change.
    run = trainer(folder, max_epochs=2, limit_train_batches=STEPS, limit_val_batches=0, callbacks=[Seed()], **processes)
    run.fit(model, datamodule=data)
    # Weights, teacher and queue; not the frozen backbone.
    names = model._trained_names()
    learned = {key: value.clone() for key, value in model.state_dict().items() if key in names}
    run.test(model, datamodule=data, verbose=False)
    embeddings = torch.from_numpy(model.predictions.adapted.images)
    return learned, {key: value.item() for key, value in run.callback_metrics.items()}, embeddings


def half(rank, port, folder, archive):
    names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    os.environ |= names | {"WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = {name: fitted(name, folder, archive, devices=2) for name in CASES}
    CASES["unused"] = (villa, {}, "ddp")
    try:
        fitted("unused", folder, archive, devices=2)
    except RuntimeError as error:
        found["unused"] = str(error)
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return str(samples.write("cxr-reports", tmp_path_factory.mktemp("ddp") / "archive", seed=3, patients=48))


@pytest.fixture(scope="module")
def found(tmp_path_factory, archive):
    folder = tmp_path_factory.mktemp("processes")
    two(half, folder, archive)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_learn_and_find_what_one_does(found, archive, tmp_path, name):
    learned, metrics, embeddings = fitted(name, tmp_path, archive)
    for theirs, numbers, images in (part[name] for part in found):
        assert theirs.keys() == learned.keys()
        for key, value in learned.items():
            # In the queue the rows of a batch stand in the order of processes.
            if not key.startswith("queue."):
                torch.testing.assert_close(theirs[key], value, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(images, embeddings, atol=1e-4, rtol=1e-4)
        for key in (key for key in metrics if key.startswith("test/")):
            assert numbers[key] == pytest.approx(metrics[key], abs=1e-3), key


@pytest.mark.slow
def test_weights_without_a_gradient_are_refused_with_what_to_set(found):
    for part in found:
        assert UNUSED in part["unused"]
        assert "(objectives: villa)" in part["unused"]
