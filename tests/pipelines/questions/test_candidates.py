import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.questions import candidates
from pipelines.questions.candidates import Candidate, Origin, RejectedError

HERE = Origin(source="s", file="f", row=1)


def candidate(**changes) -> Candidate:
    fields = {"split": "train", "images": ["a.png"], "text": "Which?", "options": ["x", "y"], "gold": "A"}
    return HERE.candidate(**(fields | changes))


def test_spelling_changes_the_exact_key_alone():
    one, two = candidate(text="Which phase is this?"), candidate(text="which PHASE is  this")
    assert one.exact_key != two.exact_key
    assert one.text_key == two.text_key
    assert candidate(options=["x", "y"]).options_key == candidate(options=["Y", "X."]).options_key
    assert candidate(text="Which?").text_key != candidate(text="Where?").text_key


def test_the_gold_key_is_of_what_is_right_and_not_of_its_letter():
    assert candidate(options=["x", "y"], gold="A").gold_key == candidate(options=["y", "x"], gold="B").gold_key
    assert candidate(gold="A").gold_key != candidate(gold="B").gold_key


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("< 5 mm", "> 5 mm"), ("<= 5", ">=5"), ("≤5", "≥ 5"), ("+1", "-1"), ("3+", "3-"), ("0.5", "5"), (".5", "5"),
        ("charge \u22121", "charge 1"), ("ER+, PR-", "ER-, PR+"), ("50%", "50"), ("Ca2+", "Ca2"),
    ],
)  # fmt: skip
def test_signs_tell_texts_apart(one, two):
    assert candidates.normalised(one) != candidates.normalised(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Is it 5?", "is it 5."), ("T1, weighted", "T1 weighted!"), ("T1-weighted", "T1 weighted"),
        ("\u22121", "-1"), ("<5 mm", "< 5 mm"), ("COVID-19", "covid 19"), ("Fig. 3", "fig 3"), ("1-3 mm", "1 – 3 mm"),
        ("HER2-positive", "HER2 positive"), ("p=0.05", "p = 0.05"), ("snake_case", "snake case"),
    ],
)  # fmt: skip
def test_marks_do_not(one, two):
    assert candidates.normalised(one) == candidates.normalised(two)


def test_parts_of_a_key_do_not_run_into_each_other():
    assert candidates.key("ab", "c") != candidates.key("a", "bc")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\u200bb", "ab"), ("a\x00\x07b", "ab"), ("\u202eabc", "abc"), ("a\U000e0041", "a"), (" a\tb\n", "a b")],
)
def test_a_line_holds_nothing_that_cannot_be_seen(text, shown):
    assert candidates.line(text) == shown


@settings(max_examples=500)
@given(st.text() | st.text("aB5.+-<>=≤±%_ (\n\u2212²\u0301", max_size=8))
def test_cleaned_text_stays_as_it_is_when_it_is_cleaned_again(text):
    for clean in (candidates.line, candidates.lines, candidates.normalised):
        assert clean(clean(text)) == clean(text)
    assert "\n" not in candidates.line(text)


def test_no_text_makes_the_cleaning_slow():
    started = time.perf_counter()
    for unit in ("<", " ", "+-", ".", "5.", "5", "a+", "<= ", "\u200b", "\x85", "<|", "<|a", "e\u0301"):
        long = unit * (candidates.MAX_CHARACTERS // len(unit))
        candidates.normalised(long)
        candidate(text=f"Which?{candidates.line(long)}{candidates.lines(long)}"[: candidates.MAX_CHARACTERS])
    assert time.perf_counter() - started < 5  # seconds for 13 texts; a quadratic pattern takes minutes


def test_no_image_s_name_is_longer_than_a_file_s_can_be():
    with pytest.raises(RejectedError, match="image_name_unreadable"):
        candidate(images=["a" * 1025])


@given(st.text(min_size=1), st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_a_draft_comes_back_from_its_table_as_it_was(text, images):
    try:
        made = candidate(text=text, images=images, caption=text)
    except RejectedError:
        return
    assert [Candidate.from_dict(row) for row in Candidate.table([made]).to_pylist()] == [made]
