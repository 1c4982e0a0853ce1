"""What one image costs `predict`, step by step, on one thread: the half of predict_many.py that measures no memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch

import domainvl
from data_modules.readers.image import SUFFIXES, read_image
from domainvl.data.bulk.images import chunks
from domainvl.data.bulk.job import Job
from domainvl.data.bulk.journal import Answered
from domainvl.data.bulk.outputs import CsvOutput
from domainvl.data.bulk.sources import ImageFolder, Item
from domainvl.model import Model


def costs(adapter: Path, images: Path, count: int, rounds: int) -> None:
    """Print the processor time that each step takes of an image, the median over rounds; a first round warms up."""
    torch.set_num_threads(1)
    model, source = domainvl.load(adapter, device="cpu"), ImageFolder(images, SUFFIXES)
    items = list(islice(source, count))
    timed = [measured(model, source, items) for _ in range(rounds + 1)][1:]
    medians = {step: statistics.median(one[step] for one in timed) / len(items) * 1e6 for step in timed[0]}
    # These two go through all files.
    for step in ("find the files", "hash their names"):
        medians[step] *= len(items) / source.survey().count
    whole = sum(medians.values())
    for step, micros in medians.items():
        print(f"{step:18s} {micros:8.1f} us  {micros / whole:6.1%}")
    print(f"{'together':18s} {whole:8.1f} us: {1e6 / whole:,.0f} images/s on one thread")


def measured(model: Model, source: ImageFolder, items: Sequence[Item]) -> dict[str, float]:
    """Seconds of each step, for some images of a source."""
    spent: dict[str, float] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        spent[name] = time.process_time() - began

    batches = list(chunks(items, model.batch_size))
    with step("find the files"):
        deque(source, maxlen=0)
    with step("hash their names"):
        source.survey()
    with step("decode"):
        pictures = [[read_image(source.root / item.content) for item in batch] for batch in batches]
    with step("resize"):
        pixels = [[model.preset.pixels(picture) for picture in batch] for batch in pictures]
    with step("stack"):
        stacked = [torch.stack(batch) for batch in pixels]
    with step("normalise and tower"):
        rows = [model.scores.probability(model.logits(batch)).numpy() for batch in stacked]
    answered = [Answered(batch, [""] * len(batch), values) for batch, values in zip(batches, rows, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder) / "a.csv", CsvOutput(), {}, model.classes, model.batch_size)
        with job.opened() as journal:
            with step("journal"):
                for batch in answered:
                    journal.append(batch)
            with step("table"):
                job.finish(journal, source)
    return spent
