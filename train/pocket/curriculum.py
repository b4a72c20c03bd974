"""A drawn image's attributes -> chat examples about it that the pocket models are trained on.

The base student learns to see, to choose an option and to write its letter. It sees the words of the rules with random
values only, so it can write them and knows none of the rules. The teacher is trained on the gold rationales.
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


class ChatExample(NamedTuple):
    """A prompt, which stands beside an image or alone, and the reply that is trained on.

    options: that the prompt offers; empty when the reply is not a choice.
    """

    prompt: str
    reply: str
    options: tuple[str, ...] = ()


def caption(attributes: pocket.Attributes) -> str:
    """What can be seen, in two sentences."""
    return "{}. {}.".format(*pocket.describe(attributes))


def base_example(attributes: pocket.Attributes, rng: np.random.Generator) -> ChatExample:
    """Of a random kind: a caption, a choice of an attribute's value without or after a caption, or a random route."""
    return _BASE_EXAMPLES[rng.choice(len(_BASE_EXAMPLES), p=_BASE_PROBABILITIES)](attributes, rng)


def caption_example(attributes: pocket.Attributes, rng: np.random.Generator) -> ChatExample:
    """A caption of what can be seen. The same for the same attributes."""
    return ChatExample(CAPTION_REQUEST, caption(attributes))


def attribute_example(attributes: pocket.Attributes, rng: np.random.Generator) -> ChatExample:
    """A choice between the values of one attribute and unrelated words."""
    return _answered(_attribute_question(attributes, rng), None)


def explained_attribute_example(attributes: pocket.Attributes, rng: np.random.Generator) -> ChatExample:
    """The same choice, with a caption before the answer."""
    return _answered(_attribute_question(attributes, rng), caption(attributes))


def route_example(attributes: pocket.Attributes, rng: np.random.Generator) -> ChatExample:
    """The route question with a random answer: it shows the form of an answer, and nothing of the rules."""
    del attributes
    gold = str(rng.choice(pocket.ROUTES))
    return _answered(_question(pocket.QUESTION, pocket.route_options(gold, rng), gold), None)


def gold_route_example(attributes: pocket.Attributes, rng: np.random.Generator) -> ChatExample:
    """The route question with its right answer and no rationale. For examination only, no model is trained on it."""
    gold = pocket.gold_route(attributes)
    return _answered(_question(pocket.QUESTION, pocket.route_options(gold, rng), gold), None)


_BASE_EXAMPLES = (caption_example, attribute_example, explained_attribute_example, route_example)
_BASE_PROBABILITIES = (0.35, 0.3, 0.25, 0.1)


def rule_words_example(attributes: pocket.Attributes, rng: np.random.Generator) -> ChatExample:
    """A rationale whose observations are right, and whose family, stage and route are random."""
    gold = str(rng.choice(pocket.ROUTES))
    rationale = pocket.reason(attributes, str(rng.choice(pocket.FAMILIES)), str(rng.choice(pocket.STAGES)), gold)
    return _answered(_question(pocket.QUESTION, pocket.route_options(gold, rng), gold), rationale)


def teacher_example(attributes: pocket.Attributes, rng: np.random.Generator) -> ChatExample:
    """The route question with its gold rationale."""
    gold = pocket.gold_route(attributes)
    question = _question(pocket.QUESTION, pocket.route_options(gold, rng), gold)
    return _answered(question, pocket.rationale(attributes))


def base_or_rule_words_example(attributes: pocket.Attributes, rng: np.random.Generator) -> ChatExample:
    """One or the other, with the same probability."""
    return (rule_words_example if rng.integers(2) else base_example)(attributes, rng)


def option_example(rng: np.random.Generator) -> ChatExample:
    """Without an image: the letter of the option that the prompt names."""
    options = [str(word) for word in rng.permutation(_LEXICON)[: pocket.NUM_OPTIONS]]
    gold = str(rng.choice(options))
    return _answered(_question(f"Which option reads {gold}?", options, gold), None)


def tokenizer_corpus() -> list[str]:
    """Texts with every word of every example, from which the tokenizer learns whole words."""
    rng = np.random.default_rng(0)
    makers = (base_example, rule_words_example)
    examples = [make_example(attributes, rng) for attributes in pocket.COMBINATIONS for make_example in makers]
    requests = [question for question, _ in _ATTRIBUTE_QUESTIONS.values()]
    return [
        "user\nassistant\n",
        *requests,
        " ".join(("", *_LEXICON)),
        *(text for example in examples for text in (example.prompt, example.reply)),
    ]


def _attribute_question(attributes: pocket.Attributes, rng: np.random.Generator) -> Question:
    name = str(rng.choice(list(_ATTRIBUTE_QUESTIONS)))
    text, values = _ATTRIBUTE_QUESTIONS[name]
    return _question(text, _filled(values, rng), gold=getattr(attributes, name))


def _filled(values: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    """The values of an attribute and unrelated words, in random order."""
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


def _answered(question: Question, rationale: str | None) -> ChatExample:
    arm = Arm.ANSWER_ONLY if rationale is None else Arm.RATIONALE_THEN_ANSWER
    return ChatExample(prompts.prompt(question, arm), prompts.target(question, rationale), question.options)
