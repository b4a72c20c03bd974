import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra import journal, manifest
from pipelines.questions import command
from pipelines.questions.set_aside_reasons import MEANING
from pipelines.records import Question, Split, tables
from tests.benchmarks.generated import HARMLESS, PMC_VQA_DIRT, write_matcha, write_pmc_vqa
from tests.pipelines.questions.test_stage import row, write

PROJECT = Path(__file__).parents[3]


@pytest.fixture(autouse=True, scope="module")
def one_store(tmp_path_factory):
    """One MLflow store for all runs of this file: making one takes longer than a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")
        yield


def said(capfd, *arguments) -> str:
    """What a command printed on standard output; it has to succeed."""
    command.main([str(each) for each in arguments])
    return capfd.readouterr().out


@pytest.fixture(scope="module")
def dirty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dirty")
    return folder, write_pmc_vqa(folder, num_rows=1400, num_images=900, dirt_share=0.2)


def test_the_account_is_one_json_object_on_standard_output_and_all_else_is_elsewhere(dirty, tmp_path):
    folder, expected = dirty
    arguments = ["--table", folder / "train.csv", "--images", folder / "images.zip", "--out", tmp_path / "q", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.questions", "pmc_vqa", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    account = json.loads(done.stdout)
    assert list(account) == ["read", "questions", "rejected", "quarantined"]
    kept_back = sum(account["rejected"].values()) + sum(account["quarantined"].values())
    assert account["read"] == expected.read == account["questions"] + kept_back
    assert "rows written" in done.stderr


def test_every_kind_of_dirt_is_kept_back_row_by_row_and_nothing_else_is(dirty, tmp_path, capfd):
    folder, expected = dirty
    said(capfd, "pmc_vqa", "--table", folder / "train.csv", "--images", folder / "images.zip", "--out", tmp_path / "q")
    kept = {question.row for question in tables.read(tmp_path / "q", Question)}
    unsure = {"doubled_prefix_certain", "quoted_label", "special_tokens", "same_picture_other_name"} | HARMLESS
    for kind in PMC_VQA_DIRT:
        rows = expected.rows[kind]
        assert rows, kind
        if kind in unsure - {"special_tokens", "same_picture_other_name"}:
            assert rows <= kept, kind
        elif kind not in unsure:
            assert not rows & kept, kind
    clean = set(range(1, expected.read + 1)) - set().union(*expected.rows.values())
    assert clean <= kept


def test_reading_the_zip_and_reading_the_unpacked_folder_give_the_same_questions(tmp_path, capfd):
    for kind in ("zip", "folder"):
        write_pmc_vqa(tmp_path / kind, num_rows=120, num_images=80, version=2, images=kind)
        said(capfd, "pmc_vqa", "--table", tmp_path / kind / "train_2.csv", "--out", tmp_path / f"q-{kind}")
    by_zip, by_folder = (manifest.find(tmp_path / f"q-{kind}") for kind in ("zip", "folder"))
    assert by_zip.digest == by_folder.digest
    assert by_zip.tally["rows"]["questions"] > 100


def test_matcha_is_read_whole_with_stages_and_articles(tmp_path, capfd):
    expected = write_matcha(tmp_path, num_records=60)
    table, images = tmp_path / "data/matcha_vqa_inputs.jsonl", tmp_path / "data/images.zip"
    account = json.loads(said(capfd, "matcha", "--table", table, "--images", images, "--out", tmp_path / "q", "--json"))
    assert account == {"read": expected.questions, "questions": expected.questions, "rejected": {}, "quarantined": {}}
    questions = tables.read(tmp_path / "q", Question)
    assert {question.split for question in questions} == {Split.TEST}
    assert all(question.evaluation_only for question in questions)
    assert len({question.stratum for question in questions}) == 4
    assert len({question.topic for question in questions}) == 21
    assert any(len(question.images) > 1 for question in questions)


def test_a_topic_that_matcha_does_not_have_stops_the_reading_and_leaves_nothing(tmp_path, capfd):
    write_matcha(tmp_path, num_records=30)
    table = tmp_path / "data/matcha_vqa_inputs.jsonl"
    table.write_text(table.read_text().replace("Thermal Analysis", "Termal Analysis"))
    with pytest.raises(SystemExit) as ended:
        command.main(["matcha", "--table", str(table), "--out", str(tmp_path / "q")])
    assert ended.value.code == 1
    assert "Did you mean 'Thermal Analysis'" in capfd.readouterr().err
    assert not (tmp_path / "q").exists()


def test_a_table_without_a_usable_row_is_still_accounted_for(tmp_path, capfd):
    table = write(tmp_path / "mine", [row(0, answer="Z")]) / "questions.jsonl"
    table.write_text(f"{table.read_text()}[]\n")
    account = json.loads(said(capfd, "folder", "--table", table, "--out", tmp_path / "q", "--json"))
    assert account == {
        "read": 2,
        "questions": 0,
        "rejected": {"answer_is_no_option": 1, "line_is_no_json": 1},
        "quarantined": {},
    }
    assert manifest.find(tmp_path / "q", every_byte=True) is not None


def test_a_store_is_read_and_written(tmp_path, bucket, capfd):
    from infra import storage

    write(tmp_path / "mine", [row(0), row(5), row(1, image="images/none.png")])
    source, out = f"{bucket}/mine", f"{bucket}/q"
    storage.upload(tmp_path / "mine", source)
    account = json.loads(said(capfd, "folder", "--table", source, "--out", out, "--json"))
    assert account == {"read": 3, "questions": 2, "rejected": {}, "quarantined": {"missing_image": 1}}
    with pytest.raises(SystemExit) as ended:
        command.main(["check", source])
    assert ended.value.code == 0
    assert "quarantined 1: missing_image" in capfd.readouterr().out
    names = {entry.name for entry in storage.listing(out)}
    assert {"manifest.json", "questions.parquet", "images/00000.zip"} <= names


def test_questions_in_a_store_are_replaced_whole_and_nothing_else_is_written_over(tmp_path, bucket, capfd):
    from infra import storage

    source = write(tmp_path / "mine", [row(0)])
    out = f"{bucket}/replaced"
    said(capfd, "folder", "--table", source, "--out", out)
    write(source, [row(0), row(1)])
    said(capfd, "folder", "--table", source, "--out", out)
    assert json.loads(storage.open_binary(f"{out}/manifest.json").read())["tally"]["rows"]["questions"] == 2
    (tmp_path / "old").mkdir()
    (tmp_path / "old/stale.zip").write_text("somebody's")
    storage.upload(tmp_path / "old", f"{bucket}/precious")
    with pytest.raises(SystemExit):
        command.main(["folder", "--table", str(source), "--out", f"{bucket}/precious"])
    assert "holds no sealed questions" in capfd.readouterr().err
    assert {entry.name for entry in storage.listing(f"{bucket}/precious")} == {"stale.zip"}


def test_a_zip_in_a_store_is_read_where_it_lies(tmp_path, bucket, capfd):
    from infra import storage

    write_pmc_vqa(tmp_path / "set", num_rows=60, num_images=40, dirt_share=0)
    storage.upload(tmp_path / "set", f"{bucket}/set")
    account = json.loads(
        said(capfd, "pmc_vqa", "--table", f"{bucket}/set/train.csv", "--out", tmp_path / "q", "--json")
    )
    assert account["read"] == account["questions"] == 60


def test_a_folder_that_is_no_artifact_is_never_written_over(tmp_path, capfd):
    write(tmp_path / "mine", [row(0)])
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit):
        command.main(["folder", "--table", str(tmp_path / "mine"), "--out", str(tmp_path / "precious")])
    assert "holds no sealed questions" in capfd.readouterr().err
    assert (tmp_path / "precious/thesis.tex").read_text() == "years of work"


def test_an_artifact_of_another_stage_is_never_written_over(tmp_path, capfd):
    source = write(tmp_path / "mine", [row(0)])
    said(capfd, "folder", "--table", source, "--out", tmp_path / "q")
    path = tmp_path / "q/manifest.json"
    path.write_text(path.read_text().replace('"stage": "questions"', '"stage": "fit"'))
    with pytest.raises(SystemExit):
        command.main(["folder", "--table", str(source), "--out", str(tmp_path / "q")])
    assert "holds no sealed questions" in capfd.readouterr().err
    assert path.exists()


def test_a_file_that_somebody_put_beside_sealed_questions_is_not_deleted(tmp_path, capfd):
    source = write(tmp_path / "mine", [row(0)])
    said(capfd, "folder", "--table", source, "--out", tmp_path / "q")
    (tmp_path / "q/NOTES.txt").write_text("mine")
    with pytest.raises(SystemExit):
        command.main(["folder", "--table", str(source), "--out", str(tmp_path / "q")])
    assert (tmp_path / "q/NOTES.txt").read_text() == "mine"


def test_questions_that_were_sealed_before_are_read_again(tmp_path, capfd):
    source = write(tmp_path / "mine", [row(0)])
    said(capfd, "folder", "--table", source, "--out", tmp_path / "q")
    write(source, [row(0), row(1)])
    said(capfd, "folder", "--table", source, "--out", tmp_path / "q")
    assert len(tables.read(tmp_path / "q", Question)) == 2


@pytest.mark.parametrize("form", ["pmc_vqa", "matcha", "folder"])
def test_a_table_without_rows_is_accounted_for(tmp_path, capfd, form):
    table = tmp_path / ("t.csv" if form == "pmc_vqa" else "t.jsonl")
    table.write_text("Figure_path,Question\n" if form == "pmc_vqa" else "")
    account = json.loads(said(capfd, form, "--table", table, "--out", tmp_path / "q", "--json"))
    assert account == {"read": 0, "questions": 0, "rejected": {}, "quarantined": {}}


def test_a_pipe_in_a_table_s_place_does_not_hang(tmp_path, capfd):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(SystemExit):
        command.main(["check", str(tmp_path / "t.csv")])
    assert "is not there" in capfd.readouterr().err


@pytest.mark.engine
def test_the_account_is_in_mlflow_as_it_is_in_the_manifest(tmp_path, capfd, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv(journal.DRIVER_VARIABLE)
    source = write(tmp_path / "mine", [row(0), row(0), row(1, image="none.png")])
    said(capfd, "folder", "--table", source, "--out", tmp_path / "q")
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("preceptor")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`preceptor.artifact` = '{tmp_path / 'q'}'")
    logged = {name: value for name, value in run.data.metrics.items() if name != "seconds"}
    assert logged == {
        "rows.read": 3,
        "rows.questions": 1,
        "rows.train": 1,
        "rows.test": 0,
        "rejected.exact_duplicate": 1,
        "quarantined.missing_image": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "none.csv"], "none.csv is not there"),
        (["--table", "mine/questions.jsonl", "--images", "none"], "none is not there"),
        (["--table", "mine/questions.jsonl", "--limit", "0"], "a whole number above 0"),
        (["--table", "mine/questions.jsonl", "--set", "curation.sed=1"], "Did you mean 'seed'"),
        (["--table", "mine/thesis.docx"], "is no table that can be read"),
    ],
)
def test_a_wrong_argument_says_what_was_wrong(tmp_path, capfd, monkeypatch, arguments, message):
    write(tmp_path / "mine", [row(0)])
    (tmp_path / "mine/thesis.docx").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command.main(["folder", *arguments, "--out", "q"])
    assert ended.value.code == 1
    shown = capfd.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "q").exists()


def test_matcha_for_training_is_refused(tmp_path, capfd):
    write_matcha(tmp_path, num_records=1)
    table = tmp_path / "data/matcha_vqa_inputs.jsonl"
    with pytest.raises(SystemExit):
        command.main(["matcha", "--table", str(table), "--split", "train", "--out", str(tmp_path / "q")])
    assert "never teaches" in capfd.readouterr().err


def test_check_says_what_it_found_what_it_would_reject_and_why_and_writes_nothing(tmp_path, capfd):
    source = write(tmp_path / "mine", [row(0), row(5), row(1, answer="Z"), row(2, image="\x1b[31m../../etc/passwd")])
    before = sorted(source.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        command.main(["check", str(source)])
    assert ended.value.code == 0
    shown = capfd.readouterr().out
    assert "4 rows" in shown
    assert "2 questions (train 1, test 1)" in shown
    assert "rejected 1: answer_is_no_option, the answer is none of the options' letters" in shown
    assert "row 3: {'image': 'images/1.png'" in shown
    assert "quarantined 1: image_name_unreadable" in shown
    assert "\x1b" not in shown
    assert sorted(source.rglob("*")) == before


def test_check_of_a_table_without_a_question_exits_with_1(tmp_path, capfd):
    write(tmp_path / "mine", [row(0, answer="Z")])
    with pytest.raises(SystemExit) as ended:
        command.main(["check", str(tmp_path / "mine")])
    assert ended.value.code == 1


@pytest.mark.parametrize("form", ["pmc_vqa", "matcha"])
def test_check_knows_the_released_forms_by_their_columns(tmp_path, capfd, form):
    if form == "pmc_vqa":
        write_pmc_vqa(tmp_path, num_rows=20, num_images=10, dirt_share=0)
        table = tmp_path / "train.csv"
    else:
        write_matcha(tmp_path, num_records=5)
        table = tmp_path / "data/matcha_vqa_inputs.jsonl"
    with pytest.raises(SystemExit) as ended:
        command.main(["check", str(table)])
    assert ended.value.code == 0
    assert f"({form})" in capfd.readouterr().out


SAME_WORDS = [row(n, question="Which category?", options=["x", "y", f"z{n}"]) for n in range(8)]
REAL = PROJECT.parent / "shared/real/nffa_sem"


def checked(capfd, *arguments) -> tuple[int, str]:
    """The exit code of a check, and what it printed."""
    with pytest.raises(SystemExit) as ended:
        command.main(["check", *map(str, arguments)])
    return ended.value.code, capfd.readouterr().out


@pytest.mark.parametrize(
    "words", [[], ["--set", 'questions.curation.decontaminate_by=["text"]'], ["--set", "questions.limit=5"]]
)
@pytest.mark.parametrize("kind", ["made", "real"])
def test_check_says_what_the_flow_with_the_same_words_does(tmp_path, capfd, words, kind):
    folder = (
        REAL if kind == "real" else write(tmp_path / "mine", [*SAME_WORDS, row(1, answer="Z"), row(2, split="dev")])
    )
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    code, said_of_check = checked(capfd, folder, *words)
    flow_words = ["pocket", "--run-dir", tmp_path / "runs/r", *words, "--set", f"questions.folder={folder}"]
    try:
        command.main([str(each) for each in flow_words])
        artifact = manifest.find(tmp_path / "runs/r/questions")
        rows = artifact.tally["rows"]
        assert code == 0
        assert f"  {rows['questions']} questions (train {rows['train']}" in said_of_check
        for reason, count in artifact.tally["reasons"].items():
            assert f"rejected {count}: {reason}, " in said_of_check
    except SystemExit as ended:
        assert ended.code == code == 1
        error = capfd.readouterr().err
        lacking = [line for line in said_of_check.splitlines() if line.startswith("Nothing is left")]
        assert lacking
        assert all(line in error for line in lacking)
        assert not (tmp_path / "runs/r/questions").exists()


SHARED_WORDS = [row(n, question=f"Which is {n % 4}?", options=["x", "y", "z"]) for n in range(8)]
LACKING = {
    "text": (
        SHARED_WORDS,
        ["--set", 'questions.curation.decontaminate_by=["image", "text"]'],
        "Nothing is left to train on: of 4 rows with the split train, none is kept (contaminated_text 4). "
        "contaminated_text: an evaluation question has the same question text, with the same options, right answer, "
        "image or figure. Where that tells nothing of what is examined, as one wording for all questions does not, "
        "leave this level out: "
        """--set 'questions.curation.decontaminate_by=["image"]'""",
    ),
    "image": (
        [row(0, split="test"), row(0, question="Other?"), row(0, question="Third?")],
        [],
        "Nothing is left to train on: of 2 rows with the split train, none is kept (contaminated_image 2). "
        "contaminated_image: an evaluation question has the same image. Split the table by image",
    ),
    "no test": (
        [row(0), row(1)],
        [],
        "Nothing is left to examine: of 2 rows, none that can be used has the split test.",
    ),
    "limit": (
        [row(0, image="none.png"), row(1), row(5)],
        ["--limit", "1"],
        "Only the first 1 rows of each split of a table were read, as questions.limit says.",
    ),
    "validation": (
        [row(0), row(5)],
        ["--set", "questions.curation.validation_share=0.9999999"],
        "Nothing is left to train on: 1 questions are kept for validation. Lower questions.curation.validation_share.",
    ),
    "images": (
        [row(0, image="none.png"), row(5)],
        [],
        "Nothing is left to train on: of 1 rows with the split train, none is kept (missing_image 1).",
    ),
    "all rejected": (
        [row(0, answer="Z"), row(5, answer="Z")],
        [],
        "Nothing is left to examine: of 2 rows, none that can be used has the split test (set aside: "
        "answer_is_no_option 2). answer_is_no_option: the answer is none of the options' letters, texts or numbers.",
    ),
    "rejected": ([row(0, answer="Z"), row(5)], [], "has the split train (set aside: answer_is_no_option 1)"),
}


@pytest.mark.parametrize("kind", LACKING)
def test_check_is_loud_when_nothing_is_left_to_train_on_or_to_examine(tmp_path, capfd, kind):
    rows, words, sentence = LACKING[kind]
    code, shown = checked(capfd, write(tmp_path / "mine", rows), *words)
    assert code == 1
    assert sentence in shown


def test_what_a_sentence_says_to_type_helps(tmp_path, capfd):
    rows, words, _ = LACKING["text"]
    _, shown = checked(capfd, write(tmp_path / "mine", rows), *words)
    (advice,) = re.findall(r"--set '(.*)'", shown)
    assert checked(capfd, tmp_path / "mine", *words, "--set", advice)[0] == 0


def test_check_takes_the_sources_and_limits_of_the_recipe_that_is_named(tmp_path, capfd):
    write_pmc_vqa(tmp_path, num_rows=60, num_images=40, dirt_share=0)
    (tmp_path / "test_clean.csv").write_bytes((tmp_path / "train.csv").read_bytes())
    code, shown = checked(capfd, tmp_path, "--recipe", "pmc_vqa_8xh200")
    assert code == 1  # all of it is in the test set
    assert f"{tmp_path}/train.csv (pmc_vqa): 60 rows" in shown
    assert f"{tmp_path}/test_clean.csv (pmc_vqa): 60 rows" in shown
    assert "rejected 60: contaminated_image" in shown
    with pytest.raises(SystemExit):
        command.main(["check", str(tmp_path), "--recipe", "pmc_vqa_8xh20"])
    assert "Did you mean 'pmc_vqa_8xh200" in capfd.readouterr().err


def test_check_says_how_a_table_is_written_and_counts_what_it_had_to_read_otherwise(tmp_path, capfd):
    folder = write(tmp_path / "mine", [])
    (folder / "questions.jsonl").unlink()
    (folder / "questions.csv").write_text(
        "# of today\nimage;question;Option A;Option B;answer;split\n"
        "images/0.png;What?;x;y;y;training\nimages/5.png;And here?;x;y;(B);test\n"
    )
    code, shown = checked(capfd, folder)
    assert code == 0
    for line in (
        "separated by semicolons",
        "1 line with # before the columns' names passed over",
        "1 questions with answer by text",
        "1 questions with answer letter between marks",
        "1 questions with split training as train",
    ):
        assert f"  {line}\n" in shown


def test_every_reason_in_the_code_has_a_meaning_and_every_meaning_a_reason():
    used = {
        "row_is_empty",
        "takes_too_long",
        "crashes_the_decoder",
        "line_is_no_json",
        "row_too_long",
        "row_unreadable",
    }
    code = "".join(path.read_text() for path in (PROJECT / "pipelines").rglob("*.py") if path.name != "reasons.py")
    used |= set(re.findall(r'(?:RejectedError|UnreadableImageError)\(\s*"(\w+)"', code))
    unknown = {reason for reason in used if reason not in MEANING}
    assert unknown == set()
    for reason in MEANING:
        stem = re.sub(r"^(contaminated)_\w+$|^\w+_(missing|is_no_text|are_no_list)$", r"\1\2", reason)
        assert reason in code or stem in code, reason
