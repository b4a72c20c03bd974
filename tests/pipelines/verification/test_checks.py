"""What is wrong with a text, reason by reason, each with texts on both sides of the border."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.verification import checks
from pipelines.verification.config import VerifyConfig
from tests.pipelines.fixtures import question, rationale

CONFIG = VerifyConfig()
SHUFFLED = VerifyConfig(options_are_shuffled=True)
PLAIN = "Round pores lie between bright dendrites of the metal"


def reason(body, config=SHUFFLED, asked=None, **changes):
    return checks.judge(rationale(f"{body}\nAnswer: cast (B)", **changes), asked or question(), config).reason


@pytest.mark.parametrize(
    ("said", "status", "why", "letter"),
    [
        (rationale(f"{PLAIN}.\nAnswer: cast (B)"), "accepted", "accepted", "B"),
        (rationale("", status="quarantined", error="damaged_image"), "quarantined", "damaged_image", None),
        (rationale("A wh", status="failed", error="truncated", finish_reason="length"), "failed", "truncated", None),
        (rationale(PLAIN, status="failed", error="no_answer"), "failed", "no_answer", None),
        (rationale("", status="failed"), "failed", "failed", None),
        (rationale(f"{PLAIN}.\nAnswer: cast (B)", finish_reason="length"), "rejected", "truncated", "B"),
        (rationale(f"{PLAIN}."), "rejected", "no_answer", None),
        (rationale(f"{PLAIN}.\nAnswer: mill (A)"), "rejected", "answer_disagrees_with_gold", "A"),
        (rationale("Answer: cast (B)"), "rejected", "no_reasoning", "B"),
        (rationale("It is round.\nAnswer: cast (B)"), "rejected", "too_short", "B"),
    ],
)
def test_every_rationale_has_one_fate_and_its_reason(said, status, why, letter):
    judged = checks.judge(said, question(), CONFIG)
    assert (judged.status, judged.reason, judged.letter) == (status, why, letter)


def test_what_is_wrong_first_is_the_reason():
    everything = "The caption of image 9 says option B, as I was told"
    assert reason(everything, finish_reason="length") == "truncated"
    assert reason(everything) == "cites_caption"
    assert reason(everything.replace("caption", "size")) == "cites_missing_image"
    assert reason("The size says option B, as I was told") == "names_option_letters"
    assert reason("The size says option B, as I was told", CONFIG) == "leaks_hint"


def test_a_verdict_on_the_words_names_its_rule_and_no_other_verdict_does():
    def rule(body, **changes):
        return checks.judge(rationale(f"{body}\nAnswer: cast (B)", **changes), question(), SHUFFLED).rule

    assert rule("The caption says that the pores are round") == "caption"
    assert rule("The pores are round, as seen in image 3") == "image_by_number"
    assert rule("The pores are round, which fits option B") == "letter_beside_option"
    assert rule("The pores are round, so the answer is clearly B, as seen") == "option_then_letter"
    assert rule("As stated, the pores are round here", hinted=True) == "as_told"
    assert rule(PLAIN) is rule("Round") is rule("The caption says so", finish_reason="length") is None


def test_length_is_counted_in_words_of_any_language():
    russian = question(text="Какой процесс?", options=("прокат", "cast"))
    japanese = question(text="どの工程？", options=("圧延", "cast"))
    assert reason("Круглые поры лежат между дендритами", asked=russian) == "accepted"
    assert reason("丸い孔が明るい組織の間にある", asked=japanese) == "accepted"
    assert reason("丸い孔", asked=japanese) == "too_short"
    assert reason("one two three four") == "too_short"
    assert reason("Round pores in bright metal", VerifyConfig(max_words=5)) == "accepted"
    assert reason("Round pores in bright metal here", VerifyConfig(max_words=5)) == "too_long"


def test_repetition_is_the_share_of_runs_that_were_there_before():
    once = "the pores are round and bright here "
    assert checks.repeated_share(checks.words(once)) == 0
    assert reason(once) == "accepted"
    assert reason(once * 3) == "repeats_itself"
    assert reason(once * 3, VerifyConfig(max_repeated_share=1)) == "accepted"
    assert checks.repeated_share(["a"] * 8) == pytest.approx(2 / 3)
    assert checks.repeated_share(["a"] * 5) == checks.repeated_share([]) == 0


@pytest.mark.parametrize(
    "phrase",
    [
        "According to the caption, the pores are round",
        "The figure legend states that the pores are round",
        "The pores are round, as described in the **caption**",
        "The pores are round, as stated in the legend",
        "The legend describes that the pores are round",
        "The accompanying text tells that the pores are round",
        "According to the article the pores are round",
        "The authors report that the pores are round",
        "According to the text, the pores are round",
    ],
)
def test_what_lies_beside_the_image_must_not_be_cited(phrase):
    assert reason(phrase) == "cites_caption"


@pytest.mark.parametrize(
    "phrase",
    [
        "The chart's legend shows that red bars are controls",
        "According to the legend, the dashed line is the control",
        "According to the text in the image, this is the left side",
        "The text label reads left, and the pores are round",
        "Legendary captain of round textures and bright articles of wear",
    ],
)
def test_what_stands_in_the_image_may_be_cited(phrase):
    assert reason(phrase) == "accepted"


@pytest.mark.parametrize(
    "phrase",
    [
        "The second image shows pores that are round",
        "The pores are round in image 3",
        "The pores are round in Image #2",
        "The pores are round, see Figure 2",
        "The pores are round, see Fig. 2b",
        "Both images show pores that are round",
        "Both of these pictures show round pores",
        "The other image shows pores that are round",
        "Another photograph shows pores that are round",
        "Compared with the previous image the pores are round",
        "The 2nd image shows pores that are round",
        "The pores in images 1 and 2 are round",
        "The two images show pores that are round",
    ],
)
def test_only_images_that_are_shown_may_be_cited(phrase):
    assert reason(phrase) == "cites_missing_image"
    assert reason(phrase, asked=question(images=("a", "b", "c"))) == "accepted"


@pytest.mark.parametrize(
    "phrase",
    [
        "The first image shows pores that are round",
        "The pores in image 1 are round",
        "Figure 1 shows pores that are round",
        "In the image 2 pores are seen, all round",
        "The image 2 mm wide shows round pores",
        "Panel (b) of this figure shows round pores",
        "The second panel shows that pores are round",
        "The second image from the left shows round pores",
        "Unlike other images of this metal the pores are round",
        "Both figures on the axis are larger than before",
        "In figure 1 and 3 places pores are round",
        "The image quality is 100 percent good here",
    ],
)
def test_parts_of_the_one_image_may_be_cited(phrase):
    assert reason(phrase) == "accepted"


@pytest.mark.parametrize(
    "phrase",
    [
        "The pores are round, which fits option B",
        "The pores are round, which fits Option **B** best",
        "Round pores exclude options A and C here",
        "Choice A would need pores that are not round",
        "So the answer is B, for the pores are round",
        "The pores are round, so the answer is clearly B, as seen",
        "The pores are round, which fits option (b)",
        "The pores are round, so choice c is wrong",
        "The pores are round, which is not (C)",
        "The pores are round, B is wrong here",
        "The pores are round. A is not correct",
        "Since the pores are round and D is ruled out",
        "Round pores rule out A at once",
        "The pores are round, and we pick D",
        "A. mill: no, for the pores are round",
        "The pores are round, which is D: die cast",
    ],
)
def test_letters_of_options_must_not_be_named_where_options_are_shuffled(phrase):
    assert reason(phrase) == "names_option_letters"
    assert reason(phrase, CONFIG) == "accepted"


@pytest.mark.parametrize(
    "phrase",
    [
        "The pores lack vitamin B and they are round",
        "Hepatitis B is a correct finding with round cells and dark nuclei",
        "Panel B is the right lung with round pores",
        "Panel (B) and arrow (A) show round pores",
        "Figure B shows pores that are round",
        "This excludes B cell lymphoma with its round cells",
        "A correct reading is that the pores are round",
        "The best option: A round pore is seen here",
        "The options are clear and the pores round",
        "E. coli and B. subtilis show round pores",
        "A. thaliana has leaves with round pores",
        "The letter (F) marks pores that are round",
        "The option a reader sees first has round pores",
        "A is the first of many round pores",
    ],
)
def test_other_letters_may_be_named(phrase):
    assert reason(phrase) == "accepted"


def test_letters_that_the_question_or_its_options_hold_may_be_named_but_not_as_options():
    arrows = question(text="Which arrow points to a pore?", options=("C", "A", "B", "D"), gold="B")

    def of_arrows(body):
        return checks.judge(rationale(f"{body}\nAnswer: A (B)"), arrows, SHUFFLED).reason

    assert of_arrows("The pore is round, (A) points to it and B is wrong") == "accepted"
    assert of_arrows("The pore is round, so option B is the one") == "names_option_letters"
    panels = question(text="What is seen in panel B of the figure?")
    assert reason("The metal (B) has pores that are round", asked=panels) == "accepted"
    assert reason("The metal (C) has pores that are round", asked=panels) == "names_option_letters"
    article = question(text="A 45-year-old sample. Which process route?")
    assert reason("The metal (A) has pores that are round", asked=article) == "names_option_letters"


@pytest.mark.parametrize(
    "phrase",
    [
        "The given answer fits, for the pores are round",
        "The provided correct answer fits the round pores",
        "Since the correct answer is provided, the pores are round",
        "The right option is given: the pores are round",
        "I was told that the pores are round",
        "By the hint, the pores must be round",
        "Knowing that the correct option is cast, pores are round",
        "The ground truth says that pores are round",
    ],
)
def test_an_answer_that_was_told_must_not_be_spoken_of_even_where_none_was(phrase):
    assert reason(phrase, CONFIG) == reason(phrase, CONFIG, hinted=True) == "leaks_hint"


@pytest.mark.parametrize(
    "phrase",
    [
        "As stated, the pores of the metal are round",
        "As if nobody had told me, the pores are round",
        "This is hinted at, and the pores are round",
    ],
)
def test_what_only_a_told_teacher_means_by_it_is_a_leak_of_its_own(phrase):
    assert reason(phrase, CONFIG, hinted=True) == "leaks_hint"
    assert reason(phrase, CONFIG) == "accepted"


@pytest.mark.parametrize(
    "phrase",
    [
        "Among the given options only this has round pores",
        "Of the given answer choices only one has round pores",
        "There is the hint of a shadow at the pores",
        "The correct answer is given by the round pores",
        "The given image has pores that are round",
    ],
)
def test_speaking_of_the_options_is_no_leak(phrase):
    assert reason(phrase, CONFIG) == reason(phrase, CONFIG, hinted=True) == "accepted"


SEEDS = ("option ", "the second ", "(", "a", " ", "A", "image 1 ", "answer", "\n", "as ", "B is the most ", "图", "A. ")


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_text_of_three_hundred_kilobytes_takes_bounded_time(seed):
    long = seed * (300_000 // len(seed))
    endless = VerifyConfig(options_are_shuffled=True, min_words=0, max_words=10**9, max_repeated_share=1)
    started = time.process_time()
    checks.judge(rationale(f"{long}{PLAIN}\nAnswer: cast (B)", hinted=True), question(), endless)
    assert time.process_time() - started < 3


TEXTS = st.text(max_size=60) | st.lists(st.sampled_from([*SEEDS, "B", ")", "1", ". ", "cast", "told "])).map("".join)


@given(TEXTS, TEXTS, st.lists(TEXTS, max_size=6), st.booleans(), st.integers(0, 3))
def test_any_text_is_judged_the_same_twice(text, asked, options, hinted, num_images):
    about = question(text=asked, options=("x", *options), gold="A", images=("i",) * num_images)
    said = rationale(f"{text}\nAnswer: x (A)", hinted=hinted)
    assert checks.judge(said, about, SHUFFLED) == checks.judge(said, about, SHUFFLED)


@pytest.mark.parametrize(
    "text",
    [
        "I can't view the image, but based on the options it is likely cast.",
        "As an AI I cannot see the image.",
        "Without access to the image, the pores suggest casting.",
        "No image was provided, so this is a guess.",
        "I do not see any image attached.",
    ],
)
def test_a_teacher_that_saw_no_image_is_found_out(text):
    assert reason(text) == "sees_no_image"


@pytest.mark.parametrize(
    "text",
    [
        "The scan shows no fracture, and we cannot see the lung apex.",
        "In the image, no contrast was given, and pores are round.",
        "One cannot see grain boundaries at this magnification.",
        "Without contrast, the image is dark.",
    ],
)
def test_speaking_of_what_an_image_does_not_show_is_no_blindness(text):
    assert reason(text) == "accepted"


@pytest.mark.parametrize(
    "text",
    ["Because the prompt says that CT is right, it is CT.", "The user states that the correct option is cast."],
)
def test_a_text_that_quotes_the_prompt_for_the_right_option_leaks_it(text):
    assert reason(text, CONFIG, hinted=True) == reason(text, CONFIG) == "leaks_hint"
