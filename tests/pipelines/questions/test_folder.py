import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.questions.candidates import Candidate, Origin, RejectedError
from pipelines.questions.sources import folder
from pipelines.questions.table_readers.json_reader import Number
from tests.pipelines.questions.test_matcha import JSON

HERE = Origin(source="own", file="questions.jsonl", row=1)
GOOD = {"image": "images/1.png", "question": "Which?\nLook.", "options": ["x", "y"], "answer": "B", "split": "train"}


def read(row, origin=HERE) -> Candidate:
    (candidate,) = folder.candidates(row, origin)
    return candidate


def refused(row) -> str:
    with pytest.raises(RejectedError) as error:
        read(row)
    return str(error.value)


def test_a_row_becomes_a_question_with_all_that_it_says():
    candidate = read(GOOD | {"stratum": "s", "caption": "c", "figure": "f", "article": "a"})
    assert (candidate.images, candidate.text, candidate.options, candidate.gold) == (
        ("images/1.png",),
        "Which?\nLook.",
        ("x", "y"),
        "B",
    )
    assert (candidate.split, candidate.stratum, candidate.caption, candidate.figure, candidate.article) == (
        "train",
        "s",
        "c",
        "f",
        "a",
    )


@pytest.mark.parametrize(
    "options",
    [
        {"options": ["x", "y", "z"]},
        {"options": json.dumps(["x", "y", "z"])},
        {"options": "", "option_A": "x", "option_B": "y", "option_C": "z", "option_D": ""},
        {"options": None, "Option_b": "y", "option_a": "x", "OPTION_C": " z "},
    ],
)
def test_options_are_a_list_its_json_or_columns(options):
    row = {name: value for name, value in GOOD.items() if name != "options"} | options
    assert read(row).options == ("x", "y", "z")


@pytest.mark.parametrize(
    ("options", "texts", "read_as"),
    [
        ([1, 2.5, 10**18], ("1", "2.5", str(10**18)), ("options_that_are_numbers",)),
        (json.loads("[0.10, 1e5]", parse_float=Number), ("0.10", "1e5"), ("options_that_are_numbers",)),
        ("[0.10, 1e5]", ("0.10", "1e5"), ("options_that_are_numbers",)),
        ({"B": "y", "A": "x", "C": None}, ("x", "y"), ("options_by_letter",)),
        ('{"a": "x", "b": "y"}', ("x", "y"), ("options_by_letter",)),
        ("['it\\'s', \"a 'b'\", 3]", ("it's", "a 'b'", "3"), ("options_as_a_python_list",)),
        (repr(["a\\b", "both '\"", "x\ty"]), ("a\\b", "both '\"", "x y"), ("options_as_a_python_list",)),
        (["A. x", "B) y", "(C) z"], ("x", "y", "z"), ("options_with_their_letters",)),
        (["A. x", "C. y"], ("A. x", "C. y"), ()),
        (["A. x", "y"], ("A. x", "y"), ()),
        (["A.", "B."], ("A.", "B."), ()),
    ],
)
def test_options_are_read_where_they_are_certain_and_what_was_done_is_counted(options, texts, read_as):
    candidate = read(GOOD | {"options": options})
    assert (candidate.options, candidate.gold, candidate.read_as) == (texts, "B", read_as)


def test_columns_of_numbers_are_options():
    candidate = read(GOOD | {"options": None, "Option A": 5, "option-b": 6, "OPTION_C": None})
    assert (candidate.options, candidate.read_as) == (("5", "6"), ("options_that_are_numbers",))


@pytest.mark.parametrize(
    ("said", "split"),
    [("Training", "train"), ("val", "validation"), ("VALID", "validation"), ("dev", "validation"), ("testing", "test")],
)
def test_a_split_of_another_name_is_taken_and_counted(said, split):
    candidate = read(GOOD | {"split": said})
    assert (candidate.split, candidate.read_as) == (split, (f"split_{said.casefold()}_as_{split}",))


def test_a_field_in_another_spelling_is_the_same_field_unless_the_very_name_is_there_too():
    renamed = {name.title(): value for name, value in GOOD.items()}
    assert read(renamed) == read(GOOD)
    assert read(GOOD | {"Image": "other.png"}).images == ("images/1.png",)
    assert refused({"Image": "a.png"} | {"IMAGE": "b.png"} | {k: v for k, v in GOOD.items() if k != "image"}) == (
        "columns_repeated"
    )


@pytest.mark.parametrize("images", [["a.png", "b.png"], '["a.png", "b.png"]'])
def test_several_images_are_a_list_or_its_json(images):
    assert read(GOOD | {"images": images}).images == ("a.png", "b.png")


def test_blanks_around_an_image_s_name_a_letter_or_a_split_do_not_count():
    candidate = read(GOOD | {"image": " images/1.png ", "answer": " b ", "split": "Train "})
    assert (candidate.images, candidate.gold, candidate.split) == (("images/1.png",), "B", "train")


def test_a_recipe_s_split_stands_over_the_table_s():
    assert read(GOOD, Origin(source="own", file="f", row=1, split="test")).split == "test"
    assert read({k: v for k, v in GOOD.items() if k != "split"}, Origin(source="o", file="f", row=1, split="test"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": None}, "image_missing"),
        ({"image": 3}, "image_is_no_text"),
        ({"images": "a.png"}, "images_are_no_list"),
        ({"images": ["a.png", 3]}, "images_are_no_list"),
        ({"images": ["a.png"] * 33}, "too_many_images"),
        ({"question": " "}, "question_missing"),
        ({"question": ["?"]}, "question_is_no_text"),
        ({"options": None}, "options_missing"),
        ({"options": ["x"]}, "too_few_options"),
        ({"options": [str(n) for n in range(27)]}, "too_many_options"),
        ({"options": ["x", " "]}, "option_missing"),
        ({"options": ["x", "X"]}, "options_repeated"),
        ({"options": "x|y"}, "options_are_no_list"),
        ({"options": "[" * 100_000}, "options_are_no_list"),
        ({"options": None, "option_A": True, "option_B": 6}, "option_is_no_text"),
        ({"options": ["x", None]}, "options_are_no_list"),
        ({"options": [1.5, float("nan")]}, "options_are_no_list"),
        ({"options": [1, True]}, "options_are_no_list"),
        ({"options": "['x' 'y']"}, "options_are_no_list"),
        ({"options": "['x', open('y')]"}, "options_are_no_list"),
        ({"options": {"A": "x", "C": "y"}}, "option_letters_have_gaps"),
        ({"options": {"A": "x", "a": "y"}}, "options_repeated"),
        ({"image": None, "Image": "a", "IMAGE ": "b"}, "image_missing"),
        ({"image": "data:image/png;base64,iVBORw0KGgo="}, "image_is_inline"),
        ({"image": {"bytes": b"x", "path": None}}, "image_is_inline"),
        ({"options": None, "option_A": "x", "option_a": "y"}, "options_repeated"),
        ({"options": None, "option_A": "x", "option_B": "y", "option_D": "z"}, "option_letters_have_gaps"),
        ({"options": None, "option_A": "x", "option_B": "", "option_C": "z"}, "option_missing"),
        ({"options": None, "option_A": "", "option_B": ""}, "options_missing"),
        ({"answer": "C"}, "answer_is_no_option"),
        ({"answer": "z"}, "answer_is_no_option"),
        ({"answer": "A, B"}, "answer_is_no_option"),
        ({"answer": "AB"}, "answer_is_no_option"),
        ({"answer": True}, "answer_is_no_text"),
        ({"answer": ["B"]}, "answer_is_no_text"),
        ({"answer": "A. y"}, "label_contradicts_answer"),
        ({"answer": 1}, "answer_number_unclear"),
        ({"options": ["B", "A"]}, "answer_unclear"),
        ({"answer": None}, "answer_missing"),
        ({"split": "eval"}, "unknown_split"),
        ({"split": "train/test"}, "unknown_split"),
        ({"split": None}, "split_missing"),
        ({"stratum": [3]}, "stratum_is_no_text"),
        ({"caption": "<|image_pad|>"}, "chat_markup_in_text"),
    ],
)
def test_a_row_that_is_no_question_is_refused_with_the_reason(change, reason):
    assert refused(GOOD | change) == reason


@settings(max_examples=500)
@given(st.sampled_from([*GOOD, "images", "caption", "figure", "option_A"]), JSON)
def test_any_json_in_any_field_gives_a_sound_question_or_a_reason(field, value):
    try:
        candidate = read(GOOD | {field: value})
    except RejectedError:
        return
    (again,) = (Candidate.from_dict(row) for row in Candidate.table([candidate]).to_pylist())
    assert again == candidate
    assert candidate.gold in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(candidate.options)]
    assert all(option and "\n" not in option for option in candidate.options)
