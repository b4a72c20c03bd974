import base64
import collections
import dataclasses
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from infra import manifest, runner
from infra.errors import ArtifactError, ClusterError, InputError
from infra.progress import Progress
from pipelines.examination.config import Budget, ExaminationConfig
from pipelines.examination.plan import default_plan
from pipelines.examples import ComposeConfig
from pipelines.inference.backends import client
from pipelines.records import Arm, Prediction, Rationale, TrainingExample, Verdict, tables
from pipelines.records.endpoint import Endpoint, ServedModel
from pipelines.records.entries import PREFILLS
from pipelines.rehearsal import stub_endpoint
from pipelines.report import schema
from pipelines.report import stage as report
from pipelines.report.config import ReportConfig
from tests.pipelines.fixtures import put, put_questions, question, rationale, verdict

ADAPTER = "adapters/rationale_then_answer"
CONFIG = ExaminationConfig(
    plan=(
        "zero_shot/real",
        "rationale_then_answer/real",
        "rationale_then_answer/blank",
        "rationale_then_answer/shuffled",
    )
)
CAPTIONED = dataclasses.replace(CONFIG, plan=(*CONFIG.plan, "rationale_then_answer/captioned"))
NUM_TEST = 6
MODELS = ("base", "base:student", "m", "big")
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


def prepare(run_dir, asked, captions=None, without=()):
    """A run up to its adapters. without: numbers of images that are not there."""
    numbers = {path: int(path.split("/")[-1][:-4]) for q in asked for path in q.images}
    pictures = {path: picture(number) for path, number in numbers.items() if number not in without}
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
    with stub_endpoint.endpoint(reply, MODELS) as base_url:
        serve(run_dir, base_url)
        artifact = runner.carry_out(config, run_dir, Progress("examination"))["examination"]
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
        (f"{arm}/{condition}", f"q{number}")
        for arm, entries in CONFIG.by_arm().items()
        for number in range(NUM_TEST)
        for condition in (entry.condition for entry in entries)
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
    with stub_endpoint.endpoint(lambda _: reply, MODELS) as base_url:
        models = (ServedModel(name="m", arm=Arm.ANSWER_THEN_RATIONALE, digest=digest),)
        put(run_dir, "endpoint", Endpoint(base_url=base_url, models=models).write)
        config = dataclasses.replace(CONFIG, plan=("answer_then_rationale/real",))
        artifact = runner.carry_out(config, run_dir, Progress("examination"))["examination"]
    assert {(p.text, p.letter) for p in tables.read(artifact.path, Prediction)} == {(reply, "B")}


def test_a_plan_for_an_arm_that_is_not_served_says_what_is_and_what_to_do(run_dir):
    put(run_dir, "adapters/multi_task", lambda d: (d / "adapter.txt").write_text("other weights"))
    serve(run_dir, "http://127.0.0.1:9/v1")
    config = dataclasses.replace(CONFIG, plan=("multi_task/real",))
    with pytest.raises(ClusterError, match=r"no model for multi_task; it serves zero_shot, .*Name in deploy\.arms"):
        runner.carry_out(config, run_dir, Progress("examination"))


def test_all_adapters_of_an_arm_are_asked_what_the_plan_says_for_it_and_told_apart(run_dir):
    put(run_dir, f"{ADAPTER}-seed1", lambda d: (d / "adapter.txt").write_text("other weights"))
    digests = [manifest.find(run_dir / name).digest for name in (ADAPTER, f"{ADAPTER}-seed1")]
    config = dataclasses.replace(CONFIG, seeds=2, plan=("zero_shot/real", "rationale_then_answer/real"))

    def reply(body):
        return "Answer: cast (B)" if body["model"] == "m" else "Answer: mill (A)"

    students = [
        ServedModel(name=name, arm=Arm.RATIONALE_THEN_ANSWER, seed=seed, digest=digests[seed])
        for seed, name in enumerate(("base:student", "m"))
    ]
    with stub_endpoint.endpoint(reply, MODELS) as base_url:
        models = (*students[::-1], ServedModel(name="base", arm=Arm.ZERO_SHOT, digest="b"))
        put(run_dir, "endpoint", Endpoint(base_url=base_url, models=models).write)
        artifact = runner.carry_out(config, run_dir, Progress("examination"))["examination"]
    predictions = tables.read(artifact.path, Prediction)
    assert artifact.tally["rows"]["asked"] == len(predictions) == 3 * NUM_TEST
    assert list(dict.fromkeys((p.model, p.arm, p.seed, p.letter) for p in predictions)) == [
        ("base", "zero_shot", 0, "A"),
        ("base:student", "rationale_then_answer", 0, "A"),
        ("m", "rationale_then_answer", 1, "B"),
    ]
    put(run_dir, "endpoint", Endpoint(base_url=base_url, models=(models[1], models[2])).write)
    with pytest.raises(ClusterError, match=r"no model for rationale_then_answer with seed 1; .* in deploy\.seeds"):
        runner.carry_out(config, run_dir, Progress("examination"), afresh=True)


def test_how_answers_will_be_analysed_is_written_before_the_first_question_is_asked(run_dir):
    found = []

    def reply(body):
        found.append([path.read_text() for path in run_dir.rglob("analysis_plan.json")])
        return looks_at_the_image(body)

    examine(run_dir, reply)
    artifact = manifest.find(run_dir / "examination")
    plan = default_plan(CONFIG.plan)
    assert found[0] == [(artifact.path / "analysis_plan.json").read_text()]
    assert json.loads(found[0][0]) == {**plan.as_dict(), "digest": plan.digest} | {
        "primary": {"treatment": "rationale_then_answer/real", "comparator": "zero_shot/real", "examined_set": ""},
        "family": [{"treatment": "rationale_then_answer/real", "comparator": "zero_shot/real", "examined_set": ""}],
        "exclusions": list(plan.exclusions),
    }
    assert artifact.tally["facts"]["analysis_plan"] == plan.digest


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
        assert manifest.find(run_dir / "examination") is None


def test_an_endpoint_that_serves_another_adapter_is_refused(run_dir):
    serve(run_dir, "http://127.0.0.1:9/v1", digest="other")
    with pytest.raises(ClusterError, match="is not the adapter"):
        runner.carry_out(CONFIG, run_dir, Progress("examination"))


def test_an_endpoint_that_fails_many_requests_stops_the_stage_with_the_reasons(run_dir):
    with pytest.raises(
        InputError, match=r"6 of 6 requests of zero_shot .*`real` failed \(status_400 6\): most were not answered"
    ):
        examine(run_dir, lambda _: 400)
    assert manifest.find(run_dir / "examination") is None


def test_the_report_accounts_for_everything_and_its_page_fetches_nothing(run_dir):
    examine(run_dir, looks_at_the_image)
    (asked,) = [q for q in tables.read(run_dir / "questions", report.Question) if q.split == "train"]
    said = verdict(question_id=asked.id, text="<script>alert(1)</script>\nAnswer: mill (A)")
    put(run_dir, "verdicts", lambda d: tables.write(d, Verdict, [said]))
    put(run_dir, "examples/rationale_then_answer", lambda d: tables.write(d, TrainingExample, []))
    config = ReportConfig(title="T", arms=(Arm.RATIONALE_THEN_ANSWER,))
    artifact = runner.carry_out(config, run_dir, Progress("report"))["report"]
    written = json.loads((artifact.path / "report.json").read_text())
    assert written["schema"] == schema.SCHEMA
    words = {"source", "file", "model", "arm", "condition"}
    numbers = {"asked", "scored", "unscored", "correct", "accuracy", "interval"}
    for entry in written["examination"]:
        assert set(entry) >= words | numbers
        assert entry["asked"] == entry["scored"] + entry["unscored"] == NUM_TEST
    assert written["accounting"]["questions"]["rows"]["read"] == NUM_TEST + 1
    assert written["notes"] == ["A note."]
    page = (artifact.path / "index.html").read_text()
    examples, as_shown = NUM_TEST + 1, 3 * 3  # three questions as real, blank and shuffled
    assert page.count("data:image/png;base64,") == examples + as_shown
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("<script") == 2  # its own, and the one that says what can be looked through
    assert "&lt;script&gt;" in page
    assert written["plan"]["primary"]["treatment"] == "rationale_then_answer/real"
    assert "Primary comparison" in page
    shown = sorted(path.name for path in (artifact.path / "browser").iterdir())
    assert shown == ["000.js", "index.js"]
    assert len(list((artifact.path / "images").iterdir())) == NUM_TEST


def test_a_report_never_mixes_what_was_verified_twice(run_dir):
    """Verified, composed, fitted and examined; then verified otherwise; then composed again."""
    examine(run_dir, looks_at_the_image)
    predicted = (run_dir / "examination" / f"{Prediction.stem}.parquet").read_bytes()
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
        "examination",
        lambda d: (d / f"{Prediction.stem}.parquet").write_bytes(predicted),
        stage="examination",
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

    with (
        stub_endpoint.endpoint(noted("here"), MODELS) as here,
        stub_endpoint.endpoint(noted("elsewhere"), MODELS) as elsewhere,
    ):
        models = (
            ServedModel(name="base", arm=Arm.ZERO_SHOT, digest="b"),
            ServedModel(name="big", arm=Arm.TEACHER, digest="t", base_url=elsewhere),
        )
        put(run_dir, "endpoint", Endpoint(base_url=here, models=models).write)
        plan = ("zero_shot/real", "teacher/real")
        config = dataclasses.replace(
            CONFIG, plan=plan, max_tokens=64, budgets=(Budget(arm=Arm.TEACHER, max_tokens=512, timeout_s=7),)
        )
        runner.carry_out(config, run_dir, Progress("examination"))
    assert asked == {"here": [("base", 64)] * NUM_TEST, "elsewhere": [("big", 512)] * NUM_TEST}
    assert [config.seconds_for(arm) for arm in (Arm.TEACHER, Arm.ZERO_SHOT)] == [7, config.timeout_s]


def test_a_teacher_s_endpoint_that_is_gone_is_named(run_dir):
    with stub_endpoint.endpoint(lambda _: "Answer: mill (A)") as here:
        models = (ServedModel(name="big", arm=Arm.TEACHER, digest="t", base_url="http://127.0.0.1:9/v1"),)
        put(run_dir, "endpoint", Endpoint(base_url=here, models=models).write)
        with pytest.raises(ClusterError, match=r"Nothing answers at http://127\.0\.0\.1:9/v1"):
            config = dataclasses.replace(CONFIG, plan=("teacher/real",))
            runner.carry_out(config, run_dir, Progress("examination"))


def words_of(body):
    """What tells a request from all others of an examination."""
    return json.dumps([body["model"], body["messages"]])


EXAMINE = """
import sys
from pathlib import Path
from infra import runner
from infra.progress import Progress
from tests.pipelines.examination.test_stage import CONFIG
runner.carry_out(CONFIG, Path(sys.argv[1]), Progress("examination"))
"""


def test_a_killed_examination_asks_nothing_twice_but_what_was_in_flight_and_misses_nothing(tmp_path):
    asked = [about(number, text=f"What is {number}?") for number in range(6)]
    whole = examine(prepare(tmp_path / "whole/r", asked), looks_at_the_image)
    run_dir = prepare(tmp_path / "runs/r", asked)
    seen, answered = collections.Counter(), 0

    def reply(body):
        nonlocal answered
        seen[words_of(body)] += 1
        answered += 1
        return stub_endpoint.Said(text=looks_at_the_image(body), after_s=0.2 * (answered > 8))

    with stub_endpoint.endpoint(reply, MODELS) as base_url:
        serve(run_dir, base_url)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        process = subprocess.Popen([sys.executable, "-c", EXAMINE, str(run_dir)], env=environment)
        deadline = time.monotonic() + 60
        while answered <= 8:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        written = sum(path.read_bytes().count(b"\n") for path in (run_dir.parent / "ledger").glob("*/*.jsonl"))
        before = seen.copy()
        seen.clear()
        artifact = runner.carry_out(CONFIG, run_dir, Progress("examination"))["examination"]
    assert 0 < written < len(whole)
    assert seen.total() == len(whole) - written
    assert before.total() + seen.total() - len(whole) == len(before & seen) <= CONFIG.concurrency
    assert tables.read(artifact.path, Prediction) == whole


def test_every_row_of_an_examination_is_accounted_for_by_what_became_of_it(tmp_path):
    run_dir = prepare(tmp_path / "runs/r", [about(number) for number in range(6)], without=(4,))
    config = dataclasses.replace(CONFIG, plan=("rationale_then_answer/real",), max_failed_share=1.0)

    def reply(body):
        return {
            "0": stub_endpoint.Refused(status=400, message="maximum context length"),
            "1": 500,
            "2": "I cannot tell.",
            "3": "Hm.</think>Seen.\nAnswer: cast (B)",
        }.get(numbers_in(body), "Seen.\nAnswer: mill (A)")

    with stub_endpoint.endpoint(reply, MODELS) as base_url:
        serve(run_dir, base_url)
        artifact = runner.carry_out(config, run_dir, Progress("examination"))["examination"]
    assert artifact.tally["rows"] == {
        "asked": 6, "answered": 3, "scored": 2, "refused": 1, "failed": 1, "quarantined": 1
    }  # fmt: skip
    assert artifact.tally["reasons"] == {"prompt_too_long": 1, "status_500": 1, "no_answer": 1}
    assert artifact.tally["quarantined"] == {"missing_image": 1}
    predictions = list(tables.read(artifact.path, Prediction))
    assert {p.question_id: (p.read_as, p.missing, p.text_letter) for p in predictions if p.question_id < "q4"} == {
        "q0": (None, "failed_request", None),
        "q1": (None, "failed_request", None),
        "q2": (None, "refusal", None),
        "q3": ("taught_line", None, "B"),
    }
    assert {p.question_id for p in predictions if p.lenient_letter is None} >= {"q0", "q1"}
    found = {p.question_id: (p.status, p.letter, p.error) for p in tables.read(artifact.path, Prediction)}
    assert found == {
        "q0": ("failed", None, "prompt_too_long"),
        "q1": ("failed", None, "status_500"),
        "q2": ("answered", None, None),
        "q3": ("answered", "B", None),
        "q4": ("quarantined", None, "missing_image"),
        "q5": ("answered", "A", None),
    }
    (thought,) = [p for p in tables.read(artifact.path, Prediction) if p.thoughts]
    assert (thought.thoughts, thought.text) == ("Hm.", "Seen.\nAnswer: cast (B)")


def test_an_endpoint_that_fails_under_one_condition_stops_the_stage_early_and_names_arm_and_condition(tmp_path):
    run_dir = prepare(tmp_path / "runs/r", [about(number % 6, id=f"q{number}") for number in range(400)])
    asked = []

    def reply(body):
        asked.append(body)
        return 400 if "blank" in numbers_in(body) else "Answer: mill (A)"

    plan = ("rationale_then_answer/real", "rationale_then_answer/blank", "zero_shot/real")
    config = dataclasses.replace(CONFIG, plan=plan, concurrency=4)
    match = r"of \d+ requests of rationale_then_answer/blank failed \(status_400 \d+\)"
    with pytest.raises(InputError, match=match):
        examine(run_dir, reply, config)
    assert len(asked) < 400
    assert manifest.find(run_dir / "examination") is None


CHANGES = {
    "another adapter": {"digest": "e" * 64},
    "another base": {"base_digest": "b" * 64},
    "another revision": {"revision": "r2"},
    "another engine setting": {"engine": {"dtype": "float16"}},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_what_decides_an_answer_is_asked_again_when_it_changes_and_nothing_else_is(run_dir, changes):
    served = ServedModel(name="base", arm=Arm.ZERO_SHOT, digest="b", engine={"dtype": "auto"})
    config = dataclasses.replace(CONFIG, plan=("zero_shot/real",))

    def num_asked(model, config=config):
        asked = []
        with stub_endpoint.endpoint(lambda body: asked.append(body) or "Answer: mill (A)", ["base", "same"]) as url:
            put(run_dir, "endpoint", Endpoint(base_url=url, models=(model,)).write)
            runner.carry_out(config, run_dir, Progress("examination"), afresh=True)
        return len(asked)

    assert num_asked(served) == NUM_TEST
    patient = dataclasses.replace(config, timeout_s=7, concurrency=3, batch_size=2, expected_answers_per_s=5)
    assert num_asked(dataclasses.replace(served, name="same"), patient) == 0
    assert num_asked(dataclasses.replace(served, **changes)) == NUM_TEST
    assert num_asked(served, dataclasses.replace(config, max_tokens=77)) == NUM_TEST


def test_what_fails_again_after_a_resume_is_a_share_of_all_requests_and_not_of_those_that_were_left(tmp_path):
    run_dir = prepare(
        tmp_path / "runs/r", [about(number % 6, id=f"q{number}", text=f"{number}?") for number in range(60)]
    )
    config = dataclasses.replace(CONFIG, plan=("zero_shot/real",), max_failed_share=0.05)

    def reply(body):
        return 500 if '"7?' in json.dumps(body).replace("\\", "") else "Answer: mill (A)"

    with stub_endpoint.endpoint(reply, MODELS) as base_url:
        serve(run_dir, base_url)
        for _ in range(2):
            artifact = runner.carry_out(config, run_dir, Progress("examination"), afresh=True)["examination"]
    assert (artifact.tally["rows"]["asked"], artifact.tally["rows"]["failed"]) == (60, 1)


def test_the_same_model_is_asked_in_several_words_and_its_rows_say_in_which(run_dir):
    plan = ("zero_shot/real", "zero_shot+rationale/real", "zero_shot+matcha/real")
    seen = []

    def reply(body):
        seen.append([message["role"] for message in body["messages"]])
        text = body["messages"][-1]["content"][-1]["text"]
        return "B" if text.startswith("Question:") else "Seen.\nAnswer: mill (A)"

    predictions = examine(run_dir, reply, dataclasses.replace(CONFIG, plan=plan))
    rows = collections.Counter((p.prompt, p.letter, p.rotation, p.repeat) for p in predictions)
    assert rows == {
        (prompt, letter, 0, 0): NUM_TEST for prompt, letter in (("answer", "A"), ("rationale", "A"), ("matcha", "B"))
    }
    assert collections.Counter(map(tuple, seen)) == {("user",): 2 * NUM_TEST, ("system", "user"): NUM_TEST}


def test_in_rotation_the_gold_letter_moves_with_its_option(tmp_path):
    run_dir = prepare(tmp_path / "runs/r", [about(n) for n in range(NUM_TEST)])

    def reply(body):
        options = body["messages"][-1]["content"][-1]["text"].splitlines()[1:3]
        wanted = ("mill", "cast")[int(numbers_in(body)) % 2]
        return next(f"Answer: {wanted} ({line[0]})" for line in options if line.endswith(wanted))

    config = dataclasses.replace(CONFIG, plan=("rationale_then_answer+circular/real",), repeat_share=1.0)
    predictions = examine(run_dir, reply, config)
    rows = [(p.question_id, p.rotation, p.repeat) for p in predictions]
    assert rows == [(f"q{n}", *how) for n in range(NUM_TEST) for how in ((0, 0), (0, 1), (1, 0))]
    assert all(p.letter == p.gold for p in predictions)
    golds = {(p.question_id, p.rotation): p.gold for p in predictions}
    assert all({golds[f"q{n}", 0], golds[f"q{n}", 1]} == {"A", "B"} for n in range(NUM_TEST))


def test_where_the_right_option_is_hidden_only_none_of_the_above_is_right(run_dir):
    def reply(body):
        options = body["messages"][-1]["content"][-1]["text"].splitlines()[1:3]
        (letter,) = [line[0] for line in options if line.endswith("None of the above")]
        return f"Answer: None of the above ({letter})"

    config = dataclasses.replace(CONFIG, plan=("rationale_then_answer/gold_hidden",))
    predictions = examine(run_dir, reply, config)
    assert len(predictions) == NUM_TEST
    assert all(p.letter == p.gold for p in predictions)


def test_examples_go_before_the_question_with_their_images_and_answers(tmp_path):
    asked = [about(n) for n in range(3)]
    taught = [about(n, id=f"t{n}", split="train") for n in (3, 4, 5)]
    run_dir = prepare(tmp_path / "runs/r", [*asked, *taught])
    bodies = []

    def reply(body):
        bodies.append(body)
        return "A"

    examine(run_dir, reply, dataclasses.replace(CONFIG, plan=("zero_shot+letter+2shot/blank",)))
    assert len(bodies) == 3
    for body in bodies:
        roles = [message["role"] for message in body["messages"]]
        assert roles == ["user", "assistant"] * 2 + ["user"]
        numbers = [numbers_in({"messages": [message]}) for message in body["messages"][::2]]
        assert numbers[-1] == "blank"  # what an example shows is not what is changed
        assert set(numbers[:-1]) < {"3", "4", "5"}
        answers = [message["content"] for message in body["messages"][1::2]]
        assert answers == ["AB"[int(number) % 2] for number in numbers[:-1]]


def test_questions_that_make_no_sense_in_an_entry_are_left_out_and_counted(tmp_path):
    asked = [about(n, text="Which lung, left or right?" if n < 2 else f"What is {n}?") for n in range(4)]
    run_dir = prepare(tmp_path / "runs/r", asked)
    config = dataclasses.replace(CONFIG, plan=("zero_shot/real", "zero_shot/mirrored"))
    predictions = examine(run_dir, lambda _: "Answer: mill (A)", config)
    assert collections.Counter(p.condition for p in predictions) == {"real": 4, "mirrored": 2}
    facts = manifest.find(run_dir / "examination").tally["facts"]
    assert facts["left_out"] == {"zero_shot/mirrored": {"names_a_side": 2}}


def test_an_entry_that_makes_no_sense_for_any_question_asks_nothing(tmp_path):
    run_dir = prepare(tmp_path / "runs/r", [about(n, text="Left or right?") for n in range(3)])
    seen = []
    config = dataclasses.replace(CONFIG, plan=("zero_shot/real", "zero_shot/mirrored"))
    with pytest.raises(InputError, match=r"zero_shot/mirrored makes no sense for any of the 3 .*names_a_side 3.*Leave"):
        examine(run_dir, seen.append, config)
    assert seen == []


def test_a_new_entry_asks_only_what_is_new(run_dir):
    seen = []

    def reply(body):
        seen.append(body)
        return "Answer: mill (A)"

    examine(run_dir, reply, dataclasses.replace(CONFIG, plan=("zero_shot/real",)))
    examine(run_dir, reply, dataclasses.replace(CONFIG, plan=("zero_shot+circular/real", "zero_shot/black")))
    assert len(seen) == NUM_TEST * (1 + 1 + 1)


def test_too_many_failures_of_one_prompt_are_not_hidden_by_another_s(tmp_path):
    run_dir = prepare(tmp_path / "runs/r", [about(n) for n in range(NUM_TEST)])
    config = dataclasses.replace(
        CONFIG, plan=("zero_shot/real", "zero_shot+letter/real", "zero_shot+rationale/real"), max_failed_share=0.4
    )

    def reply(body):
        text = body["messages"][-1]["content"][-1]["text"]
        return 400 if "directly" in text and numbers_in(body) in ("0", "1", "2") else "Answer: mill (A)"

    with pytest.raises(InputError, match=r"3 of 6 requests of zero_shot\+letter/real failed"):
        examine(run_dir, reply, config)


PREFILLED = ("rationale_then_answer/real", "rationale_then_answer+prefilled/real")


def follows_the_beginning(body):
    """A student that answers by its image; with a beginning, what that says last, or else by the image."""
    wanted = ("mill", "cast")[int(numbers_in({"messages": body["messages"][:1]})) % 2]
    if not body.get("continue_final_message"):
        return f"It is grey. It looks like {wanted}.\nAnswer: {wanted} ({'AB'[wanted == 'cast']})"
    begun = body["messages"][-1]["content"]
    if "This points to " in begun:
        wanted = begun.partition("This points to ")[2].partition(",")[0]
    return f" {wanted} ({'AB'[wanted == 'cast']})"


def test_an_answer_goes_on_from_the_student_s_own_reasoning_cut_and_changed(run_dir):
    bodies = []

    def reply(body):
        bodies.append(body)
        return follows_the_beginning(body)

    predictions = examine(run_dir, reply, dataclasses.replace(CONFIG, plan=PREFILLED, repeat_share=1.0))
    begun = [p for p in predictions if p.prefill]
    assert [(p.question_id, p.prefill) for p in begun] == [
        (f"q{n}", name) for n in range(NUM_TEST) for name in PREFILLS
    ]
    assert all(p.letter == p.gold for p in begun if p.prefill != "mistake")
    mistaken = [p for p in begun if p.prefill == "mistake"]
    assert all(p.letter == p.mistake != p.gold for p in mistaken)
    assert {p.mistake for p in begun if p.prefill != "mistake"} == {None}
    sent = [body for body in bodies if body.get("continue_final_message")]
    assert {body["add_generation_prompt"] for body in sent} == {False}
    assert {body["messages"][-1]["role"] for body in sent} == {"assistant"}
    assert not [b for b in bodies if b not in sent and b["messages"][-1]["role"] != "user"]


def test_an_examination_that_ends_between_the_two_goes_on_from_the_same_answers(run_dir):
    config = dataclasses.replace(CONFIG, plan=PREFILLED)

    def dies(body):
        return 400 if body.get("continue_final_message") else follows_the_beginning(body)

    with pytest.raises(InputError, match="most were not answered"):
        examine(run_dir, dies, config)
    bodies = []

    def reply(body):
        bodies.append(body)
        return follows_the_beginning(body)

    predictions = examine(run_dir, reply, config)
    assert all(body.get("continue_final_message") for body in bodies)
    assert len(predictions) == NUM_TEST * (1 + len(PREFILLS))


def test_an_answer_without_reasoning_has_nothing_to_go_on_from_and_is_counted(run_dir):
    def reply(body):
        said = follows_the_beginning(body)
        is_bare = not body.get("continue_final_message") and numbers_in(body) in ("0", "1")
        return said.rpartition("\n")[2] if is_bare else said

    predictions = examine(run_dir, reply, dataclasses.replace(CONFIG, plan=PREFILLED))
    assert len(predictions) == NUM_TEST + (NUM_TEST - 2) * len(PREFILLS)
    facts = manifest.find(run_dir / "examination").tally["facts"]
    assert facts["left_out"] == {PREFILLED[1]: {"no_reasoning_to_go_on_from": 2}}
