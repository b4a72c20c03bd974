"""The pocket questions: the rules, the drawings, and the files."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.questions.sources import pocket
from pipelines.questions.sources.pocket import COMBINATIONS, Attributes, PocketConfig
from pipelines.records import LETTERS

SMALL = PocketConfig(num_train_questions=54, num_test_questions=36)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pocket")
    pocket.write(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]


def test_no_single_attribute_says_anything_about_the_route() -> None:
    for name in ("shape", "background"):
        for value in {getattr(each, name) for each in COMBINATIONS}:
            families = Counter(pocket.family(each) for each in COMBINATIONS if getattr(each, name) == value)
            assert set(families.values()) == {4} and len(families) == 3
    for name in ("tone", "density"):
        for value in {getattr(each, name) for each in COMBINATIONS}:
            stages = Counter(pocket.stage(each) for each in COMBINATIONS if getattr(each, name) == value)
            assert set(stages.values()) == {9} and len(stages) == 2


def test_all_routes_are_as_frequent() -> None:
    assert set(Counter(map(pocket.gold_route, COMBINATIONS)).values()) == {6}


def test_a_quarter_of_the_combinations_is_unseen_and_every_rule_still_shown() -> None:
    seen = [each for each in COMBINATIONS if not pocket.is_unseen(each)]
    assert len(seen) == 27
    assert {(each.shape, each.background) for each in seen} == set(itertools.product(pocket.SHAPES, pocket.BACKGROUNDS))
    assert {(each.tone, each.density) for each in seen} == set(itertools.product(pocket.TONES, pocket.DENSITIES))
    assert {(pocket.family(each), pocket.stage(each)) for each in seen} == set(
        itertools.product(pocket.FAMILIES, pocket.STAGES)
    )


def test_the_gold_rationale_reads_in_three_sentences() -> None:
    assert pocket.rationale(Attributes("round", "grainy", "bright", "dense")) == (
        "Round particles on a grainy background: family beta. Bright and dense: stage late. "
        "Family beta at stage late: route press."
    )


def test_a_drawing_is_grey_of_the_promised_size_and_new_each_time() -> None:
    rng = np.random.default_rng(0)
    first, second = (pocket.draw(COMBINATIONS[0], rng) for _ in range(2))
    assert (first.mode, first.size) == ("L", (96, 96))
    assert first.tobytes() != second.tobytes()


@pytest.mark.parametrize(("name", "low", "high"), [("tone", "dark", "bright"), ("density", "sparse", "dense")])
def test_tone_and_density_show_in_the_pixels(name: str, low: str, high: str) -> None:
    def particle_pixels(attributes: Attributes) -> float:
        pixels = np.asarray(pocket.draw(attributes, np.random.default_rng(1)), dtype=float)
        return float(pixels.mean()) if name == "tone" else float((np.abs(pixels - 125) > 60).mean())

    for each in COMBINATIONS:
        if getattr(each, name) == low:
            other = {**{f: getattr(each, f) for f in ("shape", "background", "tone", "density")}, name: high}
            assert particle_pixels(each) < particle_pixels(Attributes(**other))


def test_the_same_config_writes_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    pocket.write(tmp_path / "again", SMALL)
    pocket.write(tmp_path / "other", PocketConfig(seed=21, num_train_questions=54, num_test_questions=36))
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(folder)).read_bytes()
    assert (folder / "questions.jsonl").read_bytes() != (tmp_path / "other" / "questions.jsonl").read_bytes()


def test_half_of_the_test_and_none_of_the_training_is_unseen(rows: list[dict[str, object]]) -> None:
    counts = Counter((row["split"], row["stratum"]) for row in rows)
    assert counts == {("train", "seen"): 54, ("test", "seen"): 18, ("test", "unseen"): 18}


def test_each_row_names_an_image_and_the_letter_of_a_route_among_four(
    folder: Path, rows: list[dict[str, object]]
) -> None:
    for row in rows:
        options = row["options"]
        assert isinstance(options, list)
        assert len(set(options)) == 4 and set(options) <= set(pocket.ROUTES)
        assert row["answer"] in LETTERS[:4]
        with Image.open(folder / str(row["image"])) as image:
            assert image.size == (96, 96)


def test_files_and_table_hold_nothing_that_is_seen_or_ruled(folder: Path) -> None:
    text = (folder / "questions.jsonl").read_text() + " ".join(path.name for path in folder.rglob("*"))
    hidden = pocket.SHAPES + pocket.BACKGROUNDS + pocket.TONES + pocket.DENSITIES + pocket.FAMILIES + pocket.STAGES
    assert not [word for word in hidden if word in text]
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            assert not image.info


def test_progress_counts_every_question(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pocket.write(
        tmp_path, PocketConfig(num_train_questions=2, num_test_questions=2), lambda *counts: seen.append(counts)
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_folder_with_questions_is_not_drawn_over(folder: Path) -> None:
    with pytest.raises(FileExistsError, match="empty folder"):
        pocket.write(folder, SMALL)
