import unicodedata
import zipfile

import pytest

from infra.errors import InputError
from pipelines.images import image_bytes
from pipelines.images.decoding import UnreadableImageError
from pipelines.questions.image_locations import ImageFinder
from pipelines.questions.sources.source import Source


def finder(table, images=None) -> ImageFinder:
    return ImageFinder(Source(name="n", reader="pmc_vqa", table=str(table), images=images and str(images), split=None))


def refused(finder: ImageFinder, name: str) -> str:
    with pytest.raises(UnreadableImageError) as error:
        finder.find(name)
    return str(error.value)


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


@pytest.fixture
def folder(tmp_path):
    """A data set's folder with images at several depths, beside something secret."""
    (tmp_path / "secret.png").write_text("secret")
    data = tmp_path / "data"
    for name in ("top.png", "images/a.jpg", "figures/b.jpg", "images/deep/er/c.jpg", "other/d.jpg"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(name)
    return data


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("top.png", "top.png"),
        ("images/a.jpg", "images/a.jpg"),
        ("a.jpg", "images/a.jpg"),
        ("./images//a.jpg", "images/a.jpg"),
        ("images\\a.jpg", "images/a.jpg"),
        ("b.jpg", "figures/b.jpg"),
        ("c.jpg", "images/deep/er/c.jpg"),
    ],
)
def test_an_image_is_found_beside_the_table_in_its_known_folders_and_nested(folder, name, place):
    assert finder(folder / "train.csv").find(name) == str(folder / place)


def test_an_image_of_the_same_name_in_another_folder_is_not_what_a_table_means(folder):
    (folder / "images/2").mkdir()
    (folder / "images/2/scan.png").write_text("of another patient")
    for images in (None, folder, zipped(folder / "images.zip", "images/2/scan.png")):
        assert refused(finder(folder / "train.csv", images), "1/scan.png") == "missing_image"
    assert finder(folder / "train.csv").find("2/scan.png") == str(folder / "images/2/scan.png")
    assert refused(finder(folder / "train.csv"), "images/b.jpg") == "missing_image"  # which lies in figures/


def test_the_folder_of_images_may_be_named_itself(folder):
    assert finder(folder / "train.csv", folder / "images").find("images/a.jpg") == str(folder / "images/a.jpg")


def test_only_a_folder_that_was_named_is_searched_to_its_depths(folder):
    assert refused(finder(folder / "train.csv"), "d.jpg") == "missing_image"
    assert finder(folder / "train.csv", folder).find("d.jpg") == str(folder / "other/d.jpg")


@pytest.mark.parametrize("place", ["folder", "zip"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.png", "image_outside_folder"),
        ("images/../../secret.png", "image_outside_folder"),
        ("..\\secret.png", "image_outside_folder"),
        ("/etc/passwd", "image_outside_folder"),
        ("C:\\secret.png", "image_outside_folder"),
        ("https://example.org/x.png", "image_is_an_address"),
        ("file:///etc/passwd", "image_is_an_address"),
        ("s3://bucket/x.png", "image_is_an_address"),
        ("x\x00.png", "image_name_unreadable"),
        ("x\n.png", "image_name_unreadable"),
        ("x" * 5000, "image_name_unreadable"),
        ("images", "missing_image"),
        (".", "missing_image"),
        ("none.png", "missing_image"),
    ],
)
def test_a_name_that_leads_elsewhere_finds_nothing(folder, tmp_path, place, name, reason):
    images = folder if place == "folder" else zipped(tmp_path / "i.zip", "../secret.png", "/etc/passwd", "images/a.jpg")
    assert refused(finder(folder / "train.csv", images), name) == reason


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(folder, tmp_path):
    (folder / "images/out.png").symlink_to(tmp_path / "secret.png")
    (folder / "images/in.png").symlink_to(folder / "top.png")
    (folder / "figures/away").symlink_to(tmp_path)
    (folder / "images/nowhere.png").symlink_to(tmp_path / "none")
    for images in (None, folder):
        found = finder(folder / "train.csv", images)
        assert refused(found, "out.png") == "image_outside_folder"
        assert refused(found, "figures/away/secret.png") == "image_outside_folder"
        assert refused(found, "nowhere.png") == "missing_image"
        assert found.find("in.png") == str(folder / "images/in.png")


def test_a_folder_that_is_itself_a_link_is_read(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder / "images")
    assert finder(folder / "train.csv", tmp_path / "link").find("a.jpg").endswith("images/a.jpg")


def test_a_base_name_that_several_files_have_is_ambiguous_and_its_whole_name_is_not(folder):
    for part in ("x", "y"):
        (folder / "images" / part).mkdir()
        (folder / "images" / part / "same.png").write_text(part)
    found = finder(folder / "train.csv")
    assert refused(found, "same.png") == "image_name_is_ambiguous"
    assert found.find("x/same.png") == str(folder / "images/x/same.png")


def test_the_zips_beside_a_table_are_read_without_unpacking_and_files_come_before_them(folder):
    zipped(folder / "images.zip", "images/z.jpg", "images/a.jpg")
    zipped(folder / "images_2.zip", "figures/y.jpg")
    zipped(folder / "backup.zip", "figures/x.jpg")
    found = finder(folder / "train.csv")
    assert found.find("z.jpg") == str(folder / "images.zip/images/z.jpg")
    assert found.find("y.jpg") == str(folder / "images_2.zip/figures/y.jpg")
    assert found.find("a.jpg") == str(folder / "images/a.jpg")
    assert refused(found, "x.jpg") == "missing_image"


def test_a_table_in_a_zip_has_its_images_there_too(folder):
    zipped(folder / "questions.zip", "mine/questions.csv", "mine/images/z.jpg")
    assert finder(folder / "questions.zip").find("images/z.jpg") == str(folder / "questions.zip/mine/images/z.jpg")


def test_a_zip_that_is_none_is_one_clear_error(folder):
    (folder / "images.zip").write_text("no zip")
    with pytest.raises(InputError, match="is no zip that can be read"):
        finder(folder / "train.csv")


def test_a_file_that_is_no_zip_in_the_images_place_is_one_clear_error(folder):
    with pytest.raises(InputError, match=r"neither a folder nor a \.zip"):
        finder(folder / "train.csv", folder / "top.png")


def raw_zip(path, *names: bytes):
    """A zip whose members have these very bytes for names, none of them marked as UTF-8; each holds its own name."""
    stand_ins = [
        chr(0x100 + place).encode() * (len(name) // 2) + b"_" * (len(name) % 2) for place, name in enumerate(names)
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for stand_in, name in zip(stand_ins, names, strict=True):
            archive.writestr(stand_in.decode(), name)
    data = path.read_bytes()
    for stand_in, name in zip(stand_ins, names, strict=True):
        head = data.rindex(stand_in)
        for where in (data.index(stand_in), head):
            data = data[:where] + name + data[where + len(name) :]
    data = bytearray(data)
    with zipfile.ZipFile(path) as archive:
        starts = [info.header_offset for info in archive.infolist()]
    for start in starts:
        data[start + 7] &= ~0x08
    at = 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        data[at + 9] &= ~0x08
        at += 4
    path.write_bytes(data)
    return path


NAMES = ("Körnung é.png", "粒界.png", "ソ表.png", "зерно.png")


@pytest.mark.parametrize(
    "member", ["images\\a.png", "./images/a.png", "/images/a.png", ".\\images\\a.png", "x//images/a.png"]
)
@pytest.mark.parametrize("name", ["images/a.png", "images\\a.png", "./images/a.png", "a.png"])
def test_a_member_is_found_however_its_folders_are_written(folder, member, name):
    found = finder(folder / "train.csv", zipped(folder / "i.zip", member, "images/b.png", "images/"))
    assert image_bytes.read(found.find(name)) == member.encode()


@pytest.mark.parametrize("member", ["../a.png", "images/../../a.png", "..\\a.png", "/../a.png", "./../a.png"])
def test_a_member_that_leads_out_of_its_zip_is_never_found(folder, member):
    found = finder(folder / "train.csv", zipped(folder / "i.zip", member))
    assert refused(found, "a.png") == "missing_image"
    assert refused(found, member) == "image_outside_folder" if ".." in member else "missing_image"


@pytest.mark.parametrize(
    "twice", [("images/a.png", "./images/a.png"), ("images\\a.png", "/images/a.png"), ("a.png", "a.png")]
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_that_could_be_meant_are_ambiguous(folder, twice):
    assert refused(finder(folder / "train.csv", zipped(folder / "i.zip", *twice)), "a.png") == "image_name_is_ambiguous"


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        *((name, "utf-8") for name in NAMES),
        *((NAMES[0], encoding) for encoding in ("cp437", "cp850", "cp1252")),
        *((NAMES[1], encoding) for encoding in ("gb18030", "big5", "cp932")),
        (NAMES[2], "cp932"),
        *((NAMES[3], encoding) for encoding in ("cp866", "cp1251")),
    ],
)
def test_a_member_whose_name_is_not_marked_as_utf8_is_found_in_what_it_was_written_in(folder, name, encoding):
    raw = f"images/{name}".encode(encoding)
    found = finder(folder / "train.csv", raw_zip(folder / "i.zip", raw, b"images/other__.png"))
    for written in (name, f"images/{name}"):
        assert image_bytes.read(found.find(written)) == raw
    assert refused(found, "Korn.png") == "missing_image"


@pytest.mark.parametrize("kept", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
@pytest.mark.parametrize("place", ["zip", "folder"])
@pytest.mark.parametrize("deep", ["", "deep/er/"])
def test_accents_may_be_composed_or_apart_on_either_side(folder, kept, asked, place, deep):
    name = unicodedata.normalize(kept, f"images/{deep}Körnung é.png")
    if place == "zip":
        found = finder(folder / "train.csv", zipped(folder / "i.zip", name))
    else:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
        found = finder(folder / "train.csv")
    location = found.find(unicodedata.normalize(asked, "Körnung é.png"))
    assert image_bytes.read(location) == name.encode()


@pytest.mark.parametrize("name", ["www.example.org/a.png", "//example.org/a.png", "HTTP://x.org/a.png", "gs://b/a.png"])
def test_a_link_is_called_one(folder, name):
    assert refused(finder(folder / "train.csv"), name) == "image_is_an_address"
