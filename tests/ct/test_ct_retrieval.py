"""Reports are found by scan: from the table's studies through the data module and the task to the pool."""

import csv

import ct_layouts as layouts
import pytest
from ct_phantoms import chest
from lightning.pytorch import Trainer

from data_modules import CTVolumes, Preparation
from domainvl.backbones import HuggingFace, SliceVolume
from domainvl.data.loading import Loading
from domainvl.data.texts.views import TextViews
from domainvl.data.volumes.preset import VolumePreset
from domainvl.evaluation import SCAN, STUDY
from domainvl.tasks import Alignment

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize(("protocol", "images"), [(SCAN, 4), (STUDY, 8)], ids=["scan", "study"])
def test_reconstructions_are_one_image(tmp_path, protocol, images):
    rows = []
    for scan in range(4):
        for part in ("soft", "sharp"):
            path = f"{scan}-{part}.nii.gz"
            chest(tmp_path / path, seed=len(rows), shape=layouts.SHAPE, spacing=layouts.SPACING)
            rows.append([path, f"p{scan}", f"s{scan}", "test", scan % 2, f"Nodule {scan}."])
    with (tmp_path / "studies.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "patient", "study", "split", "nodule", "findings"], *rows])
    preset = VolumePreset("toy", (3.6, 3.6, 20.0), (2, 96, 96))
    data = CTVolumes(
        str(tmp_path),
        preparation=Preparation(folder=str(tmp_path / "store")),
        loading=Loading(4, 3, workers=0),
        texts=TextViews(),
    )
    task = Alignment(SliceVolume(HuggingFace("builtin:tiny"), preset), retrieval=protocol)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.test(task, datamodule=data, verbose=False)
    facts = task.outcome().measure(seed=1).retrieval
    assert facts["protocol"] == protocol.name
    assert (facts["pool_images"], facts["pool_texts"]) == (images, 4)
    assert facts["queries"] == {"images": images, "texts": 4}
