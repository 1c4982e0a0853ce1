"""Public CT data sets in miniature, as they lie on disk once downloaded."""

import csv
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from ct_phantoms import affine, body, save

from domainvl.data.volumes.volume import Volume

SHAPE, SPACING = (24, 28, 32), (10.0, 8.0, 8.0)
CT_RATE = ("Medical material", "Cardiomegaly", "Lung nodule", "Pleural effusion")


def scan(seed=0):
    return Volume(body(SHAPE, SPACING, seed), affine(SPACING))


def table(path: Path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def blank_header(path: Path, voxels) -> None:
    """A NIfTI file whose header says nothing: 1 mm, identity, stored values without a scale."""
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path), True)


def ct_rate(root: Path, version="v2", patients=6) -> Path:
    """Two reconstructions per scan; v1 holds stored values in DICOM's directions and blank headers."""
    fixed = "_fixed" if version == "v2" else ""
    for folder, name in (("train", "train"), ("valid", "validation")):
        labels, reports, metadata = [], [], []
        for number in range(1, patients + 1):
            for part in (1, 2):
                volume = f"{folder}_{number}_a_{part}.nii.gz"
                place = root / "dataset" / f"{folder}{fixed}" / f"{folder}_{number}" / f"{folder}_{number}_a" / volume
                there = scan(number).oriented("LPS")
                if version == "v2":
                    save(place, there)
                else:
                    blank_header(place, (there.voxels + 1024).astype(np.int16))
                labels.append([volume, number % 2, 0, 1, 0])
                reports.append([volume, "", "", f"Nodule {number}.", "Not given."])
                origin = [round(float(value), 3) for value in (there.affine @ [0, 0, 0, 1])[:3] * [-1, -1, 1]]
                metadata.append(
                    [volume, "[8.0, 8.0]", -1024, 1, 10.0, str(origin), "[1, 0, 0, 0, 1, 0]", "SECRET 20200101"]
                )
        table(
            root / "dataset" / "multi_abnormality_labels" / f"{folder}_predicted_labels.csv",
            ["VolumeName", *CT_RATE],
            labels,
        )
        table(
            root / "dataset" / "radiology_text_reports" / f"{name}_reports.csv",
            ["VolumeName", "ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN"],
            reports,
        )
        table(
            root / "dataset" / "metadata" / f"{name}_metadata.csv",
            [
                "VolumeName",
                "XYSpacing",
                "RescaleIntercept",
                "RescaleSlope",
                "ZSpacing",
                "ImagePositionPatient",
                "ImageOrientationPatient",
                "StudyDate",
            ],
            metadata,
        )
    return root


def rad_chest(root: Path) -> Path:
    """npz from head to feet, clipped to 1000; the tables list volumes that were never published."""
    summary = []
    columns = ["NoteAcc_DEID", "nodule*left_upper", "nodule*other_lung", "mass*left_upper", "mass*other_lung"]
    for number, name in enumerate(("imgtrain", "imgvalid", "imgtest")):
        rows = []
        for item in range(4):
            volume = f"trn{number}{item:04d}"
            rows.append([volume, item % 2, 0, 0, int(item == 3)])
            if item < 3:
                summary.append([f"mrn{number}{item}", volume, f"{name}_extra", name])
                voxels = np.clip(scan(item).oriented("LPI").voxels, -1000, 1000)
                root.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(root / f"{volume}.npz", ct=voxels)
        table(root / f"{name}_Abnormality_and_Location_Labels.csv", columns, rows)
    table(root / "Summary_3630.csv", ["MRN_DEID", "NoteAcc_DEID", "Set_Assigned", "Subset_Assigned"], summary)
    return root


def merlin(root: Path, suffix=".nii.gz") -> Path:
    """A workbook of reports, labels of 1, 0 and -1 (not mentioned)."""
    reports, labels = [["study id", "Findings", "Split", "Fewshot"]], []
    for number in range(9):
        study = f"AC{number:04d}"
        save(root / "merlin_data" / f"{study}{suffix}", scan(number))
        split = ("train", "val", "test")[number % 3]
        reports.append([study, f"Lower thorax: clear & dry. Liver: cyst {number}.", split, ""])
        labels.append([study, (1, 0, -1)[number % 3], 0])
    workbook(root / "reports_final.xlsx", reports)
    table(root / "zero_shot_findings_disease_cls.csv", ["study id", "ascites", "splenomegaly"], labels)
    return root


def workbook(path: Path, rows, *, shared=True) -> Path:
    """The least that Excel reads; empty cells are left out, as Excel does."""
    texts = sorted({cell for row in rows for cell in row if cell})
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'

    def cell(text, row, column):
        name = f"{'ABCDEFGHIJ'[column]}{row}"
        if not text:
            return ""
        if shared:
            return f'<c r="{name}" t="s"><v>{texts.index(text)}</v></c>'
        return f'<c r="{name}" t="inlineStr"><is><t>{escape(text)}</t></is></c>'

    sheet = "".join(
        f'<row r="{number}">{"".join(cell(text, number, column) for column, text in enumerate(row))}</row>'
        for number, row in enumerate(rows, start=1)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{sheet}</sheetData></worksheet>")
        if shared:
            items = "".join(
                f"<si><r><t>{escape(text[:3])}</t></r><r><t>{escape(text[3:])}</t></r></si>" for text in texts
            )
            archive.writestr("xl/sharedStrings.xml", f"<sst {space}>{items}</sst>")
    return path


def generic(root: Path, count=24) -> Path:
    """A person's own table."""
    rows = []
    for number in range(count):
        save(root / "scans" / f"{number}.nii.gz", scan(number))
        split = ("train", "train", "validate", "test")[number % 4]
        findings = f"FINDINGS: Nodule {number}. IMPRESSION: Fine."
        rows.append(
            [
                f"scans/{number}.nii.gz",
                f"p{number}",
                split,
                int(number // 4 % 3 == 0),
                int(number // 4 % 3 == 1),
                findings,
            ]
        )
    table(root / "studies.csv", ["image", "patient", "split", "Nodule", "Effusion", "report"], rows)
    return root


def folders(root: Path) -> Path:
    """One folder per class, volumes of several formats."""
    from ct_phantoms import series

    for number, name in enumerate(("Nodule", "Nothing")):
        for item in range(10):
            place = root / name / f"{number}{item}"
            if item % 3 == 0:
                series(place, scan(item))
            else:
                save(place.with_suffix(".mha" if item % 3 == 1 else ".nii.gz"), scan(item))
    return root
