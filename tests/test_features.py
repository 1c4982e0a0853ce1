"""The grammar of feature keys."""

from dataclasses import fields

import pytest
import torch

from domainvl.features import FeatureKey, TextInputs


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("image.pooled", FeatureKey("image", "pooled")),
        ("frozen/text.pooled", FeatureKey("text", "pooled", role="frozen")),
        ("ema/image@organ.tokens", FeatureKey("image", "tokens", role="ema", view="organ")),
    ],
)
def test_a_key_reads_and_writes_the_same(text, key):
    assert FeatureKey.parse(text) == key
    assert str(key) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pooled", "no feature key"),
        ("teacher/image.pooled", "unknown role"),
        ("image.pool", "unknown stream"),
    ],
)
def test_a_wrong_key_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        FeatureKey.parse(text)


def test_texts_move_and_split_with_all_they_have():
    ids = torch.arange(6).view(2, 3)
    whole = TextInputs(ids, ids > 0, torch.tensor([4, 5]), ids - 1, ids - 2, ids > 1, torch.tensor([True, False]))
    for part, rows in ((whole.rows(slice(1, 2)), slice(1, 2)), (whole.to("cpu"), slice(None))):
        for field in fields(TextInputs):
            assert torch.equal(getattr(part, field.name), getattr(whole, field.name)[rows])
    assert len(TextInputs(ids).rows(torch.tensor([1]))) == 1
    assert TextInputs(ids).rows(slice(1)).words is None


def test_everything_about_texts_goes_where_they_go():
    ids = torch.arange(6).reshape(2, 3)
    texts = TextInputs(ids, ids > 0, owner=torch.tensor([4, 2]), negative=torch.tensor([True, False]))
    moved = texts.to("meta")
    assert {tensor.device.type for tensor in (moved.ids, moved.keep, moved.owner, moved.negative)} == {"meta"}
    thrice = texts.repeat(3)
    assert len(thrice) == 6
    for there, here in [(thrice.ids, texts.ids), (thrice.keep, texts.keep), (thrice.negative, texts.negative)]:
        assert torch.equal(there, torch.cat([here, here, here]))
    assert thrice.owner.tolist() == [4, 2, 4, 2, 4, 2]
    bare = TextInputs(ids).repeat(2)
    assert bare.keep is bare.owner is bare.negative is None
