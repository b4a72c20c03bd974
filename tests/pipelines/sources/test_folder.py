import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from infra.errors import InputError
from pipelines import images
from pipelines.records import Question
from pipelines.sources import folder

GOOD = {"image": "images/1.png", "question": "What?", "options": ["x", "y"], "answer": "B", "split": "train"}


@pytest.fixture
def source(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "images/1.png")
    (tmp_path / "images/2.png").write_bytes(b"no image")
    (tmp_path / "outside.txt").write_text("secret")
    return tmp_path


def test_a_good_row_is_a_question_with_its_image(source):
    made, data = folder.question(json.dumps(GOOD), source, "mine")
    assert (made.text, made.options, made.gold, made.split, made.stratum) == ("What?", ("x", "y"), "B", "train", "")
    assert data == (source / "images/1.png").read_bytes()
    assert made.image_digest in made.image


def test_the_same_row_has_the_same_id_and_another_image_another(source):
    first, _ = folder.question(json.dumps(GOOD), source, "mine")
    again, _ = folder.question(json.dumps(GOOD), source, "mine")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(source / "images/1.png")
    other, _ = folder.question(json.dumps(GOOD), source, "mine")
    assert first.id == again.id != other.id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "C"}, "answer_is_no_option"),
        ({"answer": ""}, "answer_missing"),
        ({"answer": "AB"}, "answer_is_no_option"),
        ({"image": "images/\0.png"}, "missing_image"),
        ({"question": "\ud800"}, "line_is_no_json"),
        ({"options": ["x"]}, "options_too_few_or_repeated"),
        ({"options": ["x", "x"]}, "options_too_few_or_repeated"),
        ({"options": "xy"}, "options_missing"),
        ({"split": "dev"}, "unknown_split"),
        ({"question": None}, "question_missing"),
        ({"image": "../outside.txt"}, "image_outside_folder"),
        ({"image": "/etc/passwd"}, "image_outside_folder"),
        ({"stratum": 3}, "stratum_is_no_text"),
    ],
)
def test_a_bad_row_is_rejected_with_its_reason(source, change, reason):
    with pytest.raises((folder.RejectedError, images.UnreadableImageError), match=reason):
        folder.question(json.dumps(GOOD | change), source / "images/..", "mine")


@pytest.mark.parametrize("line", ["[" * 200_000, '{"image": ' + "9" * 5_000 + "}"])
def test_a_line_made_to_break_the_parser_is_rejected(source, line):
    with pytest.raises(folder.RejectedError, match="line_is_no_json"):
        folder.question(line, source, "mine")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.none() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=3)))
def test_any_value_in_any_field_gives_a_question_or_a_reason(source, field, value):
    try:
        made, _ = folder.question(json.dumps(GOOD | {field: value}), source, "mine")
    except (folder.RejectedError, images.UnreadableImageError):
        return
    assert made.gold in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(made.options)]
    Question.table([made])


@pytest.mark.parametrize(
    ("name", "reason"),
    [("images/2.png", "not_an_image"), ("images/3.png", "missing_image"), ("images", "missing_image")],
)
def test_an_image_that_cannot_be_read_has_its_reason(source, name, reason):
    with pytest.raises(images.UnreadableImageError, match=reason):
        folder.question(json.dumps(GOOD | {"image": name}), source, "mine")


def test_a_link_out_of_the_folder_is_refused(source, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.png"
    Image.new("RGB", (8, 8)).save(elsewhere)
    (source / "images/link.png").symlink_to(elsewhere)
    with pytest.raises(folder.RejectedError, match="image_outside_folder"):
        folder.question(json.dumps(GOOD | {"image": "images/link.png"}), source, "mine")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=80) | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
def test_parsing_any_line_gives_a_question_or_a_reason(source, line):
    with pytest.raises((folder.RejectedError, images.UnreadableImageError)):
        folder.question(line, source, "mine")


def test_a_folder_without_a_table_says_what_to_write(tmp_path):
    with pytest.raises(InputError, match=r"questions\.jsonl is not there"):
        list(folder.rows(tmp_path))
