"""A drawn image's attributes -> what the pocket models are told about it: a user's words, and the reply to learn.

The base student learns to see, to choose an option and to write a letter. It meets the words of the rules only with
values drawn at random, so it can write them and knows none of the rules. The teacher learns the gold rationales.
"""

from typing import NamedTuple

import numpy as np

from pipelines.inference import prompts
from pipelines.questions.sources import pocket
from pipelines.records import LETTERS, Arm, Question, Split

CAPTION_REQUEST = "Describe this micrograph."
_ATTRIBUTE_QUESTIONS = {
    "shape": ("What shape are the particles?", pocket.SHAPES),
    "background": ("What is the background like?", pocket.BACKGROUNDS),
    "tone": ("What is the tone of the particles?", pocket.TONES),
    "density": ("How densely do the particles lie?", pocket.DENSITIES),
}
_LEXICON = (
    pocket.SHAPES + pocket.BACKGROUNDS + pocket.TONES + pocket.DENSITIES
    + pocket.FAMILIES + pocket.STAGES + pocket.ROUTES
)  # fmt: skip


class Lesson(NamedTuple):
    """One exchange: what the user writes beside the image (if there is one), and the reply that is trained on.

    options: those that the user gives to choose from; empty when the reply is no choice.
    """

    user: str
    reply: str
    options: tuple[str, ...] = ()


def caption(attributes: pocket.Attributes) -> str:
    """What can be seen, in two sentences."""
    return "{}. {}.".format(*pocket.describe(attributes))


def base_lesson(attributes: pocket.Attributes, rng: np.random.Generator) -> Lesson:
    """A caption, a choice between an attribute's values, with or without a caption before it, or a route at random."""
    return _BASE_LESSONS[rng.choice(len(_BASE_LESSONS), p=_BASE_SHARES)](attributes, rng)


def caption_lesson(attributes: pocket.Attributes, rng: np.random.Generator) -> Lesson:
    """What can be seen; nothing about it is drawn at random."""
    return Lesson(CAPTION_REQUEST, caption(attributes))


def attribute_lesson(attributes: pocket.Attributes, rng: np.random.Generator) -> Lesson:
    """A choice between the values of one attribute, and words from elsewhere."""
    return _exchange(_attribute_question(attributes, rng), None)


def explained_attribute_lesson(attributes: pocket.Attributes, rng: np.random.Generator) -> Lesson:
    """The same choice after a caption."""
    return _exchange(_attribute_question(attributes, rng), caption(attributes))


def route_lesson(attributes: pocket.Attributes, rng: np.random.Generator) -> Lesson:
    """The route question, answered at random: what an answer looks like, and nothing about which."""
    del attributes
    gold = str(rng.choice(pocket.ROUTES))
    return _exchange(_question(pocket.QUESTION, pocket.route_options(gold, rng), gold), None)


def gold_route_lesson(attributes: pocket.Attributes, rng: np.random.Generator) -> Lesson:
    """The route question with its right answer and no rationale: for exams, no pocket model learns from it."""
    gold = pocket.gold_route(attributes)
    return _exchange(_question(pocket.QUESTION, pocket.route_options(gold, rng), gold), None)


_BASE_LESSONS = (caption_lesson, attribute_lesson, explained_attribute_lesson, route_lesson)
_BASE_SHARES = (0.35, 0.3, 0.25, 0.1)


def words_lesson(attributes: pocket.Attributes, rng: np.random.Generator) -> Lesson:
    """The words of a rationale around what is really seen, with a family, a stage and a route drawn at random."""
    gold = str(rng.choice(pocket.ROUTES))
    said = pocket.reason(attributes, str(rng.choice(pocket.FAMILIES)), str(rng.choice(pocket.STAGES)), gold)
    return _exchange(_question(pocket.QUESTION, pocket.route_options(gold, rng), gold), said)


def teacher_lesson(attributes: pocket.Attributes, rng: np.random.Generator) -> Lesson:
    """The route question with its gold rationale."""
    gold = pocket.gold_route(attributes)
    question = _question(pocket.QUESTION, pocket.route_options(gold, rng), gold)
    return _exchange(question, pocket.rationale(attributes))


def base_or_words_lesson(attributes: pocket.Attributes, rng: np.random.Generator) -> Lesson:
    """One or the other, as often."""
    return (words_lesson if rng.integers(2) else base_lesson)(attributes, rng)


def option_lesson(rng: np.random.Generator) -> Lesson:
    """Without an image: find the option that reads as asked, and name its letter."""
    options = [str(word) for word in rng.permutation(_LEXICON)[: pocket.NUM_OPTIONS]]
    gold = str(rng.choice(options))
    return _exchange(_question(f"Which option reads {gold}?", options, gold), None)


def vocabulary() -> list[str]:
    """Texts that hold every word of every lesson, for the tokenizer to learn whole words from."""
    rng = np.random.default_rng(0)
    lessons = [make(attributes, rng) for attributes in pocket.COMBINATIONS for make in (base_lesson, words_lesson)]
    requests = [question for question, _ in _ATTRIBUTE_QUESTIONS.values()]
    return [
        "user\nassistant\n",
        *requests,
        " ".join(("", *_LEXICON)),
        *(text for lesson in lessons for text in (lesson.user, lesson.reply)),
    ]


def _attribute_question(attributes: pocket.Attributes, rng: np.random.Generator) -> Question:
    name = str(rng.choice(list(_ATTRIBUTE_QUESTIONS)))
    text, values = _ATTRIBUTE_QUESTIONS[name]
    return _question(text, _filled(values, rng), gold=getattr(attributes, name))


def _filled(values: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    """The values of an attribute and words from elsewhere, in random order."""
    others = [word for word in _LEXICON if word not in values]
    fillers = rng.permutation(others)[: pocket.NUM_OPTIONS - len(values)]
    return [str(word) for word in rng.permutation([*values, *fillers])]


def _question(text: str, options: list[str], gold: str) -> Question:
    return Question(
        id="",
        source="pocket",
        split=Split.TRAIN,
        images=(),
        image_digests=(),
        text=text,
        options=tuple(options),
        gold=LETTERS[options.index(gold)],
    )


def _exchange(question: Question, rationale: str | None) -> Lesson:
    arm = Arm.ANSWER_ONLY if rationale is None else Arm.RATIONALE_THEN_ANSWER
    return Lesson(prompts.prompt(question, arm), prompts.target(question, rationale), question.options)
