from types import SimpleNamespace

import pytest

from infra.errors import InputError
from pipelines import examples, tables
from pipelines.records import Question, TrainingExample, Verdict
from pipelines.verification import verify
from tests.pipelines.fixtures import put, question, rationale


def compose(tmp_path, *asked):
    """Run the stage on accepted rationales about these questions; the draft that it wrote."""
    verdicts = [verify(rationale("Round.\nAnswer: cast (B)", question_id=q.id), q) for q in asked]
    inputs = {
        "questions": put(tmp_path, "questions", lambda d: tables.write(d, Question, asked)),
        "verdicts": put(tmp_path, "verdicts", lambda d: tables.write(d, Verdict, verdicts)),
    }
    draft = tmp_path / "draft"
    draft.mkdir()
    examples.run(SimpleNamespace(config=SimpleNamespace(arms=("answer_only",)), inputs=inputs, draft=draft))
    return draft


def test_an_example_has_all_images_of_its_question(tmp_path):
    both = question(images=("images/0.zip/a.png", "images/1.zip/b.png"), image_digests=("a", "b"))
    (example,) = tables.read(compose(tmp_path, both), TrainingExample)
    assert (example.images, example.image_digests) == (both.images, both.image_digests)


def test_nothing_is_written_when_a_question_for_evaluation_alone_would_teach(tmp_path):
    held = question(id="q2", source="MedXpertQA", file="MM/dev.jsonl", evaluation_only=True)
    with pytest.raises(InputError, match=r"q2 of MedXpertQA MM/dev\.jsonl is for evaluation alone"):
        compose(tmp_path, question(), held)
    assert list((tmp_path / "draft").iterdir()) == []


def test_a_question_for_evaluation_alone_may_stand_beside_those_that_teach(tmp_path):
    verdict = verify(rationale("Round.\nAnswer: cast (B)"), question())
    held = question(id="q2", split="test", evaluation_only=True)
    inputs = {
        "questions": put(tmp_path, "questions", lambda d: tables.write(d, Question, [question(), held])),
        "verdicts": put(tmp_path, "verdicts", lambda d: tables.write(d, Verdict, [verdict])),
    }
    examples.run(SimpleNamespace(config=SimpleNamespace(arms=("answer_only",)), inputs=inputs, draft=tmp_path))
    assert len(tables.read(tmp_path, TrainingExample)) == 1
