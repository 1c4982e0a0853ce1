"""The Merlin abdominal CT data set (Stanford AIMI), as it is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_modules.readers.layout import LabelReader, Rows
from data_modules.readers.spreadsheet import Spreadsheet
from data_modules.readers.table import Table, find
from data_modules.readers.volume_layout import VolumeLayout
from domainvl.data.labels import Label
from domainvl.data.manifest import Manifest, Record, parse_split
from domainvl.data.texts.reports import clean, split_report

_NO_PATIENTS = "no patient is named in its tables, so a study counts as one; its own split is by patient and is kept"


@dataclass(frozen=True)
class MerlinCT(VolumeLayout):
    """`merlin_data/*.nii.gz`, `reports_final.xlsx` and `zero_shot_findings_disease_cls.csv`.

    A label of -1 means "not mentioned" here, so it is blank and never uncertain. The names of the columns are what
    users of the data set write; they are arguments, because the publisher documents their content and not their names.

    Attributes:
        study_column: Study, in both tables; the name of the volume's file.
        report_column: Text of the report.
        split_column: Split of the study.
        patient_column: Patient, in the table of reports; studies count as patients when None.
    """

    study_column: str = "study id"
    report_column: str = "Findings"
    split_column: str = "Split"
    patient_column: str | None = None

    def read(self, root: Path) -> Manifest:
        """The reports' rows as records, joined with the labels."""
        table = _reports(root)
        labelled = Table(find(root, ["zero_shot_findings_disease_cls.csv"], "Merlin"))
        classes = tuple(column for column in labelled.columns if column and column != self.study_column)
        read = LabelReader(classes)
        labels: dict[str, tuple[Label, ...]] = {}
        problems: dict[str, str] = {}
        for number, (study, *cells) in labelled.rows(self.study_column, *classes):
            try:
                labels[study] = tuple(Label.BLANK if one is Label.UNCERTAIN else one for one in read(cells))
            except ValueError as error:
                problems[study] = f"{labelled.path.name} row {number}: {error}"
        blank = (Label.BLANK,) * len(classes)
        rows = Rows()
        wanted = [self.study_column, self.report_column, self.split_column]
        for number, (study, text, split, *more) in table.rows(*wanted, *filter(None, [self.patient_column])):
            path = _path(root, study)
            if study in problems:
                rows.reject(number, path, problems[study])
                continue
            report = split_report(text)
            rows.add(
                Record(
                    id=study,
                    path=path,
                    patient=more[0] if more else study,
                    labels=labels.get(study, blank),
                    split=parse_split(split),
                    study=study,
                    row=number,
                    findings=report.findings or clean(text.partition("IMPRESSION")[0]),
                    impression=report.impression,
                )
            )
        return Manifest(
            name="Merlin",
            root=root,
            records=tuple(rows.records),
            classes=classes,
            rejected=tuple(rows.rejected),
            licence="Stanford research use agreement, no commercial use; cite Blankemeier et al. 2026",
            warnings=() if self.patient_column else (_NO_PATIENTS,),
        )


def _reports(root: Path) -> Table | Spreadsheet:
    csv = sorted(root.glob("reports_final.csv*"))
    return Table(csv[0]) if csv else Spreadsheet(find(root, ["reports_final.xlsx"], "Merlin"))


def _path(root: Path, study: str) -> str:
    name = f"merlin_data/{Path(study).name}"
    return f"{name}.nii" if (root / f"{name}.nii").exists() else f"{name}.nii.gz"
