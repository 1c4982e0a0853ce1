import math

import pytest

from domainvl.evaluation.protocols import Harmonic, Spread, cut_classes, harmonic_mean, t_quantile


@pytest.mark.parametrize(
    ("classes", "base", "novel"),
    [
        (["d", "a", "c", "b"], ["a", "b"], ["c", "d"]),
        (["e", "d", "a", "c", "b"], ["a", "b", "c"], ["d", "e"]),
        (["River", "Forest", "Annual Crop Land"], ["Annual Crop Land", "Forest"], ["River"]),
        (["b", "B"], ["B"], ["b"]),  # plain string order, as in the authors' code
    ],
)
def test_the_larger_first_half_of_the_sorted_names_is_base(classes, base, novel):
    assert cut_classes(classes) == (base, novel)


@pytest.mark.parametrize("classes", [[], ["only"]])
def test_one_class_cannot_be_cut(classes):
    with pytest.raises(ValueError, match="at least two classes"):
        cut_classes(classes)


@pytest.mark.parametrize(
    ("base", "novel", "printed"),
    # Rows that papers print: MMRL, MaPLe, CoOp.
    [(0.8568, 0.7716, 0.8120), (0.8228, 0.7514, 0.7855), (0.8269, 0.6322, 0.7166), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0)],
)
def test_harmonic_mean_is_that_of_the_papers(base, novel, printed):
    assert harmonic_mean(base, novel) == pytest.approx(printed, abs=1e-4)


def test_percent_are_refused():
    with pytest.raises(ValueError, match=r"base is 85\.7; give shares"):
        harmonic_mean(85.7, 0.7)


def test_the_two_readings_differ_and_both_are_there():
    found = Harmonic.of([(0.9, 0.5), (0.5, 0.9)])
    assert (found.base, found.novel, found.of_means, found.datasets) == pytest.approx((0.7, 0.7, 0.7, 2))
    assert found.mean_of == pytest.approx(2 * 0.45 / 1.4)
    alone = Harmonic.of([(0.8, 0.6)])
    assert alone.of_means == pytest.approx(alone.mean_of)
    with pytest.raises(ValueError, match="no data sets"):
        Harmonic.of([])


@pytest.mark.parametrize(
    ("freedom", "value"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (4, 2.77645),
        (5, 2.57058),
        (9, 2.26216),
        (30, 2.04227),
        (1000, 1.96234),
    ],
)
def test_students_t_is_that_of_the_tables(freedom, value):
    assert t_quantile(freedom) == pytest.approx(value, rel=1e-5)


def test_spread_over_seeds():
    found = Spread.of([0.7, 0.8, 0.9])
    reach = 4.30265 * 0.1 / math.sqrt(3)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((0.8, 0.8 - reach, 0.8 + reach, 3), rel=1e-5)
    assert Spread.of([0.7]) == Spread(0.7, None, None, 1)
    assert Spread.of([0.5, 0.5]).low == 0.5
