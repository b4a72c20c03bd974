import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

from infra import storage
from infra.errors import InputError


@pytest.fixture(params=["local", "remote"])
def place(request, tmp_path):
    """A folder with two files, of this machine or in a store."""
    (tmp_path / "f/images").mkdir(parents=True)
    (tmp_path / "f/table.csv").write_text("a,b\n")
    (tmp_path / "f/images/1.png").write_bytes(b"png")
    if request.param == "local":
        return str(tmp_path / "f")
    uri = f"{request.getfixturevalue('bucket')}/{tmp_path.name}/f"
    storage.upload(tmp_path / "f", uri)
    return uri


def test_a_path_and_a_store_are_read_in_the_same_words(place):
    assert storage.kind(place) == "folder"
    assert storage.kind(storage.join(place, "table.csv")) == "file"
    assert storage.kind(storage.join(place, "none")) is None
    assert not storage.exists(storage.join(place, "none"))
    assert storage.size(storage.join(place, "table.csv")) == 4
    with storage.open_binary(storage.join(place, "images/1.png")) as stream:
        assert (stream.read(), stream.seek(1), stream.read()) == (b"png", 1, b"ng")
    assert {(entry.name, entry.size) for entry in storage.listing(place)} == {("table.csv", 4), ("images/1.png", 3)}
    assert storage.parent(storage.join(place, "table.csv")) == place


def test_what_is_not_there_is_one_clear_error(place):
    with pytest.raises(InputError, match="none cannot be read"):
        storage.open_binary(storage.join(place, "none"))


def test_a_listing_s_digest_changes_with_a_file_s_size_and_not_with_a_second_look(place, tmp_path):
    before = storage.digest_listing(place)
    assert storage.digest_listing(place) == before
    (tmp_path / "more").mkdir()
    (tmp_path / "more/2.png").write_bytes(b"more")
    if storage.is_remote(place):
        storage.upload(tmp_path / "more", f"{place}/images")
    else:
        (tmp_path / "f/images/2.png").write_bytes(b"more")
    assert storage.digest_listing(place) != before


def test_a_name_that_is_whole_is_not_put_below_a_folder():
    assert storage.join("s3://b/p", "t.csv") == "s3://b/p/t.csv"
    assert storage.join("/data/", "t.csv") == "/data/t.csv"
    assert storage.join("/data", "s3://b/t.csv") == "s3://b/t.csv"
    assert storage.join("s3://b", "/data/t.csv") == "/data/t.csv"


def test_a_store_that_nothing_answers_for_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(InputError, match="s3://bucket/none"):
        storage.kind("s3://bucket/none")


@pytest.mark.parametrize(
    "uri",
    ["gs://b/p", "gcs://b/p", "abfs://a/p", "hdfs://h/p", "viewfs://h/p", "https://h/p", "gopher://x/y", "S3://b"],
)
def test_a_store_that_nobody_asked_for_is_refused_by_name_before_anything_looks_for_it(uri, monkeypatch):
    for name in ("FileSystem", "S3FileSystem", "GcsFileSystem", "AzureFileSystem", "HadoopFileSystem"):
        monkeypatch.delattr(storage.pafs, name, raising=False)
    for ask in (storage.kind, storage.size, storage.open_binary, storage.digest, storage.remove):
        with pytest.raises(
            InputError, match=rf"{re.escape(uri)} names no store that is read here: s3://bucket/prefix is"
        ):
            ask(uri)
    with pytest.raises(InputError, match="names no store"):
        list(storage.listing(uri))


def test_a_file_s_uri_is_refused_with_the_path_to_write_instead(tmp_path):
    with pytest.raises(InputError, match=f"Write the path alone: {tmp_path}$"):
        storage.kind(f"file://{tmp_path}")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIAABCDEFGHIJKLMNOP:very/secret@bucket/p",
        "s3://key:very/secret@bucket",
        "s3://bucket/p?secret_key=very/secret",
        "s3://bucket/p?endpoint_override=evil.example&access_key=very/secret",
        "gs://key:very/secret@bucket/p",
        "s3://",
        "s3:///p",
    ],
)
def test_a_uri_that_holds_more_than_bucket_and_prefix_is_refused_and_its_secret_is_not_repeated(uri):
    for ask in (storage.kind, storage.open_binary):
        with pytest.raises(InputError) as told:
            ask(uri)
        assert "very/secret" not in str(told.value)
        assert "AKIAABCDEFGHIJKLMNOP" not in str(told.value)
        assert "AWS_SECRET_ACCESS_KEY" in str(told.value) or uri.startswith("gs")


@pytest.fixture
def silent_store(monkeypatch):
    """A store that accepts and says nothing; its address is that of the environment."""
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            with suppress(OSError):
                while True:
                    accepted.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        host, port = server.getsockname()
        settings = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}
        for name, value in settings.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield accepted
        server.shutdown(socket.SHUT_RDWR)
    for connection in accepted:
        connection.close()


@pytest.mark.slow
def test_a_store_that_accepts_and_stays_silent_is_one_clear_error_in_bounded_time(silent_store):
    started = time.monotonic()
    with pytest.raises(InputError, match=r"s3://bucket/t\.csv.*[Tt]imeout|did not answer"):
        storage.kind("s3://bucket/t.csv")
    assert time.monotonic() - started < 30
    assert silent_store


def test_an_answer_that_takes_too_long_is_one_clear_error_though_bytes_keep_coming():
    with pytest.raises(InputError, match=r"s3://b/t: the store did not answer within 0\.2 s"):
        storage._answer("s3://b/t", lambda: time.sleep(1), 0.2)


def test_a_read_that_a_store_breaks_off_is_one_clear_error(monkeypatch):
    class Broken:
        def read(self, size):
            raise OSError("AWS Error NETWORK_CONNECTION during GetObject: token=very-secret")

    monkeypatch.setattr(storage, "_s3", lambda bucket: SimpleNamespace(open_input_file=lambda path: Broken()))
    with (
        storage.open_binary("s3://b/t.csv") as stream,
        pytest.raises(InputError, match="NETWORK_CONNECTION") as told,
    ):
        stream.read()
    assert "very-secret" not in str(told.value)


@pytest.mark.slow
def test_what_asks_a_silent_store_hears_a_signal_at_once_and_ends_soon(silent_store, tmp_path):
    words = ["pipelines.questions", "pocket", "--run-dir", str(tmp_path / "r"), "--set", "questions.folder=s3://b/p"]
    with subprocess.Popen([sys.executable, "-m", *words], stderr=subprocess.PIPE, text=True) as stage:
        while not silent_store and stage.poll() is None:
            time.sleep(0.05)
        stage.terminate()
        told = time.monotonic()
        assert stage.stderr.readline() == "questions: interrupted; what was sealed is kept\n"
        assert time.monotonic() - told < 3
        assert stage.wait(timeout=30) == 130


def test_names_with_blanks_and_signs_are_read_as_they_are_listed(bucket, tmp_path):
    names = {"a b.png", "100%.png", "a+b#c.png", "ü.png", "what?.png"}
    (tmp_path / "f").mkdir()
    for name in names:
        (tmp_path / "f" / name).write_text(name)
    uri = f"{bucket}/{tmp_path.name}/names"
    storage.upload(tmp_path / "f", uri)
    assert {entry.name for entry in storage.listing(uri)} == names
    for name in names:
        assert storage.open_binary(storage.join(uri, name)).read() == name.encode()


def test_a_pipe_is_no_file_and_nothing_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    assert storage.kind(str(tmp_path / "t.csv")) is None
    with pytest.raises(InputError, match="no plain file"):
        storage.open_binary(str(tmp_path / "t.csv"))


def test_the_manifest_is_uploaded_last(tmp_path, bucket, monkeypatch):
    for name in ("a.parquet", "manifest.json", "z.parquet"):
        (tmp_path / name).write_text(name)
    uri = f"{bucket}/sealed"
    uploaded = []
    opened = storage._store(uri)

    class Watched:
        def open_output_stream(self, target):
            uploaded.append(target.rpartition("/")[2])
            return opened[0].open_output_stream(target)

    monkeypatch.setattr(storage, "_store", lambda uri: (Watched(), opened[1]))
    storage.upload(tmp_path, uri)
    assert uploaded == ["a.parquet", "z.parquet", "manifest.json"]
