import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from pipelines.examination.measures.clusters import Clusters
from pipelines.examination.measures.comparisons import clustered_mcnemar, compare, holm, mcnemar_midp
from tests.benchmarks import bench_coverage
from tests.benchmarks.bench_coverage import Cell

COUNTS = st.integers(0, 300)


@given(COUNTS, COUNTS)
def test_the_mid_p_is_statsmodels_exact_p_less_the_chance_of_what_was_seen(first, second):
    p = mcnemar_midp(first, second)
    if first == second:
        assert p == pytest.approx(1 - binom.pmf(first, 2 * first, 0.5) / 2 if first else 1, abs=1e-9)
        return
    exact = mcnemar([[0, first], [second, 0]], exact=True).pvalue
    assert exact == pytest.approx(binomtest(first, first + second).pvalue, abs=1e-9)
    assert p == pytest.approx(exact - binom.pmf(first, first + second, 0.5), abs=1e-9)


def test_the_mid_p_of_the_published_table():
    assert mcnemar_midp(1, 7) == pytest.approx(0.0391, abs=5e-5)  # Fagerland 2013, table 1


@given(COUNTS, COUNTS, COUNTS)
def test_of_independent_questions_the_clustered_test_is_mcnemar_s_without_correction(first, second, same):
    values = np.r_[-np.ones(first), np.ones(second), np.zeros(same)]
    if first + second == 0:
        return
    statistic, _ = clustered_mcnemar(values, Clusters.single(len(values)))
    plain = mcnemar([[same, second], [first, 0]], exact=False, correction=False).statistic
    assert statistic == pytest.approx(plain * (len(values) - 1) / len(values), rel=1e-9, abs=1e-9)


def test_the_clustered_test_is_the_ratio_of_pooled_variances_by_yang():
    rng = np.random.default_rng(3)
    codes, first, second = rng.integers(0, 25, 200), rng.random(200) < 0.5, rng.random(200) < 0.6
    statistic, p = clustered_mcnemar(second * 1.0 - first, Clusters.of(codes))
    number, total = 25, 200
    pooled = (first.mean() + second.mean()) / 2
    off = [np.array([(each[codes == c] - pooled).sum() for c in range(number)]) for each in (first, second)]
    scale = number / (number - 1) / total**2
    variance = scale * ((off[0] ** 2).sum() + (off[1] ** 2).sum() - 2 * (off[0] * off[1]).sum())
    assert statistic == pytest.approx((first.mean() - second.mean()) ** 2 / variance, rel=1e-9)
    assert 0 < p < 1


def test_the_same_answers_differ_by_nothing_and_the_interval_still_has_width():
    right = np.arange(90) % 3 == 0
    found = compare(right, right, Clusters.of(np.arange(90) // 3))
    assert (found.difference.value, found.midp, found.p) == (0, 1, 1)
    assert found.difference.high > 0.005


def test_a_comparison_is_second_minus_first():
    first, second = np.array([1, 0, 0, 0, 1, 1]) > 0, np.array([1, 1, 1, 1, 0, 1]) > 0
    found = compare(first, second, Clusters.single(6))
    assert (found.first_only, found.second_only) == (1, 3)
    assert found.difference.value == pytest.approx(2 / 6)


def test_copied_questions_make_mcnemar_certain_and_the_clustered_test_not():
    rng = np.random.default_rng(1)
    values = np.repeat(rng.choice([-1, 0, 1], 60, p=[0.1, 0.7, 0.2]), 20)
    found = compare(values < 0, values > 0, Clusters.of(np.repeat(np.arange(60), 20)))
    assert found.midp < 1e-4
    assert found.p > 0.01


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_s_adjustment_is_statsmodels(p_values):
    adjusted = holm(p_values)
    expected = multipletests(p_values, method="holm")[1] if p_values else []
    assert adjusted == pytest.approx(expected, abs=1e-9)
    by_hand = [max(min(1, p * sum(q >= p for q in p_values)), 0) for p in p_values]
    assert all(mine >= least - 1e-12 for mine, least in zip(adjusted, by_hand, strict=True))


def test_the_clustered_test_stays_silent_where_models_are_equally_good_and_the_mid_p_does_not():
    silent = bench_coverage.silence(Cell("skewed", 100, 0.6, 0.65), 500)
    assert 0.93 <= silent["clustered McNemar"] <= 0.97
    assert silent["McNemar mid-p"] < 0.9
