"""Images with several captions each, asked for under the protocols that the field reports."""

from functools import partial

import numpy as np
import pytest
import torch
from adapters.toys import PRESET, hf_clip
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from torch.utils.data import DataLoader

from domainvl.adapters import LoRA
from domainvl.data.prompts import PromptSet
from domainvl.evaluation.alignment_result import evaluate_alignment
from domainvl.evaluation.retrieval import RetrievalProtocol
from domainvl.objectives import PriorAttribution
from domainvl.tasks import Alignment

SAID = [
    ["a large nodule", "A LARGE nodule", "small left effusion"],
    ["small left effusion", "upper right"],
    ["left upper nodule", "left upper nodule", "effusion", "nodule right"],
    ["nodule"],
]


class Captioned(LightningDataModule):
    classes, multilabel, preset, text_views = ["nodule"], True, PRESET, []
    prompts = PromptSet(["{}"], ["no {}"])

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randn(len(SAID), 3, PRESET.size, PRESET.size, generator=draw)

    def boxes(self, position):
        return []

    def train_dataloader(self):
        return self.test_dataloader()

    def test_dataloader(self):
        return DataLoader(range(len(SAID)), batch_size=3, collate_fn=self.collate)

    def collate(self, rows):
        return {
            "image": self.images[rows],
            "index": torch.tensor(rows),
            "study": torch.tensor(rows),
            "id": [f"i{row}" for row in rows],
            "patient": [f"p{row}" for row in rows],
            "text": [SAID[row][0] for row in rows],
            "every_text": [SAID[row] for row in rows],
        }


def evaluated(folder, protocol):
    seed_everything(3, verbose=False)
    model = Alignment(hf_clip(), retrieval=protocol)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.test(model, Captioned(), verbose=False)
    return model


@pytest.mark.parametrize(
    ("protocol", "edit", "pool"),
    [
        ("karpathy5", str.capitalize, 10),
        ("clip-benchmark", str, 10),
        ("unique-text", lambda text: f"a satellite image. {text}", 8),
        (RetrievalProtocol("mine", "pair", prefix="seen: "), lambda text: f"seen: {text}", 10),
    ],
    ids=["karpathy5", "clip-benchmark", "unique-text", "described"],
)
def test_every_caption_searches_and_is_searched(tmp_path, protocol, edit, pool):
    model = evaluated(tmp_path, protocol)
    found = evaluate_alignment(model.predictions, seed=0, resamples=50, protocol=model.retrieval)
    texts = [edit(text) for said in SAID for text in said]
    owners = np.repeat(np.arange(len(SAID)), [len(said) for said in SAID])
    backbone = model.backbone
    with torch.no_grad():
        text = backbone.text(backbone.tokenize(texts)).double().numpy()
        image = backbone.image(Captioned().images).double().numpy()
    np.testing.assert_allclose(model.predictions.zero_shot.texts, text, atol=1e-5)
    text, image = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (text, image))
    # By hand: the captions that are searched among, and those that an image carries.
    kept = [texts.index(one) for one in dict.fromkeys(texts)] if pool < len(texts) else list(range(len(texts)))
    carried = [
        {texts[row] if pool < len(texts) else row for row in np.flatnonzero(owners == n)} for n in range(len(SAID))
    ]
    hits = []
    for own, row in zip(carried, image @ text[kept].T, strict=True):
        # Of captions that read the same any may come first.
        best = [kept[place] for place in np.flatnonzero(row > row.max() - 1e-9)]
        hits.append(np.mean([(texts[one] if pool < len(texts) else one) in own for one in best]))
    assert found.zero_shot["i2t_r1"].value == pytest.approx(np.mean(hits))
    assert found.retrieval["pool_texts"] == pool
    assert found.retrieval["pool_images"] == len(SAID)
    assert found.notes[0].startswith(f"Retrieval {model.retrieval.name!r}")
    assert f"{len(SAID)} images and {pool} texts" in found.notes[0]
    assert found.zero_shot["mean_recall"].low <= found.zero_shot["mean_recall"].value


def test_protocols_have_names():
    with pytest.raises(ValueError, match=r"'karpathy' is no protocol; choose .*karpathy5"):
        Alignment(hf_clip(), retrieval="karpathy")


def test_losses_that_read_classes_are_refused_where_there_are_none():
    """RSICD as it was downloaded has captions and no classes."""
    data = Captioned()
    data.classes = []
    model = Alignment(hf_clip(), LoRA(rank=2), {"scenes": PriorAttribution()}, partial(torch.optim.SGD, lr=0.1))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(ValueError, match=r"'scenes' \(PriorAttribution\) compares images by their classes"):
        trainer.fit(model, data)
