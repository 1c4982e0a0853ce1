"""A process that embeds a folder of slides, for a test that kills it.

    python embedding_worker.py ROOT FOLDER LOG SECONDS

Every slide that it begins is written into LOG. It stops for SECONDS in front of each batch of tiles.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from data_modules import Embedding, TilePlan, WholeSlides
from data_modules.whole_slides.embedding import SlideEmbedder
from domainvl.backbones import HuggingFace

PLAN = TilePlan(mpp=1.0, size=96)


def backbone():
    model = HuggingFace("builtin:tiny")
    return model.requires_grad_(False)


def module(root, folder, **options):
    return WholeSlides(str(root), plan=PLAN, embedding=Embedding(folder=str(folder), batch_size=4), **options)


def logged(log, embedded):
    """`SlideEmbedder._embedded`, writing every slide that it begins into a file."""

    def begun(self, pool, slide, places, path, source):
        with log.open("a") as file:
            file.write(f"{path.name}\n")
        yield from embedded(self, pool, slide, places, path, source)

    return begun


if __name__ == "__main__":
    root, folder, log = map(Path, sys.argv[1:4])
    pause = float(sys.argv[4])
    features = SlideEmbedder._features

    def slow(self, pixels):
        time.sleep(pause)
        return features(self, pixels)

    SlideEmbedder._embedded, SlideEmbedder._features = logged(log, SlideEmbedder._embedded), slow
    module(root, folder).embed(backbone(), torch.device("cpu"))
