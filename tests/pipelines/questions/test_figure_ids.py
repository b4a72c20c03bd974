import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.questions.figure_ids import article_id, article_of_figure, figure_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("PMC8253867_Fig2_41.jpg", "PMC8253867_Fig2.jpg"),
        ("PMC8253867_Fig2_41", "pmc8253867_fig2_7.png"),
        ("PMC5133774_ijms-17-01746-f005.jpg", "PMC5133774_Fig5.jpg"),
        ("PMC0005133774_ijms-17-01746-f005.jpg", "PMC5133774_fig-05_2.jpg"),
        ("images/PMC100_pone.0012345.g003.jpg", "PMC100_Figure_3.jpg"),
        ("PMC100_gr1_lrg.jpg", "PMC100_Fig1_HTML.jpg"),
        ("Figure 2 ", "figure 2"),
    ],
)
def test_names_of_one_figure_have_one_id(one, other):
    assert figure_id(one) == figure_id(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("PMC8253867_Fig2_41.jpg", "PMC8253867_Fig24.jpg"),
        ("PMC8253867_Fig2.jpg", "PMC825386_Fig2.jpg"),
        ("PMC1_Fig1.jpg", "PMC1_Fig10.jpg"),
        ("PMC5133774_ijms-17-01746-f005.jpg", "PMC5133774_ijms-17-01746-f006.jpg"),
        ("a/2", "b/2"),
        ("synpic29265", "synpic29266"),
    ],
)
def test_other_figures_have_other_ids(one, other):
    assert figure_id(one) != figure_id(other)


def test_article_ids_are_compared_without_case_and_leading_zeros_and_others_as_they_are():
    assert article_id("PMC0012") == article_id(" pmc12") == "pmc12"
    assert article_id("https://a.b/Case?id=1") != article_id("https://a.b/Case?id=2")
    assert article_of_figure("x/PMC12_Fig1.jpg") == "PMC12"
    assert article_of_figure("synpic1.jpg") == ""


@given(st.text(max_size=200))
def test_any_text_has_an_id_that_is_its_own_id(text):
    for name in (figure_id, article_id):
        assert name(name(text)) == name(text)
