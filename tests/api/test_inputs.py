"""What `domainvl.load` reads beside pictures, each as the data module of its training does: volumes, slides, none."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from api.test_model import CLASSES, PROMPTS, trained
from ct.ct_phantoms import affine, body, save, series
from torch.nn.functional import normalize

import domainvl
from data_modules.ct import CTVolumes, Preparation, VolumeFiles
from domainvl import hub
from domainvl.adapters import ABMIL, LinearProbe, LoRA
from domainvl.backbones import HuggingFace, SliceVolume
from domainvl.data.feature_file import FeatureWriter, Maker, Places
from domainvl.data.manifest import Record
from domainvl.data.preset import Preset
from domainvl.data.volumes.decoder import VolumeDecoder
from domainvl.data.volumes.preset import VolumePreset
from domainvl.data.volumes.volume import Volume
from domainvl.tasks.slide import SlideClassification

PRESET = VolumePreset("v", (8.0, 8.0, 10.0), (6, 96, 96), windows=((-1000.0, 300.0),))
SPACING = (10.0, 8.0, 8.0)
PLAN = "0123456789ab"


def saved(folder, adapter, backbone, **changes):
    given = {"classes": CLASSES, "multilabel": True, "prompts": PROMPTS, "recipe": "data: {}"} | changes
    given |= {"backbone": backbone.spec(), "model": hub.described(backbone)}
    return hub.save_adapter(folder, trained(adapter, backbone), **given)


def scan(seed=0):
    return Volume(body((24, 28, 32), SPACING, seed), affine(SPACING))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    return [save(folder / f"{number}.nii.gz", scan(number)) for number in range(3)]


@pytest.fixture(scope="module")
def of_volumes(tmp_path_factory):
    data = CTVolumes(preparation=Preparation(crop="body", region="chest"))
    backbone = SliceVolume(HuggingFace("builtin:tiny"), PRESET)
    folder = tmp_path_factory.mktemp("ct") / "adapter"
    return domainvl.load(saved(folder, LoRA(), backbone, preparation=data.preparation_facts()), device="cpu")


def test_a_volume_is_read_as_in_training(of_volumes, volumes, tmp_path):
    preparation = Preparation(crop="body", region="chest", folder=str(tmp_path))
    preset = of_volumes.preset
    decoder = VolumeDecoder(preparation.store(preset), preset, VolumeFiles(2**30))
    for number, path in enumerate(volumes):
        theirs = decoder.read(Record(path.name, path.name, "p"), path.parent)
        assert torch.equal(of_volumes.inputs.open(number, path), theirs)


def test_volumes_are_predicted_in_any_form_and_number(of_volumes, volumes, tmp_path):
    of_volumes.batch_size = 2
    together = of_volumes.predict(volumes)
    assert together.shape == (3, len(CLASSES))
    np.testing.assert_allclose(of_volumes.predict(str(volumes[1])), together[1:2], atol=1e-5)
    series(tmp_path / "series", scan(1))
    np.testing.assert_allclose(of_volumes.predict(tmp_path / "series"), together[1:2], atol=2e-2)
    assert of_volumes.embed_image(path for path in volumes).shape == (3, of_volumes.backbone.image.out_dim)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda folder: np.zeros((1, 4, 4, 4)), TypeError, "volume 0 is ndarray; accepted are paths"),
        (lambda folder: folder / "none.nii.gz", FileNotFoundError, "none.nii.gz does not exist"),
        (lambda folder: Path(__file__), ValueError, "is no volume; .nii"),
        (lambda folder: save(folder / "head.nii.gz", Volume(body(lungs=False), affine())), ValueError, "no chest"),
    ],
)
def test_what_is_no_volume_is_refused(of_volumes, tmp_path, given, error, message):
    with pytest.raises(error, match=message):
        of_volumes.predict(given(tmp_path))


def features(path, backbone, count=5, plan=PLAN, projected=True):
    """A file of `python -m domainvl embed`."""
    spec, tower = backbone.spec(), backbone.image
    writer = FeatureWriter(
        path,
        Places(np.zeros((count, 2), np.int64), None),
        Maker.of(spec.kind, spec.name, spec.weights, spec.preset, plan),
        "s",
    )
    rng = np.random.default_rng(count)
    arrays = {"features": rng.standard_normal((count, tower.pooled_width), np.float32)}
    if projected:
        arrays["projected"] = rng.standard_normal((count, tower.out_dim), np.float32)
    writer.add(np.arange(count), arrays)
    writer.finish()
    return path


@pytest.mark.parametrize("adapter", [ABMIL(hidden=16, width=8), LinearProbe()])
def test_slides_are_predicted_from_their_features(tmp_path, adapter):
    backbone = HuggingFace("builtin:tiny")
    files = [features(tmp_path / f"{count}.h5", backbone, count) for count in (3, 7)]
    made = saved(tmp_path / "a", adapter, backbone, preparation={"tiles": PLAN})
    model = domainvl.load(made, device="cpu")
    found = model.predict(files)
    batch = model.inputs.stack([model.inputs.open(0, file) for file in files])
    task = SlideClassification(HuggingFace("builtin:tiny"), model.adapter)
    task._scores, task.novel = model.scores, False
    batch = {key: value.float() if value.is_floating_point() else value for key, value in batch.items()}
    with torch.no_grad():
        theirs = task.features({**batch, "id": ["a", "b"]})["image.logits"].sigmoid()
    np.testing.assert_allclose(found, theirs, atol=1e-5)
    np.testing.assert_allclose(model.predict(files[0]), found[:1], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({"plan": "ffffffffffff"}, "a.h5", "of another tile plan: ffffffffffff, wanted is 0123456789ab"),
        ({"projected": False}, "a.h5", "has no projected features"),
        ({}, "a.svs", "python -m domainvl embed RECIPE"),
    ],
)
def test_what_is_no_slide_of_this_model_is_refused(tmp_path, options, name, message):
    backbone = HuggingFace("builtin:tiny")
    path = features(tmp_path / name, backbone, **options)
    made = saved(tmp_path / "a", ABMIL(hidden=16, width=8), backbone, preparation={"tiles": PLAN})
    model = domainvl.load(made, device="cpu")
    with pytest.raises(ValueError, match=message):
        model.predict(path)
    with pytest.raises(TypeError, match="ABMIL makes no feature of a slide"):
        model.embed_image(features(tmp_path / "b.h5", backbone))


@pytest.mark.parametrize(
    ("preparation", "error", "message"),
    [
        ({}, TypeError, "ABMIL scores whole slides, and its folder does not say"),
        ({"tiles": "unsigned"}, ValueError, "features of slides that another tool wrote"),
    ],
)
def test_a_slide_adapter_that_says_too_little_is_refused(tmp_path, preparation, error, message):
    made = saved(tmp_path / "a", ABMIL(), HuggingFace("builtin:tiny"), preparation=preparation)
    with pytest.raises(error, match=message):
        domainvl.load(made, device="cpu")


def test_an_adapter_of_texts_alone_embeds_both_sides(tmp_path):
    backbone = HuggingFace("builtin:tiny")
    made = saved(tmp_path / "a", LoRA(), backbone, classes=[], prompts={})
    model = domainvl.load(made, device="cpu")
    picture = np.zeros((96, 96, 3), np.uint8)
    with torch.no_grad():
        ours = normalize(backbone.eval().image(model.preset(torch.from_numpy(picture).permute(2, 0, 1))[None]), dim=-1)
    np.testing.assert_allclose(model.embed_image(picture), ours, atol=1e-5)
    assert model.embed_text(["a report"]).shape == (1, backbone.text.out_dim)
    for ask in (lambda: model.predict(picture), lambda: model.logits(torch.zeros(1, 3, 96, 96, dtype=torch.uint8))):
        with pytest.raises(TypeError, match=r"names no classes.*compare embed_image with embed_text"):
            ask()


def test_a_preset_of_the_data_module_counts(tmp_path):
    backbone = HuggingFace("builtin:tiny")
    own = Preset("mine", 96, "squash", mean=(0.0,) * 3, std=(1.0,) * 3)
    model = domainvl.load(saved(tmp_path / "a", LoRA(), backbone, preparation={"preset": asdict(own)}), device="cpu")
    assert model.preset.digest == own.digest != backbone.preset.digest


def test_bands_of_a_sensor_are_not_read_as_colours(tmp_path):
    made = saved(tmp_path / "a", LoRA(), HuggingFace("builtin:tiny"), preparation={"sensor": "Sentinel-2"})
    model = domainvl.load(made, device="cpu")
    assert model.predict(np.zeros((96, 96, 3), np.uint8)).shape == (1, len(CLASSES))
    with pytest.raises(ValueError, match="trained on bands of Sentinel-2"):
        model.predict(__file__)
