import numpy as np
import pytest

from pipelines.examination.measures.baselines import against, by_length, guessing, guessing_range
from pipelines.examination.measures.clusters import Clusters

RNG = np.random.default_rng(0)
CLUSTERS = Clusters.of(np.arange(1000) // 2)
CHANCE = guessing(np.full(1000, 4))


def test_always_the_longest_option_is_a_guess_among_those_that_are_as_long():
    lengths = np.array([[3, 9, 4, 1], [5, 5, 2, -1], [7, 7, 7, 7]], dtype=np.int32)
    assert by_length(lengths, np.array([1, 0, 2]), longest=True).tolist() == [1, 0.5, 0.25]
    assert by_length(lengths, np.array([3, 2, 2]), longest=False).tolist() == [1, 1, 0.25]


def test_guessing_scores_within_its_range():
    options = RNG.integers(2, 6, 500)
    low, high = guessing_range(options)
    scores = (RNG.random((4000, 500)) < guessing(options)).mean(axis=1)
    assert ((low <= scores) & (scores <= high)).mean() == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("share", "finding", "words"),
    [
        (0.26, "at", "m/real is at chance, from which it cannot be told apart: 26.0 % right against 25.0 %"),
        (
            0.40,
            "above",
            "m/real is above chance: 40.0 % right against 25.0 % (difference +15.0 points, 95 % interval +",
        ),
        (0.12, "below", "m/real is below chance: 12.0 % right"),
    ],
)
def test_a_sentence_says_whether_a_model_can_be_told_from_chance(share, finding, words):
    right = RNG.permutation(np.arange(1000) < 1000 * share)
    found = against("m/real", right, CHANCE, "chance", CLUSTERS)
    assert found.finding == finding
    assert found.sentence.startswith(words)


def test_one_cluster_says_nothing_about_chance():
    found = against("m/real", np.ones(4), np.full(4, 0.25), "chance", Clusters.of(np.zeros(4)))
    assert found.finding == "unknown"
    assert "all questions are one cluster" in found.sentence
