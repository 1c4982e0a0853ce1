"""What is known to be wrong with slides before the first tile is read: a night of embedding is no time to learn it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from data_modules.readers.open_slide import open_slide
from data_modules.readers.slide import NoResolution
from data_modules.whole_slides.embedding import stem_of
from domainvl.data.manifest import Manifest, Record
from domainvl.data.rejects import Reject, UnreadableImage
from domainvl.progress import shown


def check_names(manifest: Manifest) -> None:
    """Raise when the features of two slides would have the same name."""
    known: dict[str, Record] = {}
    for record in manifest.records:
        other = known.setdefault(stem_of(record), record)
        if other.path != record.path:
            raise ValueError(
                f"{manifest.name}: {_place(other)} and {_place(record)} are slides whose features would have the same "
                f"name, {stem_of(record)}.h5; rename one of them"
            )


def openable(manifest: Manifest, resolutions: Mapping[str, float], workers: int) -> Manifest:
    """The manifest with the slides that can be opened; the others are rejected.

    Args:
        manifest: The slides.
        resolutions: Microns per pixel by record path, where the table states them.
        workers: Threads.

    Raises:
        ValueError: Some state no resolution; all of them are listed.
    """

    def tried(record: Record) -> UnreadableImage | None:
        try:
            open_slide(manifest.root / record.path, resolutions.get(record.path))
        except UnreadableImage as error:
            return error
        except OSError:
            pass  # told when it is embedded
        return None

    with ThreadPoolExecutor(max(1, workers)) as pool:
        tries = shown(pool.map(tried, manifest.records), len(manifest.records), "opening slides")
        found = list(zip(manifest.records, tries, strict=True))
    without = [(record, error) for record, error in found if isinstance(error, NoResolution)]
    if without:
        raise ValueError(
            f"{manifest.name}: of {len(without)} slide(s) it is not known how large pixels are "
            f"({', '.join(_place(record) for record, _ in without)}). Of the first: {without[0][1]}"
        )
    bad = tuple(Reject(record.row, record.path, str(error)) for record, error in found if error is not None)
    good = tuple(record for record, error in found if error is None)
    return replace(manifest, records=good, rejected=manifest.rejected + bad)


def _place(record: Record) -> str:
    return f"row {record.row}" if record.row else record.path
