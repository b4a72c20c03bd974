"""The files that questions are looked through in."""

import json
import re

import pytest
from PIL import Image

from pipelines.report import browser
from tests.pipelines.fixtures import put_questions, showing
from tests.pipelines.report.reports import answered, asked, sheets

HOSTILE = "</script><img src=x onerror=alert(1)><!-- \u2028"
PATHS = [f"images/0.zip/{n}.png" for n in range(2)]


@pytest.fixture
def write(tmp_path):
    """Writes the files about questions of two sets; what is to know about them, the index, and all chunks."""
    pictures = {path: Image.new("RGB", (4, 4), (n, 0, 0)) for n, path in enumerate(PATHS)}
    questions = [
        showing(q, pictures)
        for file, path in zip(("1.csv", "2.csv"), PATHS, strict=True)
        for q in asked(("s", file, 30, ("",)), text=HOSTILE, images=(path,), image_digests=(path,))
    ]
    folder = put_questions(tmp_path, questions, pictures).path
    (tmp_path / "report").mkdir()

    def written(shown=questions, **about):
        rows = answered(questions, "AB" * 30, text=HOSTILE, **about)
        rows += answered(questions[30:], "AB" * 15, arm="answer_only", text="x" * 2000)
        rows += answered(questions[:2], "BB", rotation=1)
        own = {q.id: q for q in shown}
        told = browser.write(tmp_path / "report", folder, own, rows, sheets(questions, rows), None)
        scripts = {path.name: path.read_text("ascii") for path in (tmp_path / "report/browser").iterdir()}
        index = json.loads(re.fullmatch(r"flips\.begin\((.*)\);\n", scripts.pop("index.js"))[1])
        chunks = [
            json.loads(re.fullmatch(r"flips\.take\(\d+, (.*)\);\n", scripts[name])[1]) for name in sorted(scripts)
        ]
        return told, index, chunks

    written.folder, written.questions = tmp_path / "report", questions
    return written


def test_each_question_lies_where_its_row_says_with_every_answer_in_its_column(write):
    told, index, chunks = write()
    assert told == {"shown": 60, "of": 60, "without_room": 0, "most_characters": 1500}
    assert [len(chunk) for chunk in chunks] == [40, 20]
    assert [each["columns"] for each in index["sets"]] == [["zero shot"], ["zero shot", "answer only"]]
    for row, (number, question_id, pattern) in enumerate(index["rows"]):
        question = chunks[row // index["atOnce"]][row % index["atOnce"]]
        assert question["id"] == question_id
        assert len(question["answers"]) == len(pattern) == len(index["sets"][number]["columns"])
        assert [letter == question["gold"] for letter, *_ in question["answers"]] == [each == "r" for each in pattern]
        (path,) = question["images"]
        with Image.open(write.folder / path) as image:
            assert image.size == (4, 4)
    assert chunks[1][-1]["answers"][1][2:] == ["x" * 1500, 2000]


def test_hostile_text_ends_no_script_and_comes_back_as_it_was(write):
    _, _, chunks = write()
    for path in (write.folder / "browser").iterdir():
        text = path.read_text("ascii")
        assert "<" not in text
        assert "\u2028" not in text
    assert chunks[0][0]["text"] == chunks[0][0]["answers"][0][2] == HOSTILE


def test_what_finds_no_room_is_left_out_and_told(write, monkeypatch):
    monkeypatch.setattr(browser, "MOST_TEXT_BYTES", 5000)
    monkeypatch.setattr(browser, "MOST_IMAGE_BYTES", 0)
    told, index, chunks = write()
    assert 5 < told["shown"] == len(index["rows"]) == len(chunks[0]) < 20
    assert told["without_room"] == told["shown"]
    assert {path for question in chunks[0] for path in question["images"]} == {None}


def test_a_failed_request_says_why(write):
    _, _, chunks = write(status="failed", error="timeout")
    assert chunks[0][0]["answers"][0][2] == "failed: timeout"


def test_each_picture_is_stored_once(write):
    write()
    assert len(list((write.folder / "images").iterdir())) == 2


def test_without_questions_there_is_an_index_all_the_same(write):
    told, index, chunks = write(shown=[])
    assert (told["shown"], index["rows"], chunks) == (0, [], [])
