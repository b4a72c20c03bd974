import numpy as np
import pytest

from pipelines.examination.measures.clusters import Clusters
from pipelines.examination.measures.grounding import grounded_gain, reliance, sensitivity
from pipelines.examination.measures.letters import changed, circular, position_bias


def test_position_bias_compares_answers_with_what_was_right_and_leaves_out_none():
    bias = position_bias(np.array([0, 0, 0, 1, -1, -2]), np.array([0, 1, 1, 1, 1, 1]), 3)
    assert bias.answered.tolist() == [0.75, 0.25, 0]
    assert bias.gold.tolist() == [0.25, 0.75, 0]
    assert bias.total_variation == 0.5
    assert bias.recall[:2].tolist() == [1, pytest.approx(1 / 3)]
    assert np.isnan(bias.recall[2])


def test_without_any_letter_there_is_no_bias():
    assert position_bias(np.array([-1, -1]), np.array([0, 1]), 2).total_variation == 0


def test_an_answer_changes_with_another_letter_or_with_none_and_two_of_none_are_the_same():
    assert changed(np.array([0, 0, 0, -1, -1]), np.array([0, 1, -1, 2, -1])).tolist() == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_circular_accuracy_is_a_mean_and_the_share_that_is_right_under_every_rotation():
    right = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]]) > 0
    asked = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0]]) > 0
    found = circular(right, asked, Clusters.single(4))
    assert found.mean.value == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)
    assert found.worst.value == 0.5
    assert found.num_rotations == 3


def test_a_gain_from_letters_alone_is_not_grounded_and_one_that_needs_the_image_is():
    rng = np.random.default_rng(0)
    base = (rng.random(2000) < 0.4, rng.random(2000) < 0.3)
    letters = tuple(np.where(rng.random(2000) < 0.25, True, each) for each in base)
    clusters = Clusters.of(np.arange(2000) // 2)
    ungrounded = grounded_gain(letters, base, clusters)
    assert ungrounded.low < 0 < ungrounded.high
    grounded = grounded_gain((letters[0], base[1]), base, clusters)
    assert grounded.low > 0.1
    assert grounded.value == pytest.approx(letters[0].mean() - base[0].mean())


def test_reliance_and_sensitivity_are_what_their_formulas_say():
    real, other = np.array([1, 1, 0, 1]) > 0, np.array([1, 0, 0, 0]) > 0
    assert reliance(real, other, Clusters.single(4)).value == 0.5
    assert sensitivity(np.array([0, 1, 2, 3]), np.array([0, 1, 2, -1]), Clusters.single(4)).value == 0.25
