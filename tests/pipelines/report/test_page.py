"""The page: what stands on it, in which words, and that no text gets out of its place."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from pipelines.examination.plan import default_plan
from pipelines.records import Condition
from pipelines.report.config import KnownLabelNoise
from pipelines.report.page import axis_end, page
from tests.pipelines.fixtures import question
from tests.pipelines.report.reports import answered, asked, everything, made, written

CURATION = {
    "contamination": {"same_image": 3, "same_text": 0},
    "duplicates": {"exact": 12},
    "letters": {"before": {"A": 70, "B": 30}, "after": {"A": 51, "B": 49}},
    "image_changes": {"on_white": 7},
}
ONE = written(("pocket", "questions.jsonl", 4, ("seen", "unseen")))
TWO = written(("PMC-VQA", "test_2.csv", 4, ("",)), ("PMC-VQA", "<b>.csv", 6, ("a stratum of a long name",)))
HOSTILE = "</script><img src=x onerror=alert(1)>\u2028'\"<!--"


def plain(html):
    return re.sub(r"\s+", " ", re.sub("<.*?>", " ", html))


def headings(html, level="[23]"):
    return [re.sub("<.*?>", "", heading) for heading in re.findall(rf"<h{level}.*?>(.*?)</h{level}>", html)]


def section(html, heading):
    return plain(html.partition(heading)[2].partition("<h2")[0])


class Elements(HTMLParser):
    """Names of elements and attributes of a page, and where these lead."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes


def test_a_page_on_one_set_names_it_at_each_of_its_tables():
    html = page(ONE, [])
    assert headings(html)[:4] == [
        "Accuracy, with 95 % intervals pocket, questions.jsonl",
        "Is the image used? pocket, questions.jsonl",
        "By stratum pocket, questions.jsonl",
        "Other rules of scoring, and positions pocket, questions.jsonl",
    ]
    assert "answers 4 held-out" in html
    assert "zero shot, with caption" in html


def test_a_page_on_several_sets_has_plots_and_tables_of_each():
    html = page(TWO, [])
    assert headings(html, 2)[:2] == [
        "Accuracy, with 95 % intervals PMC-VQA, test_2.csv",
        "Accuracy, with 95 % intervals PMC-VQA, &lt;b&gt;.csv",
    ]
    assert "answers 10 held-out" in html
    assert [words in plain(html) for words in ("4 questions of the split test", "6 questions of the split test")]


@pytest.fixture(scope="module")
def full():
    questions, rows, plan = everything()
    noise = (KnownLabelNoise(file="", share=0.34, source="an audit"),)
    return made(questions, rows, plan, label_noise=noise)


def test_every_table_that_there_is_stands_on_the_page_with_its_formula(full):
    html = page(full, [])
    assert headings(html) == [
        *[
            f"{words} test"
            for words in (
                "Accuracy, with 95 % intervals",
                "If some gold answers are wrong",
                "Differences, as planned before the first question",
                "Is the image used?",
                "By stratum",
                "By task",
                "Other rules of scoring, and positions",
                "With the options in every place",
                "Asked again",
                "Fits with several seeds",
            )
        ],
        "Does the answer follow from the reasoning? rationale then answer, test",
        "Missed by all: is the gold answer right?",
        "Where every question went",
        "Prompts and settings",
        "Examples",
    ]
    told = plain(html)
    for words in (
        "Primary comparison , written down before the first question was asked: rationale then answer minus zero shot",
        "zero_shot/real is at chance",
        "acc(real) - acc(other)",
        "[S(real) - B(real)] - [S(other) - B(other)]",
        "[(p - d) / (1 - d), p / (1 - d)]",
        "34.0 % of defective questions (an audit)",
        "pairs that were not planned",
        "in 40 clusters by article",
        "is found with power 0.8",
        "refusal 10",
        "Area over the early-answer curve",
        "arXiv 2307.13702",
    ):
        assert words in told, words
    assert html.count("<svg") > 30


def test_a_number_that_rests_on_few_clusters_has_a_star_that_says_so(full):
    again = page(full, []).partition("Asked again")[2].partition("</table>")[0]
    assert 'title="Only 4 clusters: intervals hold from 30.">*</sup>' in again
    gains = page(full, []).partition("Grounded gain")[2].partition('class="axis-label"')[0]
    assert "<svg" in gains
    assert "*</sup>" not in gains


def test_the_primary_comparison_of_each_seed_is_told_by_its_seed():
    questions = asked(("s", "", 40, ("",)))
    rows = answered(questions, "ABBB" * 10)
    for seed in (0, 1):
        rows += answered(questions, "BB" * 20, arm="answer_only", seed=seed, model=f"m{seed}")
    told = plain(page(made(questions, rows, default_plan(["zero_shot/real", "answer_only/real"])), []))
    assert [f"was asked: answer only, seed {seed} minus zero shot:" in told for seed in (0, 1)] == [True, True]


def test_a_page_fetches_nothing_from_elsewhere_and_its_plots_end_on_the_axis(full):
    found = Elements(
        page(
            full,
            [],
            browsed={
                "shown": 1,
                "of": 2,
                "without_room": 0,
                "most_characters": 9,
                "texts": {
                    question["id"]: HOSTILE for missed in full["missed_by_all"] for question in missed["questions"]
                },
            },
        )
    )
    leads = [value for name, value in found.attributes if name in ("src", "href")]
    assert {lead for lead in leads if not lead.startswith("#")} == {"browser/index.js"}
    places = [value for name, value in found.attributes if name in ("x", "x1", "x2", "cx")]
    assert all(0 <= float(place.removesuffix("%")) <= 100 for place in places)
    assert "img" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]


def test_hostile_text_stays_text_wherever_it_comes_from():
    questions = [
        dataclasses.replace(
            q, text=HOSTILE, options=(HOSTILE, "b"), stratum=HOSTILE, topic=HOSTILE + "2", gold="AB"[n % 2]
        )
        for n, q in enumerate(asked((HOSTILE, HOSTILE, 6, ("",))))
    ]
    rows = [
        row for arm in ("zero_shot", "answer_only") for row in answered(questions, "ABABAA", arm=arm, model=HOSTILE)
    ]
    report = made(questions, rows, title=HOSTILE, notes=(HOSTILE,))
    example = {
        "question": {**questions[0].as_dict(), "lettered": [("A", HOSTILE)], "urls": [], "set": HOSTILE},
        "answers": [{"entry": HOSTILE, "correct": True, "letter": "A", "text": HOSTILE}],
    }
    found = Elements(page(report, [example], [{"question": questions[0], "images": []}]))
    assert not {"img", "script"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on")]


def test_an_arm_with_cut_answers_is_flagged_and_a_text_rule_told_only_where_it_differs():
    questions = asked(("s", "", 40, ("",)))
    rows = answered(questions, ["A", *"B" * 38, None], missing="truncated", text_letter=None)
    told = plain(page(made(questions, rows), []))
    assert "2.5 % cut off: not ranked" in told
    assert "97.5 to" not in told
    assert "the same" in told


def test_how_far_a_number_depends_on_prompt_and_reader_is_told():
    questions = asked(("s", "", 40, ("",)))
    rows = [
        row
        for prompt, letters in (("answer", "AB" * 20), ("rationale", "AAAB" * 10), ("letter", "ABBB" * 10))
        for row in answered(questions, letters, prompt=prompt, lenient_letter="B")
    ]
    told = plain(page(made(questions, rows), []))
    assert "m, asked in 3 ways (zero shot; zero shot, letter prompt; zero shot, rationale prompt)" in told
    assert "scores 25.0 to 75.0 % by the letter, and 25.0 to 100.0 % by any of these rules; n 40." in told
    assert "By words" not in plain(page(made(questions, rows[:40]), []))


def test_without_a_plan_every_comparison_is_exploratory_and_the_page_says_so():
    questions = asked(("s", "", 40, ("",)))
    rows = [row for arm in ("zero_shot", "answer_only") for row in answered(questions, "AB" * 20, arm=arm)]
    html = page(made(questions, rows), [])
    assert "No plan of analysis was written before the first question was asked" in html
    assert "Primary comparison" not in html
    assert "Differences, exploratory, real" in html


def test_a_page_has_words_for_every_condition():
    questions = [question(id="q1")]
    rows = [row for condition in Condition for row in answered(questions, "B", condition=condition)]
    assert "zero shot, no image" in page(made(questions, rows), [])


def test_many_strata_are_rows_of_a_table():
    strata = tuple(f"stratum {number}" for number in range(12))
    html = page(written(("own", "questions.jsonl", 24, strata)), [])
    table = html.partition("By stratum")[2].partition("</table>")[0]
    rows = [plain(row) for row in table.split("<tr>")[1:]]
    told = zip(sorted(strata), rows[1:-1], strict=True)
    assert all(re.search(rf"{name} +2 +\d+\.\d +\d+ to \d+", row) for name, row in told)
    assert "Mean of these, each counting the same" in rows[-1]


@pytest.mark.parametrize("curation", [CURATION, {"duplicates": {"exact": 12}}])
def test_what_was_kept_back_is_told_with_its_reasons(curation):
    html = page(written(("s", "", 2, ("",)), curation=curation), [])
    told = ["no answer 2", "damaged image 4", "exact 12"]
    if curation is CURATION:
        told += ["same image 3, same text 0", "A 70, B 30", "A 51, B 49", "on white 7"]
    assert [words for words in told if words not in section(html, "What was kept back, and why")] == []


def test_without_curation_there_is_no_such_section_and_quarantined_rows_are_told_all_the_same():
    html = page(ONE, [])
    assert "What was kept back" not in html
    assert "quarantined: damaged image 4" in re.sub("\\s+", " ", html)


def test_code_and_versions_stand_beside_each_artifact():
    told = section(page(ONE, []), "Where every question went")
    assert "cccccccccccc" in told
    assert "numpy 2" in told


@pytest.mark.parametrize(("values", "end"), [([], 0.02), ([-0.03, None], 0.04), ([0.5, float("nan")], 0.6), ([9], 2)])
def test_an_axis_has_room_for_all_of_its_differences(values, end):
    assert axis_end(values) == end


def test_a_set_that_nobody_was_asked_about_has_no_section():
    questions = asked(("s", "1.csv", 3, ("",)), ("s", "2.csv", 3, ("",)))
    html = page(made(questions, answered(questions[:3], "ABB")), [])
    assert headings(html, 2)[0] == "Accuracy, with 95 % intervals s, 1.csv"
    assert "2.csv" not in html
