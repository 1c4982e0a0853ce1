"""One long pass and its files: begun, gone on with after a kill, finished whole, and never mixed with another.

a.partial/        while it runs: job.json, the journal, a lock
a.csv, a.parquet  what it found, in place last of all; of embeddings a.npy, with an a.csv that says what its rows are
a.rejects.csv     what could not be read, and why
a.json            what the numbers were made of and by
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from domainvl.data.bulk.journal import Journal
from domainvl.data.bulk.outputs import Output
from domainvl.data.bulk.sources import Source
from domainvl.data.rejects import write_rejects

_WAIT = 15.0
"""Seconds: the readers of a killed process notice after five that it is gone, and hold its lock until then."""


class Job:
    """A pass over a source by a model.

    Args:
        output: The file that is wanted.
        kind: How it is written.
        made_of: What the numbers depend on, as plain values by a name that a person understands.
        columns: What the numbers of a row are.
        batch: Items per batch.
    """

    def __init__(
        self, output: Path, kind: Output, made_of: Mapping[str, Any], columns: Sequence[str], batch: int
    ) -> None:
        self.output, self.kind, self.columns, self.batch = output, kind, list(columns), batch
        self.identity = json.loads(json.dumps({**made_of, "output": output.name, "numbers": kind.dtype.name}))
        self.partial = output.with_suffix(".partial")
        self.sidecar = output.with_suffix(".json")
        self.rejects = output.with_suffix(".rejects.csv")

    def finished(self) -> bool:
        """Whether this very pass is done; ValueError where its files are those of another."""
        if self.sidecar.exists() and self.output.exists():
            self._compare(self.sidecar, "lies there")
            shutil.rmtree(self.partial, ignore_errors=True)
            return True
        if (self.partial / "job.json").exists():
            self._compare(self.partial / "job.json", "was begun")
            return False
        taken = [path.name for path in (self.sidecar, self.rejects, *self.kind.files(self.output)) if path.exists()]
        if taken:
            raise ValueError(
                f"{self.output}: {taken[0]} is there already, and not of this command; give another --output, or "
                "delete it"
            )
        return False

    @contextmanager
    def opened(self) -> Iterator[Journal]:
        """What is known so far, for this process alone."""
        self.partial.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.partial / "lock")
        try:
            lock.acquire(timeout=_WAIT)
        except Timeout:
            raise ValueError(
                f"{self.output}: another process is writing it; wait for it or give another --output"
            ) from None
        try:
            _write(self.partial / "job.json", self.identity)
            with Journal(self.partial, len(self.columns), self.kind.dtype, self.batch) as journal:
                yield journal
        finally:
            lock.release()

    def finish(self, journal: Journal, source: Source) -> None:
        """Write the files, each whole or not at all, and forget the journal."""
        write_rejects(self.partial / "rejects.csv", journal.rejects())
        drafts = self.kind.write(self.partial, journal, self.columns, source)
        (wanted, output), *beside = zip(drafts, self.kind.files(self.output), strict=True)
        for draft, path in beside:
            draft.replace(path)
        (self.partial / "rejects.csv").replace(self.rejects)
        _write(self.sidecar, {**self.identity, "written": journal.good, "rejected": journal.done - journal.good})
        # Last of all, for the draft of an array is the journal's own: until here a killed pass can go on.
        wanted.replace(output)
        shutil.rmtree(self.partial)

    def _compare(self, path: Path, state: str) -> None:
        """ValueError, naming what differs, unless a file describes this very pass."""
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            known = None
        if not isinstance(known, dict):
            raise ValueError(f"{path} is damaged; delete it, and {self.partial.name} with it, to begin again")
        differing = [name for name, value in self.identity.items() if known.get(name) != value]
        if differing:
            name = differing[0]
            old, new = _short(known.get(name)), _short(self.identity[name])
            where = self.partial if path.parent == self.partial else path
            raise ValueError(
                f"{self.output} {state} with another {name}: {old} there, {new} now; give another --output, or delete "
                f"{where}"
            )


def _write(path: Path, values: Mapping[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}..."
