import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from pipelines.questions.candidates import MAX_CHARACTERS, Candidate, Origin, RejectedError
from pipelines.questions.sources import matcha

HERE = Origin(source="MatCha", file="matcha_vqa_inputs.jsonl", row=3)


def asked(**changes) -> dict:
    question = {
        "question": "Which technique made this image?\nA) SEM\nB) TEM\nC) XRD",
        "answer": "B",
        "options": {"A": "SEM", "B": "TEM", "C": "XRD"},
        "topic": "Characterization Technique Identification",
    }
    return question | changes


def record(*questions, **changes) -> dict:
    made = {
        "id": "r1",
        "vqa": list(questions) or [asked()],
        "images": [{"classification": "SEM", "image_path": "a/Fig 1.TIF", "geometry": None}],
        "article_info": {"article_name": "n", "title": "t", "article_url": "https://x/1"},
    }
    return made | changes


def read(row: dict) -> list[Candidate]:
    return list(matcha.candidates(row, HERE))


def test_each_question_of_a_record_is_one_of_its_own():
    first, second = read(record(asked(), asked(answer="C", topic="Phase Analysis")))
    assert (first.gold, second.gold, first.row, second.row) == ("B", "C", 3, 3)
    assert (first.stratum, second.stratum) == ("Processing Correlation", "Structure Analysis")
    assert first.options == ("SEM", "TEM", "XRD")
    assert (first.split, first.evaluation_only, first.stretch_tiff) == ("test", True, True)
    assert (first.images, first.article, first.figure) == (("a/Fig 1.TIF",), "https://x/1", "fig 1")


def test_there_are_21_topics_in_four_stages():
    topics = [topic for topics in matcha.STAGES.values() for topic in topics]
    assert (len(matcha.STAGES), len(topics), len(set(topics))) == (4, 21, 21)
    for stage, its_topics in matcha.STAGES.items():
        for topic in its_topics:
            (candidate,) = read(record(asked(topic=topic)))
            assert (candidate.stratum, candidate.topic) == (stage, topic)


@pytest.mark.parametrize("topic", ["Termal Analysis", "", None, 3])
def test_an_unknown_topic_is_an_error_that_names_row_and_value(topic):
    with pytest.raises(InputError, match=r"record 3: .*is none of MatCha's 21 topics"):
        read(record(asked(topic=topic)))


@pytest.mark.parametrize("count", [2, 3, 5, 6, 26])
def test_any_number_of_options_is_read_in_letter_order(count):
    letters = [chr(65 + n) for n in range(count)]
    (candidate,) = read(
        record(asked(options={letter: f"o{letter}" for letter in reversed(letters)}, answer=letters[-1]))
    )
    assert candidate.options == tuple(f"o{letter}" for letter in letters)
    assert candidate.gold == letters[-1]


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("Which?\nA) SEM\nB) TEM\nC) XRD", "Which?"),
        ("Which? Options: A. SEM, B. TEM, C. XRD.", "Which?"),
        ("Which? (A) SEM; (B) TEM; (C) XRD", "Which?"),
        ("Which of SEM, TEM, XRD?", "Which of SEM, TEM, XRD?"),
        ("A) SEM is shown. Which?\nA) SEM\nB) TEM\nC) XRD", "A) SEM is shown. Which?"),
        ("Which?\nA) SEM\nB) XRD\nC) TEM", "Which?\nA) SEM\nB) XRD\nC) TEM"),
        ("Which?\nA) SEM\nB) TEM", "Which?\nA) SEM\nB) TEM"),
        ("What gives such spectra: SEM\nB: TEM\nC: XRD", "What gives such spectra: SEM\nB: TEM\nC: XRD"),
    ],
)
def test_options_are_taken_off_the_question_where_all_of_them_stand_at_its_end(text, alone):
    (candidate,) = read(record(asked(question=text)))
    assert candidate.text == alone


@pytest.mark.parametrize(
    ("geometry", "crop"),
    [
        (None, ""),
        ([], ""),
        ([{"x": 5, "y": 1}, {"x": 1.5, "y": 9}, {"x": 3, "y": 3}], "1.5,1,5,9"),
        ([{"x": -20, "y": -3}, {"x": 1e4, "y": 7}], "-20,-3,10000,7"),
        ([{"x": 10234.96, "y": 0}, {"x": 1234567, "y": "7.5"}], "10234.96,0,1234567,7.5"),
    ],
)
def test_a_geometry_is_its_bounding_box(geometry, crop):
    (candidate,) = read(record(images=[{"image_path": "a.png", "geometry": geometry}]))
    assert candidate.crops == (crop,)


@pytest.mark.parametrize(
    "geometry",
    [[{"x": "left", "y": 1}], [{"x": 1}], [[1, 2]], "box", 7, {}, [{"x": math.nan, "y": 0}], [{"x": None, "y": 1}]],
)
def test_a_geometry_that_is_none_is_a_reason(geometry):
    (candidate,) = read(record(images=[{"image_path": "a.png", "geometry": geometry}]))
    assert (candidate.status, candidate.reason) == ("rejected", "geometry_unreadable")


def test_several_images_keep_their_order_and_their_crops():
    images = [
        {"image_path": "b.png", "geometry": [{"x": 0, "y": 0}, {"x": 4, "y": 4}]},
        {"image_path": "images/a.png", "geometry": None},
    ]
    (candidate,) = read(record(images=images))
    assert (candidate.images, candidate.crops) == (("b.png", "images/a.png"), ("0,0,4,4", ""))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "D"}, "answer_is_no_option"),
        ({"answer": None}, "answer_is_no_option"),
        ({"options": {"A": "x"}, "answer": "A"}, "too_few_options"),
        ({"options": {"A": "x", "C": "y"}}, "option_letters_have_gaps"),
        ({"options": {"A": "x", "B": "X"}}, "options_repeated"),
        ({"options": {"A": "x", "B": 3}}, "options_missing"),
        ({"options": ["x", "y"]}, "options_missing"),
        ({"question": ""}, "question_missing"),
    ],
)
def test_a_bad_question_is_rejected_and_the_record_s_others_are_not(change, reason):
    bad, good = read(record(asked(**change), asked()))
    assert (bad.status, bad.reason) == ("rejected", reason)
    assert not good.status


@pytest.mark.parametrize("answer", ["B", " b\r\n", "(B)", "B."])
def test_an_answer_is_its_letter_however_it_is_set(answer):
    assert read(record(asked(answer=answer)))[0].gold == "B"


def test_letters_that_a_question_does_not_use_may_be_null():
    options = {"A": "SEM", "B": "TEM", "C": "XRD", "D": None, "E": None}
    assert read(record(asked(options=options)))[0].options == ("SEM", "TEM", "XRD")


@pytest.mark.parametrize("images", [None, [], ["a.png"], [{"image_path": ""}], [{"image_path": 3}]])
def test_a_record_without_images_rejects_each_of_its_questions(images):
    assert [candidate.reason for candidate in read(record(asked(), asked(), images=images))] == ["image_missing"] * 2


def test_an_unknown_topic_is_an_error_also_where_the_image_is_missing():
    with pytest.raises(InputError, match="is none of MatCha's 21 topics"):
        read(record(asked(topic="Termal Analysis"), images=[]))


@pytest.mark.parametrize("vqa", [[], None, "x", {}])
def test_a_record_without_questions_is_one_rejected_row(vqa):
    with pytest.raises(RejectedError, match="no_question_in_record"):
        read(record() | {"vqa": vqa})


@pytest.mark.parametrize("info", [None, "x", {}, {"article_url": 3}])
def test_an_article_may_be_unknown(info):
    (candidate,) = read(record(article_info=info))
    assert candidate.article == ""


def test_an_article_is_called_by_the_first_name_that_says_something():
    (candidate,) = read(record(article_info={"article_url": " ", "article_name": "n", "title": "t"}))
    assert candidate.article == "n"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=500)
@given(st.data())
def test_any_json_in_any_field_gives_a_sound_question_or_a_reason(data):
    field = data.draw(st.sampled_from(["question", "answer", "options", "vqa", "images", "article_info", "geometry"]))
    value = data.draw(JSON)
    if field == "geometry":
        row = record(images=[{"image_path": "a.png", "geometry": value}])
    else:
        row = record(asked(**{field: value})) if field in asked() else record() | {field: value}
    try:
        candidates = read(row)
    except (RejectedError, InputError):  # InputError: a question whose topic is none
        return
    Candidate.table(candidates)
    for candidate in candidates:
        assert candidate.status or candidate.gold in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(candidate.options)]


def test_no_text_makes_the_search_for_options_slow():
    started = time.perf_counter()
    for unit in (" ", "\n", "A", "A) ", ";", "(", "options:", "A) SEM "):
        read(record(asked(question=unit * (MAX_CHARACTERS // len(unit)))))
    assert time.perf_counter() - started < 20  # a quadratic search takes minutes


def test_a_record_of_giant_options_or_of_many_corners_and_questions_is_read_in_bounded_time():
    started = time.perf_counter()
    (candidate,) = read(record(asked(options={"A": "w " * 2_000_000, "B": "x"})))
    assert candidate.reason == "text_too_long"
    corners = [{"x": 1, "y": 2}, {"x": 3, "y": 4}] * 50_000
    assert len(read(record(*[asked()] * 3000, images=[{"image_path": "a.png", "geometry": corners}]))) == 3000
    assert time.perf_counter() - started < 20  # minutes where each question reads all corners again
