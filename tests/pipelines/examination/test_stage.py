import base64
import dataclasses
import io
import itertools
import json

import pytest
from PIL import Image

from infra import manifest, runner
from infra.errors import ArtifactError, ClusterError, InputError
from infra.progress import Progress
from pipelines.examination.config import ExamineConfig
from pipelines.examples import ComposeConfig
from pipelines.inference import client
from pipelines.inference.client import Endpoint, ServedModel
from pipelines.records import Arm, Prediction, Rationale, TrainingExample, Verdict, tables
from pipelines.rehearsal import stub_endpoint
from pipelines.report import stage as report
from pipelines.report.config import ReportConfig
from tests.pipelines.fixtures import put, put_questions, question, rationale, verdict

ADAPTER = "adapters/rationale_then_answer"
CONFIG = ExamineConfig(
    plan=(
        "zero_shot/real",
        "rationale_then_answer/real",
        "rationale_then_answer/blank",
        "rationale_then_answer/shuffled",
    )
)
CAPTIONED = dataclasses.replace(CONFIG, plan=(*CONFIG.plan, "rationale_then_answer/captioned"))
NUM_TEST = 6
LEVEL = 40  # between the greys of one image and the next


def picture(number) -> Image.Image:
    """A grey of its own, whose level tells which image it is, with a white corner, which no blank image has."""
    made = Image.new("RGB", (8, 8), (LEVEL * number,) * 3)
    made.putpixel((0, 0), (255, 255, 255))
    return made


def about(number, *more, **changes):
    """A question about an image, or about more of them; the right letter follows from the first one's number."""
    numbers = (number, *more)
    return question(
        **{
            "id": f"q{number}",
            "split": "test",
            "images": tuple(f"images/00000.zip/{n}.png" for n in numbers),
            "image_digests": tuple(str(n) for n in numbers),
            "options": ("mill", "cast"),
            "gold": "AB"[number % 2],
        }
        | changes
    )


def prepare(run_dir, asked, captions=None):
    """A run up to its adapters."""
    pictures = {path: picture(int(path.split("/")[-1][:-4])) for q in asked for path in q.images}
    rows = {"read": len(asked), "questions": len(asked)}
    put_questions(run_dir, asked, pictures, captions, rows=rows, facts={"notes": ["A note."]})
    put(run_dir, "rationales", lambda d: tables.write(d, Rationale, [rationale("Answer: mill (A)")]))
    put(run_dir, ADAPTER, lambda d: (d / "adapter.txt").write_text("weights"))
    return run_dir


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(client, "_FIRST_PAUSE_S", 0.001)


@pytest.fixture
def run_dir(tmp_path):
    asked = [about(number, split="test" if number < NUM_TEST else "train") for number in range(NUM_TEST + 1)]
    return prepare(tmp_path / "runs/r", asked)


def serve(run_dir, base_url, digest=None):
    digest = digest or manifest.find(run_dir / ADAPTER).digest
    models = (
        ServedModel(name="base", arm=Arm.ZERO_SHOT, digest="b"),
        ServedModel(name="base:student", arm=Arm.RATIONALE_THEN_ANSWER, digest=digest),
    )
    put(run_dir, "endpoint", Endpoint(base_url=base_url, models=models).write)


def examine(run_dir, reply, config=CONFIG) -> list[Prediction]:
    with stub_endpoint.endpoint(reply) as base_url:
        serve(run_dir, base_url)
        artifact = runner.carry_out(config, run_dir, Progress("examine"))["predictions"]
    return tables.read(artifact.path, Prediction)


def images_in(body) -> list[Image.Image]:
    """The images of a request, in order; its text comes last."""
    *shown, text = body["messages"][0]["content"]
    assert text["type"] == "text"
    urls = [part["image_url"]["url"].partition(",") for part in shown]
    return [Image.open(io.BytesIO(base64.b64decode(data))) for _, _, data in urls]


def numbers_in(body) -> str:
    """The numbers of the images in a request, in order; `blank` for one that shows nothing."""
    greys = [(image.getpixel((0, 0)), image.getpixel((4, 4))) for image in images_in(body)]
    return " ".join("blank" if corner == grey else str(round(grey[0] / LEVEL)) for corner, grey in greys)


def looks_at_the_image(body):
    """A student that answers by the grey it sees; a base that always says mill."""
    if body["model"] == "base":
        return "Answer: mill (A)"
    seen = numbers_in(body)
    if seen == "blank":
        return "I see nothing."
    return "Seen.\nAnswer: mill (A)" if int(seen) % 2 == 0 else "Seen.\nAnswer: cast (B)"


def test_every_question_is_asked_once_for_each_entry_of_the_plan_and_scored(run_dir):
    predictions = examine(run_dir, looks_at_the_image)
    assert [(f"{p.arm}/{p.condition}", p.question_id) for p in predictions] == [
        (entry, f"q{number}") for entry in CONFIG.plan for number in range(NUM_TEST)
    ]
    correct = {
        entry: sum(p.letter == p.gold for p in predictions if f"{p.arm}/{p.condition}" == entry)
        for entry in CONFIG.plan
    }
    assert correct["zero_shot/real"] == NUM_TEST // 2
    assert correct["rationale_then_answer/real"] == NUM_TEST
    assert correct["rationale_then_answer/blank"] == 0
    assert correct["rationale_then_answer/shuffled"] < NUM_TEST


def test_the_answer_of_a_student_that_answers_first_is_its_first_line(run_dir):
    put(run_dir, "adapters/answer_then_rationale", lambda d: (d / "adapter.txt").write_text("other weights"))
    digest = manifest.find(run_dir / "adapters/answer_then_rationale").digest
    reply = "Answer: cast (B)\nThe answer is not mill (A)."
    with stub_endpoint.endpoint(lambda _: reply) as base_url:
        models = (ServedModel(name="m", arm=Arm.ANSWER_THEN_RATIONALE, digest=digest),)
        put(run_dir, "endpoint", Endpoint(base_url=base_url, models=models).write)
        config = dataclasses.replace(CONFIG, plan=("answer_then_rationale/real",))
        artifact = runner.carry_out(config, run_dir, Progress("examine"))["predictions"]
    assert {(p.text, p.letter) for p in tables.read(artifact.path, Prediction)} == {(reply, "B")}


def test_a_plan_for_an_arm_that_is_not_served_says_what_is_and_what_to_do(run_dir):
    put(run_dir, "adapters/multi_task", lambda d: (d / "adapter.txt").write_text("other weights"))
    serve(run_dir, "http://127.0.0.1:9/v1")
    config = dataclasses.replace(CONFIG, plan=("multi_task/real",))
    with pytest.raises(ClusterError, match=r"no model for multi_task; it serves zero_shot, .*Name in deploy\.arms"):
        runner.carry_out(config, run_dir, Progress("examine"))


def test_no_question_keeps_its_own_image_when_images_are_shuffled(run_dir):
    predictions = examine(run_dir, numbers_in)
    real = {p.question_id: p.text for p in predictions if (p.arm, p.condition) == ("rationale_then_answer", "real")}
    shuffled = {p.question_id: p.text for p in predictions if p.condition == "shuffled"}
    assert all(real[question] != shuffled[question] for question in real)
    assert sorted(real.values()) == sorted(shuffled.values())


def test_all_images_of_a_question_are_shown_in_order_blank_or_another_question_s(tmp_path):
    run_dir = prepare(tmp_path / "runs/r", [about(2, 0), about(1), about(3, 4, 5)])
    config = dataclasses.replace(CONFIG, plan=CONFIG.plan[1:])
    said = {(p.condition, p.question_id): p.text for p in examine(run_dir, numbers_in, config)}
    own = {"q2": "2 0", "q1": "1", "q3": "3 4 5"}
    assert {i: said["real", i] for i in own} == own
    assert {i: said["blank", i] for i in own} == {"q2": "blank blank", "q1": "blank", "q3": "blank blank blank"}
    shuffled = {i: said["shuffled", i] for i in own}
    assert sorted(shuffled.values()) == sorted(own.values())
    assert all(shuffled[i] != own[i] for i in own)


def test_predictions_keep_the_questions_order_and_their_set_however_the_endpoint_is_asked(tmp_path):
    asked = [about(n, source="s", file=f"{n // 3}.csv") for n in range(NUM_TEST)]
    run_dir = prepare(tmp_path / "runs/r", asked)
    config = dataclasses.replace(CONFIG, plan=("zero_shot/real",), concurrency=4)
    turn = itertools.count()
    predictions = examine(run_dir, lambda body: 503 if next(turn) % 3 == 0 else numbers_in(body), config)
    assert [(p.question_id, p.source, p.file, p.text) for p in predictions] == [
        (f"q{n}", "s", f"{n // 3}.csv", str(n)) for n in range(NUM_TEST)
    ]


def test_no_caption_reaches_a_model_but_under_its_own_condition(tmp_path):
    secret = {f"q{n}": f"  zebra{n}\n gnu{n} " for n in range(NUM_TEST)}
    run_dir = prepare(tmp_path / "runs/r", [about(n) for n in range(NUM_TEST)], secret)
    bodies = []

    def listen(body):
        bodies.append(body)
        return "Answer: mill (A)"

    examine(run_dir, listen)
    assert len(bodies) == NUM_TEST * len(CONFIG.plan)
    assert not [body for body in bodies if "zebra" in json.dumps(body) or "Caption" in json.dumps(body)]

    bodies.clear()
    examine(run_dir, listen, CAPTIONED)
    told = [body for body in bodies if "zebra" in json.dumps(body)]
    assert len(told) == NUM_TEST
    for body in told:
        (number,) = numbers_in(body)  # the question's own image beside its own caption
        text = body["messages"][0]["content"][-1]["text"]
        assert text.startswith(f"Caption: zebra{number} gnu{number}\nWhich process route")


def test_a_captioned_plan_without_a_caption_for_every_question_asks_nothing(tmp_path):
    refused = [about(n) for n in range(NUM_TEST)]
    for name, captions in (("none", None), ("some", {"q0": "c", "q1": "c", "q2": " ", "other": "c"})):
        run_dir = prepare(tmp_path / name, refused, captions)
        asked = []
        with pytest.raises(InputError, match=f"{2 if captions else 0} of 6 test questions have a caption"):
            examine(run_dir, asked.append, CAPTIONED)
        assert asked == []
        assert manifest.find(run_dir / "predictions") is None


def test_an_endpoint_that_serves_another_adapter_is_refused(run_dir):
    serve(run_dir, "http://127.0.0.1:9/v1", digest="other")
    with pytest.raises(ClusterError, match="is not the adapter"):
        runner.carry_out(CONFIG, run_dir, Progress("examine"))


def test_an_endpoint_that_fails_many_requests_stops_the_stage_with_the_reasons(run_dir):
    with pytest.raises(ClusterError, match=r"failed 24 of 24 requests.*status_400"):
        examine(run_dir, lambda _: 400)
    assert manifest.find(run_dir / "predictions") is None


def test_the_report_accounts_for_everything_and_its_page_fetches_nothing(run_dir):
    examine(run_dir, looks_at_the_image)
    (asked,) = [q for q in tables.read(run_dir / "questions", report.Question) if q.split == "train"]
    said = verdict(question_id=asked.id, text="<script>alert(1)</script>\nAnswer: mill (A)")
    put(run_dir, "verdicts", lambda d: tables.write(d, Verdict, [said]))
    put(run_dir, "examples/rationale_then_answer", lambda d: tables.write(d, TrainingExample, []))
    config = ReportConfig(title="T", arms=(Arm.RATIONALE_THEN_ANSWER,))
    artifact = runner.carry_out(config, run_dir, Progress("report"))["report"]
    written = json.loads((artifact.path / "report.json").read_text())
    assert written["schema"] == report.SCHEMA
    words = {"source", "file", "model", "arm", "condition"}
    numbers = {"asked", "scored", "unscored", "correct", "accuracy", "interval"}
    for entry in written["examinations"]:
        assert set(entry) >= words | numbers
        assert entry["asked"] == entry["scored"] + entry["unscored"] == NUM_TEST
    assert written["accounting"]["questions"]["rows"]["read"] == NUM_TEST + 1
    assert written["notes"] == ["A note."]
    page = (artifact.path / "index.html").read_text()
    assert page.count("data:image/png;base64,") == NUM_TEST + 1
    assert "http://" not in page
    assert "https://" not in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_report_never_mixes_what_was_verified_twice(run_dir):
    """Verified, composed, fitted and examined; then verified otherwise; then composed again."""
    examine(run_dir, looks_at_the_image)
    predicted = (run_dir / "predictions" / f"{Prediction.stem}.parquet").read_bytes()
    config = ReportConfig(title="T", arms=(Arm.RATIONALE_THEN_ANSWER,))
    compose = ComposeConfig(arms=(Arm.RATIONALE_THEN_ANSWER,))
    examples, adapter = (f"{made}/rationale_then_answer" for made in ("examples", "adapters"))

    def verify(body):
        (asked,) = [q for q in tables.read(run_dir / "questions", report.Question) if q.split == "train"]
        said = verdict(question_id=asked.id, text=f"{body}\nAnswer: mill (A)", body=body)
        put(run_dir, "verdicts", lambda d: tables.write(d, Verdict, [said]), stage="verify", inputs=["questions"])

    def write_a_report():
        return runner.carry_out(config, run_dir, Progress("report"))["report"]

    verify("It is round.")
    runner.carry_out(compose, run_dir, Progress("compose"))
    put(run_dir, adapter, lambda d: (d / "a").touch(), stage="fit", inputs=[examples])
    put(
        run_dir,
        "predictions",
        lambda d: (d / f"{Prediction.stem}.parquet").write_bytes(predicted),
        stage="examine",
        inputs=["questions", adapter],
    )
    written = write_a_report()
    verify("It is flat.")
    with pytest.raises(ArtifactError, match=r"another verdicts.* there now\. Run the stage compose again"):
        write_a_report()
    runner.carry_out(compose, run_dir, Progress("compose"))
    with pytest.raises(ArtifactError, match=r"adapters/rat.*another examples/rat.*\. Run the stage fit again"):
        write_a_report()
    assert manifest.find(run_dir / "report").digest == written.digest


def test_a_teacher_at_another_endpoint_is_asked_there_with_its_own_length_and_time(run_dir):
    asked = {"here": [], "elsewhere": []}

    def noted(place):
        def reply(body):
            asked[place].append((body["model"], body["max_tokens"]))
            return "Answer: mill (A)"

        return reply

    with stub_endpoint.endpoint(noted("here")) as here, stub_endpoint.endpoint(noted("elsewhere")) as elsewhere:
        models = (
            ServedModel(name="base", arm=Arm.ZERO_SHOT, digest="b"),
            ServedModel(name="big", arm=Arm.TEACHER, digest="t", base_url=elsewhere),
        )
        put(run_dir, "endpoint", Endpoint(base_url=here, models=models).write)
        plan = ("zero_shot/real", "teacher/real")
        config = dataclasses.replace(CONFIG, plan=plan, max_tokens=64, teacher_max_tokens=512, teacher_timeout_s=7)
        runner.carry_out(config, run_dir, Progress("examine"))
    assert asked == {"here": [("base", 64)] * NUM_TEST, "elsewhere": [("big", 512)] * NUM_TEST}
    assert [config.seconds_for(arm) for arm in (Arm.TEACHER, Arm.ZERO_SHOT)] == [7, config.timeout_s]


def test_a_teacher_s_endpoint_that_is_gone_is_named(run_dir):
    with stub_endpoint.endpoint(lambda _: "Answer: mill (A)") as here:
        models = (ServedModel(name="big", arm=Arm.TEACHER, digest="t", base_url="http://127.0.0.1:9/v1"),)
        put(run_dir, "endpoint", Endpoint(base_url=here, models=models).write)
        with pytest.raises(ClusterError, match=r"Nothing answers at http://127\.0\.0\.1:9/v1"):
            config = dataclasses.replace(CONFIG, plan=("teacher/real",))
            runner.carry_out(config, run_dir, Progress("examine"))
