import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.questions import curation
from pipelines.questions.curation import REASONS, CurationConfig
from pipelines.questions.decontamination import Level
from pipelines.questions.look_alikes import LookAlikes
from pipelines.questions.option_shuffling import shuffled
from pipelines.questions.row_keys import RowKeys


def columns(num_rows: int, **changes) -> RowKeys:
    """Rows with one image each, which share nothing."""
    own = np.arange(1, num_rows + 1, dtype=np.int64)
    made = RowKeys(
        evaluation=np.zeros(num_rows, bool),
        exact=own,
        text=own,
        options=own,
        gold=own,
        binary=np.zeros(num_rows, bool),
        figure=np.zeros(num_rows, np.int64),
        article=np.zeros(num_rows, np.int64),
        image_row=np.arange(num_rows),
        image_source=own,
        image_pixels=own,
    )
    return dataclasses.replace(made, **{name: np.asarray(value) for name, value in changes.items()})


def alike(*pairs) -> LookAlikes:
    """Pairs of pixels that look the same."""
    return LookAlikes(np.array(pairs, np.int64).reshape(-1, 2))


def reasons(made: RowKeys, pairs=(), **settings) -> list[str]:
    return [REASONS[code] for code in curation.curate(made, CurationConfig(**settings), alike(*pairs)).reasons]


def test_an_unknown_figure_or_article_is_not_shared():
    made = columns(3, evaluation=[True, False, False])
    assert reasons(made, decontaminate_by=(Level.FIGURE, Level.ARTICLE)) == ["", "", ""]


@pytest.mark.parametrize("level", [Level.FIGURE, Level.ARTICLE])
def test_a_shared_key_contaminates_training_and_never_an_evaluation(level):
    made = columns(4, evaluation=[True, False, False, True], **{str(level): np.array([7, 7, 8, 7])})
    assert reasons(made, decontaminate_by=(level,)) == ["", f"contaminated_{level}", "", ""]


def test_one_of_several_images_is_enough_to_contaminate():
    made = columns(2, evaluation=[True, False])
    made = dataclasses.replace(
        made,
        image_row=np.array([0, 1, 1]),
        image_source=np.array([5, 6, 5]),
        image_pixels=np.array([1, 2, 3]),
    )
    assert reasons(made) == ["", "contaminated_image"]


def test_the_first_of_exact_duplicates_is_kept_and_an_evaluation_s_before_it():
    same = {"exact": [1, 1, 1, 2], "image_source": [1, 1, 1, 2], "image_pixels": [1, 1, 1, 2]}
    made = columns(4, evaluation=[False, False, True, False], **{n: np.array(v) for n, v in same.items()})
    found = reasons(made, decontaminate_by=(), drop_duplicates=False)
    assert found == ["exact_duplicate", "exact_duplicate", "", ""]


def test_the_same_question_about_another_image_is_no_duplicate():
    assert reasons(columns(2, exact=[1, 1], text=[1, 1], options=[1, 1])) == ["", ""]


def test_rows_that_answer_the_same_question_otherwise_all_go_and_evaluations_stay():
    same = {name: [1, 1, 1, 2, 3] for name in ("text", "options")}
    made = columns(5, **same, image_pixels=np.array([9, 9, 9, 9, 9]), gold=np.array([1, 2, 1, 1, 1]))
    assert reasons(made) == [*["answers_contradict"] * 3, "", ""]
    made = dataclasses.replace(made, evaluation=np.ones(5, bool))
    assert reasons(made) == [""] * 5


def test_another_spelling_of_a_question_on_the_same_pixels_is_a_text_duplicate():
    made = columns(3, text=[1, 1, 1], options=[4, 4, 5], gold=[1, 1, 1], image_pixels=np.array([9, 9, 9]))
    assert reasons(made) == ["", "text_duplicate", ""]


def test_perceptual_duplicates_ask_the_same_of_what_looks_the_same():
    made = columns(4, text=[1, 1, 1, 2], options=[1, 1, 1, 1], gold=[1, 1, 1, 1])
    # The third looks like the second alone, which is gone; the fourth asks something else.
    assert reasons(made, [(1, 2), (2, 3), (1, 4)]) == ["", "perceptual_duplicate", "", ""]


def test_a_training_image_that_looks_like_an_evaluation_s_contaminates():
    made = columns(3, evaluation=[True, False, False])
    assert reasons(made, [(1, 3)]) == ["", "", "contaminated_perceptual"]
    assert reasons(made, [(2, 3)]) == ["", "", ""]


@pytest.mark.parametrize("shared", ["options", "gold", "figure", "image_pixels", "look"])
def test_a_text_contaminates_with_the_same_options_gold_figure_or_image(shared):
    made = columns(3, evaluation=[True, False, False], text=[7, 7, 8])
    if shared != "look":
        made = dataclasses.replace(made, **{shared: np.array([5, 5, 5])})
    found = reasons(made, [(1, 2), (1, 3)] if shared == "look" else [], decontaminate_by=(Level.TEXT,))
    assert found == ["", "contaminated_text", ""]


def test_a_text_alone_contaminates_nothing():
    assert reasons(columns(2, evaluation=[True, False], text=[7, 7])) == ["", ""]


def test_the_same_yes_or_no_question_about_another_image_is_no_contamination():
    same = {name: [7, 7] for name in ("text", "options", "gold")}
    made = columns(2, evaluation=[True, False], **same, binary=[True, True])
    assert reasons(made) == ["", ""]
    made = dataclasses.replace(made, image_pixels=np.array([3, 3]))
    assert reasons(made, decontaminate_by=(Level.TEXT,)) == ["", "contaminated_text"]


@pytest.mark.parametrize("template_in", [True, False])
def test_a_template_with_the_same_options_and_answer_is_no_contamination(template_in):
    made = columns(4, text=[7] * 4, options=[7] * 4, gold=[7] * 4)
    made = dataclasses.replace(made, evaluation=np.array([template_in] * 3 + [not template_in]))
    assert reasons(made) == [""] * 4
    # Of pictures that look the same, there is one: the text is no template then.
    found = reasons(made, [(1, 2), (2, 3)], decontaminate_by=(Level.TEXT,), drop_duplicates=False)
    assert found == [("" if evaluated else "contaminated_text") for evaluated in made.evaluation]


def test_every_level_is_counted_also_where_another_one_came_first():
    made = columns(2, evaluation=[True, False], figure=[3, 3], article=[4, 4], image_source=np.array([1, 1]))
    result = curation.curate(made, CurationConfig(decontaminate_by=tuple(Level)), alike())
    assert REASONS[result.reasons[1]] == "contaminated_image"
    assert result.contamination == {"image": 1, "perceptual": 0, "figure": 1, "article": 1, "text": 0}
    assert result.training == 1


def test_validation_keeps_an_article_together_and_is_about_as_large_as_asked():
    articles = np.repeat(np.arange(1, 2001), 3)
    made = columns(6000, article=articles)
    drawn = curation.validation(made, CurationConfig(validation_share=0.1, seed=1))
    assert {len(set(drawn[articles == article])) for article in range(1, 2001)} == {1}
    assert 0.07 < drawn.mean() < 0.13


def test_another_seed_draws_other_articles():
    made = columns(500, article=np.arange(1, 501))
    one, two = (curation.validation(made, CurationConfig(validation_share=0.5, seed=seed)) for seed in (1, 2))
    assert 100 < (one != two).sum() < 400


@given(st.lists(st.text(min_size=1), min_size=2, max_size=8, unique=True), st.integers(0, 99), st.integers(0, 2**64))
def test_shuffled_options_are_the_same_options_and_the_gold_letter_follows(options, seed, question):
    for number, gold in zip(range(len(options)), "ABCDEFGH", strict=False):
        mixed_up, letter = shuffled(options, gold, seed, question)
        assert sorted(mixed_up) == sorted(options)
        assert mixed_up["ABCDEFGH".index(letter)] == options[number]


def test_a_shuffle_depends_on_seed_and_question_alone():
    orders = [shuffled("stuvwxyz", "A", seed, n) for seed, n in ((1, 5), (1, 5), (2, 5), (1, 6))]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 3


def test_letters_are_in_balance_after_shuffling():
    letters = Counter(shuffled("wxyz", "C", 3, question)[1] for question in range(4000))
    assert max(letters.values()) < 1.15 * min(letters.values())


@pytest.mark.parametrize(
    "option", ["Both A and C", "none of the above.", "Neither B nor D", "(A) and (B)", "Options A, B"]
)
def test_options_that_speak_of_others_by_their_place_are_not_shuffled(option):
    options = ("w", "x", "y", option)
    assert {shuffled(options, "D", 0, question) for question in range(20)} == {(options, "D")}


@pytest.mark.parametrize(
    "option", ["Vitamin A deficiency", "A large mass", "Hepatitis B", "B. subtilis", "Pores below 2 nm"]
)
def test_options_that_only_hold_a_capital_are_shuffled(option):
    options = ("w", "x", "y", option)
    assert len({shuffled(options, "D", 0, question) for question in range(20)}) > 5


def judged_one_by_one(made: RowKeys, config: CurationConfig, pairs: set[tuple[int, int]]) -> list[str]:
    """The same verdicts from the rules as they are told, row by row and pair by pair."""
    rows = range(len(made.evaluation))
    images = [np.flatnonzero(made.image_row == row).tolist() for row in rows]

    def near(a, b):
        one, other = int(made.image_pixels[a]), int(made.image_pixels[b])
        return (one, other) in pairs or (other, one) in pairs

    def group(picture):
        found = {picture}
        while more := {n for pair in pairs for n in pair if set(pair) & found} - found:
            found |= more
        return frozenset(found)

    def pictures(row):
        return {group(int(made.image_pixels[n])) for n in images[row]}

    def is_template(text):
        return any(
            len({p for r in rows if made.evaluation[r] == side and made.text[r] == text for p in pictures(r)}) > 2
            for side in (True, False)
        )

    def shares_text(row, other):
        if made.text[row] != made.text[other]:
            return False
        if made.figure[row] == made.figure[other] != 0 or pictures(row) & pictures(other):
            return True
        same = made.options[row] == made.options[other] or made.gold[row] == made.gold[other]
        return same and not made.binary[row] and not is_template(made.text[row])

    def shares(row, other, level):
        if level == "text":
            return shares_text(row, other)
        if level in ("figure", "article"):
            keys = getattr(made, level)
            return keys[row] == keys[other] != 0
        image_pairs = list(itertools.product(images[row], images[other]))
        if level == "image":
            return any(
                made.image_source[a] == made.image_source[b] or made.image_pixels[a] == made.image_pixels[b]
                for a, b in image_pairs
            )
        return any(made.image_pixels[a] == made.image_pixels[b] or near(a, b) for a, b in image_pairs)

    def asks(row):
        return made.text[row], made.options[row]

    def pixels(row):
        return [made.image_pixels[n] for n in images[row]]

    def says(row):
        return made.exact[row], [made.image_source[n] for n in images[row]], pixels(row)

    found = [""] * len(rows)
    evaluations = [row for row in rows if made.evaluation[row]]
    for row in set(rows) - set(evaluations):
        levels = [level for level in config.decontaminate_by if any(shares(row, e, level) for e in evaluations)]
        found[row] = f"contaminated_{levels[0]}" if levels else ""
    left = [row for row in rows if not found[row] and not made.evaluation[row]]
    for row in left:
        if any(asks(o) == asks(row) and pixels(o) == pixels(row) and made.gold[o] != made.gold[row] for o in left):
            found[row] = "answers_contradict"
    kept: list[int] = []
    for row in [*evaluations, *(row for row in left if not found[row])]:
        if any(says(other) == says(row) for other in kept):
            found[row] = "exact_duplicate"
        else:
            kept.append(row)
    taught = [row for row in kept if not made.evaluation[row]]
    kept = []
    for row in taught:
        if any(asks(other) == asks(row) and pixels(other) == pixels(row) for other in kept):
            found[row] = "text_duplicate"
        else:
            kept.append(row)
    taught, kept = kept, []
    for row in taught:
        same = [o for o in kept if asks(o) == asks(row) and len(images[o]) == len(images[row]) == 1]
        if any(near(images[o][0], images[row][0]) for o in same):
            found[row] = "perceptual_duplicate"
        else:
            kept.append(row)
    return found


@settings(max_examples=400)
@given(st.randoms(use_true_random=False), st.integers(0, 12))
def test_columns_are_judged_as_the_rules_say_it_row_by_row(random, num_rows):
    def draw(count, top):
        return np.array([random.randint(0, top) for _ in range(count)], np.int64)

    counts = [random.choice((1, 1, 1, 2, 3)) for _ in range(num_rows)]
    num_images = sum(counts)
    pixels = draw(num_images, 5)
    pairs = {pair for pair in itertools.combinations(range(6), 2) if random.random() < 0.15}
    made = RowKeys(
        evaluation=draw(num_rows, 1).astype(bool),
        exact=draw(num_rows, 1),
        text=draw(num_rows, 2) + 1,
        options=draw(num_rows, 1),
        gold=np.array([random.randrange(10) == 0 for _ in range(num_rows)], np.int64),
        binary=draw(num_rows, 1).astype(bool),
        figure=draw(num_rows, 9),
        article=draw(num_rows, 9),
        image_row=np.repeat(np.arange(num_rows), counts),
        image_source=pixels * 10 + draw(num_images, 1),
        image_pixels=pixels,
    )
    levels = tuple(level for level in Level if random.random() < 0.3)
    config = CurationConfig(decontaminate_by=levels)
    result = curation.curate(made, config, alike(*pairs))
    assert [REASONS[code] for code in result.reasons] == judged_one_by_one(made, config, pairs)
