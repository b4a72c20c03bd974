import base64
import io
import json

import pytest
from PIL import Image

from infra import manifest, stage
from infra.errors import ClusterError, InputError
from infra.manifest import Artifact, Tally
from infra.progress import Progress
from pipelines import endpoint, evaluation, fakes, report, tables
from pipelines.endpoint import Endpoint, ServedModel
from pipelines.recipes import ExamineConfig, QuestionsConfig, ReportConfig
from pipelines.records import Arm, Prediction, Rationale, TrainingExample, Verdict
from pipelines.verification import verify
from tests.pipelines.fixtures import question, rationale

ADAPTER = "adapters/rationale_then_answer"
CONFIG = ExamineConfig(
    plan=(
        "zero_shot/real",
        "rationale_then_answer/real",
        "rationale_then_answer/blank",
        "rationale_then_answer/shuffled",
    )
)
NUM_TEST = 6


def put(run_dir, name, write) -> Artifact:
    with manifest.draft(run_dir / name) as draft:
        write(draft)
        origin = {"stage": "s", "contract": 1, "config": {}, "inputs": {}, "materials": {}, "paths": {}}
        return manifest.seal(draft, run_dir / name, stage="s", made_from=origin, tally=Tally(rows={"n": 1}), seconds=1)


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """A run up to its adapters: each question's image is of a grey of its own, whose level tells the right letter."""
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE_S", 0.001)
    source = tmp_path / "mine"
    (source / "images").mkdir(parents=True)
    rows = []
    for number in range(NUM_TEST + 1):
        image = Image.new("RGB", (8, 8), (40 * number,) * 3)
        image.putpixel((0, 0), (255, 255, 255))
        image.save(source / f"images/{number}.png")
        answer, split = "AB"[number % 2], "test" if number < NUM_TEST else "train"
        row = {"image": f"images/{number}.png", "question": "Q?", "options": ["mill", "cast"], "answer": answer}
        rows.append(json.dumps(row | {"split": split, "stratum": "seen"}))
    (source / "questions.jsonl").write_text("\n".join(rows))
    run_dir = tmp_path / "runs/r"
    config = QuestionsConfig(source_name="mine", folder=str(source))
    stage.carry_out(config, run_dir, Progress("questions"))
    put(run_dir, "rationales", lambda d: tables.write(d, Rationale, [rationale("Answer: mill (A)")]))
    put(run_dir, ADAPTER, lambda d: (d / "adapter.txt").write_text("weights"))
    return run_dir


def serve(run_dir, base_url, digest=None):
    digest = digest or manifest.find(run_dir / ADAPTER).digest
    models = (
        ServedModel(name="base", arm=Arm.ZERO_SHOT, digest="b"),
        ServedModel(name="base:student", arm=Arm.RATIONALE_THEN_ANSWER, digest=digest),
    )
    put(run_dir, "endpoint", Endpoint(base_url=base_url, models=models).write)


def examine(run_dir) -> list[Prediction]:
    artifact = stage.carry_out(CONFIG, run_dir, Progress("examine"))["predictions"]
    return tables.read(artifact.path, Prediction)


def looks_at_the_image(body):
    """A student that answers by the grey it sees; a base that always says mill."""
    if body["model"] == "base":
        return "Answer: mill (A)"
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        corner, level = image.getpixel((0, 0)), image.getpixel((4, 4))[0]
    if corner[0] == level:
        return "I see nothing."
    return "Seen.\nAnswer: mill (A)" if round(level / 40) % 2 == 0 else "Seen.\nAnswer: cast (B)"


def test_every_question_is_asked_once_for_each_entry_of_the_plan_and_scored(run_dir):
    with fakes.endpoint(looks_at_the_image) as base_url:
        serve(run_dir, base_url)
        predictions = examine(run_dir)
    assert len(predictions) == NUM_TEST * len(CONFIG.plan)
    correct = {}
    for entry in CONFIG.plan:
        group = [p for p in predictions if f"{p.arm}/{p.condition}" == entry]
        assert len({p.question_id for p in group}) == NUM_TEST
        correct[entry] = sum(p.letter == p.gold for p in group)
    assert correct["zero_shot/real"] == NUM_TEST // 2
    assert correct["rationale_then_answer/real"] == NUM_TEST
    assert correct["rationale_then_answer/blank"] == 0
    assert correct["rationale_then_answer/shuffled"] < NUM_TEST


def test_no_question_keeps_its_own_image_when_images_are_shuffled(run_dir):
    def tells_the_image(body):
        return body["messages"][0]["content"][0]["image_url"]["url"][-400:]

    with fakes.endpoint(tells_the_image) as base_url:
        serve(run_dir, base_url)
        predictions = examine(run_dir)
    real = {p.question_id: p.text for p in predictions if (p.arm, p.condition) == ("rationale_then_answer", "real")}
    shuffled = {p.question_id: p.text for p in predictions if p.condition == "shuffled"}
    assert all(real[question] != shuffled[question] for question in real)
    assert sorted(real.values()) == sorted(shuffled.values())


def test_questions_that_share_an_image_are_shown_another_one():
    asked = [question(id=f"q{n}", image_digest=str(n // 4)) for n in range(40)]
    by_id = {q.id: q for q in asked}
    donors = evaluation._donors(asked, seed=0)
    assert all(donors[i].image_digest != by_id[i].image_digest for i in by_id)
    with pytest.raises(InputError, match="same image"):
        evaluation._donors(asked[:4], seed=0)


def test_an_endpoint_that_serves_another_adapter_is_refused(run_dir):
    serve(run_dir, "http://127.0.0.1:9/v1", digest="other")
    with pytest.raises(ClusterError, match="is not the adapter"):
        examine(run_dir)


def test_an_endpoint_that_fails_many_requests_stops_the_stage_with_the_reasons(run_dir):
    with fakes.endpoint(lambda _: 400) as base_url:
        serve(run_dir, base_url)
        with pytest.raises(ClusterError, match=r"failed 24 of 24 requests.*status_400"):
            examine(run_dir)
    assert manifest.find(run_dir / "predictions") is None


def test_the_report_accounts_for_everything_and_its_page_fetches_nothing(run_dir):
    with fakes.endpoint(looks_at_the_image) as base_url:
        serve(run_dir, base_url)
        examine(run_dir)
    (asked,) = [q for q in report.tables.read(run_dir / "questions", report.Question) if q.split == "train"]
    said = rationale("<script>alert(1)</script>\nAnswer: mill (A)", question_id=asked.id)
    put(run_dir, "verdicts", lambda d: tables.write(d, Verdict, [verify(said, asked)]))
    put(run_dir, "examples/rationale_then_answer", lambda d: tables.write(d, TrainingExample, []))
    config = ReportConfig(title="T", adapters=(ADAPTER,))
    artifact = stage.carry_out(config, run_dir, Progress("report"))["report"]
    written = json.loads((artifact.path / "report.json").read_text())
    assert written["schema"] == report.SCHEMA
    for entry in written["examinations"]:
        assert set(entry) >= {
            "model",
            "arm",
            "condition",
            "asked",
            "scored",
            "unscored",
            "correct",
            "accuracy",
            "interval",
        }
        assert entry["asked"] == entry["scored"] + entry["unscored"] == NUM_TEST
    assert written["accounting"]["questions"]["rows"]["read"] == NUM_TEST + 1
    page = (artifact.path / "index.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
