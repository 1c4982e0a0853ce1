"""The same as `python -m domainvl fit recipes/cxr.yaml`, written in Python: every part is an object that is passed in.

python examples/adapt_in_python.py --epochs 80
"""

from __future__ import annotations

import argparse
from functools import partial
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch import Trainer, seed_everything

from data_modules import ChestXrays
from domainvl.adapters import MMRL
from domainvl.backbones import HuggingFace
from domainvl.data import Loading
from domainvl.evaluation import evaluate, print_table
from domainvl.objectives import BinaryCrossEntropy, FrozenCosine
from domainvl.tasks import Classification, WarmupCosine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="builtin:tiny", help="Hub id or folder of a CLIP or SigLIP")
    parser.add_argument("--shots", type=int, default=16, help="training patients per finding")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    seed_everything(arguments.seed, verbose=False)
    task = Classification(
        backbone=HuggingFace(arguments.backbone),
        adapter=MMRL(tokens=5, width=512),
        objectives={
            "class_head": BinaryCrossEntropy("image@class.logits", balance=True, weight=0.7),
            "representation_head": BinaryCrossEntropy("image@rep.logits", balance=True, weight=0.3),
            "stay_image": FrozenCosine("image", weight=0.1),
            "stay_text": FrozenCosine("text", weight=0.1),
        },
        optimizer=partial(torch.optim.AdamW, lr=0.003, weight_decay=0.0005),
        schedule=WarmupCosine(warmup=1),
    )
    data = ChestXrays(shots=arguments.shots, loading=Loading(batch_size=32))
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=arguments.epochs, logger=False, enable_checkpointing=False, default_root_dir=folder
        )
        trainer.fit(task, datamodule=data)
        trainer.test(task, datamodule=data, verbose=False)
    if task.predictions is not None:
        print_table(evaluate(task.predictions, seed=arguments.seed))


if __name__ == "__main__":
    main()
