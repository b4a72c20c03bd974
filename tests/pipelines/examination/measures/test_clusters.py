import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.examination.measures.clusters import Clusters, cluster_codes
from tests.pipelines.fixtures import question


def asked(article="", figure="", *images):
    return question(article=article, figure=figure, image_digests=images)


def together(questions, by="article"):
    codes = cluster_codes(questions, by)
    return [[int(n) for n in np.flatnonzero(codes == code)] for code in dict.fromkeys(codes)]


def test_questions_of_one_article_are_one_cluster_whatever_their_figures():
    assert together([asked("p", "f1", "a"), asked("q", "f1", "b"), asked("p", "f2", "c")]) == [[0, 2], [1]]


def test_figures_of_one_name_in_two_articles_are_two_figures():
    assert together([asked("p", "f1", "a"), asked("q", "f1", "b"), asked("p", "f1", "c")], "figure") == [[0, 2], [1]]


def test_a_picture_that_returns_in_every_article_does_not_join_them():
    assert together([asked(str(n), "", "logo") for n in range(5)]) == [[n] for n in range(5)]


def test_without_article_or_figure_shared_images_join_questions_also_through_others():
    assert together([asked("", "", "a"), asked("", "", "c"), asked("", "", "a", "b"), asked("", "", "b")]) == [
        [0, 2, 3],
        [1],
    ]


def test_by_question_nothing_is_shared():
    assert together([asked("p", "f", "a")] * 3, "question") == [[0], [1], [2]]


def test_no_questions_have_no_clusters():
    assert cluster_codes([]).tolist() == []


def test_an_unknown_level_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match="name one of article, figure, image, question"):
        cluster_codes([asked()], "journal")


@given(st.lists(st.integers(-3, 5), min_size=1, max_size=60))
def test_sums_by_cluster_are_those_of_a_loop(codes):
    codes = np.array(codes)
    values = np.arange(len(codes)) ** 2 % 7
    clusters = Clusters.of(codes)
    assert clusters.sum(values).tolist() == [values[codes == code].sum() for code in np.unique(codes)]
    assert clusters.sizes.sum() == len(codes)
    assert 1 - 1e-9 <= clusters.effective <= len(clusters.sizes) + 1e-9


def test_one_large_cluster_weighs_like_hardly_more_than_one():
    assert Clusters.of(np.r_[np.zeros(1000), np.arange(1, 31)]).effective < 1.1
    assert Clusters.single(30).effective == pytest.approx(30)
