"""Which of a question's accepted rationales teach."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.verification import selection
from pipelines.verification.config import Selection
from tests.pipelines.fixtures import verdict


def accepted(*bodies, hinted=()):
    return [verdict(rationale_id=f"r{n}", body=body, hinted=n in hinted) for n, body in enumerate(bodies)]


BODIES = (
    "round pores lie in the bright metal",
    "round pores lie in bright metal",
    "round pores in the bright metal",
    "many needles",
)


@pytest.mark.parametrize(
    ("rule", "order"),
    [
        (Selection.FIRST, [0, 1, 2, 3]),
        (Selection.SHORTEST, [3, 1, 2, 0]),
        (Selection.MOST_AGREED, [0, 1, 2, 3]),
        (Selection.DIVERSE, [0, 3, 1, 2]),
    ],
)
def test_each_rule_has_its_order_and_earlier_ones_win_ties(rule, order):
    verdicts = accepted(*BODIES)
    for keep in range(1, 6):
        assert selection.choose(verdicts, rule, keep) == order[:keep]
        assert selection.choose([], rule, keep) == []


def test_the_most_agreed_one_is_the_one_that_the_others_resemble():
    assert selection.choose(accepted("needles", "round pores", "round bright pores"), Selection.MOST_AGREED, 1) == [1]
    assert selection.choose(accepted(*BODIES[::-1]), Selection.MOST_AGREED, 1) == [3]


def test_one_that_was_told_the_answer_is_chosen_only_where_there_is_no_other():
    for rule in Selection:
        assert selection.choose(accepted("a b", "a", "a c", hinted={1}), rule, 3).count(1) == 0
        assert sorted(selection.choose(accepted("a b", "a", hinted={0, 1}), rule, 3)) == [0, 1]


def test_texts_are_alike_by_the_words_that_both_have():
    assert selection.similarity(frozenset("ab"), frozenset("bc")) == pytest.approx(1 / 3)
    assert selection.similarity(frozenset("ab"), frozenset("ab")) == selection.similarity(frozenset(), frozenset()) == 1
    assert selection.similarity(frozenset("ab"), frozenset()) == 0


@given(
    st.lists(st.tuples(st.text("ab ", max_size=6), st.booleans()), max_size=6),
    st.sampled_from(Selection),
    st.integers(1),
)
def test_at_most_as_many_are_chosen_as_are_kept_each_once(rows, rule, keep):
    verdicts = [verdict(body=body, hinted=hinted) for body, hinted in rows]
    chosen = selection.choose(verdicts, rule, keep)
    unaided = sum(not v.hinted for v in verdicts)
    assert len(set(chosen)) == len(chosen) == min(keep, unaided or len(verdicts))
    assert not unaided or not any(verdicts[place].hinted for place in chosen)
