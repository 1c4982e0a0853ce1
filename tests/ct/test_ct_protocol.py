"""Findings are counted by scan, with thresholds from validation: from the table through data module and task."""

import csv

import ct_layouts as layouts
import numpy as np
import pytest
from ct_phantoms import chest
from lightning.pytorch import Trainer

from data_modules import CTVolumes, Preparation
from domainvl.backbones import HuggingFace, SliceVolume
from domainvl.data.loading import Loading
from domainvl.data.volumes.preset import VolumePreset
from domainvl.evaluation import FindingProtocol, thresholds
from domainvl.evaluation.metrics import THRESHOLD
from domainvl.tasks import Classification

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

FINDINGS = ("nodule", "effusion")


def measured(root, unit):
    data = CTVolumes(
        str(root),
        preparation=Preparation(folder=str(root / "store")),
        loading=Loading(4, 3, workers=0),
        classes=FINDINGS,
    )
    preset = VolumePreset("toy", (3.6, 3.6, 20.0), (2, 96, 96))
    protocol = FindingProtocol("toy", FINDINGS, unit=unit)
    task = Classification(SliceVolume(HuggingFace("builtin:tiny"), preset), findings=protocol)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=root, **quiet)
    trainer.test(task, datamodule=data, verbose=False)
    test = task.outcome().measure(seed=1).as_dict()
    trainer.validate(task, datamodule=data, verbose=False)
    return test, task.predictions


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    rows = []
    for scan in range(12):
        split = ("validate", "test")[scan % 2]
        for part in ("soft", "sharp")[: 1 + scan % 3]:
            path = f"{scan}-{part}.nii.gz"
            chest(root / path, seed=len(rows), shape=layouts.SHAPE, spacing=layouts.SPACING)
            # Studies are numbered by patient, as they are in many a table.
            rows.append([path, f"p{scan}", "s1", split, int(scan % 4 < 2), int(scan > 5)])
    with (root / "studies.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "patient", "study", "split", *FINDINGS], *rows])
    return root


@pytest.mark.parametrize(("unit", "rows"), [("scan", 6), ("volume", 10)])
def test_a_test_is_counted_under_the_protocol(root, unit, rows):
    test, validation = measured(root, unit)
    found = test["findings"]
    assert (found["protocol"], found["rows"], found["patients"]) == (f"toy, by {unit}", rows, 6)
    assert test["n"]["images"] == 10
    scores = validation.zero_shot
    labels = validation.labels
    if unit == "scan":
        patients = sorted(set(validation.patients))
        of = [[row for row, patient in enumerate(validation.patients) if patient == one] for one in patients]
        scores = np.array([scores[rows].mean(axis=0) for rows in of])
        labels = np.array([labels[rows[0]] for rows in of])
    chosen = found["models"]["zero_shot"]["thresholds"]
    np.testing.assert_allclose([chosen[name] for name in FINDINGS], thresholds.choose(labels, scores), rtol=1e-5)
    assert all(value != THRESHOLD for value in chosen.values())
    assert {"auroc_macro", "f1_macro", "f1_macro_tuned"} <= set(found["models"]["zero_shot"]["metrics"])


@pytest.mark.parametrize("name", ["CT-RATE-16", "CT-RATE-16 by scan", "CT-RATE-18", "CT-RATE-18 by scan"])
def test_protocols_have_names(name):
    protocol = FindingProtocol.named(name)
    assert protocol.title.startswith(f"{name[:10]}, by ")
    assert (protocol.unit == "scan") == ("scan" in name)
    assert len(protocol.classes) == int(name[8:10])


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'CT-RATE-17' is no protocol; choose CT-RATE-18, "):
        FindingProtocol.named("CT-RATE-17")
