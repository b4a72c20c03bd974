import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.questions.candidates import RejectedError, check_options
from pipelines.questions.sources import gold, source
from pipelines.questions.sources.gold import Form, Forms
from pipelines.questions.sources.source import SourceConfig

PHASES = ("alpha", "beta", "T2*-weighted", "< 5 mm")


def read(said, options=PHASES, others=()):
    """A row's letter and how it was read, in a table with these others; or the reason."""
    try:
        return gold.letter(said, options, Forms(lambda: [(said, options), *others]))
    except RejectedError as error:
        return str(error)


@pytest.mark.parametrize(
    ("said", "letter", "how"),
    [
        ("B", "B", ""),
        ("b", "B", ""),
        ("(B)", "B", "answer_letter_between_marks"),
        ("b.", "B", "answer_letter_between_marks"),
        ("B)", "B", "answer_letter_between_marks"),
        ("[b]", "B", "answer_letter_between_marks"),
        ("**B**", "B", "answer_letter_between_marks"),
        ("Option B", "B", "answer_letter_between_marks"),
        ("option_b", "B", "answer_letter_between_marks"),
        ("beta", "B", "answer_by_text"),
        ("Beta.", "B", "answer_by_text"),
        ("T2* weighted", "C", "answer_by_text"),
        ("<5 mm", "D", "answer_by_text"),
        ("B: beta", "B", "answer_by_letter_and_text"),
        ("(b) Beta", "B", "answer_by_letter_and_text"),
    ],
)
def test_an_answer_is_read_where_one_reading_is_left(said, letter, how):
    assert read(said) == (letter, how)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("E", "answer_is_no_option"),
        ("gamma", "answer_is_no_option"),
        ("> 5 mm", "answer_is_no_option"),
        ("A or B", "answer_is_no_option"),
        ("AB", "answer_is_no_option"),
        ("beta alpha", "answer_is_no_option"),
        ("A: beta", "label_contradicts_answer"),
        ("5", "answer_is_no_option"),
        ("-1", "answer_is_no_option"),
        ("1.5", "answer_is_no_option"),
        ("\u212a", "answer_is_no_option"),  # the sign of kelvin, which is K in another case
    ],
)
def test_an_answer_that_would_have_to_be_guessed_is_refused(said, reason):
    assert read(said) == reason


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ((), "answer_number_unclear"),
        (("1", "2", "3"), "answer_number_unclear"),  # of four options: from 0 or from 1
        (("0",), ("C", "answer_by_number_from_0")),
        (("4",), ("B", "answer_by_number_from_1")),
        (("0", "4"), "answer_number_unclear"),
        (("0", "9", "beta", "A"), ("C", "answer_by_number_from_0")),  # what fits no way or is no number tells nothing
        (("4.0", "1.0"), ("B", "answer_by_number_from_1")),
    ],
)
def test_a_number_is_an_option_where_the_table_tells_from_where_it_counts(others, expected):
    assert read("2", others=[(other, PHASES) for other in others]) == expected


def test_a_number_that_is_an_option_s_text_is_taken_for_its_place_where_the_table_says_so_alone():
    counts = ("1", "2", "3", "4")
    assert read("2", counts) == "answer_number_unclear"  # from 0 it is 3
    assert read("2", counts, [("4", counts)]) == ("B", Form.TEXT)  # which is no place from 0; from 1 it is the same
    assert read("2", ("2", "1", "3"), [("3", ("2", "1", "3"))]) == "answer_number_unclear"
    assert read("20", ("10", "20", "30")) == ("B", Form.TEXT)
    assert read("2", ("4", "2", "8"), [("8", ("4", "2", "8"))]) == ("B", Form.TEXT)


def test_a_letter_that_is_another_option_s_text_is_read_as_the_other_rows_are():
    elements = ("C", "N", "O", "H")
    assert read("C", elements) == "answer_unclear"
    assert read("C", elements, [("A", elements)]) == ("C", "")
    assert read("C", elements, [("O", elements), ("beta", PHASES)]) == ("A", Form.TEXT)
    assert read("C", elements, [("A", PHASES), ("beta", PHASES)]) == "answer_unclear"
    assert read("A", ("A", "B", "both")) == ("A", "")


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_table_that_says_it_in_one_way_is_read_in_another(data):
    options = st.lists(st.text("ABCab012 .", min_size=1, max_size=3), min_size=2, max_size=5).map(
        lambda texts: tuple(" ".join(text.split()) for text in texts)
    )
    rows = []
    form = data.draw(st.sampled_from(list(Form)))
    for texts in data.draw(st.lists(options, min_size=1, max_size=6)):
        try:
            check_options(texts)
        except RejectedError:
            continue
        place = data.draw(st.integers(0, len(texts) - 1))
        letter = "ABCDE"[place]
        said = {Form.LETTER: letter, Form.TEXT: texts[place], Form.FROM_0: str(place), Form.FROM_1: str(place + 1)}[
            form
        ]
        rows.append((said, texts, letter))
    forms = Forms(lambda: [(said, texts) for said, texts, _ in rows])
    for said, texts, letter in rows:
        try:
            found, _ = gold.letter(said, texts, forms)
        except RejectedError as error:
            assert "unclear" in str(error) or form is Form.TEXT
        else:
            assert found == letter


@pytest.mark.parametrize(("first", "how"), [(0, "answer_by_number_from_0"), (1, "answer_by_number_from_1")])
def test_a_table_of_numbers_is_read_by_what_all_of_its_rows_say(tmp_path, first, how):
    rows = [
        {"image": "x.png", "question": f"Q{n}?", "options": list(PHASES), "answer": first + n % 4, "split": "train"}
        for n in range(8)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    candidates = list(source.candidates(source.find(SourceConfig(), str(tmp_path))))
    assert [candidate.gold for candidate in candidates] == list("ABCDABCD")
    assert {candidate.read_as for candidate in candidates} == {(how,)}
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:3]))
    candidates = list(source.candidates(source.find(SourceConfig(), str(tmp_path))))
    assert [candidate.reason for candidate in candidates] == ["answer_number_unclear"] * 2
