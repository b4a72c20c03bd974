import numpy as np
import pytest

from pipelines.examination.measures.clusters import Clusters
from pipelines.examination.measures.seeds import seed_variance


def fits(rng, num_questions=400, num_seeds=3, seed_sd=0.0):
    """Right answers of fits whose true accuracies differ by seed_sd."""
    ease = rng.uniform(0.3, 0.9, num_questions)[:, None]
    return rng.random((num_questions, num_seeds)) < np.clip(ease + rng.normal(0, seed_sd, num_seeds), 0, 1)


@pytest.mark.parametrize("seed_sd", [0.0, 0.05])
def test_the_seed_s_variance_is_found_without_what_single_answers_do_by_chance(seed_sd):
    rng = np.random.default_rng(0)
    clusters = Clusters.single(400)
    found = [seed_variance(fits(rng, num_seeds=8, seed_sd=seed_sd), clusters).seed_sd ** 2 for _ in range(200)]
    assert np.mean(found) == pytest.approx(seed_sd**2, abs=2.5e-4)


def test_93_to_99_percent_of_intervals_hold_what_fits_score_on_average():
    rng = np.random.default_rng(1)
    clusters = Clusters.single(400)
    found = [seed_variance(fits(rng, seed_sd=0.04), clusters) for _ in range(400)]
    assert 0.93 <= np.mean([each.low <= 0.6 <= each.high for each in found]) <= 0.99


def test_fits_that_answer_alike_have_no_seed_variance_and_all_is_the_questions():
    right = np.repeat(np.arange(100)[:, None] % 3 > 0, 3, axis=1)
    found = seed_variance(right, Clusters.single(100))
    assert found.seed_sd == 0
    assert found.question_se == found.total_se
    assert found.high > found.mean > found.low


def test_one_seed_tells_nothing_about_seeds():
    with pytest.raises(ValueError, match="two of each"):
        seed_variance(np.ones((10, 1)), Clusters.single(10))
