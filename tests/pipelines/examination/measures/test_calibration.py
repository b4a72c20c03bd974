import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.examination.measures.calibration import calibration, risk_coverage

NAN = np.nan


def test_brier_ece_and_confidently_wrong_of_a_small_table():
    shares = np.array([[0.95, 0.05, NAN], [0.2, 0.7, 0.1], [0.05, 0.95, NAN], [NAN, NAN, NAN]])
    found = calibration(shares, np.array([0, 1, 0, 1]))
    assert found.num_questions == 3
    assert found.brier == pytest.approx((2 * 0.05**2 + (0.2**2 + 0.3**2 + 0.1**2) + 2 * 0.95**2) / 3)
    assert found.ece == pytest.approx((2 * abs(0.5 - 0.95) + abs(1 - 0.7)) / 3)
    assert found.confidently_wrong == pytest.approx(1 / 3)
    assert [(count, accuracy) for _, _, count, _, accuracy in found.bins if count] == [(1, 1.0), (2, 0.5)]


def test_likelihoods_that_leave_mass_to_other_words_are_made_to_sum_to_1_and_the_mass_is_told():
    found = calibration(np.array([[0.3, 0.1]]), np.array([0]))
    assert (found.mass, found.brier) == pytest.approx((0.4, 2 * 0.25**2))


def test_without_likelihoods_there_is_no_calibration():
    assert calibration(np.full((3, 4), NAN), np.zeros(3, int)) is None
    assert calibration(np.zeros((3, 4)), np.zeros(3, int)) is None


@pytest.mark.parametrize("shares", [[-0.1, 1.1], [NAN, 1.0]])
def test_what_is_no_likelihood_is_refused(shares):
    with pytest.raises(ValueError, match="negative, or the right option has none"):
        calibration(np.array([shares]), np.array([0]))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40), st.randoms())
def test_the_risk_coverage_curve_does_not_depend_on_the_order_of_equally_confident_answers(answers, random):
    confidence, correct = (np.array(each) for each in zip(*answers, strict=True))
    coverage, risk = risk_coverage(confidence / 5, correct)
    order = np.array(random.sample(range(len(answers)), len(answers)))
    assert risk_coverage(confidence[order] / 5, correct[order])[1] == pytest.approx(risk)
    assert risk[-1] == pytest.approx(1 - correct.mean())
    assert coverage[-1] == 1


def test_a_model_that_knows_what_it_knows_has_little_risk_at_half_coverage():
    _, risk = risk_coverage(np.array([0.9, 0.8, 0.4, 0.3]), np.array([True, True, False, False]))
    assert risk.tolist() == pytest.approx([0, 0, 1 / 3, 0.5])
