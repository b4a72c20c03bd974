"""A user's own folder and the pocket recipe: the worst that its models can do, which is to say nothing, still ends in a
report that says what it is."""

import json

import numpy as np
import pytest
from PIL import Image

from infra import manifest
from pipelines.inference import prompts
from pipelines.records import Question, Split, TrainingExample, tables
from tests.flow.conftest import run

PLAN = ("zero_shot/real", "answer_only/real", "answer_only/shuffled", "teacher/real")
SETTINGS = (
    "teach.max_tokens=1",  # so that nothing is accepted, whatever the models would have said
    "fit.num_steps=2",
    "deploy.port=8126",
    f"examination.plan={json.dumps(PLAN)}",
    *(f'{stage}.arms=["answer_only"]' for stage in ("compose", "fit", "deploy", "report")),
)


def write(folder):
    """Six questions: of one image and of several, with two to five options, one of them answered by its text."""
    (folder / "images").mkdir(parents=True)
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((360, 270)).save(folder / f"images/{number}.jpg")
    rows = [
        {"image": "images/0.jpg", "question": "Which phase is this?", "options": ["alpha", "beta"], "answer": "A"},
        {
            "images": ["images/1.jpg", "images/2.jpg"],
            "question": "What differs?",
            "options": ["grains", "pores", "T2*"],
        },
        {"image": "images/2.jpg", "question": "How large is it?", "options": ["> 5 mm", "< 5 mm"], "answer": "A"},
        {"image": "images/3.jpg", "question": "Which one?", "options": ["α", "β", "γ", "δ", "ε"], "answer": "γ"},
        {"image": "images/4.jpg", "question": "Is there a crack?", "options": ["yes", "no"], "answer": "B"},
        {
            "images": ["images/5.jpg", "images/6.jpg", "images/7.jpg"],
            "question": "Which is it?",
            "options": ["1", "-1"],
        },
    ]
    for number, row in enumerate(rows):
        row.setdefault("answer", "B")
        row["split"] = "train" if number < 4 else "test"
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """The run's folder; how a run ended that bears few failures, and one that was then given the recipe's own."""
    folder = tmp_path_factory.mktemp("own")
    settings = (f"questions.folder={write(folder / 'mine')}", *SETTINGS)
    failed = run("pipelines.flow", folder / "runs/r", *settings, "teach.max_failed_share=0.1")
    return folder / "runs/r", failed, run("pipelines.flow", folder / "runs/r", *settings)


def test_an_error_of_the_teacher_is_its_own_words_and_no_noise_of_engines(own_run):
    _, failed, _ = own_run
    told = failed.output[failed.output.index("flow: error: ") :].splitlines()
    assert failed.code == 1
    assert "requests failed (truncated" in told[0]
    assert "--set teach.max_failed_share=" in told[0]
    assert told[1].startswith("The whole log is ")
    assert len(told) == 2
    assert "nanobind" not in (own_run[0] / "logs/teach.log").read_text()


def test_a_folder_of_one_s_own_comes_to_its_report(own_run):
    run_dir, _, finished = own_run
    assert finished.code == 0, finished.output
    assert "flow: draw is not needed" in finished.output
    asked = tables.read(run_dir / "questions", Question)
    tally = manifest.find(run_dir / "questions").tally
    assert tally["rows"]["read"] == len(asked) + sum(tally["reasons"].values()) == 6
    assert {len(question.images) for question in asked} == {1, 2, 3}
    taught = {q.id: q for q in asked if q.split == Split.TRAIN}
    examples = tables.read(run_dir / "examples/answer_only", TrainingExample)
    assert [e.target for e in examples] == [prompts.target(question, None) for question in taught.values()]
    assert manifest.find(run_dir / "adapters/answer_only").tally["rows"]["trained_on"] == len(taught)


def test_its_report_says_whose_questions_these_are_and_what_the_figures_mean(own_run):
    run_dir, _, _ = own_run
    report = json.loads((run_dir / "report/report.json").read_text())
    page = (run_dir / "report/index.html").read_text()
    assert report["title"] == "Preceptor, mine"
    assert "<h1>Preceptor, mine</h1>" in page
    assert {entry["source"] for entry in report["examination"]} == {"own"}
    assert [(e["arm"], e["condition"], e["asked"]) for e in report["examination"]] == [
        (*entry.split("/"), 2) for entry in PLAN
    ]
    none_accepted, on_models, *others = report["notes"]
    assert "No rationale of the teacher was accepted" in none_accepted
    assert "two million parameters" in on_models
    assert "nothing about the questions" in on_models
    assert [note for note in others if "drawn" in note or "pocket" in note] == []
