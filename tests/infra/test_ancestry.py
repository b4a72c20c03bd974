"""Whether the artifacts that a stage reads are of one lineage."""

import shutil
from pathlib import Path

import pytest

from infra import ancestry, manifest
from infra.errors import ArtifactError
from infra.manifest import Artifact, Tally

CHAIN = {"source": (), "rows": ("source",), "marks": ("rows",), "books": ("rows", "marks"), "skills": ("books",)}


def seal(run_dir: Path, name: str, word: str, *, inputs: dict[str, str] | None = None) -> Artifact:
    """An artifact of one word, made from what is there now, by the stage `makes-NAME`."""
    read = {each: manifest.find(run_dir / each).digest for each in CHAIN[name]} if inputs is None else inputs
    with manifest.draft(run_dir / name) as draft:
        (draft / "word").write_text(word)
        return manifest.seal(
            draft, run_dir / name, stage=f"makes-{name}", made_from={"inputs": read}, tally=Tally(), seconds=0
        )


@pytest.fixture
def run_dir(tmp_path) -> Path:
    for name in CHAIN:
        seal(tmp_path, name, "first")
    return tmp_path


def check(run_dir: Path, *names: str, **how) -> None:
    ancestry.check({name: manifest.find(run_dir / name) for name in names}, run_dir, **how)


def test_what_was_made_one_from_the_other_is_taken(run_dir):
    check(run_dir, *CHAIN)
    check(run_dir, "skills")


@pytest.mark.parametrize(
    ("again", "again_first"),
    [("source", "rows"), ("rows", "marks"), ("marks", "books"), ("books", "skills")],
)
@pytest.mark.parametrize("read", [("skills",), ("skills", "rows"), tuple(CHAIN), tuple(reversed(CHAIN))])
def test_what_was_made_from_another_artifact_is_refused_and_the_first_stage_to_run_is_named(
    run_dir, again, again_first, read
):
    seal(run_dir, again, "second")
    with pytest.raises(ArtifactError, match=rf"another {again}.* there now\. Run the stage makes-{again_first} "):
        check(run_dir, *read)


def test_what_was_made_again_with_the_same_content_is_the_same(run_dir):
    seal(run_dir, "rows", "second")
    seal(run_dir, "rows", "first")
    check(run_dir, *CHAIN)


def test_a_part_of_the_lineage_that_is_made_again_leaves_the_rest_to_be_made(run_dir):
    seal(run_dir, "marks", "second")
    seal(run_dir, "books", "second")
    check(run_dir, "rows", "marks", "books")
    with pytest.raises(ArtifactError, match=r"another books.* there now\. Run the stage makes-skills again"):
        check(run_dir, "marks", "books", "skills")


def test_an_artifact_that_is_gone_is_no_obstacle_but_two_that_rest_on_different_ones_of_its_name_are(run_dir):
    shutil.rmtree(run_dir / "source")
    check(run_dir, "rows", "skills")
    other = seal(run_dir, "marks", "m", inputs={"source": "0" * 64, "rows": manifest.find(run_dir / "rows").digest})
    assert other.made_from["inputs"]["source"] != manifest.find(run_dir / "rows").made_from["inputs"]["source"]
    with pytest.raises(ArtifactError, match=r"were made from two different source\. Run the stage makes-"):
        check(run_dir, "rows", "marks")


def test_a_service_shows_what_is_finished_while_something_else_is_made(run_dir):
    seal(run_dir, "marks", "second")
    check(run_dir, "rows", "skills", inputs_only=True)
    with pytest.raises(ArtifactError, match="makes-books"):
        check(run_dir, "marks", "books", inputs_only=True)


@pytest.mark.parametrize("inputs", [None, [], "x", {"rows": 7}, {"skills": "0" * 64}, {"a\0b": ""}, {"a" * 5000: ""}])
def test_a_manifest_of_anybody_s_is_read_without_a_traceback(run_dir, inputs):
    with manifest.draft(run_dir / "skills") as draft:
        made_from = {} if inputs is None else {"inputs": inputs}
        manifest.seal(draft, run_dir / "skills", stage="s", made_from=made_from, tally=Tally(), seconds=0)
    try:
        check(run_dir, "skills", "books")
    except ArtifactError as error:
        assert "was made from another" in str(error)
