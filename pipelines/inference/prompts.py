"""Question -> messages: the only place where a prompt is written.

The text is part of what an adapter has learned, so its digest is sealed with everything that was made with it, and a
test pins the exact words. One line with the answer is what every student learns to write, and `answers` reads it.
"""

from infra.digests import digest_json
from pipelines.records import LETTERS, Arm, Question

ANSWER_INSTRUCTION = "Name the right option and its letter."
RATIONALE_INSTRUCTION = "Explain what you see, then name the right option and its letter."
ANSWER_FIRST_INSTRUCTION = "Name the right option and its letter, then explain what you see."
EXPLAIN_INSTRUCTION = "Explain what you see."
HINTED_INSTRUCTION = (
    "The right option is {option} ({letter}). Explain what you see that leads to it, as if nobody had told you, then "
    "name the right option and its letter."
)

FINAL_LINE_INSTRUCTION = "End with a line of its own: Answer: <option> (<letter>)"

_INSTRUCTIONS = {
    Arm.ZERO_SHOT: ANSWER_INSTRUCTION,
    Arm.ANSWER_ONLY: ANSWER_INSTRUCTION,
    Arm.RATIONALE_THEN_ANSWER: RATIONALE_INSTRUCTION,
    Arm.ANSWER_THEN_RATIONALE: ANSWER_FIRST_INSTRUCTION,
    Arm.MULTI_TASK: ANSWER_INSTRUCTION,
    Arm.TEACHER: RATIONALE_INSTRUCTION,
}


def prompt(
    question: Question, arm: Arm, caption: str | None = None, *, hinted: bool = False, final_line: bool = False
) -> str:
    """The user's words that go with the images: the question, its options one a line, and what is to be written.

    caption: of the images, put before the question as one line; for the captioned condition alone. hinted: the gold
    answer is told, for a teacher that never found it by itself. final_line: how the answer is to be written is shown,
    for a model that was never taught to.
    """
    described = "" if caption is None else f"Caption: {' '.join(caption.split())}\n"
    gold = question.options[LETTERS.index(question.gold)]
    instruction = HINTED_INSTRUCTION.format(option=gold, letter=question.gold) if hinted else _INSTRUCTIONS[arm]
    shown = f"\n{FINAL_LINE_INSTRUCTION}" if final_line else ""
    return f"{described}{asked(question)}\n{instruction}{shown}"


def explain_prompt(question: Question) -> str:
    """The user's words that ask for the rationale alone: the second task of the arm `multi_task`."""
    return f"{asked(question)}\n{EXPLAIN_INSTRUCTION}"


def asked(question: Question) -> str:
    """The part of every prompt that is the question's own."""
    options = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, question.options, strict=False))
    return f"{question.text}\n{options}"


def digest() -> str:
    """Digest of every word that this module puts around a question: another prompt, another digest."""
    probe = Question(id="", source="", split="", images=(), image_digests=(), text="?", options=("x", "y"), gold="A")
    words: dict[str, list[str]] = {arm: [prompt(probe, arm, caption) for caption in (None, "c")] for arm in Arm}
    words["hinted"] = [prompt(probe, Arm.TEACHER, hinted=True, final_line=True)]
    words["explain"] = [explain_prompt(probe)]
    words["targets"] = [target(probe, None), target(probe, "r"), target(probe, "r", answer_first=True)]
    return digest_json(words)


def answer(option: str, letter: str) -> str:
    """The line that every arm learns to write, for example `Answer: mill (D)`."""
    return f"Answer: {option} ({letter})"


def target(question: Question, rationale: str | None, *, answer_first: bool = False) -> str:
    """What a student learns to write: the rationale if there is one, then the gold answer's line, or that one first."""
    line = answer(question.options[LETTERS.index(question.gold)], question.gold)
    if rationale is None:
        return line
    return f"{line}\n{rationale}" if answer_first else f"{rationale}\n{line}"
