import struct
import zipfile

import pytest

from pipelines.images import image_bytes
from pipelines.images.decoding import UnreadableImageError
from tests.pipelines.images.test_decoding import encoded, noise


def test_a_zip_s_member_reads_as_a_file_does(tmp_path):
    data = encoded(noise())
    with zipfile.ZipFile(tmp_path / "i.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/x.png", data)
    assert image_bytes.read(str(tmp_path / "i.zip/images/x.png")) == data
    with pytest.raises(UnreadableImageError, match="missing_image"):
        image_bytes.read(str(tmp_path / "i.zip/none.png"))


def test_a_zip_that_takes_another_s_place_is_read_anew(tmp_path):
    for content in (b"first", b"second"):
        with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
            archive.writestr("x", content)
        (tmp_path / "new.zip").replace(tmp_path / "i.zip")
        assert image_bytes.read(str(tmp_path / "i.zip/x")) == content


def test_a_zip_bomb_is_read_no_further_than_a_file_may_be_large(tmp_path, monkeypatch):
    monkeypatch.setattr(image_bytes, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "i.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(10_000_000))
    with pytest.raises(UnreadableImageError, match="image_file_too_large"):
        image_bytes.read(str(tmp_path / "i.zip/x"))


def one_member(path, content=b"content that is stored", method=zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x", content)
    return path.read_bytes()


def lying(whole: bytes, size: int) -> bytes:
    """The zip of one member, whose entry says that it has another size."""
    place = whole.index(b"PK\1\2") + 20
    return whole[:place] + struct.pack("<II", size, size) + whole[place + 8 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole.replace(b"content", b"CONTENT"),
        lambda whole: whole.replace(b"\x14\0\0\0\0\0", b"\x14\0\1\0\0\0"),  # encrypted
        lambda whole: whole.replace(b"\x14\0\0\0\0\0", b"\x14\0\0\0\x63\0"),  # packed by an unknown method
        lambda whole: whole.replace(b"\x14\0\0\0\0\0", b"\x14\0\0\0\x0e\0"),  # not packed by LZMA, as it says
        lambda whole: lying(whole, 5),
        lambda whole: lying(whole, 1 << 31),
        lambda whole: whole[: whole.index(b"PK\1\2") + 42] + b"\xff\xff\xff\x7f" + whole[whole.index(b"PK\1\2") + 46 :],
    ],
    ids=["content", "encrypted", "unknown", "lzma", "shorter", "longer", "elsewhere"],
)
def test_a_member_that_cannot_be_unpacked_has_a_reason(tmp_path, damage):
    whole = one_member(tmp_path / "i.zip")
    assert damage(whole) != whole
    (tmp_path / "damaged.zip").write_bytes(damage(whole))
    with pytest.raises(UnreadableImageError, match="damaged_zip"):
        image_bytes.read(str(tmp_path / "damaged.zip/x"))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_with_any_byte_changed_gives_its_content_or_a_reason(tmp_path, method):
    content = bytes(range(200))
    whole = one_member(tmp_path / "i.zip", content, method)
    for place in range(len(whole)):
        path = tmp_path / f"{place}.zip"
        path.write_bytes(whole[:place] + bytes((whole[place] ^ 0xFF,)) + whole[place + 1 :])
        try:
            assert image_bytes.read(str(path / "x")) == content
        except UnreadableImageError as error:
            assert str(error) in {"damaged_zip", "damaged_zip_member", "missing_image"}


def test_a_link_in_a_zip_is_not_followed(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(noise()))
    with zipfile.ZipFile(tmp_path / "i.zip", "w") as archive:
        link = zipfile.ZipInfo("x.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, str(secret))
    assert image_bytes.read(str(tmp_path / "i.zip/x.png")) == str(secret).encode()
