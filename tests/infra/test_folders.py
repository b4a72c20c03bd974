import errno
import os
import subprocess
import sys
import threading
import time

import pytest

from infra import folders
from infra.errors import ArtifactError

PLACE = """
import os, pathlib, signal, sys
from infra import folders
place, draft, point = pathlib.Path(sys.argv[1]), folders.new_draft(pathlib.Path(sys.argv[1])), sys.argv[2]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

num_renames = 0
rename = pathlib.Path.rename
def counted(self, target):
    global num_renames
    if point == f"before rename {num_renames}":
        die()
    num_renames += 1
    return rename(self, target)
pathlib.Path.rename = counted
if "rename" in point:
    folders._exchanged = lambda one, other: False
if point == "before exchange":
    folders._exchanged = lambda one, other: die()
folders._remove = lambda path: die()
with folders.only_writer(place):
    folders.clear(place)
    draft.mkdir()
    (draft / "content").write_text("new")
    folders.put_in_place(draft, place)
"""
POINTS = ["before exchange", "after exchange", "before rename 0", "before rename 1", "before rename 2", "after renames"]


def put(place, content):
    draft = folders.new_draft(place)
    with folders.only_writer(place):
        folders.clear(place)
        draft.mkdir()
        (draft / "content").write_text(content)
        folders.put_in_place(draft, place)


def content(place):
    folders.restore(place)
    return (place / "content").read_text()


def names(place):
    return sorted(path.name for path in place.parent.iterdir())


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    """Both ways to replace a folder: the file system of the tests' machine may have the first or not."""
    if request.param == "two renames":
        monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    return request.param


def test_a_folder_takes_the_place_of_an_older_one_and_leaves_nothing_beside_it(tmp_path, way):
    for each in ("one", "two", "three"):
        put(tmp_path / "out", each)
    assert content(tmp_path / "out") == "three"
    assert names(tmp_path / "out") == [".out.lock", "out"]


@pytest.mark.parametrize("point", POINTS)
def test_a_writer_that_is_killed_anywhere_leaves_the_older_folder_or_the_new_one(tmp_path, point):
    place = tmp_path / "out"
    put(place, "old")
    done = subprocess.run([sys.executable, "-c", PLACE, str(place), point], check=False)
    assert done.returncode == -9
    is_new = point.startswith("after") or point == "before rename 2"
    assert content(place) == ("new" if is_new else "old")
    put(place, "newest")
    assert content(place) == "newest"
    assert names(place) == [".out.lock", "out"]


def test_a_deleted_folder_does_not_come_back(tmp_path, way):
    place = tmp_path / "out"
    put(place, "old")
    subprocess.run([sys.executable, "-c", PLACE, str(place), "before rename 2"], check=False)
    put(place, "new")
    folders._remove(place)
    folders.restore(place)
    assert not place.exists()


def test_where_the_second_rename_fails_the_older_folder_has_its_place(tmp_path, monkeypatch):
    place = tmp_path / "out"
    put(place, "old")
    monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    rename = type(place).rename

    def failing(self, target):
        if ".draft-" in self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(type(place), "rename", failing)
    with pytest.raises(OSError, match="No space left"):
        put(place, "new")
    assert (place / "content").read_text() == "old"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV, None])
def test_where_the_file_system_cannot_exchange_folders_two_renames_do(tmp_path, monkeypatch, code):
    class Library:
        def __init__(self, name, use_errno):
            if code is not None:
                self.renameat2 = self.refuse

        def refuse(self, *arguments):
            folders.ctypes.set_errno(code)
            return -1

    put(tmp_path / "out", "old")
    monkeypatch.setattr(folders.ctypes, "CDLL", Library)
    put(tmp_path / "out", "new")
    assert content(tmp_path / "out") == "new"


def test_while_folders_are_exchanged_the_place_is_never_empty(tmp_path):
    place = tmp_path / "out"
    put(place, "0")
    found, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            found.append(os.path.lexists(place))

    looker = threading.Thread(target=look)
    looker.start()
    for number in range(100):
        put(place, str(number))
    stop.set()
    looker.join()
    assert len(found) > 100
    assert all(found)


def test_a_writer_that_stands_still_between_its_renames_is_an_error_and_not_a_missing_artifact(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_LONGEST_WAIT_S", 0.2)
    place = tmp_path / "out"
    put(place, "old")
    place.rename(folders._aside(place))
    with folders.only_writer(place), pytest.raises(ArtifactError, match="being replaced by another process"):
        folders.restore(place)
    assert content(place) == "old"


def test_a_link_in_the_place_of_an_artifact_is_replaced_and_what_it_led_to_stays(tmp_path, way):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    put(tmp_path / "elsewhere/out", "old")
    place = tmp_path / "run/out"
    place.symlink_to(tmp_path / "elsewhere/out")
    put(place, "new")
    assert not place.is_symlink()
    assert (tmp_path / "elsewhere/out/content").read_text() == "old"
    assert names(place) == [".out.lock", "out"]


def test_a_pipe_is_refused_at_once_when_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    started = time.monotonic()
    with pytest.raises(OSError, match="no plain file"):
        folders.open_file(tmp_path / "pipe")
    with pytest.raises(OSError, match="no plain file"):
        folders.open_file(tmp_path)
    assert time.monotonic() - started < 1


def test_files_behind_links_count_and_loops_end(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/a1").write_text("weights")
    model = tmp_path / "snapshots/main"
    (model / "more").mkdir(parents=True)
    (model / "model.safetensors").symlink_to("../../blobs/a1")
    (model / "more/config.json").write_text("{}")
    (model / "more/up").symlink_to("..")
    (model / "self").symlink_to("self")
    (model / "nowhere").symlink_to("gone")
    (model / "shards").symlink_to(tmp_path / "blobs")
    assert sorted(folders.linked_files(model)) == ["model.safetensors", "more/config.json", "shards/a1"]


def test_folders_that_link_to_each_other_many_times_are_read_once(tmp_path):
    for level in range(40):
        (tmp_path / f"{level}").mkdir()
        for name in ("a", "b"):
            (tmp_path / f"{level}/{name}").symlink_to(tmp_path / f"{level + 1}")
    (tmp_path / "40").mkdir()
    (tmp_path / "40/file").write_text("")
    assert len(folders.linked_files(tmp_path / "0")) == 1


def test_a_pipe_among_a_model_s_files_is_refused_and_not_read(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(OSError, match="no plain file"):
        folders.linked_files(tmp_path)


def test_a_file_that_is_not_written_whole_does_not_take_its_place_and_leaves_nothing(tmp_path):
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(OSError, match="No space"), folders.replacing(tmp_path / "a.json") as stream:
        stream.write("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "a.json").read_text() == "old"
    assert names(tmp_path / "a.json") == ["a.json"]


def test_a_lock_is_waited_for_as_long_as_is_said_and_no_longer(tmp_path):
    with folders.locked(tmp_path / "new" / "lock"):
        for timeout_s in (0.0, 0.1):
            again = folders.locked(tmp_path / "new" / "lock", timeout_s)
            with pytest.raises(folders.BusyError, match="another process holds"), again:
                raise AssertionError
    with folders.locked(tmp_path / "new" / "lock"):
        pass
