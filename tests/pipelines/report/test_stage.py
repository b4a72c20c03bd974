import re
from types import SimpleNamespace

import pytest
from PIL import Image

from infra.errors import InputError
from pipelines.examination import metrics
from pipelines.records import Condition, Prediction, Verdict, tables
from pipelines.report import stage as report
from pipelines.verification.account import Account
from tests.pipelines.fixtures import prediction, put, put_questions, question, showing, verdict

CURATION = {
    "contamination": {"same_image": 3, "same_text": 0},
    "duplicates": {"exact": 12},
    "letters": {"before": {"A": 70, "B": 30}, "after": {"A": 51, "B": 49}},
    "image_changes": {"on_white": 7},
}


def written(*sets, curation=None):
    """A report on sets, each `(source, file, number of questions, strata)`, with all answers right but one."""
    asked = [
        question(
            id=f"{source}{file}{n}", source=source, file=file, stratum=strata[n % len(strata)], image_digests=(str(n),)
        )
        for source, file, count, strata in sets
        for n in range(count)
    ]
    predictions = [
        prediction("A" if n == 0 else "B", question_id=q.id, source=q.source, file=q.file, condition=condition)
        for condition in ("real", "captioned")
        for n, q in enumerate(asked)
    ]
    examined = metrics.examination(predictions, asked)
    account = {"rows": {"read": 9}, "rejected": {"no_answer": 2}, "quarantined": {"damaged_image": 4}}
    return {
        "title": "T",
        "notes": [],
        "accounting": {"questions": account},
        "curation": curation or {},
        "examination": examined["entries"],
        "baselines": examined["baselines"],
        "inputs": {"questions": "d" * 64},
        "seconds": {"questions": 1.0},
    }


ONE = written(("pocket", "questions.jsonl", 4, ("seen", "unseen")))
TWO = written(("PMC-VQA", "test_2.csv", 4, ("",)), ("PMC-VQA", "<b>.csv", 6, ("a stratum of a long name",)))


def headings(page):
    return [re.sub("<.*?>", "", heading) for heading in re.findall("<h2>(.*?)</h2>", page)]


def test_a_page_on_one_set_names_it_at_each_of_its_tables():
    page = report.page(ONE, [])
    assert headings(page) == [
        "Accuracy, with 95 % intervals pocket, questions.jsonl",
        "The same, seen and unseen apart pocket, questions.jsonl",
        "Where every question went",
        "Examples",
    ]
    assert page.count("<svg") == 1
    assert "answers 4 held-out" in page
    assert "rationale" not in page
    assert ", with caption</text>" in page


def test_a_page_on_several_sets_has_a_chart_and_a_table_for_each():
    page = report.page(TWO, [])
    assert headings(page)[:3] == [
        "Accuracy, with 95 % intervals PMC-VQA, test_2.csv",
        "Accuracy, with 95 % intervals PMC-VQA, &lt;b&gt;.csv",
        "The same, a stratum of a long name apart PMC-VQA, &lt;b&gt;.csv",
    ]
    assert page.count("<svg") == 2
    assert "answers 10 held-out" in page
    assert "all 4 questions" in page
    assert "all 6 questions" in page


def test_many_strata_are_rows_of_the_page_and_no_columns_of_a_terminal():
    strata = tuple(f"stratum {number}" for number in range(12))
    many = written(("own", "questions.jsonl", 24, strata))
    page = report.page(many, [])
    assert "The same, 12 strata apart own, questions.jsonl" in headings(page)
    table = page.partition("12 strata apart")[2].partition("</table>")[0]
    rows = [re.sub("<.*?>|\\s+", " ", row) for row in table.split("<tr>")[1:]]
    assert len(rows) == 1 + len(strata)
    assert all(re.search(rf"{name} +2 +[01]\.\d+", row) for name, row in zip(sorted(strata), rows[1:], strict=True))
    assert max(map(len, report.table_lines(many["examination"]))) < 80


def test_a_page_has_words_for_every_condition():
    asked = [question(id="q1")]
    predictions = [prediction("B", condition=condition) for condition in Condition]
    examined = metrics.examination(predictions, asked)
    page = report.page({**ONE, "examination": examined["entries"], "baselines": examined["baselines"]}, [])
    assert ", no image</text>" in page


def test_lines_name_the_set_when_there_are_several_and_keep_their_columns():
    heading, *lines = report.table_lines(TWO["examination"])
    assert heading.startswith("set                  arm ")
    assert [line.partition("  ")[0] for line in lines] == ["PMC-VQA, test_2.csv"] * 2 + ["PMC-VQA, <b>.csv"] * 2
    assert len({line.index("zero_shot") for line in lines}) == 1
    assert lines[0].endswith("to 0.982")  # a set without strata
    assert len(lines[2]) == len(heading)
    assert report.table_lines(ONE["examination"])[0].startswith("arm ")


@pytest.mark.parametrize("curation", [CURATION, {"duplicates": {"exact": 12}}])
def test_what_was_kept_back_is_told_with_its_reasons(curation):
    page = report.page(written(("s", "", 2, ("",)), curation=curation), [])
    section = re.sub("<.*?>|\\s+", " ", page.partition("What was kept back, and why")[2].partition("<h2>")[0])
    told = ["no answer 2", "damaged image 4", "exact 12"]
    if curation is CURATION:
        told += ["same image 3, same text 0", "A 70, B 30", "A 51, B 49", "on white 7"]
    assert [words for words in told if words not in section] == []


def test_without_curation_there_is_no_such_section_and_quarantined_rows_are_told_all_the_same():
    page = report.page(ONE, [])
    assert "What was kept back" not in page
    assert "quarantined: damaged image 4" in re.sub("\\s+", " ", page)


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
    asked = showing(question(images=paths, image_digests=paths), pictures)
    artifact = put_questions(tmp_path, [asked], pictures)
    shown = {"question": report._shown(asked, artifact.path), "answers": []}
    assert report.page(ONE, [shown]).count('<img src="data:image/png;base64,') == 2
    assert "<code>train, seen q1</code>" in report.page(ONE, [shown])
    assert "<code>test, train, seen q1</code>" in report.page(TWO, [shown])  # where sets must be told apart
    with pytest.raises(InputError, match=r"0\.zip/a\.png: missing_image"):
        report._shown(asked, tmp_path)


def test_examples_come_from_all_sets_and_strata_in_turn():
    asked = [question(id=f"q{n}", file=f"{n // 6}.csv", stratum="ab"[n // 3 % 2]) for n in range(12)]
    assert [q.id for q in report._spread(asked, 5)] == ["q0", "q3", "q6", "q9", "q1"]


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
    page = report.page({**ONE, "verdicts": account}, [])
    section = re.sub("<.*?>|\\s+", " ", page.partition("What became of the teacher")[2].partition("<h2>")[0])
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
    page = report.page({**ONE, "verdicts": report.account_of_verdicts(artifact)}, [])
    assert "Asked 1 = accepted 0 + rejected 0 + failed 1" in page
    assert "Agreement" not in page
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
        "examination": put(tmp_path, "examination", lambda draft: tables.write(draft, Prediction, [])),
    }
    shown = report.examples(asked, inputs, 6)
    assert [example["verdict"]["rationale_id"] for example in shown] == ["r1", "r3", "r4", "r5", "r6"]
    unchosen = {**shown[0], "verdict": VERDICTS[1].as_dict()}
    page = re.sub("<.*?>|\\s+", " ", report.page(ONE, [*shown, unchosen]).partition("Examples")[2])
    told = re.findall(r"rationale: +(.*?) +It is round", page)
    assert [re.sub(" +", " ", words) for words in told] == [
        "accepted agreement 1.00, weight 0.50, answered the same without the image",
        "accepted agreement 1.00, told the answer",
        "rejected: cites caption agreement 1.00",
        "failed: timeout agreement 1.00",
        "quarantined: damaged image agreement 1.00",
        "accepted agreement 0.50, not chosen, not answered the same without the image",
    ]
