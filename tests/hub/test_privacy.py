"""Ids, texts, names of files and folders are people: they lie in the files that are documented to hold them, alone."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from domainvl.cli import main

RECIPES = Path(__file__).parents[2] / "recipes"
HOLD_IDS = {"predictions.csv", "rejects.csv", "shared.csv"}
# In every id, name of a file and text; the folder's name is in the configuration, which says where the data lie.
CANARIES, FOLDER = ("QanaryJones", "qanarypicture", "qanarysaid", "qanarystudy"), "qanaryhospital"


def study(root: Path) -> Path:
    """48 images with reports that repeat across splits, and a file of the test split that cannot be read."""
    root.mkdir()
    rows, rng = [], np.random.default_rng(0)
    for number in range(48):
        split = ("train", "train", "validate", "test")[number % 4]
        name = f"qanarypicture{number}.png"
        Image.fromarray(rng.integers(256, size=(96, 96), dtype=np.uint8)).save(root / name)
        said = f"FINDINGS: qanarysaid effusion {number // 8}. IMPRESSION: qanarysaid that number {number // 8}."
        who = [f"QanaryJones{number}", f"qanarystudy{number}"]
        rows.append([name, *who, split, number // 4 % 2, number // 8 % 2, said])
    (root / "qanarypicture7.png").write_bytes(b"no picture")
    with (root / "studies.csv").open("w", newline="") as file:
        head = ["image", "patient", "study", "split", "Effusion", "Edema", "report"]
        csv.writer(file).writerows([head, *rows])
    return root


RUNS = {
    "cxr-probe": ["--data.shots", "4"],
    "cxr-align": ["--data.views", "null", "--data.report_column", "report", "--data.loading.batch_size", "16"],
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("recipe", RUNS)
def test_no_person_leaves_the_files_of_predictions(tmp_path, capfd, server, recipe):
    root, run, out = study(tmp_path / FOLDER), tmp_path / "run", tmp_path / "out"
    data = ["--data.root", str(root), "--data.loading.reject_share", "0.2", *RUNS[recipe]]
    less = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
    assert main(["fit", str(RECIPES / f"{recipe}.yaml"), "--run-dir", str(run), *data, *less]) == 0
    assert main(["export", str(run), str(out), "--push-to-hub", "someone/model"]) == 0
    printed = capfd.readouterr()
    left = {path: path.read_bytes() for path in [*run.rglob("*"), *out.rglob("*")] if path.is_file()}
    pushed = server.repos["someone/model"]
    assert {"README.md", "recipe.yaml", "domainvl.json"} <= set(pushed)
    shown = {"what is printed": (printed.out + printed.err).encode()} | pushed
    shown |= {str(path): content for path, content in left.items() if path.name not in HOLD_IDS}
    for name, content in shown.items():
        found = [canary for canary in CANARIES if canary.encode() in content]
        assert not found, f"{found} in {name}"
        assert FOLDER.encode() not in content or name.endswith("config.yaml"), name
    # The test sees what it looks for: these files do hold it.
    assert b"QanaryJones3" in left[run / "predictions.csv"]
    assert b"qanarypicture7" in left[run / "rejects.csv"]
    if recipe == "cxr-align":
        assert b"train/test,identical_texts,qanarypicture" in left[run / "shared.csv"]
