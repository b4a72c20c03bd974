import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra import manifest
from infra.errors import ArtifactError
from infra.manifest import Tally

MADE_FROM = {"stage": "s", "contract": 1, "config": {"a": 1}, "inputs": {}, "materials": {}}


def sealed(place: Path, content: str = "rows", made_from: dict | None = None) -> manifest.Artifact:
    with manifest.draft(place) as draft:
        (draft / "table.txt").write_text(content)
        return manifest.seal(
            draft, place, stage="s", made_from=made_from or MADE_FROM, tally=Tally(rows={"rows": 1}), seconds=0.5
        )


def test_a_sealed_artifact_is_found_with_its_manifest(tmp_path):
    made = sealed(tmp_path / "out")
    found = manifest.find(tmp_path / "out")
    assert found == made
    assert found.tally["rows"] == {"rows": 1}
    assert found.manifest.key == manifest.key(MADE_FROM)


def test_an_artifact_without_a_manifest_is_not_there(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "table.txt").write_text("half")
    assert manifest.find(tmp_path / "out") is None


def test_equal_content_has_equal_digests_and_other_content_another(tmp_path):
    one, two, other = sealed(tmp_path / "1"), sealed(tmp_path / "2"), sealed(tmp_path / "3", "else")
    assert one.digest == two.digest != other.digest


@pytest.mark.parametrize(
    "damage", [lambda f: f.unlink(), lambda f: f.write_text("cut"), lambda f: f.with_name("new").touch()]
)
def test_a_file_changed_after_sealing_is_an_error_that_says_what_to_delete(tmp_path, damage):
    sealed(tmp_path / "out")
    damage(tmp_path / "out" / "table.txt")
    with pytest.raises(ArtifactError, match=r"Delete .*out"):
        manifest.find(tmp_path / "out")


def test_a_file_of_the_same_size_but_other_content_is_found_out_before_it_is_read(tmp_path):
    sealed(tmp_path / "out", "gold=A")
    (tmp_path / "out" / "table.txt").write_text("gold=B")
    with pytest.raises(ArtifactError, match="was changed after it was sealed"):
        manifest.find(tmp_path / "out", every_byte=True)


def test_a_stage_s_own_trouble_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(ConnectionRefusedError), manifest.draft(tmp_path / "out"):
        raise ConnectionRefusedError(111, "refused")


def test_a_damaged_manifest_is_an_error_that_says_what_to_delete(tmp_path):
    sealed(tmp_path / "out")
    (tmp_path / "out" / manifest.MANIFEST).write_text('{"stage": ')
    with pytest.raises(ArtifactError, match="Delete"):
        manifest.find(tmp_path / "out")


def test_a_stage_that_raises_leaves_no_draft_and_keeps_the_older_artifact(tmp_path):
    older = sealed(tmp_path / "out")

    def fail_while_writing():
        with manifest.draft(tmp_path / "out") as draft:
            (draft / "table.txt").write_text("half")
            raise ValueError("stage broke")

    with pytest.raises(ValueError, match="stage broke"):
        fail_while_writing()
    assert manifest.find(tmp_path / "out") == older
    assert [p.name for p in tmp_path.iterdir() if "draft" in p.name] == []


def test_a_killed_stage_s_draft_is_never_read_and_is_cleared_by_the_next_writer(tmp_path):
    script = (
        "import os, sys, pathlib; from infra import manifest\n"
        "with manifest.draft(pathlib.Path(sys.argv[1])) as draft:\n"
        "    (draft / 'table.txt').write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    place = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", script, str(place)], check=False)
    assert killed.returncode == -9
    assert len(list(tmp_path.glob(".out.draft-*"))) == 1
    assert manifest.find(place) is None
    sealed(place)
    assert list(tmp_path.glob(".out.draft-*")) == []


def test_two_writers_of_one_artifact_do_not_meet(tmp_path):
    def write_twice():
        with manifest.draft(tmp_path / "out"), manifest.draft(tmp_path / "out"):
            pass

    with pytest.raises(ArtifactError, match="being written by another process"):
        write_twice()


def test_a_full_disk_is_one_clear_error_and_seals_nothing(tmp_path):
    def fill():
        with manifest.draft(tmp_path / "out") as draft:
            with Path("/dev/full").open("w") as full:
                full.write("x")
            manifest.seal(draft, tmp_path / "out", stage="s", made_from=MADE_FROM, tally=Tally(), seconds=0)

    with pytest.raises(ArtifactError, match=r"No space left.*--run-dir"):
        fill()
    assert manifest.find(tmp_path / "out") is None


def test_the_manifest_says_code_and_packages(tmp_path):
    made = sealed(tmp_path / "out")
    assert set(made.manifest.code) == {"commit", "dirty"}
    assert made.manifest.packages["pyarrow"]


def test_a_reader_of_json_sees_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "a.json"
    manifest.write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        manifest.write_json(path, {"n": object()})
    assert json.loads(path.read_text()) == {"n": 1}
    assert (tmp_path / "a.json") in tmp_path.iterdir()
