import json
import re
from types import SimpleNamespace

import pytest
from PIL import Image

from infra.errors import InputError
from pipelines.examination import plan as plans
from pipelines.inference import prompts
from pipelines.records import Prediction, TrainingExample, Verdict, tables
from pipelines.report import examples, schema, thumbnails
from pipelines.report import stage as report
from pipelines.report.config import KnownLabelNoise, ReportConfig
from pipelines.report.page import page
from pipelines.verification.account import Account
from tests.pipelines.fixtures import put, put_questions, question, showing, verdict
from tests.pipelines.report.reports import answered, artifact, asked, written

ONE = written(("pocket", "questions.jsonl", 4, ("seen", "unseen")))
TWO = written(("PMC-VQA", "test_2.csv", 4, ("",)), ("PMC-VQA", "<b>.csv", 6, ("a stratum of a long name",)))


def test_lines_name_the_set_when_there_are_several_and_keep_their_columns():
    heading, *lines = report.table_lines(TWO["examination"])
    assert heading.startswith("set                  entry ")
    assert [line.partition("  ")[0] for line in lines] == ["PMC-VQA, test_2.csv"] * 2 + ["PMC-VQA, <b>.csv"] * 2
    assert len({line.index("zero_shot") for line in lines}) == 1
    assert lines[0].endswith("to 0.982")  # a set without strata
    assert len(lines[2]) == len(heading)
    assert report.table_lines(ONE["examination"])[0].startswith("entry ")


def test_lines_tell_prompts_and_seeds_apart():
    rows = [
        {**entry, "entry": "zero_shot+rationale/real", "seed": seed} for seed, entry in enumerate(ONE["examination"])
    ]
    _, *lines = report.table_lines([*ONE["examination"][:1], *rows])
    assert [line[:31].strip() for line in lines] == [
        "zero_shot/real",
        "zero_shot+rationale/real seed 0",
        "zero_shot+rationale/real seed 1",
    ]


def test_many_strata_are_no_columns_of_a_terminal():
    many = written(("own", "questions.jsonl", 24, tuple(f"stratum {number}" for number in range(12))))
    assert max(map(len, report.table_lines(many["examination"]))) < 80


def test_the_account_passes_on_what_was_quarantined(tmp_path):
    artifact = put(tmp_path, "a", lambda _: None, rows={"n": 2}, reasons={"r": 1})
    artifact.tally["quarantined"] = {"damaged_image": 1}
    other = put(tmp_path, "b", lambda _: None)
    other.tally.pop("quarantined", None)
    assert report.accounting({"a": artifact, "b": other}) == {
        "a": {"rows": {"n": 2}, "rejected": {"r": 1}, "quarantined": {"damaged_image": 1}},
        "b": {"rows": {"n": 1}, "rejected": {}, "quarantined": {}},
    }


def test_all_images_of_an_example_are_shown_from_where_they_lie(tmp_path):
    paths = ("images/0.zip/a.png", "images/1.zip/b.png")
    pictures = {path: Image.new("RGB", (4, 4)) for path in paths}
    own = showing(question(images=paths, image_digests=paths), pictures)
    folder = put_questions(tmp_path, [own], pictures).path
    shown = {"question": examples.shown(own, folder), "answers": []}
    assert page(ONE, [shown]).count('<img src="data:image/png;base64,') == 2
    assert "<code>train, seen q1</code>" in page(ONE, [shown])
    assert "<code>test, train, seen q1</code>" in page(TWO, [shown])  # where sets must be told apart
    with pytest.raises(InputError, match=r"0\.zip/a\.png: missing_image"):
        examples.shown(own, tmp_path)


def test_a_large_image_is_shown_small(tmp_path):
    noise = Image.effect_noise((700, 500), 90).convert("RGB")
    own = showing(question(), {"images/00000.zip/a.png": noise})
    folder = put_questions(tmp_path, [own], {"images/00000.zip/a.png": noise}).path
    (image,) = examples.sealed.of(folder, own)
    data, kind = thumbnails.thumbnail(image)
    assert (kind, Image.open(thumbnails.io.BytesIO(data)).size) == ("webp", (256, 183))
    assert len(data) < 60_000


def test_examples_come_from_all_sets_and_strata_in_turn():
    own = [question(id=f"q{n}", file=f"{n // 6}.csv", stratum="ab"[n // 3 % 2]) for n in range(12)]
    assert [q.id for q in examples.spread(own, 5)] == ["q0", "q3", "q6", "q9", "q1"]


VERDICTS = (
    verdict(rationale_id="r1", weight=0.5, image_not_needed=True),
    verdict(rationale_id="r2", selected=False, image_not_needed=False, agreement=0.5),
    verdict(rationale_id="r3", hinted=True, question_id="q2"),
    verdict(rationale_id="r4", status="rejected", reason="cites_caption", rule="caption", selected=False),
    verdict(rationale_id="r5", status="failed", reason="timeout", selected=False, letter=None),
    verdict(rationale_id="r6", status="quarantined", reason="damaged_image", selected=False, letter=None),
)


def put_verdicts(folder):
    account = Account()
    for own in (VERDICTS[:2], VERDICTS[2:]):
        account.add(own, num_probes=1)
    tally = account.tally()
    counted = {name: getattr(tally, name) for name in ("rows", "reasons", "quarantined", "metrics", "facts")}
    return put(folder, "verdicts", lambda d: tables.write(d, Verdict, VERDICTS), **counted)


def test_the_report_says_what_became_of_every_rationale(tmp_path):
    account = report.account_of_verdicts(put_verdicts(tmp_path))
    kept_back = [sum(account[status].values()) for status in ("rejected", "failed", "quarantined")]
    assert account["asked"] == account["accepted"] + sum(kept_back) == len(VERDICTS)
    html = page({**ONE, "verdicts": account}, [])
    section = re.sub("<.*?>|\\s+", " ", html.partition("What became of the teacher")[2].partition("<h2>")[0])
    section = re.sub(" +", " ", section)
    for words in (
        "Asked 6 = accepted 3 + rejected 1 + failed 1 + quarantined 1.",
        "2 of them teach 2 of 2 questions, 1 of them written with the answer told.",
        "cites caption 1",
        "cites caption: by rule of phrases caption 1",
        "timeout 1",
        "damaged image 1",
        "of 1 questions tried 0.500",
    ):
        assert words in section


def test_where_no_rationale_was_accepted_the_report_says_so_first_and_has_no_figure_that_is_none(tmp_path):
    account = Account()
    account.add([verdict(status="failed", reason="no_answer", selected=False, letter=None, agreement=0.0)])
    tally = account.tally()
    counted = {name: getattr(tally, name) for name in ("rows", "reasons", "quarantined", "metrics", "facts")}
    artifact = put(tmp_path, "verdicts", lambda _: None, **counted)
    assert "learned the gold answers alone" in report.notes_on(artifact)[0]
    html = page({**ONE, "verdicts": report.account_of_verdicts(artifact)}, [])
    assert "Asked 1 = accepted 0 + rejected 0 + failed 1" in html
    assert "Agreement" not in html
    assert report.notes_on(put_verdicts(tmp_path / "others")) == []


@pytest.mark.parametrize(
    ("folder", "title"),
    [
        ("/data/mine/", "Preceptor, mine"),
        ("s3://bucket/pmc_vqa", "Preceptor, pmc_vqa"),
        ("/", "Preceptor, own"),
        (None, "Preceptor, own"),
    ],
)
def test_a_report_without_a_title_of_its_own_is_named_after_the_questions_folder_or_their_source(folder, title):
    questions = SimpleNamespace(
        made_from={"config": {"folder": folder}}, tally={"facts": {"sources": [{"source": "own"}, {"source": "own"}]}}
    )
    assert report.title_of(questions) == title


def test_verdicts_that_were_counted_otherwise_have_no_account(tmp_path):
    assert report.account_of_verdicts(put(tmp_path, "verdicts", lambda _: None)) == {}


def test_an_example_shows_what_became_of_its_rationale_and_why(tmp_path):
    path = "images/0.zip/a.png"
    pictures = {path: Image.new("RGB", (4, 4))}
    asked = {name: showing(question(id=name, images=(path,)), pictures) for name in ("q1", "q2")}
    inputs = {
        "questions": put_questions(tmp_path, list(asked.values()), pictures),
        "verdicts": put_verdicts(tmp_path),
    }
    shown = examples.taught(inputs, 3)
    assert [example["verdict"]["rationale_id"] for example in shown] == ["r1", "r3", "r4", "r5", "r6"]
    unchosen = {**shown[0], "verdict": VERDICTS[1].as_dict()}
    html = re.sub("<.*?>|\\s+", " ", page(ONE, [*shown, unchosen]).partition(">Examples</h2>")[2])
    told = re.findall(r"rationale: +(.*?) +It is round", html)
    assert [re.sub(" +", " ", words) for words in told] == [
        "accepted agreement 1.00, weight 0.50, answered the same without the image",
        "accepted agreement 1.00, told the answer",
        "rejected: cites caption agreement 1.00",
        "failed: timeout agreement 1.00",
        "quarantined: damaged image agreement 1.00",
        "accepted agreement 0.50, not chosen, not answered the same without the image",
    ]


def test_images_are_shown_as_each_condition_shows_them(tmp_path):
    paths = [f"images/0.zip/{n}.png" for n in range(3)]
    pictures = {path: Image.new("RGB", (4, 4), (90 * n, 0, 0)) for n, path in enumerate(paths)}
    own = [showing(question(id=path, images=(path,), image_digests=(path,)), pictures) for path in paths]
    inputs = {"questions": put_questions(tmp_path, own, pictures), "examination": artifact(config={"seed": 0})}
    entries = [{"condition": condition} for condition in ("real", "blank", "shuffled", "absent", "gold_hidden")]
    found = examples.under_conditions(inputs, own, entries)
    assert [[image["condition"] for image in each["images"]] for each in found] == [
        ["real image", "blank image", "shuffled image"]
    ] * 3
    real, _, shuffled = zip(*([image["url"] for image in each["images"]] for each in found), strict=True)
    assert set(real) == set(shuffled)
    assert all(a != b for a, b in zip(real, shuffled, strict=True))
    assert page(ONE, [], found).count("<figure>") == 9
    assert examples.under_conditions(inputs, own, entries[:1]) == []


def test_the_words_of_prompts_are_told_as_far_as_this_code_has_them():
    digests = {"examined/answer": prompts.examined_digest("answer"), "examined/matcha": "other"}
    told = report.asked_with(artifact(config={"seed": 3, "plan": [], "final_line": True}, prompts=digests))
    assert told["settings"] == {"seed": 3, "final_line": True}
    assert told["final_line"] == prompts.FINAL_LINE_INSTRUCTION
    assert told["prompts"]["answer"]["user"].startswith("QUESTION\nA. OPTION")
    assert told["prompts"]["matcha"] == {"digest": "other", "system": None, "user": None}
    html = page({**ONE, "asked_with": told}, [])
    assert "other words than this code has" in html
    assert "QUESTION\nA. OPTION" in html


def task(tmp_path, questions, pictures, rows, plan=None, **config):
    """A report's task on predictions."""

    def examine(draft):
        tables.write(draft, Prediction, rows)
        if plan is not None:
            plans.seal(plan, draft)

    inputs = {
        "questions": put_questions(tmp_path, questions, pictures),
        "verdicts": put(tmp_path, "verdicts", lambda d: tables.write(d, Verdict, [])),
        "examples/answer_only": put(tmp_path, "examples/answer_only", lambda d: tables.write(d, TrainingExample, [])),
        "examination": put(tmp_path, "examination", examine),
    }
    said = []
    draft = tmp_path / "draft"
    draft.mkdir()
    progress = SimpleNamespace(say=said.append)
    return SimpleNamespace(inputs=inputs, draft=draft, config=ReportConfig(**config), progress=progress, said=said)


def test_a_report_is_analysed_by_the_plan_that_was_sealed_and_has_the_keys_that_are_documented(tmp_path):
    path = "images/0.zip/a.png"
    pictures = {path: Image.new("RGB", (4, 4))}
    questions = asked(("s", "f.csv", 6, ("",)), images=(path,), image_digests=(path,))
    rows = [row for arm in ("zero_shot", "answer_only") for row in answered(questions, "BBABAA", arm=arm, model=arm)]
    planned = plans.AnalysisPlan(
        primary=None,
        family=(plans.PlannedComparison(treatment="answer_only/real", comparator="zero_shot/real"),),
        alpha=0.1,
        clusters_by="question",
    )
    noise = (KnownLabelNoise(file="f.csv", share=0.1, source="an audit"),)
    own = task(tmp_path, questions, pictures, rows, planned, label_noise=noise)
    tally = report.run(own)
    made = json.loads((own.draft / "report.json").read_text())
    schema.check(made)
    assert made["plan"] == {**json.loads(json.dumps(planned.as_dict())), "digest": planned.digest}
    assert (made["confidence"], made["examination"][0]["clusters"]) == (0.9, 6)
    assert made["comparisons"][0]["family"] == "planned"
    assert made["examination"][0]["label_noise"]["source"] == "an audit"
    assert tally.rows == {"predictions": 12, "examination": 2}
    assert tally.metrics["accuracy/answer_only/real"] == 0.5
    assert len(own.said) == 3
    assert "90 % intervals" in (own.draft / "index.html").read_text()


def test_noise_is_named_once_for_each_file():
    known = KnownLabelNoise(file="f", share=0.1, source="s")
    with pytest.raises(ValueError, match="twice"):
        ReportConfig(label_noise=(known, known))
