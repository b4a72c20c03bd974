import zipfile

import pytest

from infra.errors import InputError
from pipelines.images import UnreadableImageError
from pipelines.sources.roots import Finder
from pipelines.sources.source import Source


def finder(table, images=None) -> Finder:
    return Finder(Source(name="n", reader="pmc_vqa", table=str(table), images=images and str(images), split=None))


def refused(finder: Finder, name: str) -> str:
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


def test_a_zip_that_is_none_is_one_clear_error(folder):
    (folder / "images.zip").write_text("no zip")
    with pytest.raises(InputError, match="is no zip that can be read"):
        finder(folder / "train.csv")


def test_a_file_that_is_no_zip_in_the_images_place_is_one_clear_error(folder):
    with pytest.raises(InputError, match=r"neither a folder nor a \.zip"):
        finder(folder / "train.csv", folder / "top.png")
