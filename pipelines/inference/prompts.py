"""Question -> messages: the only place where a prompt is written.

The text is part of what an adapter has learned, so its digest is sealed with everything that was made with it, and a
test pins the exact words. One line with the answer is what every student learns to write, and `answers` reads it.
"""

import dataclasses

from infra.digests import digest_json
from pipelines.records import LETTERS, Arm, Question
from pipelines.records.entries import OWN_PROMPT, Prompt

ANSWER_INSTRUCTION = "Name the right option and its letter."
RATIONALE_INSTRUCTION = "Explain what you see, then name the right option and its letter."
ANSWER_FIRST_INSTRUCTION = "Name the right option and its letter, then explain what you see."
EXPLAIN_INSTRUCTION = "Explain what you see."
HINTED_INSTRUCTION = (
    "The right option is {option} ({letter}). Explain what you see that leads to it, as if nobody had told you, then "
    "name the right option and its letter."
)

FINAL_LINE_INSTRUCTION = "End with a line of its own: Answer: <option> (<letter>)"

# Of examinations alone. The first is ours: no published one of MatCha was found. The others are word for word those of
# other harnesses: MatCha's zero-shot prompt with its system message (its spelling included), as a public scoring script
# has it, and the line that many of them put behind the options.
CHAIN_OF_THOUGHT_INSTRUCTION = (
    "Think step by step: say what the images show, hold each option against it, then name the right option and its "
    "letter."
)
MATCHA_SYSTEM = (
    "You are a helpfule material science assistant. Based on the figure, please answer the following question. "
    "The answer could be inferred from the figure and must be concise and clear. Answer directly without any "
    "explanation."
)
MATCHA_PROMPT = "Question: {question}\nAnswer with the option's letter from the given choices directly:\n"
LETTER_INSTRUCTION = "Answer with the option's letter from the given choices directly."

# Of the second reader, who is shown no image. "Undecided" and not "none", which may be an option.
REREAD_PROMPT = (
    "Here is a question about an image that you are not shown:\n\n{question}\n\n"
    "And here is what somebody who saw it reasoned:\n\n<reasoning>\n{body}\n</reasoning>\n\n"
    "Which option does the reasoning arrive at? Go by what it says, not by what you hold to be right. Say in one "
    "sentence what it concludes. " + FINAL_LINE_INSTRUCTION + "; or, where it arrives at no option or at several: "
    "Answer: undecided"
)

_INSTRUCTION_OF = {
    Prompt.ANSWER: ANSWER_INSTRUCTION,
    Prompt.RATIONALE: RATIONALE_INSTRUCTION,
    Prompt.ANSWER_FIRST: ANSWER_FIRST_INSTRUCTION,
    Prompt.CHAIN_OF_THOUGHT: CHAIN_OF_THOUGHT_INSTRUCTION,
    Prompt.LETTER: LETTER_INSTRUCTION,
}
_INSTRUCTIONS = {arm: _INSTRUCTION_OF[OWN_PROMPT[arm]] for arm in Arm}
_ASKS_FOR_A_LETTER = frozenset({Prompt.MATCHA, Prompt.LETTER})


@dataclasses.dataclass(frozen=True, slots=True)
class Words:
    """What is said beside the images. system: the system message, where there is one. user: the user's words."""

    system: str
    user: str


def words(question: Question, named: Prompt, caption: str | None = None, *, final_line: bool = False) -> Words:
    """The words of an examination, which for an arm's own prompt are those of `prompt`.

    final_line: how the answer is to be written is shown at the end, where the prompt is ours and nothing else is said
    about it.
    """
    described = _described(caption)
    if named is Prompt.MATCHA:
        return Words(MATCHA_SYSTEM, described + MATCHA_PROMPT.format(question=asked(question)))
    is_told = named not in _ASKS_FOR_A_LETTER and named is not Prompt.ANSWER_FIRST
    shown = f"\n{FINAL_LINE_INSTRUCTION}" if final_line and is_told else ""
    return Words("", f"{described}{asked(question)}\n{_INSTRUCTION_OF[named]}{shown}")


def example_answer(question: Question, named: Prompt) -> str:
    """How an example that goes before a question answers: as its words ask for it, a letter or an answer's line."""
    return question.gold if named in _ASKS_FOR_A_LETTER else target(question, None)


def prompt(
    question: Question, arm: Arm, caption: str | None = None, *, hinted: bool = False, final_line: bool = False
) -> str:
    """The user's words that go with the images: the question, its options one a line, and what is to be written.

    caption: of the images, put before the question as one line; for the captioned condition alone. hinted: the gold
    answer is told, for a teacher that never found it by itself. final_line: how the answer is to be written is shown,
    for a model that was never taught to.
    """
    gold = question.options[LETTERS.index(question.gold)]
    instruction = HINTED_INSTRUCTION.format(option=gold, letter=question.gold) if hinted else _INSTRUCTIONS[arm]
    shown = f"\n{FINAL_LINE_INSTRUCTION}" if final_line else ""
    return f"{_described(caption)}{asked(question)}\n{instruction}{shown}"


def _described(caption: str | None) -> str:
    return "" if caption is None else f"Caption: {' '.join(caption.split())}\n"


def explain_prompt(question: Question) -> str:
    """The user's words that ask for the rationale alone: the second task of the arm `multi_task`."""
    return f"{asked(question)}\n{EXPLAIN_INSTRUCTION}"


def reread_prompt(question: Question, body: str) -> str:
    """The words that ask at which option somebody's reasoning arrives. body: without its answer."""
    return REREAD_PROMPT.format(question=asked(question), body=body)


def asked(question: Question) -> str:
    """The part of every prompt that is the question's own."""
    options = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, question.options, strict=False))
    return f"{question.text}\n{options}"


_PROBE = Question(id="", source="", split="", images=(), image_digests=(), text="?", options=("x", "y"), gold="A")


def digest() -> str:
    """Digest of every word that teaching puts around a question: another prompt, another digest."""
    words: dict[str, list[str]] = {arm: [prompt(_PROBE, arm, caption) for caption in (None, "c")] for arm in Arm}
    words["hinted"] = [prompt(_PROBE, Arm.TEACHER, hinted=True, final_line=True)]
    words["explain"] = [explain_prompt(_PROBE)]
    words["targets"] = [target(_PROBE, None), target(_PROBE, "r"), target(_PROBE, "r", answer_first=True)]
    return digest_json(words)


def reread_digest() -> str:
    """Digest of every word that a second reader is told beside the reasoning."""
    return digest_json(reread_prompt(_PROBE, "r"))


def examined_digest(named: Prompt) -> str:
    """Digest of every word that an examination puts around a question in this prompt."""
    said = [dataclasses.astuple(words(_PROBE, named, caption, final_line=bool(caption))) for caption in (None, "c")]
    return digest_json([said, example_answer(_PROBE, named)])


def answer(option: str, letter: str) -> str:
    """The line that every arm learns to write, for example `Answer: mill (D)`."""
    return f"Answer: {option} ({letter})"


def target(question: Question, rationale: str | None, *, answer_first: bool = False) -> str:
    """What a student learns to write: the rationale if there is one, then the gold answer's line, or that one first."""
    line = answer(question.options[LETTERS.index(question.gold)], question.gold)
    if rationale is None:
        return line
    return f"{line}\n{rationale}" if answer_first else f"{rationale}\n{line}"
