import itertools
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from domainvl.evaluation import ranks as ranks_module
from domainvl.evaluation.ranks import both_ways, precision
from domainvl.evaluation.retrieval import (
    KARPATHY5,
    PAIR,
    STUDY,
    UNIQUE_TEXT,
    Pairs,
    Retrieval,
    RetrievalProtocol,
    plan,
    same_labels,
    weighted_median,
)


def embeddings(rows, dim=6, seed=0, levels=None):
    """Random rows; with `levels` on a coarse grid, so that many cosines are exactly equal."""
    rng = np.random.default_rng(seed)
    if levels is None:
        return rng.normal(size=(rows, dim)).astype(np.float32) * rng.uniform(0.1, 9, size=(rows, 1)).astype(np.float32)
    found = rng.integers(-levels, levels + 1, size=(rows, dim)).astype(np.float32)
    found[~found.any(axis=1), 0] = 1
    return found


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


def places(scores, positive):
    """All places, from 1, that the first positive takes over the orders of equals: by permutation, nothing shared."""
    found = []
    equal = np.flatnonzero(np.isclose(scores, scores[positive].max(), atol=1e-9, rtol=0))
    above = int((scores > scores[positive].max() + 1e-9).sum())
    for order in itertools.permutations(equal):
        found.append(above + 1 + next(n for n, item in enumerate(order) if positive[item]))
    return found


def random_positives(n, m, seed):
    rng = np.random.default_rng(seed)
    relation = rng.random((n, m)) < 2 / m
    relation[np.arange(min(n, m)), np.arange(min(n, m))] = True
    return relation


@pytest.mark.parametrize(("n", "m"), [(7, 7), (6, 15), (15, 4), (1, 1)])
@pytest.mark.parametrize("tile", [1024, 4])
def test_ranks_equal_a_sort_without_ties(monkeypatch, n, m, tile):
    monkeypatch.setattr(ranks_module, "_TILE", tile)
    images, texts, relation = embeddings(n), embeddings(m, seed=1), random_positives(n, m, 2)
    found = both_ways(images, texts, np.nonzero(relation))
    for ranks, scores, positive in zip(
        found, (cosines(images, texts), cosines(images, texts).T), (relation, relation.T), strict=True
    ):
        expected = [
            1 + next(place for place, item in enumerate(np.argsort(-row)) if yes[item])
            for row, yes in zip(scores, positive, strict=True)
            if yes.any()
        ]
        assert ranks.rank("expected").tolist() == ranks.rank("pessimistic").tolist() == expected
        assert ranks.rows.tolist() == np.flatnonzero(positive.any(axis=1)).tolist()
        for k in (1, 2, 5, 100):
            assert ranks.hit(k).tolist() == [float(rank <= k) for rank in expected]


def test_ties_equal_all_orders_of_the_equals():
    images, texts, relation = embeddings(9, 2, 0, 1), embeddings(8, 2, 1, 1), random_positives(9, 8, 2)
    found = both_ways(images, texts, np.nonzero(relation))[0]
    scores = cosines(images, texts)
    assert (found.tied > 0).sum() >= 4
    for place, row in enumerate(found.rows):
        orders = places(scores[row], relation[row])
        assert found.rank("expected")[place] == pytest.approx(np.mean(orders))
        assert found.rank("pessimistic")[place] == found.above[place] + found.tied[place] + 1
        for k in (1, 2, 3, 7, 8):
            assert found.hit(k, "expected")[place] == pytest.approx(np.mean([order <= k for order in orders]))
            assert found.hit(k, "pessimistic")[place] == float(found.rank("pessimistic")[place] <= k)


def test_a_collapsed_model_has_chance_or_nothing():
    same = np.ones((40, 3), np.float32)
    ranks = both_ways(same, same, (np.arange(40), np.arange(40)))[0]
    assert ranks.hit(5).mean() == pytest.approx(5 / 40)
    assert ranks.rank().mean() == pytest.approx(20.5)
    assert ranks.hit(5, "pessimistic").mean() == 0


def test_equal_embeddings_tie_wherever_they_stand():
    """Products of the same two rows may differ in the last bits with their place in a block."""
    texts = embeddings(3000, 512, seed=3)
    texts[2999] = texts[0] * 3
    images = texts[[0]] + 0.1 * embeddings(1, 512, seed=4)
    found = both_ways(images, texts, (np.array([0]), np.array([2999])))[0]
    assert (found.above[0], found.tied[0]) == (0, 1)


def test_memory_grows_with_rows_not_with_pairs():
    def peak(rows):
        images, texts = embeddings(rows, 16), embeddings(rows, 16, seed=1)
        numbers = np.arange(rows)
        tracemalloc.start()
        both_ways(images, texts, (numbers, numbers))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    small, large = peak(2000), peak(6000)
    assert large < 6000 * 6000 * 8 / 10
    assert large - small < 4000 * 200


@pytest.mark.parametrize("side", ["images", "texts"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_rows_without_direction_are_refused(side, value):
    data = {"images": embeddings(4), "texts": embeddings(4)}
    data[side][2] = value
    with pytest.raises(ValueError, match=f"1 of 4 rows of {side} have no direction .* row 2"):
        both_ways(data["images"], data["texts"], (np.arange(4), np.arange(4)))


def test_widths_must_agree():
    with pytest.raises(ValueError, match="6 dimensions and texts 5"):
        both_ways(embeddings(3), embeddings(3, 5), (np.arange(3), np.arange(3)))


@pytest.mark.parametrize("tile", [1024, 4])
def test_precision_equals_a_sort(monkeypatch, tile):
    monkeypatch.setattr(ranks_module, "_TILE", tile)
    queries, gallery = embeddings(12), embeddings(31, seed=1)
    own, other = np.arange(12) % 3, np.arange(31) % 3
    found = precision(queries, gallery, own, other, (1, 5, 10, 99))
    order = np.argsort(-cosines(queries, gallery), axis=1)
    for column, k in enumerate((1, 5, 10, 31)):
        expected = (other[order[:, :k]] == own[:, None]).mean(axis=1)
        assert found[:, column] == pytest.approx(expected)


def test_precision_under_ties():
    query, gallery = np.ones((1, 2), np.float32), np.ones((4, 2), np.float32)
    labels = np.array([0, 0, 0, 1])
    assert precision(query, gallery, np.array([0]), labels, (1, 2, 4))[0] == pytest.approx([0.75, 0.75, 0.75])
    found = precision(query, gallery, np.array([0]), labels, (1, 2, 4), "pessimistic")[0]
    assert found == pytest.approx([0, 0.5, 0.75])


def captions():
    """Two images with three captions each, of which one text is shared, and one image with one."""
    return Pairs(
        images=["a", "b", "c"],
        owners=["a", "a", "a", "b", "b", "b", "c"],
        patients=["p", "p", "q"],
        texts=["a field", "a  field", "green", "a field", "river", "river", "boats"],
    )


def test_pair_keeps_every_caption_and_only_its_image():
    (pool,) = plan(captions(), KARPATHY5)
    assert (len(pool.images), len(pool.texts)) == (3, 7)
    assert [part.tolist() for part in pool.positives] == [[0, 0, 0, 1, 1, 1, 2], list(range(7))]


def test_unique_text_belongs_to_every_image_that_carries_it():
    (pool,) = plan(captions(), UNIQUE_TEXT)
    assert pool.texts.tolist() == [0, 2, 4, 6]
    assert sorted(zip(*(part.tolist() for part in pool.positives), strict=True)) == [
        (0, 0), (0, 1), (1, 0), (1, 2), (2, 3),
    ]  # fmt: skip


def test_study_takes_any_view_and_each_report_once():
    pairs = Pairs(["a1", "a2", "b"], ["a1", "a2", "b"], ["p", "p", "q"], ["s", "s", "t"], ["x", "x", "x"])
    (pool,) = plan(pairs, STUDY)
    assert pool.texts.tolist() == [0, 2]
    assert sorted(zip(*(part.tolist() for part in pool.positives), strict=True)) == [(0, 0), (1, 0), (2, 1)]
    without = plan(replace(pairs, texts=None), STUDY)[0]
    assert without.texts.tolist() == [0, 1, 2]
    assert len(without.positives[0]) == 5


@pytest.mark.parametrize("protocol", [PAIR, STUDY, UNIQUE_TEXT], ids=lambda one: one.name)
def test_protocols_equal_brute_force(protocol):
    pairs = captions() if protocol is not STUDY else replace(captions(), studies=["s", "s", "t"])
    images, texts = embeddings(3, seed=5), embeddings(7, seed=6)
    if protocol is UNIQUE_TEXT:
        texts[1] = texts[3] = texts[0]
        texts[5] = texts[4]
    found = Retrieval(plan(pairs, protocol), protocol, images, texts).values()
    # By hand: items, and what belongs together, from the texts themselves.
    keep = {PAIR: range(7), UNIQUE_TEXT: (0, 2, 4, 6), STUDY: (0, 2, 4, 6)}[protocol]
    said = [" ".join(text.split()) for text in pairs.texts]
    belongs = np.array([
        [
            {
                PAIR: pairs.owners[text] == image,
                STUDY: (pairs.owners[text] == "c") == (image == "c"),
                UNIQUE_TEXT: any(said[j] == said[text] and pairs.owners[j] == image for j in range(7)),
            }[protocol]
            for text in keep
        ]
        for image in pairs.images
    ])  # fmt: skip
    scores = cosines(images, texts[list(keep)])
    recalls = []
    for way, (s, yes) in {"i2t": (scores, belongs), "t2i": (scores.T, belongs.T)}.items():
        ranks = np.array([1 + (row > row[hit].max()).sum() for row, hit in zip(s, yes, strict=True)])
        for k in (1, 5, 10):
            assert found[f"{way}_r{k}"] == pytest.approx((ranks <= k).mean())
            recalls.append((ranks <= k).mean())
        assert found[f"{way}_median_rank"] == pytest.approx(np.median(ranks))
    assert found["mean_recall"] == pytest.approx(np.mean(recalls))


def test_sub_pools_are_dealt_by_name():
    names = [f"i{n}" for n in range(23)]
    pairs = Pairs(names, names, names)
    protocol = RetrievalProtocol("pools", "pair", (1,), pool=5, seed=3)
    pools = plan(pairs, protocol)
    assert [len(pool.images) for pool in pools] == [5] * 4
    dealt = {frozenset(names[row] for row in pool.images) for pool in pools}
    assert len(frozenset.union(*dealt)) == 20
    backwards = Pairs(names[::-1], names, names[::-1])
    assert {frozenset(names[::-1][row] for row in pool.images) for pool in plan(backwards, protocol)} == dealt
    other = plan(pairs, replace(protocol, seed=4))
    assert {frozenset(names[row] for row in pool.images) for pool in other} != dealt
    images, texts = embeddings(23), embeddings(23, seed=1)
    found = Retrieval(pools, protocol, images, texts)
    parts = [Retrieval([pool], protocol, images, texts).values()["i2t_r1"] for pool in pools]
    assert found.values()["i2t_r1"] == pytest.approx(np.mean(parts))
    assert found.facts() | {"tied": None} == {
        "protocol": "pools", "positives": "pair", "ties": "expected", "pools": 4, "pool_images": 5, "pool_texts": 5,
        "queries": {"images": 20, "texts": 20}, "tied": None, "pool_seed": 3,
    }  # fmt: skip
    with pytest.raises(ValueError, match="pools of 24, and there are 23"):
        plan(pairs, replace(protocol, pool=24))


def test_weights_repeat_queries_and_not_the_pool():
    pairs, images, texts = captions(), embeddings(3, seed=5), embeddings(7, seed=6)
    labels = (np.array([0, 1, 0]), np.array([0, 0, 0, 1, 1, 1, 0]))
    found = Retrieval(plan(pairs, PAIR), PAIR, images, texts, labels)
    weights = np.array([[2, 0, 1, 1, 1, 0, 3, 0, 0, 2.0], [0] * 10])
    values = found(weights)
    repeated = np.repeat(found.text_to_image.rank(), [1, 1, 0, 3, 0, 0, 2])
    assert values["t2i_median_rank"][0] == np.median(repeated)
    assert values["t2i_r1"][0] == pytest.approx((repeated <= 1).mean())
    shares = precision(texts, images, labels[1], labels[0], (1,))[:, 0]
    assert values["t2i_p1"][0] == pytest.approx(np.repeat(shares, [1, 1, 0, 3, 0, 0, 2]).mean())
    assert all(math.isnan(value[1]) for value in values.values())


def test_weighted_median_is_the_median_of_the_repeats():
    rng = np.random.default_rng(0)
    values, weights = (
        np.sort(rng.integers(1, 9, size=11)).astype(float),
        rng.integers(0, 4, size=(50, 11)).astype(float),
    )
    expected = [np.median(np.repeat(values, row.astype(int))) for row in weights]
    assert weighted_median(values, weights).tolist() == expected


def test_label_sets():
    labels = np.array([[1, 0], [0, 1], [1, 0], [0, 0]])
    found = same_labels(labels)
    assert found[0] == found[2]
    assert len(set(found.tolist())) == 3
    unknown = same_labels(labels, np.array([[True, True], [True, True], [True, False], [True, True]]))
    assert unknown[0] != unknown[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"owners": ["a", "x"], "texts": None}, "1 texts name an image that is not there"),
        ({"images": ["a", "a", "b"]}, "1 image ids occur more than once"),
        ({"patients": ["p"]}, "1 patients, expected 3"),
        ({"patients": ["p", "", "q"]}, "patients hold an empty name"),
        ({"texts": ["x"]}, "1 texts, expected 7"),
        ({"owners": [], "texts": []}, "3 images and 0 texts"),
    ],
)
def test_pairs_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(captions(), **changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positives": "any"}, "positives is 'any'"),
        ({"ties": "random"}, "ties is 'random'"),
        ({"ks": (0,)}, r"ks are \(0,\)"),
        ({"pool": 1}, "pool is 1"),
    ],
)
def test_protocols_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        RetrievalProtocol(**({"name": "x", "positives": "pair"} | arguments))


def test_unique_text_needs_texts():
    with pytest.raises(ValueError, match="compares what texts say"):
        plan(replace(captions(), texts=None), UNIQUE_TEXT)
    with pytest.raises(ValueError, match="1 texts are empty"):
        plan(replace(captions(), texts=["x"] * 6 + ["  "]), UNIQUE_TEXT)


def test_no_name_or_text_in_a_repr():
    assert repr(captions()) == "Pairs()"
