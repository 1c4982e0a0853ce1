"""Procedural sample data, written as real files, so that it takes the way through the readers that real data takes.

A domain is one generator module. It offers ``PATIENTS`` (how many patients a full set holds) and
``generate(folder, *, seed, patients) -> Iterator[None]``, which writes into an existing empty folder and yields
once per patient. Adding a domain is that module plus one line in ``DOMAINS``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, cast

from domainvl.cache import cache_root
from domainvl.progress import shown

__all__ = ["DOMAINS", "cached", "write"]

DOMAINS: Mapping[str, str] = MappingProxyType(
    {
        "ct": "domainvl.samples.ct",
        "cxr": "domainvl.samples.cxr",
        "cxr-reports": "domainvl.samples.cxr_reports",
        "histo": "domainvl.samples.histo",
        "satellite": "domainvl.samples.satellite",
        "slides": "domainvl.samples.slides",
    }
)
"""Domain name -> dotted name of its generator module."""

_MANIFEST = ".manifest.json"


class _Generator(Protocol):
    PATIENTS: int

    def generate(self, folder: Path, *, seed: int, patients: int) -> Iterator[None]: ...


def write(domain: str, folder: Path, *, seed: int = 0, patients: int | None = None) -> Path:
    """Writes one domain's sample set; the same arguments give byte-identical files.

    Args:
        domain: A key of ``DOMAINS``.
        folder: Where to write. It is created; if it exists it must be empty.
        seed: Seed of everything random in the set.
        patients: Number of patients; the domain's own full size when left out.

    Returns:
        The folder.

    Raises:
        ValueError: The domain is unknown, or ``patients`` or ``seed`` is out of range.
        FileExistsError: The folder holds files already, or is a file.
    """
    generator = _generator(domain)
    count = generator.PATIENTS if patients is None else patients
    if count < 1:
        raise ValueError(f"samples.write: patients must be at least 1, got {count}")
    if seed < 0:
        raise ValueError(f"samples.write: seed must not be negative, got {seed}")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"samples.write: {folder} is a file; name a new or an empty folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"samples.write: {folder} is not empty and nothing in it was changed; name a new or an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    steps = generator.generate(folder, seed=seed, patients=count)
    for _ in shown(steps, count, f"writing {domain} samples"):
        pass
    return folder


def cached(domain: str) -> Path:
    """Gives the folder of a domain's full default set, written first if this machine has no complete copy.

    The folder's name carries a hash of the generator's source: a changed generator never meets an old copy. Any
    number of processes may call this at once: one writes, the others wait and share the result.

    Args:
        domain: A key of ``DOMAINS``.

    Returns:
        The cached folder. Treat it as read-only.

    Raises:
        ValueError: The domain is unknown.
    """
    shelf = cache_root() / "samples"
    target = shelf / f"{domain}-{_source_hash(domain)}"
    if _is_complete(target):
        return target

    from filelock import FileLock

    shelf.mkdir(parents=True, exist_ok=True)
    with FileLock(shelf / f".{target.name}.lock"):
        if _is_complete(target):
            return target
        # A sibling shares the target's file system, which is what makes the rename below atomic.
        workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=shelf))
        try:
            fresh = write(domain, workshop / "fresh")
            sizes = {path.relative_to(fresh).as_posix(): path.stat().st_size for path in _files(fresh)}
            (fresh / _MANIFEST).write_text(json.dumps(sizes), encoding="utf-8")
            if target.exists():
                target.rename(workshop / "damaged")
            fresh.rename(target)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    return target


def _generator(domain: str) -> _Generator:
    return cast(_Generator, importlib.import_module(_module_name(domain)))


def _module_name(domain: str) -> str:
    if domain not in DOMAINS:
        raise ValueError(f"samples: unknown domain {domain!r}; known: {', '.join(sorted(DOMAINS))}")
    return DOMAINS[domain]


def _source_hash(domain: str) -> str:
    """A hash over all generators: a set may be drawn with the brushes of another."""
    spec = importlib.util.find_spec(_module_name(domain))
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"samples: the generator of {domain!r} is missing; reinstall domainvl")
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _is_complete(folder: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
