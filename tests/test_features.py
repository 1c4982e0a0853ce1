"""The grammar of feature keys."""

import pytest

from domainvl.features import FeatureKey


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
