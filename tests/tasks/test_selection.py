"""What an adapter chooses, it chooses once, on the validation split."""

import pytest
import torch
from tasks.test_classification import Images, task, trainer
from torch.utils.data import DataLoader

from domainvl.adapters import TipAdapter
from domainvl.tasks.selection import mean_auroc


class Chooser(TipAdapter):
    """Remembers what it was shown."""

    def choose(self, features, scale, measure):
        self.seen = features["image.pooled"].clone()
        super().choose(features, scale, measure)


@pytest.mark.parametrize("multilabel", [False, True], ids=["single", "multi"])
@pytest.mark.parametrize("learn_keys", [False, True], ids=["free", "learned"])
def test_values_are_chosen_once_on_the_validation_split(multilabel, learn_keys, tmp_path):
    adapter = Chooser(views=1, search=True, learn_keys=learn_keys)
    model, data = task(adapter, multilabel), Images(multilabel)
    validation = data.rows[:5]
    data.validation_batches = lambda device: iter(DataLoader(validation, batch_size=5))
    run = trainer(tmp_path)
    run.fit(model, data)
    with torch.no_grad():
        expected = model.backbone.image(torch.stack([row["image"] for row in validation]))
    torch.testing.assert_close(adapter.seen, expected)
    chosen = adapter.facts()
    assert chosen["chosen_on"] == "validation split"
    assert (chosen["alpha"], chosen["beta"]) != (TipAdapter().given["alpha"], TipAdapter().given["beta"])
    del adapter.seen
    trainer(tmp_path).test(model, data, verbose=False)
    assert adapter.facts() == chosen
    assert not hasattr(adapter, "seen")


def test_a_cache_without_anything_to_learn_needs_no_objective(tmp_path):
    model, data = task(TipAdapter(views=1), objectives={}), Images()
    run = trainer(tmp_path, max_epochs=1)
    run.fit(model, data)
    path = tmp_path / "last.ckpt"
    run.save_checkpoint(path)
    assert set(torch.load(path, weights_only=True)["state_dict"]) == {f"adapter.{n}" for n in model.adapter.tensors()}
    trainer(tmp_path).test(model, data, verbose=False)
    assert not (model.predictions.adapted == model.predictions.zero_shot).all()


@pytest.mark.parametrize("seed", range(3))
def test_area_under_the_curve_is_that_of_scikit_learn(seed):
    from sklearn.metrics import roc_auc_score

    draw = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 6, (40, 3), generator=draw).float()
    positive, known = torch.rand(40, 3, generator=draw) < 0.4, torch.rand(40, 3, generator=draw) < 0.8
    positive[:, 2] = True
    areas = [roc_auc_score(positive[known[:, c], c], scores[known[:, c], c]) for c in range(2)]
    assert mean_auroc(scores, positive, known) == pytest.approx(sum(areas) / 2)
    assert mean_auroc(scores[:, 2:], positive[:, 2:], known[:, 2:]) == 0.5
