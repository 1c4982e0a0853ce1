"""Miniature copies of the public chest X-ray sets, written as they lie on disk after download."""

import copy
import csv
import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


def picture(size=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size + 6), dtype=np.uint8)


def save(path: Path, mode="L", seed=0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = picture(seed=seed)
    if mode == "I;16":
        Image.fromarray(pixels.astype(np.uint16) * 16).save(path)
    elif path.suffix in (".dcm",):
        dicom(pixels.astype(np.uint16) * 16).save_as(path, enforce_file_format=True)
    else:
        Image.fromarray(pixels).convert(mode).save(path)
    return path


def dicom(pixels: np.ndarray, photometric="MONOCHROME2", **tags) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    one.PatientID = "SECRET^NAME"
    one.Modality, one.PhotometricInterpretation = "DX", photometric
    one.Rows, one.Columns = pixels.shape
    one.SamplesPerPixel, one.PixelRepresentation = 1, 0
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 12, 11
    one.PixelData = pixels.astype(np.uint16).tobytes()
    for name, value in tags.items():
        setattr(one, name, copy.deepcopy(value))
    return one


def without_pixels(path: Path) -> None:
    one = dicom(picture().astype(np.uint16))
    del one.PixelData
    one.save_as(path, enforce_file_format=True)


def table(path: Path, columns, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def mimic(root: Path) -> Path:
    """Six patients; the second study of the first has two images; one study has no labels."""
    splits, metadata, labels, sections = [], [], [], []
    names = [f"{n:08x}-aaaa" for n in range(7)]
    subjects = ["10000032", "10000032", "10000764", "10000898", "10000935", "10001401", "10001884"]
    studies = ["50414267", "53189527", "57375967", "50771383", "50578979", "55350604", "58913004"]
    parts = ["train", "train", "train", "train", "validate", "test", "test"]
    for n, (name, subject, study, part) in enumerate(zip(names, subjects, studies, parts, strict=True)):
        folder = root / "files" / f"p{subject[:2]}" / f"p{subject}"
        save(folder / f"s{study}" / f"{name}.jpg", seed=n)
        (folder / f"s{study}.txt").write_text(" FINAL REPORT\n FINDINGS:  Clear.\n\n IMPRESSION:  No edema.\n")
        splits.append((name, study, subject, part))
        metadata.append((name, subject, study, "CHEST (PA AND LAT)", "PA" if n % 2 else "LATERAL", 3056, 2544))
        if n != 3:
            labels.append(
                (
                    subject,
                    study,
                    *("1.0" if i == n else "0.0" if i < n else "-1.0" if i == 12 else "" for i in range(14)),
                )
            )
            sections.append((f"s{study}", "No edema." if n else "", "Clear ___ lungs.", "Last.", ""))
    table(root / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
    columns = (
        "dicom_id",
        "subject_id",
        "study_id",
        "PerformedProcedureStepDescription",
        "ViewPosition",
        "Rows",
        "Columns",
    )
    table(root / "mimic-cxr-2.0.0-metadata.csv.gz", columns, metadata)
    for labeler in ("chexpert", "negbio"):
        table(root / f"mimic-cxr-2.0.0-{labeler}.csv.gz", ("subject_id", "study_id", *sorted(CHEXPERT)), labels)
    header = ("study", "impression", "findings", "last_paragraph", "comparison")
    table(root / "mimic_cxr_sectioned.csv.gz", header, sections)
    return root


def chexpert(root: Path, test=False) -> Path:
    columns = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT)
    parts = {"train": range(1, 41), "valid": range(64541, 64545)}
    if test:
        parts["test"] = range(64741, 64743)
    for part, numbers in parts.items():
        rows = []
        for n in numbers:
            for view in ("view1_frontal", "view2_lateral"):
                path = f"{part}/patient{n:05d}/study1/{view}.jpg"
                save(root / path, seed=n)
                labels = ["1.0" if i == n % 14 else "-1.0" if i == (n + 1) % 14 else "" for i in range(14)]
                frontal = "frontal" in view
                rows.append(
                    (
                        f"CheXpert-v1.0-small/{path}",
                        "Female",
                        68,
                        "Frontal" if frontal else "Lateral",
                        "AP" if frontal else "",
                        *labels,
                    )
                )
        table(root / f"{part}.csv", columns, rows)
    return root


PLUS_COLUMNS = (
    "path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id", "patient_report_date_order",
    "report", "section_narrative", "section_clinical_history", "section_history", "section_comparison",
    "section_technique", "section_procedure_comments", "section_findings", "section_impression",
    "section_end_of_impression", "section_summary", "section_accession_number", "age", "sex", "race", "ethnicity",
    "interpreter_needed", "insurance_type", "recent_bmi", "deceased", "split",
)  # fmt: skip


def chexpert_plus(root: Path) -> Path:
    rows, lines = [], []
    for n in range(30):
        path = f"{'valid' if n > 25 else 'train'}/patient{n:05d}/study1/view1_frontal"
        save(root / "PNG" / f"{path}.png", seed=n)
        save(root / "DICOM" / f"{path}.dcm", seed=n)
        row = dict.fromkeys(PLUS_COLUMNS, "")
        row |= {
            "path_to_image": f"{path}.jpg",
            "path_to_dcm": f"{path}.dcm",
            "frontal_lateral": "Frontal",
            "ap_pa": "AP",
            "deid_patient_id": f"patient{n:05d}",
            "report": "NARRATIVE:\nlong\ntext, with a comma",
            "section_findings": "Clear lungs.",
            "section_impression": "1. No edema.",
            "split": path[:5],
        }
        rows.append(list(row.values()))
        label = {name: 1.0 if i == n % 14 else 0.0 if i == 13 else None for i, name in enumerate(CHEXPERT)}
        lines.append(json.dumps({"path_to_image": f"{path}.jpg", **label}))
    table(root / "df_chexpert_plus_240401.csv", PLUS_COLUMNS, rows)
    for section in ("report", "findings", "impression"):
        target = root / "chexbert_labels" / f"{section}_fixed.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text("\n".join(lines).replace("null", "NaN", 3) + "\n")
    return root


XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{n}"/><MedlineCitation Owner="Indiana"><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION">XXXX-year-old</AbstractText>
<AbstractText Label="FINDINGS">The XXXX are clear &amp; calm.</AbstractText>{impression}
</Abstract></Article></MedlineCitation>
<MeSH>{major}<automatic>edema</automatic></MeSH>
{images}</eCitation>
"""


def openi(root: Path, packed=False) -> Path:
    reports = {}
    for n in range(1, 13):
        major = (
            ["normal"]
            if n % 3 == 0
            else ["No Indexing"]
            if n == 7
            else ["Cardiomegaly/borderline", "Lung/hyperinflation"]
        )
        images = [f"CXR{n}_IM-{n:04d}-{view}" for view in ("1001", "2001")]
        for image in images if n != 12 else []:
            save(root / "NLMCXR_png" / f"{image}.png", seed=n)
        reports[f"{n}.xml"] = XML.format(
            n=n,
            impression='<AbstractText Label="IMPRESSION"/>'
            if n == 1
            else '<AbstractText Label="IMPRESSION">Fine.</AbstractText>',
            major="".join(f"<major>{term}</major>" for term in major),
            images="".join(
                f'<parentImage id="{image}"><figureId>F1</figureId></parentImage>' for image in images if n != 12
            ),
        ).encode()
    if packed:
        with tarfile.open(root / "NLMCXR_reports.tgz", "w:gz") as archive:
            for name, data in reports.items():
                info = tarfile.TarInfo(f"ecgen-radiology/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    else:
        (root / "ecgen-radiology").mkdir(parents=True)
        for name, data in reports.items():
            (root / "ecgen-radiology" / name).write_bytes(data)
    return root


def nih(root: Path, lists=True) -> Path:
    columns = (
        "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position",
        "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]",
    )  # fmt: skip
    rows, train, test = [], [], []
    for n in range(1, 41):
        for follow in (0, 1):
            name = f"{n:08d}_{follow:03d}.png"
            save(root / f"images_{n % 2 + 1:03d}" / "images" / name, "RGBA" if n == 1 else "L", seed=n)
            found = ("No Finding", "Hernia|Pleural_Thickening", "Mass")[n % 3]
            rows.append((name, found, follow, n, 58, "M", "PA" if follow else "AP", 2682, 2749, 0.143, 0.143))
            (test if n > 30 else train).append(name)
    table(root / "Data_Entry_2017_v2020.csv", columns, rows)
    (root / "BBox_List_2017.csv").write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\n")
    if lists:
        (root / "train_val_list.txt").write_text("\n".join(train) + "\n")
        (root / "test_list.txt").write_text("\n".join(test))
    return root


def padchest(root: Path, flat=False) -> Path:
    columns = (
        "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
        "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "ReportID", "Report", "MethodLabel",
        "Labels", "Localizations",
    )  # fmt: skip
    rows = []
    for n in range(40):
        name = f"{n:012d}_00-163-{n}.png"
        save(root / ("" if flat else str(n % 3)) / name, "I;16", seed=n)
        labels = ("['normal']", "['cardiomegaly', ' pleural effusion']", "['exclude']", "[' cardiomegaly','']")[n % 4]
        method = "Physician" if n % 2 else "RNN_model"
        rows.append(
            (
                n,
                name,
                n % 3,
                20140915,
                f"s{n}",
                f"p{n // 2}",
                1950,
                "F",
                "POSTEROANTERIOR",
                "PA" if n % 5 else "L",
                "",
                "No",
                n,
                "sin hallaz",
                method,
                labels,
                "[]",
            )
        )
    table(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", columns, rows)
    return root
