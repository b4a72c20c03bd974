import dataclasses
import errno
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import manifest
from infra.digests import digest_file
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


@pytest.mark.parametrize("back_to", [None, "its time before"])
def test_a_write_of_the_same_size_is_found_out_without_reading_what_nobody_touched(tmp_path, monkeypatch, back_to):
    sealed(tmp_path / "out", "gold=A")
    digested = []
    monkeypatch.setattr(manifest, "digest_file", lambda path: digested.append(path) or digest_file(path))
    assert manifest.find(tmp_path / "out") is not None
    assert digested == []
    table = tmp_path / "out/table.txt"
    before = table.stat()
    table.write_text("gold=B")
    if back_to:
        os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match=r"table\.txt was changed after it was sealed"):
        manifest.find(tmp_path / "out")
    with pytest.raises(ArtifactError, match="was changed after it was sealed"):
        manifest.find(tmp_path / "out")  # and is not taken for checked now
    assert digested == [table, table]


def test_files_that_their_readers_digest_are_not_digested_before_unless_they_were_touched(tmp_path, monkeypatch):
    with manifest.draft(tmp_path / "out") as draft:
        (draft / "bulk").mkdir()
        for name in ("bulk/0", "bulk/1", "bulky", "table"):
            (draft / name).write_text(name)
        manifest.seal(draft, tmp_path / "out", stage="s", made_from={}, tally=Tally(), seconds=1)
    digested = []
    monkeypatch.setattr(manifest, "digest_file", lambda path: digested.append(path.name) or digest_file(path))
    for _ in range(2):
        assert manifest.find(tmp_path / "out", every_byte=True, but_below=("bulk",)) is not None
    assert digested == ["bulky", "table"] * 2
    (tmp_path / "out/bulk/1").write_text("bulk/2")
    with pytest.raises(ArtifactError, match="bulk/1 was changed after it was sealed"):
        manifest.find(tmp_path / "out", every_byte=True, but_below=("bulk",))
    assert digested[4:] == ["1"]


def test_another_file_of_the_same_size_and_time_in_a_sealed_one_s_place_is_found_out(tmp_path):
    sealed(tmp_path / "out", "gold=A")
    (tmp_path / "other").write_text("gold=B")
    shutil.copystat(tmp_path / "out/table.txt", tmp_path / "other")
    (tmp_path / "other").replace(tmp_path / "out/table.txt")
    with pytest.raises(ArtifactError, match="was changed after it was sealed"):
        manifest.find(tmp_path / "out")


@pytest.mark.parametrize("copy", ["folder", "run"])
def test_a_copied_artifact_is_digested_once_and_a_changed_copy_is_found_out(tmp_path, monkeypatch, copy):
    sealed(tmp_path / "run/out", "gold=A")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    if copy == "folder":
        (tmp_path / "copy/.out.checked").unlink()
    digested = []
    monkeypatch.setattr(manifest, "digest_file", lambda path: digested.append(path.name) or digest_file(path))
    for _ in range(3):
        assert manifest.find(tmp_path / "copy/out") is not None
    assert digested == ["table.txt"]
    (tmp_path / "run/out/table.txt").write_text("gold=B")
    shutil.copytree(tmp_path / "run", tmp_path / "later")
    with pytest.raises(ArtifactError, match="was changed after it was sealed"):
        manifest.find(tmp_path / "later/out")


@pytest.mark.parametrize("noise", [b"", b"{", b"[]", b'{"digest": 1}', b"[" * 100_000, b'{"digest": "D", "files": 3}'])
def test_what_is_remembered_of_digests_may_be_lost_or_damaged(tmp_path, noise):
    made = sealed(tmp_path / "out")
    (tmp_path / ".out.checked").write_bytes(noise.replace(b"D", made.digest.encode()))
    assert manifest.find(tmp_path / "out") == made


def odd(folder: Path, kind: str) -> None:
    name = folder / "odd"
    if kind == "pipe":
        os.mkfifo(name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(name))
    elif kind == "link to a sealed file":
        name.symlink_to("table.txt")
    elif kind == "link to nowhere":
        name.symlink_to("odd")
    elif kind == "link to a folder":
        name.symlink_to("..")
    else:
        (folder / "within").mkdir()
        os.mkfifo(folder / "within/odd")


ODD = ["pipe", "socket", "link to a sealed file", "link to nowhere", "link to a folder", "pipe within"]


@pytest.mark.parametrize("kind", ODD)
def test_a_sealed_folder_with_a_link_or_a_pipe_is_refused_and_nothing_is_waited_for(tmp_path, kind):
    sealed(tmp_path / "out")
    odd(tmp_path / "out", kind)
    with pytest.raises(
        ArtifactError, match=rf"odd is a {kind.split()[0]}, and a sealed folder holds nothing but plain"
    ):
        manifest.find(tmp_path / "out")


@pytest.mark.parametrize("kind", ODD)
def test_a_draft_with_a_link_or_a_pipe_is_not_sealed(tmp_path, kind):
    def write():
        with manifest.draft(tmp_path / "out") as draft:
            (draft / "table.txt").write_text("rows")
            odd(draft, kind)
            manifest.seal(draft, tmp_path / "out", stage="s", made_from=MADE_FROM, tally=Tally(), seconds=0)

    with pytest.raises(ArtifactError, match="a sealed folder holds nothing but plain files"):
        write()
    assert manifest.find(tmp_path / "out") is None


@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize("name", ["table.txt", manifest.MANIFEST])
def test_a_sealed_file_that_became_a_link_or_a_pipe_is_refused(tmp_path, kind, name):
    sealed(tmp_path / "out")
    file = tmp_path / "out" / name
    file.rename(tmp_path / "moved")
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(tmp_path / "moved")
    for every_byte in (False, True):
        with pytest.raises(ArtifactError, match=f"{name} is a {kind}"):
            manifest.find(tmp_path / "out", every_byte=every_byte)


def test_hard_links_are_plain_files(tmp_path):
    made = sealed(tmp_path / "out")
    (tmp_path / "hard").hardlink_to(tmp_path / "out/table.txt")
    assert manifest.find(tmp_path / "out") == made


@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_whoever_looks_while_artifacts_replace_each_other_always_finds_one_whole(tmp_path, way):
    script = (
        "import pathlib, sys; from infra import folders, manifest; from infra.manifest import Tally\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "if sys.argv[2] == 'two renames': folders._exchanged = lambda one, other: False\n"
        "for number in range(200):\n"
        "    with manifest.draft(place) as draft:\n"
        "        (draft / 'table.txt').write_text(str(number) * (1 + number % 7))\n"
        "        (draft / f'{number % 3}.txt').write_text(str(number))\n"
        "        manifest.seal(draft, place, stage='s', made_from={'n': number}, tally=Tally(), seconds=0)\n"
    )
    place = tmp_path / "out"
    sealed(place)
    digests, looks = set(), 0
    with subprocess.Popen([sys.executable, "-c", script, str(place), way]) as writer:
        while writer.poll() is None:
            digests.add(manifest.find(place, every_byte=looks % 2 == 0).digest)
            looks += 1
    assert writer.returncode == 0
    assert looks > len(digests) > 20


FIELDS = ("stage", "key", "digest", "made_from", "tally", "seconds", "code", "packages", "files")
SHA256 = "0" * 64


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stage", 3),
        ("key", None),
        ("made_from", []),
        ("tally", {}),
        ("tally", {"rows": [], "reasons": {}, "quarantined": {}, "metrics": {}, "facts": {}}),
        ("tally", {"rows": {"a": "1"}, "reasons": {}, "quarantined": {}, "metrics": {}, "facts": {}}),
        ("tally", {"rows": {}, "reasons": {}, "quarantined": {}, "metrics": {"a": None}, "facts": {}}),
        ("seconds", "1"),
        ("seconds", [1]),
        ("packages", {"torch": 2}),
        ("files", []),
        ("files", {"a": {"bytes": 1}}),
        ("files", {"a": {"bytes": True, "sha256": SHA256}}),
        ("files", {"a": {"bytes": 1, "sha256": "x"}}),
        ("files", {"a": []}),
        *(
            ("files", {name: {"bytes": 1, "sha256": SHA256}})
            for name in ("../a", "/etc/passwd", "a/../../b", "", ".", "a//b", "./a", manifest.MANIFEST)
        ),
        ("more", 1),
        ("made_from", json.loads("[" * 100 + "]" * 100)),
        ("code", {"a": json.loads("[" * 100 + "]" * 100)}),
    ],
    ids=str,
)
def test_a_manifest_with_a_field_that_is_not_what_it_should_be_is_one_clear_error(tmp_path, field, value):
    sealed(tmp_path / "out")
    path = tmp_path / "out" / manifest.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read \(it.*Delete .*out to have it made again"):
        manifest.find(tmp_path / "out")


@pytest.mark.parametrize("data", [b"[" * 1_000_000, b"\xff", b"", b"1" + b"0" * 5000, b"null", b"[]", b'{"a": 1}'])
def test_a_manifest_of_any_bytes_is_one_clear_error(tmp_path, data):
    sealed(tmp_path / "out")
    (tmp_path / "out" / manifest.MANIFEST).write_bytes(data)
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read \(.*Delete"):
        manifest.find(tmp_path / "out")


def test_a_giant_manifest_is_not_read_to_its_end(tmp_path):
    sealed(tmp_path / "out")
    with (tmp_path / "out" / manifest.MANIFEST).open("r+b") as stream:
        stream.truncate(10 << 30)
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="more than 64 MiB"):
        manifest.find(tmp_path / "out")
    assert tracemalloc.get_traced_memory()[1] < 256 << 20
    tracemalloc.stop()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([SHA256, "bytes", "sha256"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["bytes", "sha256", "rows"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3), gone=st.sets(st.sampled_from(FIELDS)))
def test_any_json_is_a_manifest_with_the_types_that_it_states_or_a_value_error(changes, gone):
    stated = {
        **dict.fromkeys(("stage", "key", "digest"), "x"),
        **{name: {} for name in ("made_from", "code", "packages")},
        "tally": dataclasses.asdict(Tally()),
        "seconds": 0.5,
        "files": {"a": {"bytes": 1, "sha256": SHA256}},
        **changes,
    }
    gone = gone if len(gone) == 1 else ()
    try:
        found = manifest.read(io.BytesIO(json.dumps({n: each for n, each in stated.items() if n not in gone}).encode()))
    except ValueError:
        return
    assert not gone
    assert all(isinstance(found.tally[field.name], dict) for field in dataclasses.fields(Tally))
    assert all(entry["bytes"] + 1 > 0 and len(entry["sha256"]) == 64 for entry in found.files.values())
    assert all(not name.startswith(("/", "..")) for name in found.files)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_value_error(data):
    with pytest.raises(ValueError, match=r"."):
        manifest.read(io.BytesIO(data))


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
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_locks_is_one_clear_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(manifest.folders.fcntl, "flock", refuse)
    with (
        pytest.raises(ArtifactError, match=r"could not be written.*No locks available"),
        manifest.draft(tmp_path / "a"),
    ):
        raise AssertionError


def test_every_folder_of_an_artifact_is_on_the_disk_before_it_has_its_place(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(manifest.folders, "sync", synced.append)
    with manifest.draft(tmp_path / "a") as draft:
        (draft / "one" / "two").mkdir(parents=True)
        (draft / "one" / "two" / "file").touch()
        manifest.seal(draft, tmp_path / "a", stage="s", made_from=MADE_FROM, tally=Tally(), seconds=0)
    assert {draft, draft / "one", draft / "one" / "two"} == set(synced[:-1])
    assert synced[-1] == tmp_path
