"""Label maps of organs: on the grid of their volume whatever they lie in, moved by the same window, never made up."""

import csv

import ct_layouts as layouts
import numpy as np
import pytest
import torch
from ct_phantoms import affine, save

from data_modules import CTVolumes, HounsfieldOrgans, ImageTable, OrganMaps, Preparation
from data_modules.readers.total_segmentator import TOTAL
from domainvl.data import TooManyRejects, UnreadableImage
from domainvl.data.loading import Loading
from domainvl.data.volumes.decoder import Shift
from domainvl.data.volumes.organ_maps import on_grid
from domainvl.data.volumes.preset import VolumePreset
from domainvl.data.volumes.volume import Volume

# The files' own grid, so that a voxel of the window is a voxel of the file.
PRESET = VolumePreset("as it is", (8.0, 8.0, 10.0), (16, 20, 24), windows=((-1000.0, 1000.0),), axes="SAR")
STRUCTURES = {"bright": ["heart"], "air": ["lung_*"]}


def labels_of(volume):
    """What the organs are is read off the voxels: the heart is bright, lungs are airy, both by TotalSegmentator."""
    lungs = (volume.voxels < -700) & (volume.voxels > -985)
    return Volume(
        np.where(volume.voxels > 600, TOTAL["heart"], np.where(lungs, TOTAL["lung_upper_lobe_left"], 0)).astype(
            np.int16
        ),
        volume.world,
        volume.turn,
    )


@pytest.fixture
def root(tmp_path):
    """Scans and label maps that are turned otherwise; number 2 has none, number 4 has a folder of masks."""
    root = layouts.generic(tmp_path / "data", count=8)
    with (root / "studies.csv").open() as file:
        header, *rows = csv.reader(file)
    for number, row in enumerate(rows):
        labels = labels_of(layouts.scan(number))
        if number == 4:
            for name, where in (("heart", TOTAL["heart"]), ("lung_lower_lobe_left", TOTAL["lung_upper_lobe_left"])):
                mask = Volume((labels.voxels == where).astype(np.int16), labels.world)
                save(root / "maps" / "4" / f"{name}.nii.gz", mask.oriented("LAI"))
        elif number != 2:
            save(root / "maps" / f"{number}.nii.gz", labels.oriented(("LPS", "RSA", "RAS")[number % 3]))
        row.append("" if number == 2 else f"maps/{number}" + (".nii.gz" if number != 4 else ""))
    layouts.table(root / "studies.csv", [*header, "organs"], rows)
    return root


def module(root, **arguments):
    data = CTVolumes(
        str(root),
        **{
            "preset": PRESET,
            "preparation": Preparation(folder=str(root.parent / "store")),
            "organs": OrganMaps(STRUCTURES),
            "loading": Loading(8, 8, workers=0, reject_share=0.2),
            **arguments,
        },
    )
    data.rejects.path = root.parent / "rejects.csv"
    return data


def batch_of(data, split="train"):
    data.setup("fit" if split == "train" else "test")
    loader = data.train_dataloader() if split == "train" else data.test_dataloader()
    return next(iter(loader))


def organs_of(hounsfield):
    expected = torch.zeros(hounsfield.shape, dtype=torch.uint8)
    expected[hounsfield > 600] = 1
    expected[(hounsfield < -700) & (hounsfield > -985)] = 2
    return expected


@pytest.mark.parametrize("shift", [None, Shift((2, 3, 4))])
def test_organs_lie_where_the_voxels_say(root, shift):
    """Other orientation, masks in a folder, a window that moves: organs stay on their voxels, to the last one."""
    data = module(root, augment=shift)
    batch = batch_of(data)
    moved = shift(batch["image"]) if shift is not None else batch["image"]
    done = data.decoder.finished({"image": moved})
    assert (done["organs"].dtype, tuple(done["organs"].shape)) == (torch.uint8, (4, *PRESET.size))
    assert tuple(done["image"].shape) == (4, 1, *PRESET.size)
    for place, name in enumerate(batch["id"]):
        expected = organs_of(moved[place, 0]) if name != "scans/2.nii.gz" else torch.zeros(PRESET.size)
        assert torch.equal(done["organs"][place], expected.to(torch.uint8)), name
    assert done["organs"].amax(dim=(1, 2, 3)).tolist().count(2) == len(batch["id"]) - batch["id"].count(
        "scans/2.nii.gz"
    )


def test_batches_carry_organs(root):
    data = module(root)
    batch = batch_of(data)
    assert data.organ_names == ("bright", "air")
    done = data.on_after_batch_transfer(batch, 0)
    assert set(done) >= {"image", "organs"}
    bare = module(root, organs=None)
    assert "organs" not in bare.on_after_batch_transfer(batch_of(bare), 0)
    image = bare.on_after_batch_transfer(batch_of(bare), 0)["image"]
    order = [batch_of(bare)["id"].index(name) for name in batch["id"]]
    assert torch.equal(done["image"], image[order]), "organs change no volume"


def test_a_second_run_reads_no_label_map(root, monkeypatch):
    batch_of(module(root))
    monkeypatch.setattr("data_modules.readers.label_maps.read_volume", lambda *_: pytest.fail("read again"))
    batch_of(module(root))
    other = module(root, organs=OrganMaps({"air": ["lung_*"]}))
    monkeypatch.undo()
    assert other.decoder.finished(batch_of(other))["organs"].max() == 1, "other organs, other label maps"


def test_a_folder_beside_the_volumes(root):
    table = ImageTable(organs_column=None)
    (root / "studies.csv").write_text((root / "studies.csv").read_text().replace(",organs", ",maps"))
    (root / "maps").rename(root.parent / "scans")
    data = module(root, layout=table, organs=OrganMaps(STRUCTURES, folder=str(root.parent)))
    batch = batch_of(data)
    found = data.decoder.finished(batch)["organs"]
    with_map = [name != "scans/2.nii.gz" for name in batch["id"]]
    assert (found.amax(dim=(1, 2, 3)) > 0).tolist() == with_map


def test_bad_label_maps_are_listed(root):
    (root / "maps" / "0.nii.gz").write_bytes(b"")
    turned = labels_of(layouts.scan(1))
    save(root / "maps" / "1.nii.gz", Volume(turned.voxels, affine(layouts.SPACING, oblique=True)))
    data = module(root)
    with pytest.raises(TooManyRejects, match=r"label map: the file is empty"):
        data.setup("fit")
    reasons = {reject.path: reject.reason for reject in data.rejects}
    assert "turned against those of its volume" in reasons["scans/1.nii.gz"]


def test_nobody_has_a_label_map(root):
    text = (root / "studies.csv").read_text().replace(",organs", ",nothing")
    (root / "studies.csv").write_text(text)
    with pytest.raises(ValueError, match="none of the 4 train volumes has a label map"):
        module(root).setup("fit")


@pytest.mark.parametrize(
    ("structures", "message"),
    [
        ({}, "1 to 255 organs"),
        ({"left lung": ["lung_*"]}, "identifier"),
        ({"lungs": []}, "at least one structure"),
        ({"lungs": ["lungs_*"]}, "is no structure of TotalSegmentator"),
    ],
)
def test_structures_that_make_no_sense(structures, message):
    with pytest.raises(ValueError, match=message):
        OrganMaps(structures)


def test_the_first_organ_has_the_voxel(tmp_path):
    both = np.zeros((4, 4, 4), np.int16)
    both[:2] = 7
    path = save(tmp_path / "x.nii.gz", Volume(both, affine()))
    source = OrganMaps({"some": [7, 8], "all": [7]})
    found = source._renamed(Volume(both, affine()))
    assert found.voxels.max() == 1
    assert path.exists()


@pytest.mark.parametrize("code", ["RAS", "LPS", "SAL", "PIR"])
@pytest.mark.parametrize("oblique", [False, True])
def test_labels_on_another_grid_are_the_nearest(code, oblique):
    """Against a search over all voxels in millimetres."""
    rng = np.random.default_rng(0)
    fine = Volume(rng.integers(1, 9, (7, 9, 11)).astype(np.int16), affine((3.0, 2.0, 2.5), oblique, (0.0, 0.0, 0.0)))
    there = fine.affine.copy()
    there[:3, 3] = (fine.affine @ [-2.31, 1.23, 0.37, 1])[:3]
    there[:3, :3] *= np.array([1.7, 2.1, 1.3])
    shape = (5, 4, 6)
    found = on_grid(fine.oriented(code), shape, there)
    assert np.allclose(found.affine, there)
    for place in np.ndindex(shape):
        at = np.linalg.solve(fine.affine, there @ [*place[::-1], 1])[:3][::-1]
        nearest = np.rint(at).astype(int)
        inside = ((nearest >= 0) & (nearest < fine.voxels.shape)).all()
        assert found.voxels[place] == (fine.voxels[tuple(nearest)] if inside else 0)


def test_labels_beside_the_volume_are_refused():
    labels = Volume(np.ones((4, 4, 4), np.int16), affine(origin=(900.0, 0.0, 0.0)))
    with pytest.raises(UnreadableImage, match="lies beside its volume"):
        on_grid(labels, (4, 4, 4), affine())


def test_lungs_and_body_without_label_maps(root):
    data = module(root, organs=HounsfieldOrgans())
    batch = batch_of(data)
    found = data.decoder.finished(batch)["organs"]
    hounsfield = batch["image"][:, 0]
    lungs, airy = found == 1, (hounsfield < -700) & (hounsfield > -985)
    assert (lungs & airy).sum() > 0.9 * airy.sum()
    assert (lungs & ~airy).sum() < 0.2 * lungs.sum()
    dense = (hounsfield > -200) & (hounsfield < 300)
    assert ((found == 2) & dense).sum() > 0.85 * dense.sum()
    assert (found[hounsfield < -985] == 0).float().mean() > 0.95


def test_organs_of_a_volume_that_is_resized(root):
    """The label in the middle of every larger voxel."""
    whole = VolumePreset("whole", (8.0, 8.0, 10.0), layouts.SHAPE, axes="SAR")
    small = VolumePreset("small", (8.0, 8.0, 10.0), (12, 14, 10), crop="resize", axes="SAR")
    found = []
    for preset in (whole, small):
        data = module(root, preset=preset)
        found.append(data.decoder.finished(batch_of(data, "test"))["organs"])
    z, y, x = (((torch.arange(n) + 0.5) * m / n).long() for n, m in zip(small.size, whole.size, strict=True))
    assert torch.equal(found[1], found[0][:, z][:, :, y][..., x])
    assert found[1].unique().tolist() == [0, 1, 2]
