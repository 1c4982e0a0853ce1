"""IU / OpenI chest X-rays (Indiana University), as the National Library of Medicine ships them."""

from __future__ import annotations

import tarfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_modules.readers.layout import Layout, frequent, present
from domainvl.data.labels import Label
from domainvl.data.manifest import Manifest, Record
from domainvl.data.names import listing
from domainvl.data.rejects import Reject
from domainvl.data.texts.reports import clean

_NOT_FINDINGS = frozenset({"normal", "no indexing", "technical quality of image unsatisfactory"})
_IMAGES = "NLMCXR_png"
_REPORTS = "ecgen-radiology"
_MAX_XML = 2_000_000


@dataclass(frozen=True)
class _Study:
    name: str
    images: tuple[str, ...]
    findings: frozenset[str]
    indexed: bool
    text: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class OpenI(Layout):
    """`NLMCXR_png/*.png` and `ecgen-radiology/*.xml`, unpacked or still in the .tgz.

    Classes are the human MeSH headings (`MeSH/major`, up to the first slash). A study that nobody indexed has blank
    labels. There are no patients and no splits: a study counts as a patient.

    Attributes:
        least: Number of studies that a heading must occur in to be a class.
    """

    least: int = 25

    def read(self, root: Path) -> Manifest:
        """The reports' images as records."""
        studies, rejected = [], []
        for name, data in _xml_files(root):
            try:
                studies.append(_study(data))
            except (ET.ParseError, ValueError) as error:
                rejected.append(Reject(0, f"{_REPORTS}/{name}", f"no readable report: {error}"))
        counts = Counter(finding for study in studies for finding in study.findings)
        classes = frequent(counts, self.least, "OpenI")
        blank = (Label.BLANK,) * len(classes)
        records = (
            Record(
                id=image,
                path=f"{_IMAGES}/{image}.png",
                patient=study.name,
                labels=present(classes, study.findings) if study.indexed else blank,
                study=study.name,
                findings=study.text.get("FINDINGS", ""),
                impression=study.text.get("IMPRESSION", ""),
            )
            for study in studies
            for image in study.images
        )
        return Manifest(
            name="OpenI",
            root=root,
            records=tuple(records),
            classes=classes,
            rejected=tuple(rejected),
            licence="CC BY-NC-ND 4.0 (National Library of Medicine); cite Demner-Fushman et al. 2016",
            warnings=("no patient is known, so a study counts as one; a person with two studies may be in two splits",),
        )


def _xml_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every report, in the order of their numbers."""
    folder = root / _REPORTS
    if folder.is_dir():
        for path in sorted(folder.glob("*.xml"), key=lambda path: (len(path.name), path.name)):
            yield path.name, path.read_bytes()
        return
    archives = sorted([*root.glob("*report*.tgz"), *root.glob("*report*.tar.gz")])
    if not archives:
        raise FileNotFoundError(
            f"OpenI: neither the folder {_REPORTS} nor NLMCXR_reports.tgz lies in {root}; it holds "
            f"{listing(sorted(entry.name for entry in root.iterdir()))}"
        )
    with tarfile.open(archives[0]) as archive:
        for member in archive:
            # Members are read in place, so nothing can be unpacked to where it should not be.
            if member.isfile() and member.name.endswith(".xml") and member.size <= _MAX_XML:
                file = archive.extractfile(member)
                if file is not None:
                    yield Path(member.name).name, file.read()


def _study(data: bytes) -> _Study:
    tree = ET.fromstring(data)
    identity = tree.find("uId")
    if identity is None or not identity.get("id"):
        raise ValueError("it has no uId")
    major = [(node.text or "").strip() for node in tree.findall("MeSH/major")]
    heads = [term.partition("/")[0].strip() for term in major]
    indexed = any(head and head.lower() != "no indexing" for head in heads)
    return _Study(
        name=identity.attrib["id"],
        images=tuple(node.attrib["id"] for node in tree.iter("parentImage") if node.get("id")),
        findings=frozenset(head for head in heads if head and head.lower() not in _NOT_FINDINGS),
        indexed=indexed,
        text={node.get("Label", ""): clean("".join(node.itertext())) for node in tree.iter("AbstractText")},
    )
