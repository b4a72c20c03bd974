"""The laws of what students learn to write: it is read back as it was meant, and no sentence in it lacks its end."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import examples
from pipelines.inference import answers
from pipelines.questions.candidates import Origin, RejectedError
from pipelines.questions.sources import folder, gold
from pipelines.records import LETTERS, TAUGHT, Arm
from tests.pipelines.fixtures import OPTIONS, question, verdict

HOSTILE = (
    *(
        "T2*-weighted",
        "T2-weighted",
        "-1",
        "1",
        "+1",
        "−1",
        "> 5 mm",
        ">5 mm",
        "< 5 mm",
        ">= 5 mm",
        "5 mm",
        "50 %",
        "50%",
    ),
    *("A", "B", "b", "C", "(A)", "(B)", "A.", "B) cast", "A and B", "A or B", "Both A and B", "None of the above."),
    *(
        "**bold**",
        "_x_",
        "`code`",
        "# 1",
        "$x$",
        "\\boxed{B}",
        "$\\boxed{A}$",
        "~5",
        "✅",
        "- cast",
        "*",
        "-",
        ">",
        "#",
    ),
    *("cast", "cast (B)", "cast (A)", "die cast", "mill (A) cast", "die cast.", "the answer is B", "Answer: A (B)"),
    *("Answer:", "answer", "The correct option is (A)", "B is the right answer", "is: B", "and its letter", "I", "II"),
    *(
        '"quoted"',
        "'B'",
        "5 µm",
        "5 μm",
        "5 μm (B)",
        "10²",
        "102",
        "Fe₃C",
        "Fe3C",
        "é",
        "e\u0301",
        "ẞ",
        "ss",
        "ﬁ",
        "（A）",
    ),
    *(
        "一",
        "答案",
        "two\nlines",
        "two lines",
        "  spaced   out ",
        "tab\there",
        "a\u2028b",
        "a\u200bb",
        "x\u00a0y",
        "</answer>",
    ),
    *(
        "Hepatitis A",
        "Hepatitis B",
        "E. coli",
        "3.5",
        "3",
        "{}",
        "%s",
        "<option> (<letter>)",
        "🙂",
        "👩\u200d🔬",
        "a" * 300,
    ),
)
OPTION = (
    st.sampled_from(HOSTILE)
    | st.lists(st.sampled_from((*HOSTILE, *LETTERS[:4], " ", "(", ")", ":", ".", "*", "\n")), max_size=4).map("".join)
    | st.text(max_size=12)
)
OPTION_SETS = st.lists(OPTION, min_size=2, max_size=8)
RATIONALES = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=20), max_size=5).map("\n".join)


def accepted(options: list[str]) -> tuple[str, ...] | None:
    """The options of a user's row, in a table that gives letters, as they are taken; None where the row is refused."""
    letters = gold.Forms(lambda: [("A", ("one", "two"))])
    row = {"image": "a.png", "question": "?", "options": json.dumps(options), "answer": "A", "split": "train"}
    try:
        (candidate,) = folder.candidates(row, Origin(source="s", file="f", row=1), letters)
    except RejectedError:
        return None
    return candidate.options


@pytest.mark.parametrize("arm", TAUGHT)
@given(raw=OPTION_SETS, rationale=RATIONALES)
def test_what_an_arm_learns_to_write_is_read_back_as_the_very_option(arm, raw, rationale):
    for place in range(len(options := accepted(raw) or ())):
        asked = question(options=options, gold=LETTERS[place])
        target = examples.compose(asked, [verdict(body=rationale)], arm)[0].target
        for written in (target, unicodedata.normalize("NFC", target), f"{target}\n"):  # as tokenizers give it back
            read = answers.read(written, options, answer_first=arm is Arm.ANSWER_THEN_RATIONALE).letter
            assert read == LETTERS[place], (written, options)


def test_no_hostile_option_is_refused_but_what_says_nothing_or_the_same_twice():
    told_apart = list({" ".join(option.split()).casefold(): option for option in HOSTILE}.values())
    sets = [told_apart[start : start + 8] for start in range(0, len(told_apart), 8)]
    assert [each for each in sets if accepted(each) is None] == []


@pytest.mark.parametrize(
    ("said", "options", "letter"),
    [
        ("Answer: T2*-weighted (B)", ("T1-weighted", "T2*-weighted"), "B"),
        ("**Answer: T2*-weighted (B)**", ("T1-weighted", "T2*-weighted"), "B"),
        ("Answer: T2*-weighted (B)", ("T2*-weighted", "T2-weighted"), None),
        ("The correct answer is **B. T2-weighted**.", ("T2*-weighted", "T2-weighted"), "B"),
        ("Answer: * (B)", ("(B)", "*"), "B"),
        ("Answer: -1 (A)", ("-1", "1"), "A"),
        ("Answer: 1 (A)", ("-1", "1"), None),
        ("Answer: −1", ("-1", "1"), "A"),
        ("Answer: > 5 mm (A)", ("> 5 mm", "< 5 mm"), "A"),
        ("Answer: >5 mm", ("> 5 mm", "< 5 mm"), "A"),
        ("Answer: 5 mm (A)", ("> 5 mm", "5 mm"), None),
        ("Answer: A and B (C)", ("mill", "cast", "A and B"), "C"),
        ("Answer: A (B)", ("C", "A", "B"), "B"),
        ("Answer: B (B)", ("C", "A", "B"), None),
        ("Answer: C", ("C", "B", "N"), None),
        ("Answer: cast (A) (B)", ("cast", "cast (A)"), "B"),
        ("Answer: 10² (A)", ("10²", "102"), "A"),
        ("Answer: 102 (A)", ("10²", "102"), None),
        ("Answer: cafe\u0301 (A)", ("café", "tea"), "A"),
        ("Answer: \\boxed{B} (A)", ("\\boxed{B}", "B"), "A"),
        ("B. press", ("mill", "cast", "press"), None),
    ],
)
def test_marks_that_belong_to_an_option_are_neither_lost_nor_taken_for_others(said, options, letter):
    assert answers.read(said, options).letter == letter


SENTENCES = st.sampled_from(
    (
        "The grains are equiaxed.",
        "Fig. 2 shows pores of approx. 5 µm, e.g. round ones.",
        "It is not E. coli!",
        "The tumor is larger in B.",
        "There are 3.",
        "**Step 1: Look.** The pores are round.",
        "1. The edges are **sharp**.",
        "Is it cast? It is.",
        "The pH is 7-8 (see the scale).",
        "图像显示圆形颗粒。",
    )
)
ENDINGS = st.sampled_from(
    (
        "{gap}The answer is B.",
        "{gap}The answer is cast (B).",
        "{gap}So the answer is B.",
        "{gap}Therefore, my answer: B",
        "{gap}Since the pores are round, the answer is cast (B).",
        "{gap}Based on this, I conclude that the correct option is **B. cast**.",
        "{gap}Thus, option B (cast) is the right answer.",
        "{gap}**The answer is B**",
        "\nBecause all of it is round,\nthe answer is B.",
        "\n\n**Conclusion:**\nAnswer: cast (B)",
        "\n\n### Conclusion\n\nThe right option is cast (B).",
        "\n\n---\n\n**Answer: cast (B)**",
        "\n\n**Conclusion**\n\nSo,\nAnswer: cast (B)",
        "\n2. Therefore:\nAnswer: cast (B)",
        "\n\n```\nAnswer: cast (B)\n```",
    )
)


@given(st.lists(SENTENCES, min_size=1, max_size=4), st.sampled_from((" ", "\n", "\n\n")), ENDINGS)
def test_the_reasoning_before_an_answer_is_whole_sentences_whatever_leads_to_it(said, gap, ending):
    reasoning = gap.join(said)
    text = reasoning + ending.format(gap=gap)
    assert answers.read(text, OPTIONS).letter == "B"
    assert answers.without_answer(text) == reasoning


@given(st.lists(SENTENCES, max_size=3))
@pytest.mark.parametrize(
    "link", [", so the answer is", ", thus the right option is", "; therefore the answer is", " and so my answer is"]
)
def test_a_clause_that_stands_alone_is_kept_without_the_answer_it_leads_to(link, said):
    before = " ".join([*said, "The pores are small and round"])
    text = f"{before}{link} cast (B)."
    assert answers.read(text, OPTIONS).letter == "B"
    assert answers.without_answer(text) == f"{before}."


@pytest.mark.parametrize(
    "text",
    [
        "The answer is B.",
        "So,\nthe answer is B.",
        "As it is round, so the answer is B.",
        "**Answer:**\nB",
        "#\n---\nAnswer: B",
    ],
)
def test_where_nothing_but_a_stump_would_be_left_there_is_no_reasoning(text):
    assert answers.without_answer(text) == ""
