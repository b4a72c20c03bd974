import difflib
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inference import answers, prompts
from pipelines.inference.answers import How, Missing
from pipelines.questions.candidates import RejectedError, check_options
from pipelines.records import LETTERS
from tests.pipelines.fixtures import OPTIONS, question

SHARED = Path(__file__).parents[4] / "shared/reader_examples.jsonl"
EXAMPLES = [Path(__file__).with_name(name) for name in ("answer_examples.jsonl", "more_answer_examples.jsonl")]

texts = st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=60)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: cast (B)", "B"),
        ("Round on grainy: beta.\nAnswer: cast (B)", "B"),
        ("Answer: mill (A)\nNo, wait.\nAnswer: cast (B)", "B"),
        ("Answer: B", "B"),
        ("Answer: B.", "B"),
        ("The answer is B. cast", "B"),
        ("the answer is (C)", "C"),
        ("B", "B"),
        ("(D)", "D"),
        ("Answer: die cast", "D"),
        ("It must be the press", "C"),
        ("Answer: Cast", "B"),
    ],
)
def test_a_settled_answer_is_read(text, letter):
    assert answers.read(text, OPTIONS).letter == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot tell.",
        "Answer: mill (B)",
        "Answer: cast (E)",
        "It could be mill or press",
        "A smooth background is seen",
        "Answer:",
        "Answer: milling",
        "The answered question",
        "Answer: A or B",
        "Answer: A, B",
        "Answer: A and C are wrong",
        "Answer: A large mass is visible",
        "Answer: (A) or (B)",
    ],
)
def test_what_settles_on_nothing_or_contradicts_itself_is_no_answer(text):
    assert answers.read(text, OPTIONS).letter is None


FINDINGS = ("Pleural effusion", "Pneumothorax", "Cardiomegaly", "No abnormality")
SCANS = ("Computed tomography (CT)", "Magnetic resonance imaging (MRI)", "Ultrasound", "X-ray")
SIZES = ("10 nm", "50 nm", "50 µm", "5 mm")
CHARGES = ("-1", "1", "+2", "2")
STAGES = ("I", "II", "III", "IV")
VIRUSES = ("Hepatitis A", "Hepatitis B", "Hepatitis C")


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (FINDINGS, ("No pneumothorax is seen.", "Pneumothorax is excluded.", "Pneumothorax is ruled out.")),
        (FINDINGS, ("Answer: no pneumothorax (B)", "Rather than pneumothorax, think of a bulla.")),
        (
            FINDINGS,
            ("If there were a pneumothorax, the edge would show.", "It depends on whether pneumothorax is there."),
        ),
        (FINDINGS, ("I am sorry, I cannot diagnose a pneumothorax.", "The correct answer is definitely not (A).")),
        (FINDINGS, ("The answer can't be (A).", "Answer: anything but (A)", "Answer: neither (A)")),
        (SCANS, ("Answer: it is not an X-ray.", "Answer: unlike an X-ray", "Answer: CT (B)", "Answer: MRI (A)")),
        (SCANS, ("Answer: see panel (B)", "The answer is visible in figure (C).", "The answer shows, as CT would (B)")),
        (
            ("Yes", "No"),
            ("There is no evidence of a mass.", "I see no image.", "No image was given.", "I have no idea."),
        ),
        (SIZES, ("Answer: 50 mm (C)", "Answer: 500 nm (B)", "about 0.50 nm", "Answer: 1.50 nm", "Answer: 10-50 nm")),
        (CHARGES, ("so x = -2", "x=-2", "the charge is 2+", "1.5", "Answer: 2,5", "Answer: 1e-2", "Answer: 10^2")),
        (CHARGES, ("Answer: minus 1", "Answer: 2 (C)")),
        (STAGES, ("I think it needs more views.", "Answer: I am not sure")),
        (VIRUSES, ("Hepatitis A or B", "Hepatitis B and C")),
    ],
)
def test_an_option_that_is_denied_or_left_open_or_another_number_is_not_taken(options, texts):
    assert {text: answers.read(text, options).letter for text in texts} == dict.fromkeys(texts)


@pytest.mark.parametrize(
    ("options", "text", "letter"),
    [
        (FINDINGS, "Answer: A small pleural effusion", "A"),
        (FINDINGS, "The finding is no abnormality.", "D"),
        (SCANS, "The answer is: **B) MRI**", "B"),
        (SCANS, "Answer: CT", "A"),
        (SCANS, "Answer: MR (B)", "B"),
        (("Yes", "No"), "No, there is no fracture.", "B"),
        (("Yes", "No"), "Answer: **Yes**, it is.", "A"),
        (SIZES, "about 50 µm, by the bar", "C"),
        (CHARGES, "The value is −1.", "A"),
        (STAGES, "Answer: II", "B"),
        (SCANS, "**Answer:** A\n\n**Correction:** the correct answer is B.", "B"),
        (SCANS, "Answer: B\n\nNote that the correct answer is not (A).", "B"),
        (SCANS, "Answer: B\n\nWhy not A? The correct answer would be A if bone were bright.", "B"),
    ],
)
def test_what_is_said_without_a_doubt_is_read(options, text, letter):
    assert answers.read(text, options).letter == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("<think>The answer is (A).</think>\nThe answer is B.", "B"),
        ("<think>\nAnswer: A\n</think>\n\n**C**", "C"),
        ("The correct answer is B, I thought.\n</think>\n\nThis is a die cast.", "D"),
        ("<think>The answer is (A).</think>", None),
        ("<think>It may be cast. The correct answer is D", None),
    ],
)
def test_what_a_model_thinks_is_not_what_it_answers(text, letter):
    assert answers.read(text, OPTIONS).letter == letter


@given(texts, st.lists(texts, min_size=2, max_size=6, unique=True))
def test_reading_never_raises_and_gives_a_letter_of_the_options_or_none(text, options):
    letter = answers.read(text, tuple(options)).letter
    assert letter is None or letter in LETTERS[: len(options)]


@given(
    st.lists(st.from_regex(r"[a-z]{2,8}", fullmatch=True), min_size=2, max_size=6, unique=True),
    st.data(),
)
def test_the_line_that_students_learn_is_read_back(options, data):
    index = data.draw(st.integers(0, len(options) - 1))
    line = prompts.answer(options[index], LETTERS[index])
    assert answers.read(f"because of what is seen\n{line}", tuple(options)).letter == LETTERS[index]


def test_the_reasoning_is_what_stands_before_the_final_line():
    assert answers.without_answer("Round on grainy.\nSo beta.\nAnswer: cast (B)") == "Round on grainy.\nSo beta."
    assert answers.without_answer("Answer: cast (B)") == ""


SEEN = "The grains are equiaxed, unlike in a mill product, and the pores are round."


@pytest.mark.parametrize(
    "end",
    [
        "**Answer: B. cast**",
        "**Answer:** B. cast",
        "Therefore, the correct answer is **B. cast**.",
        "**Right option: B. cast**",
        "Therefore, the correct option is:\n\n**B. cast**",
        "Right option and letter: **cast (B)**",
        "The answer is $\\boxed{B}$.",
        "Final answer: \\boxed{\\text{B}}",
        "### Final Answer:\n\n**B: cast**",
        "✅ **Correct Answer: B. cast**",
        "Answer: cast (B)\n\nThis answer is consistent with the pores.",
        "Thus, option B (cast) is the right answer.",
        "Thus, **B** is the correct answer.",
        "The best answer would be **B) cast**.",
    ],
)
def test_the_ways_in_which_large_models_end_are_read_and_leave_the_reasoning_whole(end):
    assert answers.read(f"{SEEN}\n\n{end}", OPTIONS).letter == "B"
    assert answers.without_answer(f"{SEEN}\n\n{end}") == SEEN


@pytest.mark.parametrize(
    "repeated",
    [
        "Therefore, the answer is cast.",
        "Based on these findings, the correct option is (B) cast.",
        "So the answer is B. cast. The answer is cast.\n**Answer: B**\n<answer>cast</answer>",
        "### Final Answer\n\n**cast (B)**",
        "(B)",
        "Daher ist die Antwort B.",
        "答案是B。",
    ],
)
@pytest.mark.parametrize("gap", [" ", "\n"])
def test_an_answer_that_is_only_given_once_more_is_no_part_of_the_reasoning(repeated, gap):
    assert answers.without_answer(f"{SEEN}{gap}{repeated}\n\nAnswer: cast (B)", OPTIONS) == SEEN


@pytest.mark.parametrize(
    "said",
    [
        "The answer is mill.",
        "So it is cast.",
        "The answer is cast because the pores are round.",
        "Because the pores are round, the answer is cast.",
        "Knowing that the correct option is cast, pores are round.",
        "As stated, the correct answer is cast.",
        "The answer is cast. The pores are many.",
        "The answer is not cast.",
    ],
)
def test_what_says_more_than_the_answer_or_gives_another_one_stays_in_the_reasoning(said):
    assert answers.without_answer(f"{SEEN} {said}\nAnswer: cast (B)", OPTIONS) == f"{SEEN} {said}"


def test_a_clause_that_says_what_is_seen_stays_without_the_answer_that_it_leads_to():
    text = f"{SEEN} The dendrites are bright, so the answer is cast.\nAnswer: cast (B)"
    assert answers.without_answer(text, OPTIONS) == f"{SEEN} The dendrites are bright."


@pytest.mark.parametrize(
    "end", ["The correct answer is (B) cast, not die cast (D).", "So the answer must be B, cast, and not A, mill."]
)
def test_an_option_that_another_is_set_against_is_the_answer(end):
    assert answers.read(f"{SEEN}\n\n{end}", OPTIONS).letter == "B"


PIECES = (
    *("A ", "answer ", "**", "A is the ", "\n", "\\boxed{", "the correct answer is ", "image is of of of ", "<answer>"),
    *(
        '{"answer": ',
        "not ",
        "Answer: (A) ",
        "I cannot tell ",
        "B\n",
        "A. x\n",
        "mill cast ",
        "Wait, ",
        "$_{",
        "</think>",
    ),
    *(
        "<think>",
        "(",
        "\\",
        "[",
        "'",
        '"',
        "答案",
        "no no ",
        "Answer: mill ",
        "Answer:\n",
        "```\n",
        "is the answer ",
        "</s> ",
    ),
)


@pytest.mark.parametrize("piece", PIECES)
def test_a_text_of_anything_is_read_in_time_in_proportion_to_its_length(piece):
    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        started = time.process_time()
        answers.read(text, OPTIONS)
        answers.without_answer(text, OPTIONS)
        return time.process_time() - started

    short, long = seconds(10_000), seconds(100_000)
    assert long < 30 * short + 0.3


@pytest.mark.parametrize(
    "rationale",
    [
        "The answer is clear from the pores.",
        "Answer: mill (A) would need elongated grains.",
        "The correct option is not die cast (D).",
        "One could think that D is the right answer.\n\nThe best choice is another.",
        "Answer:",
        "",
    ],
)
def test_an_answer_that_comes_first_holds_whatever_its_rationale_says_about_answers(rationale):
    for first in ("Answer: cast (B)", "\n\nAnswer: cast (B)", "**Answer: B. cast**"):
        assert answers.read(f"{first}\n{rationale}", OPTIONS, answer_first=True).letter == "B"


@pytest.mark.parametrize(
    "text",
    [
        "Round on grainy.\nAnswer: cast (B)",
        "A mill would leave elongated grains.\nAnswer: cast (B)",
        "Answer:\ncast (B)",
        "Answer: mill (B)\nAnswer: cast (B)",
        "\n",
    ],
)
def test_an_answer_that_should_come_first_and_does_not_is_looked_for_nowhere_else(text):
    assert answers.read(text, OPTIONS, answer_first=True).letter is None


@given(
    st.lists(st.from_regex(r"[a-z]{2,8}", fullmatch=True), min_size=2, max_size=6, unique=True),
    st.lists(st.one_of(texts, st.sampled_from(["Answer: ", "the answer is", "(A)", "B", "\n"])), max_size=6),
    st.data(),
)
def test_the_line_that_students_learn_is_read_back_before_any_text(options, pieces, data):
    index = data.draw(st.integers(0, len(options) - 1))
    text = f"{prompts.answer(options[index], LETTERS[index])}\n{''.join(pieces)}"
    assert answers.read(text, tuple(options), answer_first=True).letter == LETTERS[index]


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "row", [row for path in EXAMPLES for row in rows(path)], ids=lambda row: f"{row['options'][0]}-{row['letter']}"
)
def test_answers_in_the_manner_of_real_models_are_read_as_a_person_reads_them(row):
    options, finish_reason = tuple(row["options"]), row["finish_reason"]
    read = {text: answers.read(text, options, finish_reason=finish_reason) for text in row["texts"]}
    assert {text: reading.letter for text, reading in read.items()} == dict.fromkeys(read, row["letter"])
    if row["missing"]:
        assert {text: reading.missing for text, reading in read.items()} == dict.fromkeys(read, row["missing"])


@pytest.mark.skipif(not SHARED.exists(), reason="the labelled outputs are not here")
def test_labelled_outputs_are_read_as_they_are_labelled_and_none_as_another_letter():
    labelled = rows(SHARED)
    read = [
        answers.read(row["text"], tuple(row["options"]), finish_reason=row.get("finish_reason", "stop")).letter
        for row in labelled
    ]
    pairs = [(letter, row["label"]) for letter, row in zip(read, labelled, strict=True)]
    assert [pair for pair in pairs if pair[0] not in (None, pair[1])] == []
    assert sum(letter == label for letter, label in pairs) >= 0.99 * len(pairs)


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("Answer: cast (B)", How.TAUGHT_LINE),
        ("<answer>B</answer>", How.TAG),
        ('{"answer": "B"}', How.JSON),
        ("$\\boxed{B}$", How.BOX),
        ("So the answer is B.", How.ANNOUNCEMENT),
        ("It is round.\n\nB", How.LAST_LINE),
        ("It is a cast.", How.OPTION_TEXT),
        ("B. The pores are round.", How.FIRST_LINE),
        ("B\n\nThe pores are round.", How.FIRST_LINE),
    ],
)
def test_a_reading_says_how_the_letter_was_found(text, how):
    reading = answers.read(text, OPTIONS)
    assert (reading.letter, reading.how, reading.missing) == ("B", how, None)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("", Missing.NO_ANSWER),
        ("The pores are round.", Missing.NO_ANSWER),
        ("I cannot see the image.", Missing.REFUSAL),
        ("The image is blank, so the answer could be A or B.", Missing.REFUSAL),
        ("Answer: A or B", Missing.SEVERAL),
        ("Answer: mill (B)", Missing.CONTRADICTION),
        ("B\n\nThis is a press.", Missing.CONTRADICTION),
        ("Answer: E", Missing.NOT_AN_OPTION),
        ("Answer: forged", Missing.NOT_AN_OPTION),
        ("<think>Is it B? The answer is B", Missing.TRUNCATED),
    ],
)
def test_a_reading_says_why_there_is_no_letter(text, missing):
    reading = answers.read(text, OPTIONS)
    assert (reading.letter, reading.how, reading.missing) == (None, None, missing)


@pytest.mark.parametrize(
    ("text", "letter", "text_letter"),
    [
        ("Answer: cast (B)", "B", "B"),
        ("Answer: B", "B", None),
        ("Answer: press (B)", None, "C"),
        ("B. press", None, "C"),
        ("It is a press.", "C", "C"),
        ("The answer is D: mill.", None, "A"),
    ],
)
def test_the_option_whose_text_is_given_is_told_beside_the_letter(text, letter, text_letter):
    reading = answers.read(text, OPTIONS)
    assert (reading.letter, reading.text_letter) == (letter, text_letter)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("<answer>A</answer> and \\boxed{B}", "A"),
        ('{"answer": "A"} \\boxed{B}', "A"),
        ("\\boxed{A}\nMost likely B", "A"),
        ("The answer is A. B is the correct answer. I'd go with C.", "C"),
        ("I'd go with C. B is the correct answer. The answer is A.", "A"),
        ("The answer is A.\n\nB", "A"),
        ("\\boxed{A}\nNo, the answer is B.", "B"),
        ("The answer is A.\nWait, no, that's wrong.", None),
    ],
)
def test_what_is_marked_counts_more_than_what_is_announced_and_the_last_announcement_more_than_others(text, letter):
    assert answers.read(text, OPTIONS).letter == letter


def test_of_a_text_that_was_cut_off_only_what_is_marked_or_announced_counts():
    for text in ("B", "It is round.\nB", "This is a cast", "The answer is B. Wait, the pores", "Is it"):
        reading = answers.read(text, OPTIONS, finish_reason="length")
        assert (reading.letter, reading.missing) == (None, Missing.TRUNCATED), text
    for text in ("The answer is B. The pores", "<answer>B</answer>", "Answer: cast (B)", '{"answer": "B", "why": "the'):
        assert answers.read(text, OPTIONS, finish_reason="length").letter == "B", text


ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
TOLD = st.sampled_from(
    (
        "Answer: mill (A)",
        "<answer>A</answer>",
        "\\boxed{A}",
        '{"answer": "A"}',
        "The answer is A.",
        "A",
        "mill",
        "</s>",
        "I cannot tell.",
    )
)


@given(st.lists(ANY_TEXT | TOLD, min_size=2, max_size=8), st.lists(TOLD | ANY_TEXT, max_size=4), st.data())
def test_whatever_options_are_accepted_the_line_that_is_taught_is_read_back(options, mentioned, data):
    try:
        check_options(options)
    except RejectedError:
        return
    place = data.draw(st.integers(0, len(options) - 1))
    asked = question(options=tuple(options), gold=LETTERS[place])
    for rationale in (None, "It is so.\n" + "\n".join(mentioned)):
        last = prompts.target(asked, rationale)
        first = prompts.target(asked, rationale, answer_first=True)
        assert answers.read(last, asked.options).letter == asked.gold
        assert answers.read(first, asked.options, answer_first=True).letter == asked.gold


@pytest.mark.parametrize("option", ["two\nlines", "two\r\nlines", "a\u2028b", "a\x85b"])
def test_an_option_that_no_line_can_hold_is_refused(option):
    with pytest.raises(RejectedError, match="option_has_line_breaks"):
        check_options(("one line", option))


def test_the_lenient_scorer_credits_the_nearest_option_whatever_is_said():
    text = "I cannot see the image, so I will not say whether it is cast."
    ratios = [difflib.SequenceMatcher(None, option, text).ratio() for option in OPTIONS]
    assert answers.lenient_letter(text, OPTIONS) == LETTERS[ratios.index(max(ratios))]
    assert answers.read(text, OPTIONS).letter is None
    assert answers.lenient_letter("", OPTIONS) is None


@given(texts, st.lists(texts, min_size=2, max_size=6, unique=True))
def test_the_lenient_letter_is_that_of_the_highest_ratio(text, options):
    ratios = [difflib.SequenceMatcher(None, option, text).ratio() for option in options]
    expected = LETTERS[ratios.index(max(ratios))] if max(ratios) else None
    assert answers.lenient_letter(text, tuple(options)) == expected
