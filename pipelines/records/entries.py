"""An entry of an examination's plan: who is asked, in which words, and what goes with the questions.

`ARM[+PROMPT][+Nshot][+circular][+prefilled]/CONDITION`, for example `answer_only/real`, `zero_shot+rationale/blank`,
`zero_shot+matcha+5shot/real` or `rationale_then_answer+circular/real`. Left of the slash stands who is asked and how,
right of it what is shown.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Self

from infra.errors import nearest
from pipelines.records import Arm, Condition, Prediction, check_each_once

MAX_SHOTS = 16
_SHOTS = re.compile(r"([1-9][0-9]?)shot")
_CIRCULAR, _PREFILLED = "circular", "prefilled"
# Beginnings of an answer: so much of its own reasoning in per cent of its sentences, half of it and a mistake, another
# question's, and filler.
PREFILLS = ("cut_0", "cut_25", "cut_50", "cut_75", "cut_100", "mistake", "other", "filler")


class Prompt(StrEnum):
    """The words that ask a question; `pipelines.inference.prompts` has them.

    The first three are ours, and those that students are taught with. chain_of_thought is ours too: no published one
    was found. matcha is the zero-shot prompt of MatCha, with its system message, and letter the plain
    "Answer with the option's letter from the given choices directly."; both are asked word for word.
    """

    ANSWER = "answer"
    RATIONALE = "rationale"
    ANSWER_FIRST = "answer_first"
    CHAIN_OF_THOUGHT = "chain_of_thought"
    MATCHA = "matcha"
    LETTER = "letter"

    @property
    def wants_reasoning(self) -> bool:
        """Whether more than an answer is to be written."""
        return self in (Prompt.RATIONALE, Prompt.ANSWER_FIRST, Prompt.CHAIN_OF_THOUGHT)


_REASONS_FIRST = (Prompt.RATIONALE, Prompt.CHAIN_OF_THOUGHT)
OWN_PROMPT = {  # of each arm: the words that it is taught with, or that its kind of answer is asked for with
    Arm.ZERO_SHOT: Prompt.ANSWER,
    Arm.ANSWER_ONLY: Prompt.ANSWER,
    Arm.RATIONALE_THEN_ANSWER: Prompt.RATIONALE,
    Arm.ANSWER_THEN_RATIONALE: Prompt.ANSWER_FIRST,
    Arm.MULTI_TASK: Prompt.ANSWER,
    Arm.TEACHER: Prompt.RATIONALE,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Which arm is asked all test questions in which words, and what goes with them.

    num_shots: answered training questions that go before each, with their images. circular: each question is asked
    once for each place that its options can be moved up to, itself included; without it only as it is. prefilled: the
    answer goes on from a beginning, which is made of what the arm answered before.
    """

    arm: Arm
    prompt: Prompt
    num_shots: int = 0
    circular: bool = False
    prefilled: bool = False
    condition: Condition = Condition.REAL

    def __post_init__(self) -> None:
        if not 0 <= self.num_shots <= MAX_SHOTS:
            raise ValueError(f"{self.num_shots}shot: at most {MAX_SHOTS} examples go before a question")
        if self.num_shots and self.prompt.wants_reasoning:
            named = ", ".join(prompt for prompt in Prompt if not prompt.wants_reasoning)
            raise ValueError(
                f"{self}: examples show an answer and no reasoning, so name a prompt that asks for no more: {named}"
            )

        if self.prefilled and (self.circular or self.prompt not in _REASONS_FIRST):
            named = " and ".join(_REASONS_FIRST)
            raise ValueError(f"{self}: what is prefilled is reasoning, so ask with {named}, and not in rotation")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The entry that a text names; raises ValueError with what is allowed."""
        asked, slash, condition = text.partition("/")
        arm, *words = asked.split("+")
        if not slash:
            raise ValueError(f"{text!r} is no arm/condition, such as rationale_then_answer/blank. {_GRAMMAR}")
        for kind, name, known in (("arm", arm, list(Arm)), ("condition", condition, list(Condition))):
            if name not in known:
                raise ValueError(f"{text!r} is no arm/condition: {name!r} is no {kind}.{nearest(name, known)}")
        for word in words:
            known = [*Prompt, _CIRCULAR, _PREFILLED]
            if not (word in known or _SHOTS.fullmatch(word)):
                raise ValueError(f"{text!r}: {word!r} is unknown. {_GRAMMAR}{nearest(word, known)}")
        prompts = [Prompt(word) for word in words if word in set(Prompt)]
        shots = [int(found[1]) for word in words if (found := _SHOTS.fullmatch(word))]
        if max(len(prompts), len(shots), words.count(_CIRCULAR), words.count(_PREFILLED)) > 1:
            raise ValueError(f"{text!r} names two prompts, or something twice. {_GRAMMAR}")
        return cls(
            arm=Arm(arm),
            prompt=prompts[0] if prompts else OWN_PROMPT[Arm(arm)],
            num_shots=shots[0] if shots else 0,
            circular=_CIRCULAR in words,
            prefilled=_PREFILLED in words,
            condition=Condition(condition),
        )

    @classmethod
    def of(cls, prediction: Prediction) -> Self:
        """The entry that a prediction belongs to, without the rotations that may stand beside it."""
        return cls(
            arm=Arm(prediction.arm),
            prompt=Prompt(prediction.prompt),
            num_shots=prediction.num_shots,
            prefilled=bool(prediction.prefill),
            condition=Condition(prediction.condition),
        )

    @property
    def plain(self) -> "Entry":
        """The entry with the same questions as they are, to be answered from the beginning."""
        return dataclasses.replace(self, circular=False, prefilled=False)

    def __str__(self) -> str:
        """The text that `parse` reads; the arm's own prompt is not named."""
        words = [str(self.arm)]
        words += [str(self.prompt)] * (self.prompt is not OWN_PROMPT[self.arm])
        words += [f"{self.num_shots}shot"] * bool(self.num_shots)
        words += [_CIRCULAR] * self.circular
        words += [_PREFILLED] * self.prefilled
        return f"{'+'.join(words)}/{self.condition}"


_GRAMMAR = (
    f"An entry is ARM[+PROMPT][+Nshot][+{_CIRCULAR}][+{_PREFILLED}]/CONDITION, with the prompts {', '.join(Prompt)} "
    f"and N up to {MAX_SHOTS}."
)


def parsed(plan: Iterable[str]) -> tuple[Entry, ...]:
    """The entries of a plan. Raises ValueError for what is none, and for what would be asked twice."""
    entries = tuple(Entry.parse(text) for text in plan)
    check_each_once([str(entry) for entry in entries])
    for entry in entries:
        if entry.circular and (plain := dataclasses.replace(entry, circular=False)) in entries:
            raise ValueError(f"{entry} asks all that {plain} asks, and the rotations: leave {plain} out")
        if entry.prefilled and not {entry.plain, dataclasses.replace(entry.plain, circular=True)} & set(entries):
            raise ValueError(f"{entry} goes on from the answers of {entry.plain}: name that too")
    return entries


def by_arm(entries: Sequence[Entry]) -> dict[Arm, list[Entry]]:
    """Arm -> its entries, both in the plan's order."""
    arms: dict[Arm, list[Entry]] = {}
    for entry in entries:
        arms.setdefault(entry.arm, []).append(entry)
    return arms
