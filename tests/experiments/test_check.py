"""The command `check`: what it prints, and its exit code."""

import numpy as np
import pytest
from PIL import Image

from experiments import check
from fcn_jax.types import InputError
from tests.drills import damage


@pytest.fixture
def root(tmp_path):
    return damage.make_folder(tmp_path / "set")


def test_sound_data_pass_with_numbers_and_a_contact_sheet(root, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert check.main([str(root), "--out", str(sheet)]) == 0
    out = capsys.readouterr().out
    assert "train: 4 valid images of 4 sizes, most often " in out
    assert "\n  heights 16 to 25, widths 24 to 30\n" in out
    assert "training will accept it (0 notes)" in out
    assert [line.split()[1] for line in out.splitlines() if line[:3].strip().isdigit()] == [
        "ground",
        "tree",
        "house",
    ]
    with Image.open(sheet) as photo:
        assert photo.size[0] > 6 * 180


def test_a_contact_sheet_replaces_no_image_and_no_mask(root):
    path = root / "SegmentationClass/004.png"
    before = path.read_bytes()
    with pytest.raises(InputError, match="belongs to the data set"):
        check.main([str(root), "--out", str(path)])
    assert path.read_bytes() == before


def test_an_empty_name_is_no_data_set():
    with pytest.raises(InputError, match="dataset '': give a name"):
        check.main([""])


def test_bad_data_fail_and_all_of_it_is_named(root, tmp_path, capsys):
    (root / "JPEGImages/001.jpg").write_bytes(b"")
    (root / "SegmentationClass/004.png").unlink()
    assert check.main([str(root), "--out", str(tmp_path / "sheet.png")]) == 1
    out = capsys.readouterr().out
    assert "error: image 001.jpg is no readable image" in out
    assert "error: mask of 004 (listed in val.txt) is missing" in out
    assert "training would fail: 2 errors" in out


def test_what_is_no_data_set_fails_too(tmp_path, capsys):
    assert check.main([str(tmp_path)]) == 1
    assert "has no folder JPEGImages or images" in capsys.readouterr().out
    assert check.main([str(tmp_path / "nothing")]) == 1


def test_a_split_without_any_valid_pair(root, capsys):
    for path in (root / "JPEGImages").iterdir():
        path.write_bytes(b"")
    assert check.main([str(root)]) == 1
    assert "val: no valid image" in capsys.readouterr().out


def test_255_can_be_given_to_a_class(root, capsys):
    (root / "classes.txt").write_text("ground\nobject\n")
    for path in (root / "SegmentationClass").iterdir():
        ids = np.array(Image.open(path))
        Image.fromarray(np.where(ids == 1, 255, 0).astype(np.uint8)).save(path)
    assert check.main([str(root)]) == 1
    out = capsys.readouterr().out
    assert "no mask has any class but 0 and void 255" in out
    assert "hint: if 255 is an object in these masks, add --fix-255 ID, such as 1 for object" in out
    assert check.main([str(root), "--fix-255", "1"]) == 0
    assert (root / "classes.txt").read_text() == "0 ground\n255 object\n"
    assert (root / "classes.txt.bak").read_text() == "ground\nobject\n"
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("hint:") for line in lines)
    (cells,) = (line.split() for line in lines if line.split()[1:2] == ["object"])
    assert int(cells[2]) > 0
    assert check.main([str(root), "--fix-255", "2"]) == 1
    assert "2 is not the number of a class, 0 to 1" in capsys.readouterr().out
    with pytest.raises(InputError, match="goes with a folder of yours"):
        check.main(["shapes", "--fix-255", "1"])


def test_255_is_an_object_where_a_folder_has_no_class_list(root, capsys):
    """Its classes would be VOC's 21, in whose masks 255 is void."""
    (root / "classes.txt").unlink(missing_ok=True)
    for path in (root / "SegmentationClass").iterdir():
        ids = np.array(Image.open(path))
        Image.fromarray(np.where(ids == 1, 255, 0).astype(np.uint8)).save(path)
    assert check.main([str(root)]) == 1
    assert "add --fix-255 ID, such as 1 for object" in capsys.readouterr().out
    assert check.main([str(root), "--fix-255", "1"]) == 0
    assert (root / "classes.txt").read_text() == "0 background\n255 object\n"


def test_the_cache_is_cleared_on_request(root, tmp_path, capsys):
    kept = tmp_path / "data/resized/abc-train-32x32-v1"
    kept.mkdir(parents=True)
    (kept / "image.npy").write_bytes(b"0" * 1_500_000)
    assert check.main([str(root), "--data-dir", str(tmp_path / "data"), "--clear-cache"]) == 0
    assert "resized images removed: 1.5 MB" in capsys.readouterr().out
    assert not kept.exists()


def test_the_sheet_must_be_a_png(root):
    with pytest.raises(InputError, match=r"sheet.jpg: the contact sheet is a PNG"):
        check.main([str(root), "--out", "sheet.jpg"])
