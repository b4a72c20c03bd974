import json

import pytest
from PIL import Image

from infra import stage
from infra.errors import InputError
from infra.progress import Progress
from pipelines import questions, tables
from pipelines.recipes import QuestionsConfig
from pipelines.records import Question, Split


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "mine"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(6):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"images/{number}.png")
        row = {"image": f"images/{number}.png", "question": "Q?", "options": ["x", "y"], "answer": "A", "split": "test"}
        rows.append(row | ({"split": "train"} if number < 4 else {}))
    rows.append(rows[0])
    rows.append(rows[0] | {"answer": "Z"})
    rows.append(rows[0] | {"image": "images/none.png"})
    (folder / "questions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def sealed(source, run_dir, **settings):
    config = QuestionsConfig(source_name="mine", folder=str(source), **settings)
    return stage.carry_out(config, run_dir, Progress("questions"))["questions"]


def test_every_row_is_a_question_or_counted_with_its_reason(source, tmp_path):
    tally = sealed(source, tmp_path / "runs/r").tally
    assert tally["rows"] == {"read": 9, "questions": 6, "train": 4, "test": 2}
    assert tally["reasons"] == {"duplicate": 1, "answer_is_no_option": 1, "missing_image": 1}
    assert tally["rows"]["read"] == tally["rows"]["questions"] + sum(tally["reasons"].values())


def test_the_artifact_holds_all_that_later_stages_need(source, tmp_path):
    artifact = sealed(source, tmp_path / "runs/r")
    for question in tables.read(artifact.path, Question):
        assert (artifact.path / question.image).is_file()
    assert len(questions.of_split(artifact.path, Split.TRAIN)) == 4


def test_a_limit_reads_the_first_rows_only(source, tmp_path):
    assert sealed(source, tmp_path / "runs/r", limit=3).tally["rows"]["read"] == 3


def test_the_same_files_give_the_same_digest_in_two_runs(source, tmp_path):
    assert sealed(source, tmp_path / "runs/a").digest == sealed(source, tmp_path / "runs/b").digest


def test_a_source_without_any_question_is_an_error_with_the_reasons(source, tmp_path):
    (source / "questions.jsonl").write_text("not json\n")
    with pytest.raises(InputError, match="line_is_no_json"):
        sealed(source, tmp_path / "runs/r")
