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


def test_an_address_of_no_store_is_one_clear_error():
    with pytest.raises(InputError, match="names no store"):
        storage.open_binary("gopher://x/y")


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
