import pytest

from pipelines.inference import prompts
from pipelines.records import Arm
from pipelines.records.entries import OWN_PROMPT, Prompt
from tests.pipelines.fixtures import question


def test_the_exact_prompt_of_the_answer_only_arm_is_pinned():
    assert prompts.prompt(question(), Arm.ANSWER_ONLY) == (
        "Which process route made this sample?\n"
        "A. mill\nB. cast\nC. press\nD. die cast\n"
        "Name the right option and its letter."
    )


def test_the_exact_prompt_of_the_rationale_arm_is_pinned():
    assert prompts.prompt(question(), Arm.RATIONALE_THEN_ANSWER).endswith(
        "D. die cast\nExplain what you see, then name the right option and its letter."
    )


def test_the_exact_prompt_of_the_answer_first_arm_is_pinned():
    assert prompts.prompt(question(), Arm.ANSWER_THEN_RATIONALE).endswith(
        "D. die cast\nName the right option and its letter, then explain what you see."
    )


def test_the_exact_prompt_that_asks_for_the_rationale_alone_is_pinned():
    assert prompts.explain_prompt(question()) == (
        "Which process route made this sample?\nA. mill\nB. cast\nC. press\nD. die cast\nExplain what you see."
    )


def test_teacher_and_rationale_student_are_asked_the_same_and_zero_shot_as_those_that_write_the_answer_alone():
    ask = {arm: prompts.prompt(question(), arm) for arm in Arm}
    assert ask[Arm.TEACHER] == ask[Arm.RATIONALE_THEN_ANSWER]
    assert ask[Arm.ZERO_SHOT] == ask[Arm.ANSWER_ONLY] == ask[Arm.MULTI_TASK]
    assert len({*ask.values(), prompts.explain_prompt(question())}) == 4


@pytest.mark.parametrize("arm", Arm)
def test_a_caption_stands_on_one_line_before_the_words_that_are_asked_anyway(arm):
    plain = prompts.prompt(question(), arm)
    assert prompts.prompt(question(), arm, " A  steel\n\tsample. ") == f"Caption: A steel sample.\n{plain}"
    assert "Caption" not in plain


def test_the_digest_is_of_the_words_around_a_caption_too(monkeypatch):
    before = prompts.digest()
    real = prompts.prompt
    monkeypatch.setattr(
        prompts, "prompt", lambda q, arm, caption=None, **how: real(q, arm, caption, **how) + ("!" if caption else "")
    )
    assert prompts.digest() != before


def test_a_prompt_never_tells_the_gold_answer_unless_it_is_a_hinted_one():
    assert prompts.prompt(question(gold="A"), Arm.TEACHER) == prompts.prompt(question(gold="D"), Arm.TEACHER)
    assert "The right option is die cast (D)." in prompts.prompt(question(gold="D"), Arm.TEACHER, hinted=True)


def test_the_digest_is_of_the_hinted_words_too(monkeypatch):
    before = prompts.digest()
    monkeypatch.setattr(prompts, "HINTED_INSTRUCTION", "It is {option} ({letter}).")
    assert prompts.digest() != before


@pytest.mark.parametrize("name", ["EXPLAIN_INSTRUCTION", "answer"])
def test_the_digest_is_of_the_words_of_every_task_and_target_too(monkeypatch, name):
    before = prompts.digest()
    monkeypatch.setattr(prompts, name, "Tell." if name.isupper() else lambda option, letter: f"{letter}: {option}")
    assert prompts.digest() != before


def test_targets_end_with_the_gold_option_s_line_or_begin_with_it():
    assert prompts.target(question(), None) == "Answer: cast (B)"
    assert prompts.target(question(), "It is round.") == "It is round.\nAnswer: cast (B)"
    assert prompts.target(question(), "It is round.", answer_first=True) == "Answer: cast (B)\nIt is round."


def test_the_line_that_an_answer_ends_with_is_shown_last_where_it_is_asked_for():
    plain = prompts.prompt(question(), Arm.TEACHER)
    shown = prompts.prompt(question(), Arm.TEACHER, final_line=True)
    assert shown == f"{plain}\nEnd with a line of its own: Answer: <option> (<letter>)"


def test_the_words_that_adapters_were_taught_with_are_those_that_were_sealed_with_them():
    assert prompts.digest() == "247ed7772ac4539db0fd52fe37d7ce9de1c1079193c635cfe7daadc462032b40"


def test_the_words_of_a_second_reader_are_pinned_and_whatever_the_reasoning_holds_is_told_as_it_is():
    assert prompts.reread_prompt(question(), "Round {body} {pores}.") == (
        "Here is a question about an image that you are not shown:\n\n"
        "Which process route made this sample?\nA. mill\nB. cast\nC. press\nD. die cast\n\n"
        "And here is what somebody who saw it reasoned:\n\n<reasoning>\nRound {body} {pores}.\n</reasoning>\n\n"
        "Which option does the reasoning arrive at? Go by what it says, not by what you hold to be right. Say in one "
        "sentence what it concludes. End with a line of its own: Answer: <option> (<letter>); or, where it arrives at "
        "no option or at several: Answer: undecided"
    )
    assert len(prompts.reread_digest()) == 64


@pytest.mark.parametrize("arm", Arm)
@pytest.mark.parametrize("caption", [None, "A steel sample."])
def test_an_arm_s_own_words_are_the_same_in_an_examination(arm, caption):
    words = prompts.words(question(), OWN_PROMPT[arm], caption)
    assert words == prompts.Words("", prompts.prompt(question(), arm, caption))


def test_matcha_s_prompt_is_the_published_one_word_for_word():
    words = prompts.words(question(), Prompt.MATCHA, final_line=True)
    assert words.system == (
        "You are a helpfule material science assistant. Based on the figure, please answer the following question. The "
        "answer could be inferred from the figure and must be concise and clear. Answer directly without any "
        "explanation."
    )
    assert words.user == (
        "Question: Which process route made this sample?\nA. mill\nB. cast\nC. press\nD. die cast\n"
        "Answer with the option's letter from the given choices directly:\n"
    )


def test_the_plain_prompt_is_the_line_that_harnesses_put_behind_the_options():
    words = prompts.words(question(), Prompt.LETTER, final_line=True)
    assert words == prompts.Words("", f"{prompts.asked(question())}\n{prompts.LETTER_INSTRUCTION}")
    assert prompts.LETTER_INSTRUCTION == "Answer with the option's letter from the given choices directly."


def test_the_chain_of_thought_prompt_is_pinned():
    words = prompts.words(question(), Prompt.CHAIN_OF_THOUGHT, final_line=True)
    assert words.user == (
        f"{prompts.asked(question())}\nThink step by step: say what the images show, hold each option against it, then "
        "name the right option and its letter.\nEnd with a line of its own: Answer: <option> (<letter>)"
    )


def test_every_prompt_has_words_of_its_own_and_a_digest_of_its_own():
    assert len({prompts.words(question(), each) for each in Prompt}) == len(Prompt)
    assert len({prompts.examined_digest(each) for each in Prompt}) == len(Prompt)


def test_an_example_answers_as_its_words_ask_for_it():
    assert prompts.example_answer(question(), Prompt.ANSWER) == "Answer: cast (B)"
    assert prompts.example_answer(question(), Prompt.MATCHA) == prompts.example_answer(question(), Prompt.LETTER) == "B"


def test_braces_in_a_question_are_only_characters():
    words = prompts.words(question(text="Which {question} is {0}?"), Prompt.MATCHA)
    assert "Which {question} is {0}?" in words.user
