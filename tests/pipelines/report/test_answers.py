from pipelines.records import Prediction, Question, tables
from pipelines.report import answers
from tests.pipelines.fixtures import prediction, question

ROWS = [prediction("AB"[n % 2], question_id=f"q{n}", mistake="C" if n else None, text="x" * n) for n in range(5)]


def test_what_statistics_take_is_what_the_predictions_say(tmp_path):
    tables.write(tmp_path, Prediction, ROWS)
    found = list(answers.without_texts(tmp_path))
    assert [each._asdict() for each in found] == [
        {name: getattr(row, name) for name in answers.Answered._fields} for row in ROWS
    ]


def test_only_the_answers_to_the_questions_named_are_read(tmp_path):
    tables.write(tmp_path, Prediction, ROWS)
    assert list(answers.to(tmp_path, {"q3", "q1", "other"})) == [ROWS[1], ROWS[3]]
    assert list(answers.to(tmp_path, set())) == []


def test_questions_are_found_by_their_ids(tmp_path):
    own = [question(id=f"q{n}") for n in range(3)]
    tables.write(tmp_path, Question, own)
    assert answers.questions(tmp_path, {"q2"}) == {"q2": own[2]}
    assert answers.questions(tmp_path, set()) == {}
