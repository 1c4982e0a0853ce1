"""Classification: what is trained, saved, computed once and reported."""

import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from adapters.toys import CLASSES, PRESET, hf_clip
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from domainvl.adapters import (
    CLAP,
    MMRL,
    VPT,
    Adapter,
    CLIPAdapter,
    CoCoOp,
    CoOp,
    Crane,
    LinearProbe,
    LoRA,
    MaPLe,
    PromptSRC,
    TipAdapter,
)
from domainvl.data.bank import PromptBank
from domainvl.data.prompts import PromptSet
from domainvl.objectives import KDSP, SCCM, BinaryCrossEntropy, ClassCrossEntropy, FrozenCosine, FrozenKL, FrozenL1
from domainvl.tasks import Classification, WarmupCosine


class Images(LightningDataModule):
    """Twelve random images of four patients."""

    preset = PRESET

    def __init__(self, multilabel=False, classes=CLASSES, templates=("a photo of {}.", "{}, an image.")):
        super().__init__()
        self.classes, self.multilabel = list(classes), multilabel
        self.prompts = PromptSet(list(templates), ["a photo of no {}."] if multilabel else [])
        draw = torch.Generator().manual_seed(0)
        count, size = 12, PRESET.size
        images = torch.randn(count, 3, size, size, generator=draw)
        self.rows = []
        for index in range(count):
            row = {"image": images[index], "index": index, "id": f"i{index}", "patient": f"p{index % 4}"}
            if multilabel:
                row["label"] = torch.tensor([float((index + c) % 2) for c in range(len(classes))])
                row["valid"] = torch.tensor([(index + c) % 5 > 0 for c in range(len(classes))])
            else:
                row["label"] = index % len(classes)
            self.rows.append(row)

    def train_dataloader(self):
        return DataLoader(self.rows, batch_size=4, shuffle=False)

    def val_dataloader(self):
        return DataLoader(self.rows, batch_size=5)

    test_dataloader = predict_dataloader = val_dataloader

    def support_batches(self, view, device):
        yield from self.train_dataloader()

    def validation_batches(self, device):
        yield from self.val_dataloader()


def losses(multilabel, of=("image.logits",)):
    kind = BinaryCrossEntropy if multilabel else ClassCrossEntropy
    return {key.replace(".", "_").replace("@", "_"): kind(logits=key) for key in of}


COSINE = WarmupCosine(warmup=0, interval="step")


def task(adapter=None, multilabel=False, objectives=None, schedule=COSINE):
    seed_everything(3, verbose=False)
    return Classification(
        hf_clip(),
        adapter,
        losses(multilabel) if objectives is None else objectives,
        partial(torch.optim.AdamW, lr=0.01),
        schedule,
    )


def trainer(folder, **settings):
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"max_epochs": 2, "enable_checkpointing": False, "num_sanity_val_steps": 0, **settings},
    )


ADAPTERS = {
    "mmrl": lambda: MMRL(tokens=2, width=8),
    "coop": lambda: CoOp(tokens=2),
    "coop_per_class": lambda: CoOp(tokens=2, class_specific=True, position="middle"),
    "cocoop": lambda: CoCoOp(tokens=2, init=None),
    "maple": lambda: MaPLe(tokens=2, init=None),
    "promptsrc": lambda: PromptSRC(tokens=2, init=None, mean=1.0),
    "vpt": lambda: VPT(tokens=2),
    "lora": lambda: LoRA(rank=2),
    "probe": lambda: LinearProbe(),
    "clap": lambda: CLAP(length=1.0, views=1),
    "clip_adapter": lambda: CLIPAdapter(),
    "tip_adapter": lambda: TipAdapter(views=1, learn_keys=True),
}


@pytest.mark.parametrize("multilabel", [False, True], ids=["single", "multi"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_training_moves_the_adapter_alone_and_reports_both_models(name, multilabel, tmp_path):
    model, data = task(ADAPTERS[name](), multilabel), Images(multilabel)
    zero = trainer(tmp_path)
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    run = trainer(tmp_path)
    run.fit(model, data)
    after = model.backbone.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items() if key in after)
    assert "val/accuracy" in run.callback_metrics
    assert "train/loss" in run.callback_metrics
    zero.test(model, data, verbose=False)
    adapted = model.predictions
    assert adapted.adapted.shape == (12, 3)
    assert not (adapted.adapted == adapted.zero_shot).all()

    plain = task(None, multilabel, objectives={})
    trainer(tmp_path).test(plain, data, verbose=False)
    assert plain.predictions.adapted is None
    # A LoRA layer that is switched off, and a prefix that is shared, must leave the zero-shot model exactly alone.
    torch.testing.assert_close(
        torch.from_numpy(adapted.zero_shot), torch.from_numpy(plain.predictions.zero_shot), rtol=0, atol=1e-6
    )


def test_zero_shot_is_the_ensemble_written_out(tmp_path):
    model, data = task(None, objectives={}), Images()
    trainer(tmp_path).test(model, data, verbose=False)
    backbone = model.backbone
    with torch.no_grad():
        image = F.normalize(backbone.image(torch.stack([row["image"] for row in data.rows])), dim=-1)
        rows = []
        for name in CLASSES:
            texts = [template.replace("{}", name) for template in data.prompts.templates]
            mean = F.normalize(backbone.text(backbone.tokenize(texts)), dim=-1).mean(0)
            rows.append(F.normalize(mean, dim=-1))
        expected = (backbone.scale() * image @ torch.stack(rows).T).softmax(-1)
    torch.testing.assert_close(torch.from_numpy(model.predictions.zero_shot), expected, rtol=0, atol=1e-5)


def test_multilabel_zero_shot_is_a_two_prompt_softmax(tmp_path):
    model, data = task(None, True, objectives={}), Images(True, templates=["a photo of {}."])
    trainer(tmp_path).test(model, data, verbose=False)
    backbone = model.backbone
    with torch.no_grad():
        image = F.normalize(backbone.image(torch.stack([row["image"] for row in data.rows])), dim=-1)
        for column, name in enumerate(CLASSES):
            pair = backbone.tokenize([f"a photo of {name}.", f"a photo of no {name}."])
            text = F.normalize(backbone.text(pair), dim=-1)
            expected = (backbone.scale() * image @ text.T).softmax(-1)[:, 0]
            found = torch.from_numpy(model.predictions.zero_shot[:, column])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_probe_starts_as_the_zero_shot_model(tmp_path):
    model, data = task(LinearProbe()), Images()
    trainer(tmp_path).test(model, data, verbose=False)
    torch.testing.assert_close(
        torch.from_numpy(model.predictions.adapted), torch.from_numpy(model.predictions.zero_shot), rtol=0, atol=1e-5
    )


def test_an_objective_that_needs_what_nobody_makes_is_named(tmp_path):
    objectives = {"second_head": ClassCrossEntropy(logits="image@rep.logits"), "stay": FrozenCosine("image")}
    message = r"'second_head' \(ClassCrossEntropy\) needs image@rep.logits.*CoOp makes"
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).fit(task(CoOp(tokens=2), objectives=objectives), Images())
    with pytest.raises(ValueError, match=r"needs valid in the batch"):
        trainer(tmp_path).fit(task(CoOp(tokens=2), objectives=losses(True)), Images())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: task(None), "nothing to train"),
        (lambda: task(CoOp(tokens=2), objectives={}), "at least one objective"),
    ],
)
def test_a_recipe_that_trains_nothing_says_so(build, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).fit(build(), Images())


def test_an_objective_set_to_null_is_switched_off():
    model = task(CoOp(tokens=2), objectives={**losses(False), "stay": None})
    assert list(model.objectives) == ["image_logits"]


def test_a_checkpoint_holds_what_was_trained_and_resumes_to_the_same_weights(tmp_path):
    def fitted(epochs, resume=None):
        model = task(LoRA(rank=2, dropout=0.25), schedule=None)
        run = trainer(tmp_path, max_epochs=epochs)
        run.fit(model, Images(), ckpt_path=resume, weights_only=True)
        return model, run

    whole, _ = fitted(4)
    half, run = fitted(2)
    path = tmp_path / "half.ckpt"
    run.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert saved
    assert all("lora_" in name for name in saved)
    torch.rand(7)  # whatever was drawn in between must not matter
    resumed, _ = fitted(4, path)
    for name, tensor in whole.adapter.tensors().items():
        assert torch.equal(resumed.adapter.tensors()[name], tensor)
        assert not torch.equal(half.adapter.tensors()[name], tensor)


@pytest.mark.parametrize("multilabel", [False, True], ids=["single", "multi"])
def test_a_bank_of_sentences_is_read_once_and_named_in_the_hashes(multilabel, tmp_path):
    sentences = {
        name: {"present": [f"{name} here.", f"seen {name}.", name], "absent": ["none.", f"no {name}.", "clear"]}
        for name in CLASSES
    }
    file = tmp_path / "bank.json"
    content = {"name": "toy", "version": 1, "licence": "CC0-1.0", "source": "this test", "classes": sentences}
    file.write_text(json.dumps(content))
    model = task(CoOp(tokens=2), multilabel, {**losses(multilabel), "near": SCCM(), "selected": KDSP()})
    model.bank = PromptBank.read(str(file))
    data = Images(multilabel)
    run = trainer(tmp_path)
    run.fit(model, data)
    assert 0 < run.callback_metrics["train/selected.kept"] <= 3
    assert model.hashes()["bank"] == model.bank.digest
    groups = [group["present"] for group in sentences.values()]
    groups += [group["absent"] for group in sentences.values()] if multilabel else []
    with torch.no_grad():
        expected = torch.stack([model.backbone.text(model.backbone.tokenize(group)) for group in groups])
    torch.testing.assert_close(model._bank_features, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"'near' \(SCCM\) needs frozen/text@bank.tokens"):
        trainer(tmp_path).fit(task(CoOp(tokens=2), objectives={"near": SCCM()}), Images())


@pytest.mark.parametrize("multilabel", [False, True], ids=["single", "multi"])
def test_an_average_over_epochs_survives_an_interruption(multilabel, tmp_path):
    def fitted(resume=None):
        stay = {"text": FrozenL1("text"), "image": FrozenL1("image"), "scores": FrozenKL()}
        adapter = PromptSRC(tokens=2, init=None, mean=2.0)
        model = task(adapter, multilabel, {**losses(multilabel), **stay}, schedule=None)
        every = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True)
        run = trainer(tmp_path, max_epochs=4, enable_checkpointing=True, callbacks=[] if resume else [every])
        run.fit(model, Images(multilabel), ckpt_path=resume, weights_only=True)
        return model.adapter.tensors()

    whole = fitted()
    epochs = [torch.load(tmp_path / f"epoch={e}.ckpt", weights_only=True)["state_dict"] for e in range(4)]
    weights = torch.tensor([-0.5, 0.0, -0.5, -2.0]).softmax(0)
    resumed = fitted(tmp_path / "epoch=1.ckpt")
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name
        assert torch.equal(epochs[3][f"adapter.{name}"], tensor), name
        total = epochs[2]["adapter.sum_of_" + name.replace(".", "_")]
        before = sum(w * epoch[f"adapter.{name}"] for w, epoch in zip(weights[:3], epochs[:3], strict=True))
        torch.testing.assert_close(total, before)


def test_prompts_for_normal_and_damaged_want_findings_that_may_be_absent(tmp_path):
    model, data = task(Crane(tokens=2, deep_tokens=1), multilabel=True), Images(multilabel=True)
    trainer(tmp_path).fit(model, data)
    trainer(tmp_path).test(model, data, verbose=False)
    assert not (model.predictions.adapted == model.predictions.zero_shot).all()
    with pytest.raises(ValueError, match=r"Crane: .* use multi-label data"):
        trainer(tmp_path).fit(task(Crane(tokens=2, deep_tokens=1)), Images())


def test_a_checkpoint_of_another_adapter_is_refused(tmp_path):
    run = trainer(tmp_path)
    run.fit(task(CoOp(tokens=2)), Images())
    run.save_checkpoint(tmp_path / "coop.ckpt")
    with pytest.raises(ValueError, match="does not fit this recipe"):
        trainer(tmp_path).fit(task(MMRL(tokens=2, width=8)), Images(), ckpt_path=tmp_path / "coop.ckpt")


def test_a_saved_adapter_meets_its_own_and_novel_classes(tmp_path):
    model, data = task(MMRL(tokens=2, width=8)), Images()
    trainer(tmp_path).fit(model, data)
    trainer(tmp_path).test(model, data, verbose=False)
    tensors = {name: tensor.clone() for name, tensor in model.adapter.tensors().items()}

    def scored(adapter, tensors, classes):
        fresh = task(None, objectives={})
        fresh.adopt(adapter, tensors, CLASSES)
        trainer(tmp_path).test(fresh, Images(classes=classes), verbose=False)
        return fresh

    again = scored(MMRL(tokens=2, width=8), tensors, CLASSES)
    assert not again.novel
    assert (again.predictions.adapted == model.predictions.adapted).all()
    assert scored(MMRL(tokens=2, width=8), tensors, ["a cat", "a dog"]).novel
    with pytest.raises(ValueError, match="scores only the classes that it was trained on"):
        scored(LinearProbe(), {}, ["a cat", "a dog"])


def test_predict_needs_no_labels(tmp_path):
    model, data = task(None, objectives={}), Images()
    for row in data.rows:
        del row["label"]
    trainer(tmp_path).predict(model, data, return_predictions=False)
    assert model.predictions.labels is None
    assert model.predictions.ids == [f"i{index}" for index in range(12)]


def test_the_backbone_keeps_its_dropout_off_and_lora_has_its_own():
    model = task(LoRA(rank=2, dropout=0.5))
    model.adapter.attach(model.backbone)
    model.train()
    dropouts = {name: module.training for name, module in model.named_modules() if "dropout" in name.lower()}
    assert not any(module.training for module in [model.backbone, model.backbone.image])
    assert any(dropouts.values())
    model.eval()
    assert not any(module.training for module in model.modules())


def test_text_prefix_is_computed_once_and_equals_the_whole_pass(tmp_path):
    model, data = task(MMRL(tokens=2, width=8)), Images()
    trainer(tmp_path).fit(model, data)
    with torch.no_grad():
        cached = model._scores.features()["text.pooled"]
        whole = model.adapter.encode("text", model.backbone.text, model._scores.texts.inputs, model.speed)
    assert model._scores._prefix is not None
    torch.testing.assert_close(cached, model._scores.texts.ensemble(whole["text.pooled"]), rtol=0, atol=0)


def test_the_identity_adapter_is_the_base_model():
    backbone = hf_clip()
    image = torch.randn(2, 3, PRESET.size, PRESET.size)
    with torch.no_grad():
        assert torch.equal(Adapter().encode("image", backbone.image, image)["image.pooled"], backbone.image(image))


def test_a_penalty_of_the_adapter_is_part_of_the_loss(tmp_path):
    run = trainer(tmp_path)
    run.fit(task(CLAP(length=1.0, views=1, strength=3.0)), Images())
    found = {key: float(value) for key, value in run.callback_metrics.items()}
    assert found["train/penalty"] > 0
    assert found["train/loss"] == pytest.approx(found["train/image_logits"] + found["train/penalty"])
