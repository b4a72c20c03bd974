"""Beginnings of answers that are made of a student's own reasoning."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.examination import prefill
from pipelines.examination.prefill import Reasoning
from pipelines.inference import prompts
from pipelines.records import LETTERS
from pipelines.records.entries import PREFILLS
from tests.pipelines.fixtures import question

OWN = Reasoning("It is round. It is bright. It has pores. So it was cast.", "B")
OTHER = Reasoning("It is flat.", "A")


def test_every_beginning_is_made_and_ends_where_the_answer_begins():
    made = prefill.beginnings(question(), OWN, OTHER, seed=0)
    assert tuple(made) == PREFILLS
    assert made["cut_0"] == "Answer:"
    assert made["cut_25"] == "It is round.\nAnswer:"
    assert made["cut_50"] == "It is round. It is bright.\nAnswer:"
    assert made["cut_100"] == f"{OWN.text}\nAnswer:"
    assert made["other"] == "It is flat.\nAnswer:"
    assert made["filler"] == f"{' '.join(['...'] * 13)}\nAnswer:"


def test_a_mistake_names_an_option_that_the_model_did_not_come_to():
    letter = prefill.mistake(question(), OWN, seed=0)
    assert letter in "ACD"
    wrong = question().options[LETTERS.index(letter)]
    assert prefill.beginnings(question(), OWN, None, 0)["mistake"] == (
        f"It is round. It is bright. This points to {wrong}, and not to cast.\nAnswer:"
    )
    assert {prefill.mistake(question(id=str(n)), OWN, 0) for n in range(40)} == {"A", "C", "D"}


def test_without_another_question_s_reasoning_that_beginning_is_left_out():
    assert set(PREFILLS) - set(prefill.beginnings(question(), OWN, None, 0)) == {"other"}


@given(st.text(max_size=200), st.sampled_from("ABCD"))
def test_whatever_was_reasoned_each_cut_is_a_part_of_the_next(text, letter):
    own = prefill.reasoning(f"{text}\n{prompts.answer('cast', letter)}", letter)
    if own is None:
        assert not text.strip() or "Answer" in text
        return
    made = prefill.beginnings(question(), own, OTHER, 0)
    cuts = [
        made[f"cut_{percent}"].removesuffix("\nAnswer:").removesuffix("Answer:") for percent in (0, 25, 50, 75, 100)
    ]
    assert all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(cuts))
    assert all(beginning.endswith("Answer:") for beginning in made.values())


@pytest.mark.parametrize(
    ("text", "letter", "kept"),
    [
        ("It is round.\nAnswer: cast (B)", "B", "It is round."),
        ("Answer: mill (A)? No.\nIt is round.\n**Answer:** cast (B)", "B", "Answer: mill (A)? No.\nIt is round."),
        ("Answer: cast (B)", "B", None),
        ("It is round, so B.", "B", None),
        ("It is round.\nAnswer: cast", None, None),
    ],
)
def test_reasoning_is_what_stands_before_the_last_line_with_an_answer(text, letter, kept):
    found = prefill.reasoning(text, letter)
    assert (found and found.text) == kept


def test_a_question_is_never_lent_its_own_reasoning():
    found = {f"q{n}": Reasoning(str(n), "A") for n in range(9)}
    lent = prefill.in_turn(found, 0)
    assert set(lent) == set(found)
    assert all(lent[name].text != found[name].text for name in found)
    assert prefill.in_turn(found, 1) != lent == prefill.in_turn(found, 0)
    assert prefill.in_turn({"q": OWN}, 0) == {}
