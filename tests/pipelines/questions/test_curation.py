import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.questions import curation, near_hashes
from pipelines.questions.curation import REASONS, CurationConfig
from pipelines.questions.decontamination import Level
from pipelines.questions.option_shuffling import shuffled
from pipelines.questions.row_keys import RowKeys


def columns(num_rows: int, **changes) -> RowKeys:
    """Rows with one image each, which share nothing."""
    own = np.arange(1, num_rows + 1, dtype=np.int64)
    random_hashes = np.random.default_rng(0).integers(0, 2**63, num_rows).astype(np.uint64)
    made = RowKeys(
        evaluation=np.zeros(num_rows, bool),
        exact=own,
        text=own,
        options=own,
        gold=np.zeros(num_rows, np.int64),
        figure=np.zeros(num_rows, np.int64),
        article=np.zeros(num_rows, np.int64),
        image_row=np.arange(num_rows),
        image_source=own,
        image_pixels=own,
        hashes=random_hashes,
        hashed=np.ones(num_rows, bool),
    )
    return dataclasses.replace(made, **{name: np.asarray(value) for name, value in changes.items()})


def reasons(made: RowKeys, **settings) -> list[str]:
    return [REASONS[code] for code in curation.curate(made, CurationConfig(**settings)).reasons]


def test_an_unknown_figure_or_article_is_not_shared():
    made = columns(3, evaluation=[True, False, False])
    assert reasons(made, decontaminate_by=(Level.FIGURE, Level.ARTICLE)) == ["", "", ""]


@pytest.mark.parametrize("level", [Level.FIGURE, Level.ARTICLE, Level.TEXT])
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
        hashes=np.zeros(3, np.uint64),
        hashed=np.zeros(3, bool),
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
    made = columns(3, text=[1, 1, 1], options=[4, 4, 5], image_pixels=np.array([9, 9, 9]))
    assert reasons(made) == ["", "text_duplicate", ""]


def test_perceptual_duplicates_ask_the_same_of_what_looks_the_same():
    hashes = np.array([0b0, 0b111, 0b1111, 0b1], np.uint64)
    made = columns(4, text=[1, 1, 1, 2], options=[1, 1, 1, 1], hashes=hashes)
    # The third is four bits from the first, and near only to the second, which is gone.
    assert reasons(made) == ["", "perceptual_duplicate", "", ""]


def test_flat_images_look_like_nothing():
    made = columns(3, evaluation=[True, False, False], text=[1, 2, 2], options=[1, 1, 1])
    made = dataclasses.replace(made, hashes=np.zeros(3, np.uint64), hashed=np.zeros(3, bool))
    assert reasons(made) == ["", "", ""]


def test_every_level_is_counted_also_where_another_one_came_first():
    made = columns(2, evaluation=[True, False], figure=[3, 3], article=[4, 4], image_source=np.array([1, 1]))
    result = curation.curate(made, CurationConfig(decontaminate_by=tuple(Level)))
    assert REASONS[result.reasons[1]] == "contaminated_image"
    assert result.contamination == {"image": 1, "perceptual": 0, "figure": 1, "article": 1, "text": 0}


@settings(max_examples=60)
@given(st.integers(0, 7), st.randoms(use_true_random=False))
def test_hashes_within_a_distance_are_all_found_and_no_others(distance, random):
    seeds = [random.getrandbits(64) for _ in range(3)]
    hashes = [random.choice(seeds) for _ in range(30)]
    for place, bits in itertools.product(range(len(hashes)), range(random.randint(0, 9))):
        hashes[place] ^= (random.getrandbits(1) & bits % 2) << random.randrange(64)
    values = np.array(hashes, np.uint64)
    found = set()
    for left, right in near_hashes.near_pairs(values, values, distance):
        found |= set(zip(left.tolist(), right.tolist(), strict=True))
    wanted = {(i, j) for i in range(30) for j in range(30) if (hashes[i] ^ hashes[j]).bit_count() <= distance}
    assert found == wanted


def test_near_pairs_are_looked_for_in_bounded_portions(monkeypatch):
    monkeypatch.setattr(near_hashes, "_PAIRS_AT_ONCE", 10)
    values = np.zeros(40, np.uint64)
    portions = [left for left, _ in near_hashes.near_pairs(values, values, 0)]
    assert sum(map(len, portions)) == 1600
    assert max(map(len, portions)) <= 40


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


def judged_one_by_one(made: RowKeys, config: CurationConfig) -> list[str]:
    """The same verdicts from the rules as they are told, row by row and pair by pair."""
    rows = range(len(made.evaluation))
    images = [np.flatnonzero(made.image_row == row).tolist() for row in rows]

    def shares(row, other, level):
        if level in ("figure", "article", "text"):
            keys = getattr(made, level)
            return keys[row] == keys[other] != 0
        pairs = list(itertools.product(images[row], images[other]))
        if level == "image":
            return any(
                made.image_source[a] == made.image_source[b] or made.image_pixels[a] == made.image_pixels[b]
                for a, b in pairs
            )
        return any(made.hashed[a] and made.hashed[b] and near(a, b) for a, b in pairs)

    def near(a, b):
        return (int(made.hashes[a]) ^ int(made.hashes[b])).bit_count() <= config.max_hash_distance

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
        alike = [o for o in kept if asks(o) == asks(row) and len(images[o]) == len(images[row]) == 1]
        if any(
            made.hashed[images[o][0]] and made.hashed[images[row][0]] and near(images[o][0], images[row][0])
            for o in alike
        ):
            found[row] = "perceptual_duplicate"
        else:
            kept.append(row)
    return found


@settings(max_examples=400)
@given(st.randoms(use_true_random=False), st.integers(0, 7), st.integers(0, 12))
def test_columns_are_judged_as_the_rules_say_it_row_by_row(random, distance, num_rows):
    def draw(count, top):
        return np.array([random.randint(0, top) for _ in range(count)], np.int64)

    counts = [random.choice((1, 1, 1, 2, 3)) for _ in range(num_rows)]
    num_images = sum(counts)
    pixels = draw(num_images, 5)
    bits = {value: random.choice((0, 0b1111, random.getrandbits(64))) for value in range(6)}
    made = RowKeys(
        evaluation=draw(num_rows, 1).astype(bool),
        exact=draw(num_rows, 1),
        text=draw(num_rows, 2) + 1,
        options=draw(num_rows, 1),
        gold=np.array([random.randrange(10) == 0 for _ in range(num_rows)], np.int64),
        figure=draw(num_rows, 9),
        article=draw(num_rows, 9),
        image_row=np.repeat(np.arange(num_rows), counts),
        image_source=pixels * 10 + draw(num_images, 1),
        image_pixels=pixels,
        hashes=np.array([bits[int(value)] for value in pixels], np.uint64),
        hashed=np.array([random.random() < 0.8 for _ in range(num_images)], bool),
    )
    levels = tuple(level for level in Level if random.random() < 0.3)
    config = CurationConfig(decontaminate_by=levels, max_hash_distance=distance)
    result = curation.curate(made, config)
    assert [REASONS[code] for code in result.reasons] == judged_one_by_one(made, config)
