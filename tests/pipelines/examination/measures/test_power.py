import numpy as np
import pytest

from pipelines.examination.measures.power import design_effect, power_of, smallest_difference


@pytest.mark.parametrize(
    ("num_questions", "points"),
    [(2000, 3.1), (33_430, 0.8), (1500, 3.6), (1500 / 21, 16)],
    ids=["test_clean", "test_2", "MatCha", "one MatCha task"],
)
def test_the_smallest_difference_of_each_published_set(num_questions, points):
    found = 100 * smallest_difference(num_questions)
    assert round(found, 0 if points > 10 else 1) == points


def test_power_at_the_smallest_difference_is_what_was_asked_for():
    for power in (0.5, 0.8, 0.95):
        found = smallest_difference(1200, discordant=0.3, power=power, effect=1.7)
        assert power_of(found, 1200, discordant=0.3, effect=1.7) == pytest.approx(power, abs=1e-9)


def test_power_is_that_of_simulated_examinations():
    rng = np.random.default_rng(0)
    tables = rng.multinomial(2000, [0.14, 0.11, 0.75], 20_000)
    z = np.abs(tables[:, 0] - tables[:, 1]) / np.sqrt(tables[:, 0] + tables[:, 1])
    assert power_of(0.03, 2000) == pytest.approx((z > 1.96).mean(), abs=0.01)


def test_a_few_questions_can_show_no_difference():
    assert smallest_difference(10) is None
    assert smallest_difference(0) is None


def test_more_difference_than_discordant_questions_is_refused():
    with pytest.raises(ValueError, match="needs as many discordant questions"):
        power_of(0.3, 100)


def test_clusters_of_one_size_have_kish_s_design_effect():
    assert design_effect(np.full(100, 5), 0.25) == 2
    assert design_effect(np.ones(100), 0.9) == 1
    assert smallest_difference(2000, effect=4) == pytest.approx(smallest_difference(500))
