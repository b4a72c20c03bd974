"""The folder of a rehearsal; the rehearsals themselves are in tests/flow."""

import pytest

from infra.errors import ArtifactError, ConfigError
from pipelines.rehearsal import rehearse


def test_a_rehearsal_begins_with_an_empty_folder_and_two_at_once_do_not_remove_each_other_s(tmp_path):
    with rehearse._folder(tmp_path) as folder:
        (folder / "questions").mkdir()
        (folder / "left").touch()
    with rehearse._folder(tmp_path) as folder:
        assert {path.name for path in folder.iterdir()} == {".in_use", ".rehearsal"}
        (folder / "questions").mkdir()
        with pytest.raises(ArtifactError, match="is in use by a rehearsal"), rehearse._folder(tmp_path):
            pass
        assert (folder / "questions").is_dir()


def test_a_folder_that_no_rehearsal_has_made_is_not_emptied(tmp_path):
    (tmp_path / "rehearsal").mkdir()
    (tmp_path / "rehearsal" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="holds files that no rehearsal has made"), rehearse._folder(tmp_path):
        pass
    assert (tmp_path / "rehearsal" / "mine.txt").exists()
