"""The heavy half of `predict RUN SOURCE` and `embed RUN SOURCE`: a long pass over images or texts."""

from __future__ import annotations

import hashlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from domainvl import hub
from domainvl.console.arguments import Arguments
from domainvl.console.parts import run_backbone, run_data
from domainvl.console.quiet import quieten
from domainvl.console.session import clear_errors
from domainvl.console.signals import Interrupted, interruptible
from domainvl.data.bulk.images import chunks, read_images
from domainvl.data.bulk.job import Job
from domainvl.data.bulk.journal import Answered, Journal
from domainvl.data.bulk.outputs import ArrayOutput, CsvOutput, Output, ParquetOutput
from domainvl.data.bulk.sources import ImageColumn, ImageFolder, Item, Source, TextColumn, TextLines, Texts
from domainvl.data.decoder import PictureDecoder
from domainvl.data.loading import Loading
from domainvl.errors import CommandError
from domainvl.hub.card import CARD
from domainvl.hub.folder import TENSORS
from domainvl.inputs import Pictures
from domainvl.model import load
from domainvl.progress import shown
from domainvl.runs import Run

Asked = Callable[[Iterator[list[Item]]], Iterator[Answered]]
"""Batches of items to batches of answers."""

_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_COLUMNS = ("image", "path")
"""Where a table's paths are looked for when no column is named."""


def predict(arguments: Arguments) -> int:
    """Write class probabilities of the images of a folder or table.

    Args:
        arguments: The command line; its words are the run or adapter, and the source.
    """
    quieten()
    output = Path(arguments.option("--output") or "")
    with clear_errors():
        kind: Output = ParquetOutput() if output.suffix == ".parquet" else CsvOutput()
        work = _Work(arguments)
        model, scores = work.model, work.model.scores
        source, decoder = work.images()
        made_of = work.made_of("predict", source, decoder.digest) | {"classes": model.classes}
        job = Job(output, kind, made_of, model.classes, model.batch_size)

        def ask(pixels: Tensor) -> Tensor:
            return scores.probability(model.logits(pixels))

        return _done(job, source, partial(work.of_images, source.root, decoder, ask), "images")


def embed(arguments: Arguments) -> int:
    """Write features of images or texts.

    Args:
        arguments: See `predict`.
    """
    quieten()
    output = Path(arguments.option("--output") or "")
    with clear_errors():
        work = _Work(arguments)
        model = work.model
        kind = ArrayOutput(np.float16 if "--half" in arguments.options else np.float32)
        texts = work.texts()
        if texts is not None:
            columns = [str(number) for number in range(model.backbone.text.out_dim)]
            job = Job(output, kind, work.made_of("embed texts", texts, "text"), columns, model.batch_size)
            return _done(job, texts, work.of_texts, "texts")
        images, decoder = work.images()
        columns = [str(number) for number in range(model.backbone.image.out_dim)]
        job = Job(output, kind, work.made_of("embed images", images, decoder.digest), columns, model.batch_size)
        return _done(job, images, partial(work.of_images, images.root, decoder, model.unit_images), "images")


class _Work:
    """The model of a command line, and how it reads.

    Args:
        arguments: The command line.
    """

    def __init__(self, arguments: Arguments) -> None:
        word, self.path = str(arguments.recipes[0]), arguments.recipes[1]
        self.arguments = arguments
        self.folder = hub.located(word)
        self.run = Run(Path(word))
        self.allow = arguments.options.get("--allow-import", [])
        self.is_run = self.run.config.exists() and self.run.adapter.is_dir()
        self.model = load(self.folder, backbone=run_backbone(self.run, self.allow) if self.is_run else None)

    def images(self) -> tuple[ImageFolder | ImageColumn, PictureDecoder]:
        """The images of the source, and how they are read."""
        decoder, suffixes = self._pictures()
        if self.path.is_dir():
            return ImageFolder(self.path, suffixes), decoder
        table = self._table()
        named = self.arguments.option("--image-column")
        column = named or next((name for name in _COLUMNS if name in table.columns), _COLUMNS[0])
        table.require(column)
        return ImageColumn(table, column, Path(self.arguments.option("--root") or self.path.parent)), decoder

    def texts(self) -> Texts | None:
        """The texts of the source; None where it holds images."""
        column = self.arguments.option("--text-column")
        if column is not None:
            table = self._table()
            table.require(column)
            return Texts(TextColumn(table, column))
        return Texts(TextLines(self.path)) if self.path.suffix == ".txt" else None

    def made_of(self, work: str, source: Source, reader: str) -> dict[str, Any]:
        """What the numbers depend on, by names for people."""
        survey = source.survey()
        return {
            "work": work,
            "adapter": _digest(self.folder),
            "backbone": asdict(self.model.card.backbone),
            "reader": reader,
            "source": survey.digest,
            "items": survey.count,
        }

    def of_images(
        self, root: Path, decoder: PictureDecoder, ask: Callable[[Tensor], Tensor], todo: Iterator[list[Item]]
    ) -> Iterator[Answered]:
        """What a model says of images.

        Args:
            root: Folder that they lie in.
            decoder: How they are read.
            ask: From a batch of pixels to a row for each image.
            todo: Which images.
        """
        given = self.arguments.option("--workers")
        workers = Loading().readers if given is None else int(given)
        for read in read_images(todo, decoder, root, workers):
            yield _answered(read.items, read.reasons, ask(read.images) if len(read.images) else None)

    def of_texts(self, todo: Iterator[list[Item]]) -> Iterator[Answered]:
        """What the model makes of texts."""
        for items in todo:
            texts = [item.content for item in items if not item.fault]
            yield _answered(items, [item.fault for item in items], self.model.unit_texts(texts) if texts else None)

    def _pictures(self) -> tuple[PictureDecoder, tuple[str, ...]]:
        """How files are read, and how their names end: of a run as its data module says."""
        inputs, files = self.model.inputs, importlib.import_module("data_modules.readers.image")
        if isinstance(inputs, Pictures) and inputs.sensor is None:
            if not self.is_run:
                return PictureDecoder(inputs.preset, files.read_image), files.SUFFIXES
            data = run_data(self.run, self.allow)
            data.prepare_as(inputs.preset)
            if isinstance(data.decoder, PictureDecoder):
                return data.decoder, data.suffixes
        raise CommandError(
            f"{self.folder}: this {self.model.card.adapter} adapter was not trained on files that are whole pictures",
            todo=f"python -m domainvl predict RECIPE --adapter {self.folder} --images {self.path}",
        )

    def _table(self) -> Any:
        if not self.path.name.endswith(_TABLES):
            raise CommandError(f"SOURCE: {self.path} is neither a folder nor a table ({', '.join(_TABLES)})")
        return importlib.import_module("data_modules.readers.table").Table(self.path)


def _done(job: Job, source: Source, ask: Asked, unit: str) -> int:
    """Go through a source, or through what is left of it, and write the files."""
    if job.finished():
        print(f"{job.output} is there already, of this very command", flush=True)
        return 0
    total, began = job.identity["items"], time.monotonic()
    journal: Journal | None = None
    try:
        with interruptible(), job.opened() as journal:
            before = journal.done
            if before:
                print(f"going on behind {before:,} of {total:,} {unit}", file=sys.stderr, flush=True)
            answers = ask(chunks(source, job.batch, before))
            for answered in shown(answers, total - before, job.identity["work"], unit, lambda one: len(one.items)):
                journal.append(answered)
            if journal.done != total:
                raise RuntimeError(
                    f"the source held {total:,} {unit} at first and {journal.done:,} later; delete {job.partial} and "
                    "begin again, leaving it as it is meanwhile"
                )
            speed = (total - before) / (time.monotonic() - began)
            good, first = journal.good, next(journal.rejects(), None)
            job.finish(journal, source)
    except Interrupted as stop:
        done = 0 if journal is None else journal.done
        print(
            f"\nstopped by {stop}; {done:,} of {total:,} {unit} are kept, the same command goes on",
            file=sys.stderr,
            flush=True,
        )
        return stop.status
    if not good and first is not None:
        raise CommandError(
            f"none of {total:,} {unit} can be used; the first: {first.reason}",
            todo=f"see {job.rejects}",
            status=1,
        )
    print(f"{good:,} {unit}, {speed:,.0f} {unit}/s: {', '.join(map(str, job.kind.files(job.output)))}")
    if total > good:
        print(f"{total - good:,} left out: {job.rejects}")
    return 0


def _answered(items: Sequence[Item], reasons: Sequence[str], rows: Tensor | None) -> Answered:
    """A batch whose answers are finite; what has others is left out, as what cannot be read is."""
    if rows is None:
        return Answered(items, reasons, None)
    values = rows.float().cpu().numpy()
    finite = np.isfinite(values).all(axis=1)
    if finite.all():
        return Answered(items, reasons, values)
    verdicts = iter(finite)
    said = [reason or ("" if next(verdicts) else "the model's answer is not finite") for reason in reasons]
    return Answered(items, said, values[finite])


def _digest(folder: Path) -> str:
    """Sixteen hex digits over what an adapter is and what it learned."""
    digest = hashlib.sha256()
    for name in (CARD, TENSORS):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]
