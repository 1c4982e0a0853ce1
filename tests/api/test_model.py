"""`domainvl.load` and `domainvl.fit`: what people use in a notebook."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import domainvl
from domainvl import hub
from domainvl.adapters import MMRL, CoCoOp, CoOp, LoRA
from domainvl.backbones import HuggingFace

CLASSES = ["effusion", "no finding", "pneumonia"]
PROMPTS = {"templates": ["a chest x-ray showing {}."], "negatives": ["a chest x-ray without {}."], "names": {}}


def trained(adapter, backbone):
    torch.manual_seed(0)
    adapter.attach(backbone)
    adapter.prime(torch.eye(2 * len(CLASSES), backbone.text.out_dim))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return adapter


def folder_of(adapter, folder, **changes):
    backbone = HuggingFace("builtin:tiny")
    given = {"classes": CLASSES, "multilabel": True, "prompts": PROMPTS, "recipe": "data: {}"} | changes
    spec = given.pop("backbone", backbone.spec())
    return hub.save_adapter(folder, trained(adapter, backbone), backbone=spec, **given)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return domainvl.load(folder_of(MMRL(tokens=3, width=16), tmp_path_factory.mktemp("m") / "adapter"), device="cpu")


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(256, size=(80, 96, 3), dtype=np.uint8)


def dicom(path, pixels):
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = *pixels.shape, 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation, data.Modality = 7, 0, "DX"
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def test_the_same_picture_in_every_form_scores_the_same(model, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    forms = [picture, Image.fromarray(picture), tensor, tmp_path / "a.png", str(tmp_path / "a.png")]
    together = model.predict(forms)
    assert together.shape == (5, len(model.classes))
    assert ((together > 0) & (together < 1)).all()
    np.testing.assert_allclose(together, np.tile(together[:1], (5, 1)), atol=1e-6)
    for form in forms:
        np.testing.assert_allclose(model.predict(form), together[:1], atol=1e-6)
    stretched = picture[..., 0].copy()
    stretched[0, :2] = 0, 255
    file = dicom(tmp_path / "a.dcm", stretched)
    np.testing.assert_allclose(model.predict(file), model.predict(stretched), atol=1e-6)


def test_any_number_of_images_in_batches(model, picture):
    model.batch_size, whole = 3, model.predict([np.roll(picture, shift, 0) for shift in range(7)])
    try:
        assert len(whole) == 7
        np.testing.assert_allclose(model.predict(np.roll(picture, shift, 0) for shift in range(7)), whole, atol=1e-5)
        np.testing.assert_allclose(model.predict(np.stack([picture] * 4)), np.tile(whole[:1], (4, 1)), atol=1e-5)
        assert model.predict([]).shape == (0, 3)
        assert model.embed_text([]).shape == (0, model.backbone.text.out_dim)
    finally:
        model.batch_size = 64


@pytest.mark.parametrize("multilabel", [True, False])
def test_predictions_follow_from_embeddings(tmp_path, picture, multilabel):
    made = folder_of(LoRA(rank=2), tmp_path / "a", multilabel=multilabel, prompts=PROMPTS)
    model = domainvl.load(made, device="cpu")
    image, scale = model.embed_image(picture), float(model.backbone.scale())
    yes = scale * image @ model.embed_text([f"a chest x-ray showing {name}." for name in CLASSES]).T
    no = scale * image @ model.embed_text([f"a chest x-ray without {name}." for name in CLASSES]).T
    expected = 1 / (1 + np.exp(no - yes)) if multilabel else np.exp(yes) / np.exp(yes).sum()
    np.testing.assert_allclose(model.predict(picture), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, atol=1e-6)


def test_learned_words_stand_around_texts(tmp_path):
    model = domainvl.load(folder_of(CoOp(tokens=2), tmp_path / "a", multilabel=False), device="cpu")
    ours = torch.nn.functional.normalize(model.class_features["text.pooled"], dim=-1)
    np.testing.assert_allclose(model.embed_text(CLASSES), ours, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (np.zeros((4, 4), np.float32), TypeError, r"image 0 is an array float32 \(4, 4\); accepted are uint8"),
        (np.zeros((4, 4, 2), np.uint8), TypeError, "accepted are uint8"),
        ([None], TypeError, "image 0 is NoneType; accepted are paths"),
        (torch.zeros(3, 4, 4), TypeError, "image 0 is torch.float32"),
        (Path(__file__).parent, ValueError, "is a folder.*predict ADAPTER"),
        (Path(__file__), ValueError, "no image that Pillow knows"),
        ("nowhere.png", FileNotFoundError, "nowhere.png"),
    ],
)
def test_what_is_no_image_is_refused(model, given, error, message):
    with pytest.raises(error, match=message):
        model.predict(given)


def test_a_method_whose_texts_depend_on_the_image(tmp_path, picture):
    model = domainvl.load(folder_of(CoCoOp(tokens=2), tmp_path / "a"), device="cpu")
    assert model.predict(picture).shape == (1, 3)
    with pytest.raises(TypeError, match="CoCoOp texts look different to every image"):
        model.embed_text("a sentence")


@pytest.mark.parametrize("name", ["my-clip", "../clip", "/etc/clip", "~/clip", "a/b/c", "./..", "builtin-tiny"])
def test_a_base_model_that_is_no_hub_id_has_to_be_given(tmp_path, name):
    spec = replace(HuggingFace("builtin:tiny").spec(), name=name)
    made = folder_of(MMRL(tokens=3, width=16), tmp_path / "a", backbone=spec)
    with pytest.raises(ValueError, match=r"backbone=HuggingFace\(\.\.\.\)"):
        domainvl.load(made, device="cpu")
    assert domainvl.load(made, backbone=HuggingFace("builtin:tiny"), device="cpu").classes == CLASSES


def test_a_run_folder_is_loaded_too(model, tmp_path, picture):
    run = tmp_path / "run"
    made = folder_of(MMRL(tokens=3, width=16), run / "adapter")
    np.testing.assert_array_equal(domainvl.load(run, device="cpu").predict(picture), model.predict(picture))
    shutil.rmtree(made)
    with pytest.raises(ValueError, match="no adapter"):
        domainvl.load(run)


def test_importing_the_package_imports_no_torch():
    code = "import domainvl, sys; assert 'torch' not in sys.modules; print(sorted(domainvl.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['Model', 'fit', 'load']"
    with pytest.raises(AttributeError, match="no attribute 'lod'; it has Model, fit, load"):
        domainvl.lod  # noqa: B018


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data": {"shots": 4}, "seed_everything": 2}, ["--data.shots=4", "--seed_everything=2"]),
        ({"data.shots": None, "model": {"adapter": "LoRA"}}, ["--data.shots=null", "--model.adapter=LoRA"]),
        (
            {"model": {"adapter": {"class_path": "LoRA", "init_args": {"rank": 2}}}},
            ['--model.adapter={"class_path": "LoRA", "init_args": {"rank": 2}}'],
        ),
        ({"data": {"root": Path("a b"), "classes": ["x"]}}, ["--data.root=a b", '--data.classes=["x"]']),
    ],
)
def test_fit_says_the_same_as_the_command_line(tmp_path, monkeypatch, overrides, words):
    from domainvl.commands import fit

    said = []

    def main(line):
        said.extend(line)
        return 130

    monkeypatch.setattr(fit, "main", main)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        domainvl.fit("r.yaml", run_dir=tmp_path / "run", **overrides)
    assert said == ["r.yaml", "--run-dir", str(tmp_path / "run"), *words]
    assert not (tmp_path / "run").exists()
