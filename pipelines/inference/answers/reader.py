"""Text -> what it answers: the only place where an answer is read.

Strict on purpose: where one would have to guess, there is no answer; it is counted by its kind and scored as wrong.
"""

import dataclasses
import re

from pipelines.inference import reasoning, sentences
from pipelines.inference.answers import announcements, lines, marked, plain, repetitions, settling
from pipelines.inference.answers import options as option_texts
from pipelines.inference.answers.options import Options
from pipelines.inference.answers.reading import How, Missing, Reading, Settled
from pipelines.records import LETTERS

_TURN_ENDS = (
    "</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>", "<|end|>", "<|eom_id|>", "<eos>", "<|eos|>",
    "<|end_of_text|>", "<|end_of_turn|>", "<｜end▁of▁sentence｜>", "<|endofturn|>", "<|im_start|>", "<|return|>",
)  # fmt: skip
_TURN_END = re.compile("|".join(map(re.escape, _TURN_ENDS)))
_MOST_TURN_ENDS = 16  # at the end of a text


def read(text: str, options: tuple[str, ...], *, finish_reason: str = "stop", answer_first: bool = False) -> Reading:
    """What a text answers: the letter of one of the options and how it was found, or why there is none.

    Looked for in this order: the line that every arm learns to write, as the last one; what tags, JSON or a box mark as
    the answer; the last announcement, by position; the last line that is a letter, with or without its option's text,
    and nothing else; the one option whose text is affirmed in the last line, where that is short; a letter with a mark
    that begins the text. A later announcement counts more than what is marked before it.

    finish_reason: as the engine says it; of a text that was cut off only what is marked or announced counts.
    answer_first: the answer is the text's first line, whatever the rationale behind it says about answers.
    """
    known, is_cut_off = option_texts.of(options), finish_reason != "stop"
    said, start, is_thought = _answer_part(text, known, answer_first=answer_first)
    taught = _taught(said, known)
    said = _first_turn(said, known)
    found = (
        taught
        or _marked(said, known)
        or _announced(said, known, cut_off=is_cut_off)
        or (None if is_cut_off else _unannounced(said, known))
    )
    if found is None:
        return Reading(missing=Missing.TRUNCATED if is_cut_off or is_thought else _why_none(said, known))
    if found.missing in (Missing.NOT_AN_OPTION, Missing.SEVERAL) and settling.refusal_place(plain.even(said)) >= 0:
        found = dataclasses.replace(found, missing=Missing.REFUSAL)
    return dataclasses.replace(found, place=start + (found.place or 0))


def without_answer(text: str, options: tuple[str, ...] = ()) -> str:
    """The reasoning in a text: whole sentences, up to the line, the sentence or the clause that gives the answer.

    Sentences before it that give the same answer once more, and nothing else, are no reasoning either. One that gives
    another answer is: it shows that the reasoning arrives elsewhere.
    """
    found = read(text, options) if options else Reading()
    place = announcements.place_of_last(text) if found.place is None else found.place
    if place is None:
        return text.strip()
    body = sentences.before(text, place)
    return body if found.letter is None else _without_repetitions(body, found.letter, options)


def _without_repetitions(body: str, letter: str, options: tuple[str, ...]) -> str:
    known, option = option_texts.of(options), options[LETTERS.index(letter)]
    for _ in range(repetitions.MOST):
        place = _place_of_repetition(body, letter, option, known)
        kept = body if place is None else sentences.before(body, place)
        if place is None or not repetitions.is_one(body[len(kept) :], option, letter):
            break
        body = kept
    return body


def _place_of_repetition(body: str, letter: str, option: str, known: Options) -> int | None:
    """Where the end of a text announces this letter: in its last sentence taken for itself, or, where that is no more
    than an answer, in the lines before it."""
    start = max(0, len(body) - 2 * repetitions.LONGEST)
    last = start + sentences.last(body[start:])
    if not repetitions.may_be_one(body[last:], option, letter):
        return None
    begins = (last, start) if len(body[last:].split()) <= repetitions.SHORT else (last,)
    for begin in begins:
        said = body[begin:]
        found = _taught(said, known) or _marked(said, known)
        if found is None and (announced := announcements.last(said, known)):
            found = _reading(announced.settled, How.ANNOUNCEMENT, announced.start)
        found = found or (lines.lone(said, known) if begin == last else None)
        if found and found.letter == letter:
            return begin + (found.place or 0)
    return None


def _answer_part(text: str, known: Options, *, answer_first: bool) -> tuple[str, int, bool]:
    """The part of a text that is its answer, where it begins, and whether the model was still thinking when it ended.

    Thoughts, which mention many answers, are no part of it, nor are the tokens that end a turn.
    """
    start, is_thought = 0, False
    if not any(map(reasoning.holds_tag, known.texts)):
        start, is_thought = reasoning.end_of_thoughts(text)
    said = text[start:]
    if not any(map(_TURN_END.search, known.texts)):
        for _ in range(_MOST_TURN_ENDS):
            if not (bare := said.rstrip()).endswith(_TURN_ENDS):
                break
            said = bare[: bare.rindex("<")]
    if answer_first:
        first = said.strip().partition("\n")[0]
        return first, start + said.find(first), is_thought
    return said, start, is_thought


def _first_turn(said: str, known: Options) -> str:
    """A text up to the end of the model's turn, where it went on behind that."""
    if any(map(_TURN_END.search, known.texts)):
        return said
    end = _TURN_END.search(said, len(said) - len(said.lstrip()) + 1)
    return said[: end.start()] if end else said


def _taught(said: str, known: Options) -> Reading | None:
    end = len(said.rstrip())
    place = said.rfind("\n", 0, end) + 1
    letter = known.of_taught_line(said[place:end])
    return Reading(letter=letter, how=How.TAUGHT_LINE, text_letter=letter, place=place) if letter else None


def _marked(said: str, known: Options) -> Reading | None:
    """What tags, JSON or a box give, or a later announcement."""
    for how, find in ((How.TAG, marked.tags), (How.JSON, marked.values), (How.BOX, marked.boxes)):
        if (found := find(said)) is None:
            continue
        place, values = found[0], [found[1]] if isinstance(found[1], str) else found[1]
        settled = _agreed([_settled_mark(value, known) for value in values])
        later = announcements.last(said[place:], known, weak=False)
        if later and later.start and later.settled.letter not in (None, settled and settled.letter):
            return _reading(later.settled, How.ANNOUNCEMENT, place + later.start)
        if settled:
            return _reading(settled, how, place)
    return None


def _settled_mark(value: str, known: Options) -> Settled | None:
    letter = known.of_letter(plain.even(value).strip())
    settled = settling.settle(value, known)
    if settled is None or (settled.missing is Missing.NOT_AN_OPTION and not settled.decisive):
        announced = announcements.last(value, known)
        return announced.settled if announced else settled
    return settled if settled or letter is None else Settled(missing=Missing.NOT_AN_OPTION)


def _agreed(all_settled: list[Settled | None]) -> Settled | None:
    """What several values settle on together, where one may be the letter and another its text."""
    settled = [each for each in all_settled if each and (each.decisive or len(all_settled) == 1)]
    letters = {each.letter for each in settled if each.letter}
    if len(letters) > 1:
        return Settled(missing=Missing.SEVERAL)
    return next((each for each in settled if each.letter), settled[-1] if settled else None)


def _announced(said: str, known: Options, *, cut_off: bool) -> Reading | None:
    if announcements.is_announced_in(known.texts) and (line := lines.lone(said, known)) and line.letter:
        return line
    found = announcements.last(said, known)
    if found is None:
        return None
    if announcements.takes_back(said, found, cut_off=cut_off):
        return Reading(missing=Missing.TRUNCATED if cut_off else Missing.NO_ANSWER, place=found.start)
    return _reading(found.settled, How.ANNOUNCEMENT, found.start)


def _unannounced(said: str, known: Options) -> Reading | None:
    """What a line gives without any words that announce it; a letter and a text must not contradict each other."""
    by_line, by_text = lines.lone(said, known), lines.by_text(said, known)
    found = by_line or by_text or lines.opening(said, known)
    if by_line and by_text and by_line.letter and by_text.letter and by_text.letter != by_line.letter:
        return Reading(missing=Missing.CONTRADICTION, text_letter=by_text.letter, place=by_line.place)
    return found


def _reading(settled: Settled, how: How, place: int) -> Reading:
    is_found = settled.letter is not None
    return Reading(
        letter=settled.letter,
        how=how if is_found else None,
        missing=None if is_found else settled.missing,
        text_letter=settled.text_letter,
        place=place,
    )


def _why_none(said: str, known: Options) -> Missing:
    """Why a text in which nothing gives an answer gives none."""
    even = plain.even(said)
    if settling.refusal_place(even) >= 0:
        return Missing.REFUSAL
    _, sure = known.affirmed(said[-_MOST_JUDGED:], abbreviated=True)
    return Missing.SEVERAL if len(sure | settling.letters_in(even[-_MOST_JUDGED:], known)) > 1 else Missing.NO_ANSWER


_MOST_JUDGED = 2_000  # characters of the end, to say why there is no answer
