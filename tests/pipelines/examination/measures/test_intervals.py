import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from pipelines.examination.measures import intervals
from pipelines.examination.measures.clusters import Clusters
from pipelines.examination.measures.intervals import difference_interval, label_noise_bounds, proportion_interval
from tests.benchmarks import bench_coverage
from tests.benchmarks.bench_coverage import Cell

RNG = np.random.default_rng(0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), min_size=1, max_size=80))
def test_an_interval_holds_the_share_stays_within_0_and_1_and_has_width(answers):
    right, codes = (np.array(each) for each in zip(*answers, strict=True))
    found = proportion_interval(right, Clusters.of(codes))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.01


@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 40)), min_size=1, max_size=80))
def test_a_difference_s_interval_holds_it_stays_within_its_bounds_and_has_width(answers):
    values, codes = (np.array(each) for each in zip(*answers, strict=True))
    found = difference_interval(values, Clusters.of(codes))
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.001


def test_of_many_independent_questions_the_interval_is_nearly_wilson_s():
    right = RNG.permutation(np.arange(20_000) < 13_000)
    found = proportion_interval(right, Clusters.single(20_000))
    assert (found.low, found.high) == pytest.approx(proportion_confint(13_000, 20_000, method="wilson"), abs=2e-5)
    assert found.design_effect == pytest.approx(1, abs=1e-3)


def test_where_all_are_right_each_cluster_counts_as_one_question():
    found = proportion_interval(np.ones(400), Clusters.of(np.arange(400) // 8))
    assert found.effective_questions == pytest.approx(50)
    assert found.low == pytest.approx(proportion_confint(50, 50, method="wilson")[0], abs=0.01)


def test_copies_of_questions_tell_nothing_new():
    right = RNG.random(300) < 0.6
    once = proportion_interval(right, Clusters.single(300))
    copied = proportion_interval(np.repeat(right, 5), Clusters.of(np.repeat(np.arange(300), 5)))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=1e-3)
    assert copied.design_effect == pytest.approx(5, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_the_robust_half_of_the_variance_is_that_of_statsmodels(seed):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(40), 3)  # of one size, since statsmodels corrects for the number of clusters alone
    values = rng.normal(size=40)[codes] + rng.normal(size=120)
    clusters = Clusters.of(codes)
    moments, _ = intervals._moments(values, clusters, None, None)
    alike = intervals.intracluster_correlation(values, clusters)
    modelled = values.var() / 120 * (1 + 2 * alike)
    fitted = OLS(values, np.ones(120)).fit(cov_type="cluster", cov_kwds={"groups": codes, "use_correction": False})
    assert 2 * moments.variance - modelled == pytest.approx(fitted.bse[0] ** 2 * 40 / 39, rel=1e-9)


def test_one_cluster_alone_says_nothing():
    right = np.array([True, False, True])
    found = proportion_interval(right, Clusters.of(np.zeros(3)))
    assert (found.low, found.high) == (0, 1)
    assert difference_interval(right * 1.0, Clusters.of(np.zeros(3))).low == -1


def test_no_questions_are_refused():
    with pytest.raises(ValueError, match="no questions"):
        proportion_interval(np.zeros(0), Clusters.of(np.zeros(0)))


def test_many_examinations_at_once_are_each_as_alone():
    codes = RNG.integers(0, 50, 200)
    many = RNG.random((4, 200)) < 0.7
    together = proportion_interval(many, Clusters.of(codes))
    alone = [proportion_interval(each, Clusters.of(codes)) for each in many]
    assert together.low == pytest.approx([each.low for each in alone], rel=1e-12)


def test_a_mean_over_strata_counts_each_the_same_and_what_lies_between_them_is_no_uncertainty():
    strata = np.r_[np.zeros(900, int), np.ones(100, int)]
    right = np.r_[np.arange(900) % 10 != 0, np.arange(100) % 10 == 0]
    weights = 1 / np.bincount(strata)[strata]
    clusters = Clusters.single(1000)
    found = proportion_interval(right, clusters, weights=weights, strata=strata)
    assert found.value == pytest.approx(0.5)
    expected = np.sqrt((0.09 / 899 + 0.09 / 99) / 4)
    assert found.high - found.low == pytest.approx(2 * 1.96 * expected, rel=0.02)
    assert proportion_interval(right, clusters, weights=weights).high > found.high


def test_caveats_say_from_where_an_interval_holds():
    right = RNG.random(4000) < 0.6
    assert proportion_interval(right, Clusters.of(np.arange(4000) % 400)).caveat() == ""
    assert (
        "Only 12 clusters: intervals hold from 30"
        in proportion_interval(right, Clusters.of(np.arange(4000) % 12)).caveat()
    )
    uneven = Clusters.of(np.where(np.arange(4000) < 3000, 0, np.arange(4000)))
    assert "weigh like 1.8" in proportion_interval(right, uneven).caveat()
    near_one = proportion_interval(np.arange(100) > 1, Clusters.single(100))
    assert "So near 0 or 1" in near_one.caveat(of_share=True)
    assert near_one.caveat() == ""


@pytest.mark.parametrize(
    "cell",
    [Cell("figures", 100, 0.0, 0.65), Cell("skewed", 100, 0.2, 0.25), Cell("equal", 100, 0.6, 0.8)],
    ids=lambda cell: f"{cell.sizes}-{cell.num_clusters}-{cell.icc}",
)
def test_93_to_97_percent_of_intervals_hold_the_truth(cell):
    assert 0.93 <= bench_coverage.accuracy_coverage(cell, 1000)["ours"] <= 0.97
    assert 0.93 <= bench_coverage.difference_coverage(cell, 1000)["ours"] <= 0.97


def test_the_interval_of_independent_questions_holds_far_less_where_they_are_not():
    assert bench_coverage.accuracy_coverage(Cell("equal", 100, 0.6, 0.65), 500)["Wilson"] < 0.85


@pytest.mark.parametrize(
    ("accuracy", "defective", "bounds"),
    [(0.649, 0.34, (0.468, 0.983)), (0.2, 0.4, (0, 1 / 3)), (0.9, 0.5, (0.8, 1)), (0.7, 0, (0.7, 0.7))],
)
def test_label_noise_bounds(accuracy, defective, bounds):
    assert label_noise_bounds(accuracy, defective) == pytest.approx(bounds, abs=5e-4)


def test_no_share_of_defective_questions_is_1():
    with pytest.raises(ValueError, match="no share"):
        label_noise_bounds(0.5, 1.0)
