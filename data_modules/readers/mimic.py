"""MIMIC-CXR-JPG 2.x, as PhysioNet ships it; the reports are a download of their own and may be laid beside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_modules.readers.boxes import placed, with_boxes
from data_modules.readers.layout import CHEXPERT_CLASSES, LabelReader, Layout, Rows
from data_modules.readers.table import Table, find
from domainvl.data.labels import Label
from domainvl.data.manifest import Manifest, Record, parse_split
from domainvl.data.paths import existing_root
from domainvl.data.texts.reports import clean

_SECTIONS = "mimic_cxr_sectioned.csv"


@dataclass(frozen=True)
class MimicCxrJpg(Layout):
    """`files/p10/p10000032/s50414267/<dicom_id>.jpg` and gzipped tables; labels hang on the study, not on the image.

    A study without a row in the label table has blank labels.

    Attributes:
        labeler: Whose labels: `chexpert` or `negbio`.
        reports: Root of the reports (`files/p10/p10000032/s50414267.txt`); the images' root when None. A table
            `mimic_cxr_sectioned.csv` in it, made by MIT-LCP's script, is used when it is there.
        boxes: CSV of boxes with phrases, for example that of MS-CXR, below the root or anywhere.
    """

    labeler: Literal["chexpert", "negbio"] = "chexpert"
    reports: str | None = None
    boxes: str | None = None

    def read(self, root: Path) -> Manifest:
        """Split table joined with metadata on the image and with labels on the study."""
        split = Table(find(root, ["mimic-cxr-*-split.csv"], "MIMIC-CXR-JPG"))
        metadata = Table(find(root, ["mimic-cxr-*-metadata.csv"], "MIMIC-CXR-JPG"))
        labelled = Table(find(root, [f"mimic-cxr-*-{self.labeler}.csv"], "MIMIC-CXR-JPG"))
        reports = root if self.reports is None else existing_root(self.reports, "MimicCxrJpg reports")

        views = {image: view for _, (image, view) in metadata.rows("dicom_id", "ViewPosition")}
        read = LabelReader(CHEXPERT_CLASSES)
        labels: dict[str, tuple[Label, ...]] = {}
        problems: dict[str, str] = {}
        for number, (study, *cells) in labelled.rows("study_id", *CHEXPERT_CLASSES):
            try:
                labels[study] = read(cells)
            except ValueError as error:
                problems[study] = f"{labelled.path.name} row {number}: {error}"
        sections = _sections(reports)

        blank = (Label.BLANK,) * len(CHEXPERT_CLASSES)
        rows = Rows()
        for number, (image, study, subject, part) in split.rows("dicom_id", "study_id", "subject_id", "split"):
            folder = f"files/p{subject[:2]}/p{subject}/s{study}"
            if study in problems:
                rows.reject(number, f"{folder}/{image}.jpg", problems[study])
                continue
            findings, impression = sections.get(f"s{study}", ("", ""))
            rows.add(
                Record(
                    id=image,
                    path=f"{folder}/{image}.jpg",
                    patient=subject,
                    labels=labels.get(study, blank),
                    split=parse_split(part),
                    study=study,
                    view=views.get(image, ""),
                    row=number,
                    report=f"{folder}.txt",
                    findings=findings,
                    impression=impression,
                )
            )
        manifest = Manifest(
            name="MIMIC-CXR-JPG",
            root=root,
            records=tuple(rows.records),
            classes=CHEXPERT_CLASSES,
            rejected=tuple(rows.rejected),
            reports=reports,
            licence="PhysioNet Credentialed Health Data licence; neither images nor text may be passed on or sent to "
            "hosted services",
        )
        return manifest if self.boxes is None else with_boxes(manifest, placed(root, self.boxes))


def _sections(reports: Path) -> dict[str, tuple[str, str]]:
    """Findings and impression by study; the last paragraph stands in where a report has neither."""
    found = sorted([*reports.glob(_SECTIONS), *reports.glob(_SECTIONS + ".gz")])
    if not found:
        return {}
    table = Table(found[0])
    texts = table.rows("study", "findings", "impression", "last_paragraph")
    return {
        study: (clean(findings) or ("" if impression else clean(last)), clean(impression))
        for _, (study, findings, impression, last) in texts
    }
