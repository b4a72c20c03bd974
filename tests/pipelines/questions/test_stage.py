import json

import numpy as np
import pytest
from PIL import Image

from infra import materials, recipes, runner, storage
from infra.errors import ConfigError, InputError
from infra.progress import Progress
from pipelines.images import decoding, image_bytes
from pipelines.questions import stage as questions
from pipelines.questions.config import QuestionsConfig
from pipelines.questions.curation import CurationConfig
from pipelines.questions.decontamination import Level
from pipelines.questions.sources.source import SourceConfig
from pipelines.records import Caption, Question, SetAside, Split, StoredImage, tables


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (24, 24), dtype=np.uint8))


def row(number: int, **changes) -> dict:
    made = {
        "image": f"images/{number}.png",
        "question": f"What is number {number}?",
        "options": ["x", "y"],
        "answer": "A",
        "split": "test" if number >= 4 else "train",
    }
    return made | changes


def write(folder, rows):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(8):
        picture(number).save(folder / f"images/{number}.png")
    (folder / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder


@pytest.fixture(autouse=True, scope="module")
def one_store(tmp_path_factory):
    """One MLflow store for all runs of this file: making one takes longer than a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")
        yield


@pytest.fixture
def source(tmp_path):
    rows = [row(number) for number in range(6)]
    return write(tmp_path / "mine", [*rows, rows[0], row(1, answer="Z"), row(2, image="images/none.png")])


def sealed(source, run_dir, **settings):
    """Of tables that lack what a whole flow needs, too, as one source by itself is sealed."""
    settings = {"sources": (SourceConfig(name="mine"),), "folder": str(source)} | settings
    config = QuestionsConfig(**settings)
    return runner.carry_out(config, run_dir, Progress("questions"), inputs={}, run=questions.read)["questions"]


def flowed(source, run_dir, **settings):
    """As the stage of a flow."""
    config = QuestionsConfig(sources=(SourceConfig(name="mine"),), folder=str(source), **settings)
    return runner.carry_out(config, run_dir, Progress("questions"))["questions"]


def shown(artifact, path) -> Image.Image:
    return decoding.decode(image_bytes.read(str(artifact.path / path)))


def adds_up(tally) -> bool:
    kept_back = sum(tally["reasons"].values()) + sum(tally["quarantined"].values())
    return tally["rows"]["read"] == tally["rows"]["questions"] + kept_back


def test_every_row_is_a_question_or_set_aside_with_its_reason(source, tmp_path):
    artifact = sealed(source, tmp_path / "runs/r")
    assert artifact.tally["rows"] == {"read": 9, "questions": 6, "train": 4, "test": 2}
    assert artifact.tally["reasons"] == {"exact_duplicate": 1, "answer_is_no_option": 1}
    assert artifact.tally["quarantined"] == {"missing_image": 1}
    assert adds_up(artifact.tally)
    aside = {(each.row, each.status, each.reason) for each in tables.read(artifact.path, SetAside)}
    assert aside == {
        (7, "rejected", "exact_duplicate"),
        (8, "rejected", "answer_is_no_option"),
        (9, "quarantined", "missing_image"),
    }


def test_the_artifact_holds_all_that_later_stages_need(source, tmp_path):
    artifact = sealed(source, tmp_path / "runs/r")
    stored = {each.path: each for each in tables.read(artifact.path, StoredImage)}
    for question in tables.read(artifact.path, Question):
        (path,) = question.images
        assert shown(artifact, path).size == (24, 24)
        assert question.image_digests == (stored[path].digest,)
        assert question.file == "questions.jsonl"
    assert len(tables.read(artifact.path, Question, split=Split.TRAIN)) == 4


def test_a_question_s_images_are_the_ones_that_its_row_names(source, tmp_path):
    artifact = sealed(source, tmp_path / "runs/r")
    for question in tables.read(artifact.path, Question):
        pixels = np.asarray(shown(artifact, question.images[0]).convert("L"))
        assert (pixels == np.asarray(picture(question.row - 1))).all()


def test_several_images_of_a_question_keep_their_order(tmp_path):
    several = row(0) | {"image": None, "images": ["images/3.png", "images/1.png", "images/3.png"]}
    artifact = sealed(write(tmp_path / "mine", [several]), tmp_path / "runs/r")
    (question,) = tables.read(artifact.path, Question)
    pixels = [np.asarray(shown(artifact, path).convert("L")) for path in question.images]
    assert all((image == np.asarray(picture(n))).all() for image, n in zip(pixels, (3, 1, 3), strict=True))


def test_what_the_flow_drew_has_its_name_and_notes_and_what_a_user_brings_to_the_same_recipe_has_neither(
    source, tmp_path
):
    counts = [f"draw.pocket.num_{split}_questions=2" for split in ("train", "test")]
    configs = recipes.resolve("pocket", ["pipelines"], counts)
    runner.carry_out(configs["draw"], tmp_path / "runs/r", Progress("draw"))
    drawn = runner.carry_out(configs["questions"], tmp_path / "runs/r", Progress("questions"))["questions"]
    own = recipes.resolve("pocket", ["pipelines"], [f"questions.folder={source}"])["questions"]
    brought = runner.carry_out(own, tmp_path / "runs/own", Progress("questions"))["questions"]
    named = {name: {q.source for q in tables.read(a.path, Question)} for name, a in (("d", drawn), ("o", brought))}
    assert named == {"d": {"pocket"}, "o": {"own"}}
    assert any("drawn" in note for note in drawn.tally["facts"]["notes"])
    assert brought.tally["facts"]["notes"] == []


def test_a_limit_reads_the_first_rows_of_each_split_only(source, tmp_path):
    rows = sealed(source, tmp_path / "runs/r", limit=1).tally["rows"]
    assert (rows["train"], rows["test"]) == (1, 1)


def test_the_same_files_give_the_same_digest_in_two_runs(source, tmp_path):
    assert sealed(source, tmp_path / "runs/a").digest == sealed(source, tmp_path / "runs/b").digest


def test_a_changed_image_makes_the_questions_again(source, tmp_path):
    before = sealed(source, tmp_path / "runs/r")
    picture(99).save(source / "images/0.png")
    materials.content_digest.cache_clear()
    assert sealed(source, tmp_path / "runs/r").digest != before.digest


def test_a_recipe_s_folder_may_lie_in_a_store_and_is_made_again_when_that_changes(source, tmp_path, bucket):
    folder = f"{bucket}/{tmp_path.name}"
    storage.upload(source, folder)
    first = sealed(folder, tmp_path / "runs/r")
    assert first.tally["rows"]["questions"] == 6
    write(source, [row(0), row(5)])
    storage.upload(source, folder)
    materials.content_digest.cache_clear()
    assert sealed(folder, tmp_path / "runs/r").tally["rows"]["questions"] == 2


def test_a_source_without_any_question_is_an_error_with_the_reasons(source, tmp_path):
    (source / "questions.jsonl").write_text("not json\n")
    with pytest.raises(InputError, match="line_is_no_json"):
        flowed(source, tmp_path / "runs/r")
    assert not (tmp_path / "runs/r/questions").exists()


def test_captions_are_read_and_kept_apart_from_the_questions(tmp_path):
    artifact = sealed(write(tmp_path / "mine", [row(0, caption="Gold in the rock."), row(1)]), tmp_path / "runs/r")
    first, second = tables.read(artifact.path, Question)
    assert tables.read(artifact.path, Caption) == [Caption(question_id=first.id, text="Gold in the rock.")]
    assert "Gold" not in json.dumps([first.as_dict(), second.as_dict()])


def test_the_budget_of_pixels_makes_large_images_smaller_and_leaves_small_ones_alone(tmp_path):
    source = write(tmp_path / "mine", [row(0), row(1)])
    Image.new("RGB", (400, 200)).save(source / "images/0.png")
    artifact = sealed(source, tmp_path / "runs/r", max_pixels=5000)
    large, small = (shown(artifact, question.images[0]).size for question in tables.read(artifact.path, Question))
    assert large == (100, 50)
    assert small == (24, 24)
    assert artifact.tally["facts"]["curation"]["image_changes"] == {"resized": 1}


def test_an_image_that_is_changed_counts_once_in_however_many_rows_and_under_however_many_names_it_is_shown(tmp_path):
    again = [row(0, question=f"What is question {number}?") for number in range(4)]
    source = write(tmp_path / "mine", [*again, row(1), row(2, image="images/copy.png"), row(3, answer="Z")])
    for name, size in (("0", (400, 200)), ("copy", (400, 200)), ("3", (300, 300))):
        Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint16).reshape(size[::-1])).save(
            source / f"images/{name}.png"
        )
    artifact = sealed(source, tmp_path / "runs/r", max_pixels=5000)
    assert artifact.tally["rows"]["questions"] == 6
    changes = artifact.tally["facts"]["curation"]["image_changes"]
    assert changes == {"brightness_scaled_0.1_to_99.9_percent": 1, "resized": 1}


def test_training_rows_that_an_evaluation_holds_are_rejected_by_the_level_that_tells_them(tmp_path):
    source = write(
        tmp_path / "mine",
        [
            row(4, figure="F4", options=["x", "y", "z"]),
            row(0, image="images/4.png"),
            row(1, figure="F4"),
            row(2, question="what IS number 4", options=["z", "y", "x"]),
            row(3),
        ],
    )
    picture(4).resize((48, 48), Image.Resampling.BICUBIC).save(source / "images/5.png")
    with (source / "questions.jsonl").open("a") as table:
        table.write(json.dumps(row(0, image="images/5.png", question="Which?")))
    tally = sealed(source, tmp_path / "runs/r").tally
    assert tally["reasons"] == {
        "contaminated_image": 1,
        "contaminated_figure": 1,
        "contaminated_text": 1,
        "contaminated_perceptual": 1,
    }
    assert tally["rows"] == {"read": 6, "questions": 2, "train": 1, "test": 1}
    assert tally["facts"]["curation"]["contamination"] == {"image": 1, "perceptual": 2, "figure": 1, "text": 1}


def test_an_evaluation_set_of_its_own_file_decontaminates_the_training_set(tmp_path):
    write(tmp_path / "data/train", [row(0), row(1)])
    write(tmp_path / "data/test", [row(1, question="Something else?")])
    artifact = sealed(
        tmp_path / "data",
        tmp_path / "runs/r",
        sources=(
            SourceConfig(table="train", name="mine", split=Split.TRAIN),
            SourceConfig(table="test", name="theirs", split=Split.TEST),
        ),
    )
    assert artifact.tally["reasons"] == {"contaminated_image": 1}
    assert [(s["source"], s["read"], s["questions"]) for s in artifact.tally["facts"]["sources"]] == [
        ("mine", 2, 1),
        ("theirs", 1, 1),
    ]
    assert [(q.source, q.split) for q in tables.read(artifact.path, Question)] == [
        ("mine", "train"),
        ("theirs", "test"),
    ]


def test_sources_that_could_not_be_told_apart_are_refused(tmp_path):
    write(tmp_path / "data/a", [row(0)])
    write(tmp_path / "data/b", [row(1)])
    sources = (SourceConfig(table="a"), SourceConfig(table="b"))
    with pytest.raises(ConfigError, match="2 sources are called own"):
        sealed(tmp_path / "data", tmp_path / "runs/r", sources=sources)


def test_a_validation_split_shares_no_article_with_training(tmp_path):
    rows = [row(n % 4, question=f"What of {n}?", article=f"PMC{n // 5}", split="train") for n in range(100)]
    curation = CurationConfig(validation_share=0.3, drop_duplicates=False)
    artifact = sealed(write(tmp_path / "mine", rows), tmp_path / "runs/r", curation=curation)
    articles = {split: {q.article for q in tables.read(artifact.path, Question, split=split)} for split in Split}
    assert len(articles[Split.VALIDATION]) >= 2
    assert articles[Split.VALIDATION] & articles[Split.TRAIN] == set()
    assert articles[Split.VALIDATION] | articles[Split.TRAIN] == {f"PMC{n}" for n in range(20)}


def test_shuffled_options_keep_the_right_answer_and_balance_the_letters(tmp_path):
    rows = [row(0, question=f"What of {n}?", options=[f"right {n}", "b", "c", "d"]) for n in range(200)]
    curation = CurationConfig(shuffle_options=True, drop_duplicates=False)
    artifact = sealed(write(tmp_path / "mine", rows), tmp_path / "runs/r", curation=curation)
    for question in tables.read(artifact.path, Question):
        assert question.options["ABCD".index(question.gold)] == f"right {question.row - 1}"
    letters = artifact.tally["facts"]["curation"]["letters"]
    assert letters["before"] == {"A": 200}
    assert set(letters["after"]) == set("ABCD")
    assert max(letters["after"].values()) < 75


def test_options_of_evaluations_keep_their_order(tmp_path):
    artifact = sealed(
        write(tmp_path / "mine", [row(n, question=f"{n}?") for n in range(4, 8)]),
        tmp_path / "runs/r",
        curation=CurationConfig(shuffle_options=True),
    )
    assert {(q.options, q.gold) for q in tables.read(artifact.path, Question)} == {(("x", "y"), "A")}


def test_levels_that_a_recipe_does_not_name_keep_nothing_back(tmp_path):
    source = write(tmp_path / "mine", [row(4), row(0, image="images/4.png")])
    artifact = sealed(source, tmp_path / "runs/r", curation=CurationConfig(decontaminate_by=(Level.FIGURE,)))
    assert artifact.tally["rows"]["questions"] == 2
