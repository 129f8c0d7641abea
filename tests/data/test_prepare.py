"""Archives and folders, good and bad, through the builder."""

import errno
import io
import multiprocessing
import os
import queue
import shutil
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcn_jax.data import images, prepare, validate, voc2007
from fcn_jax.data import source as sources
from fcn_jax.data.classes import VOC_CLASSES, voc_palette
from fcn_jax.runtime import download, files
from fcn_jax.types import InputError

TRAINVAL, TEST = (voc2007.ARCHIVES[key].filename for key in ("trainval", "test"))


def photo(rng, width=24, height=16, mode="RGB"):
    """A smooth photo of random colours, which JPEG keeps nearly as it is."""
    small = Image.fromarray(rng.integers(0, 256, (2, 3, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def index_mask(rng, width=24, height=16, classes=21):
    """A palette mask of blocks; mode P, as VOC's."""
    ids = rng.integers(0, classes, (height // 4, width // 4), np.uint8)
    ids[0, 0], ids[0, 1] = 255, 1
    mask = Image.fromarray(ids.repeat(4, 0).repeat(4, 1), "L")
    mask.putpalette(voc_palette().tobytes())
    return mask


def make_folder(root, splits=(("train", 4), ("val", 2)), classes=21, lists=True):
    """A good folder: ids 000000, ... in the order of the splits."""
    rng, number = np.random.default_rng(0), 0
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for split, count in splits:
        ids = [f"{number + i:06d}" for i in range(count)]
        number += count
        for example_id in ids:
            photo(rng).save(root / "JPEGImages" / f"{example_id}.jpg", quality=90)
            index_mask(rng, classes=classes).save(root / f"SegmentationClass/{example_id}.png")
        if lists:
            text = "".join(f"{i}\n" for i in reversed(ids))  # not sorted on purpose
            (root / "ImageSets/Segmentation" / f"{split}.txt").write_text(text)
    if classes != 21:
        names = "".join(f"class {i}\n" for i in range(classes))
        (root / "classes.txt").write_text(names)
    return root


def make_archives(folder, root):
    """Two archives of the official layout from a folder with train, val and test."""
    folder.mkdir()
    test_ids = set((root / "ImageSets/Segmentation/test.txt").read_text().split())
    for name, mine in ((TRAINVAL, False), (TEST, True)):
        with tarfile.open(folder / name, "w") as tar:
            for path in sorted(root.rglob("*")):
                if path.is_file() and ((path.stem in test_ids or path.stem == "test") == mine):
                    tar.add(path, f"VOCdevkit/VOC2007/{path.relative_to(root)}")
    return folder


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "set")


@pytest.fixture
def archives(tmp_path):
    root = make_folder(tmp_path / "raw", (("train", 3), ("val", 2), ("test", 2)))
    return make_archives(tmp_path / "archives", root)


def load(dataset, tmp_path, **kwargs):
    return prepare.load(str(dataset), data_dir=tmp_path / "data", progress=False, **kwargs)


def error_of(call, *args, **kwargs):
    with pytest.raises(InputError) as info:
        call(*args, **kwargs)
    message = str(info.value)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------------------------- good


def test_palette_and_classes():
    assert voc_palette(5).tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [0, 0, 128],
    ]
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette[15].tolist() == [192, 128, 128]  # person
    assert palette[20].tolist() == [0, 64, 128]
    assert palette[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette, axis=0)) == 256
    assert len(VOC_CLASSES) == 21
    assert VOC_CLASSES.index("person") == 15


def test_folder_reads_back_exactly(folder, tmp_path):
    dataset = load(folder, tmp_path)
    assert dataset.name == "set"
    assert dataset.class_names == VOC_CLASSES
    assert {k: len(v) for k, v in dataset.splits.items()} == {"train": 4, "val": 2}
    assert [e.id for e in dataset.splits["train"]] == ["000000", "000001", "000002", "000003"]
    for examples in dataset.splits.values():
        for example in examples:
            image = Image.open(folder / f"JPEGImages/{example.id}.jpg")
            mask = Image.open(folder / f"SegmentationClass/{example.id}.png")
            assert mask.mode == "P"
            np.testing.assert_array_equal(example.image, np.array(image))
            np.testing.assert_array_equal(example.mask, np.array(mask))
            assert example.image.dtype == example.mask.dtype == np.uint8
            assert example.image.flags.writeable


def test_random_access(folder, tmp_path):
    train = load(folder, tmp_path).splits["train"]
    assert train[-1].id == "000003"
    assert [e.id for e in train[1:3]] == ["000001", "000002"]
    with pytest.raises(IndexError):
        train[4]
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.extend(train[i % 4].id for i in range(40)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(e.id for e in train for _ in range(40))


def test_archives_without_network(archives, tmp_path, capfd, caplog):
    caplog.set_level("INFO", "fcn_jax")
    dataset = load("voc2007", tmp_path, archives=archives)
    assert {k: len(v) for k, v in dataset.splits.items()} == {"train": 3, "val": 2, "test": 2}
    assert dataset.name == "voc2007"
    notes = caplog.messages
    assert len(notes) == 2
    assert capfd.readouterr() == ("", "")  # nothing of tfds
    assert "it is cut down or changed" in notes[0]
    raw = tmp_path / "raw/SegmentationClass"
    for example in dataset.splits["test"]:
        np.testing.assert_array_equal(example.mask, np.array(Image.open(raw / f"{example.id}.png")))


def test_without_the_test_archive_train_and_val_work(archives, tmp_path):
    (archives / TEST).unlink()
    dataset = load("voc2007", tmp_path, archives=archives)
    assert sorted(dataset.splits) == ["train", "val"]
    message = error_of(lambda: dataset.splits["test"])
    assert "no split 'test', only train, val" in message
    assert TEST in message


def test_prepared_once_then_read(folder, tmp_path, monkeypatch):
    load(folder, tmp_path)

    def fail(*args):
        raise AssertionError("prepared again")

    monkeypatch.setattr(validate, "read_example", fail)
    assert len(load(folder, tmp_path).splits["val"]) == 2


def test_an_edited_folder_is_never_stale(folder, tmp_path):
    assert len(load(folder, tmp_path).splits["train"]) == 4
    (folder / "ImageSets/Segmentation/train.txt").write_text("000001\n")
    assert [e.id for e in load(folder, tmp_path).splits["train"]] == ["000001"]
    mask = Image.fromarray(np.full((16, 24), 7, np.uint8))
    mask.save(folder / "SegmentationClass/000001.png")
    assert (load(folder, tmp_path).splits["train"][0].mask == 7).all()


def test_other_names_of_folders_and_a_seeded_split(tmp_path, caplog):
    caplog.set_level("INFO", "fcn_jax")
    root = make_folder(tmp_path / "set", (("all", 10),), lists=False)
    (root / "JPEGImages").rename(root / "images")
    (root / "SegmentationClass").rename(root / "masks")
    shutil.rmtree(root / "ImageSets")
    source = sources.open_folder(root)
    assert {k: len(v) for k, v in source.splits.items()} == {"train": 8, "val": 2}
    assert not set(source.splits["train"]) & set(source.splits["val"])
    assert sources.open_folder(root).splits == source.splits
    assert any(sources.open_folder(root, seed=s).splits != source.splits for s in range(1, 4))
    assert len(load(root, tmp_path).splits["val"]) == 2
    assert "split by seed 0 into train 8, val 2" in caplog.text


def test_classes_with_colours_and_masks_in_colours(tmp_path):
    root = make_folder(tmp_path / "set", classes=3)
    text = "# name r g b\nsky 10 20 30\ntall tree 0 255 0\n\nroad 1 2 3\nvoid 9 9 9\n"
    (root / "classes.txt").write_text(text, encoding="utf-8-sig")
    rgb = np.zeros((16, 24, 3), np.uint8) + np.array((10, 20, 30), np.uint8)
    rgb[:4], rgb[4:8], rgb[8, 0] = (0, 255, 0), (9, 9, 9), (224, 224, 192)
    Image.fromarray(rgb).save(root / "SegmentationClass/000000.png")
    dataset = load(root, tmp_path)
    assert dataset.class_names == ("sky", "tall tree", "road")
    assert dataset.palette.tolist() == [[10, 20, 30], [0, 255, 0], [1, 2, 3]]
    mask = dataset.splits["train"][0].mask
    assert (mask[:4] == 1).all()
    assert (mask[4:8] == 255).all()
    assert mask[8, 0] == 255
    assert (mask[9:] == 0).all()


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(s, m) for s in (".png", ".webp", ".tif", ".TIFF") for m in ("L", "RGBA", "P", "LA")]
    + [(".tif", "CMYK"), (".jpeg", "CMYK"), (".jpeg", "L"), (".JPG", "L")],
)
def test_image_formats_and_modes_become_rgb(folder, suffix, mode, tmp_path):
    image = photo(np.random.default_rng(1), mode=mode)
    path = folder / f"JPEGImages/000000{suffix}"
    (folder / "JPEGImages/000000.jpg").unlink()
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    image.save(path, **options)
    stored = validate.read_example(sources.open_folder(folder), "train", "000000")[0]
    with Image.open(path) as saved:
        expected = np.array(saved.convert("RGBA" if mode == "P" else saved.mode).convert("RGB"))
    decoded = Image.open(io.BytesIO(stored.image))
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.array(decoded), expected)


def test_rgb_jpeg_is_stored_unchanged_and_the_mask_without_palette(folder):
    stored = validate.read_example(sources.open_folder(folder), "train", "000000")[0]
    assert stored.image == (folder / "JPEGImages/000000.jpg").read_bytes()
    assert Image.open(io.BytesIO(stored.mask)).mode == "L"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(folder, orientation):
    """The mask is drawn on the upright photo, unless only the stored one has its size."""
    upright = photo(np.random.default_rng(2))
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    as_stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    as_stored.save(folder / "JPEGImages/000000.png", exif=exif)
    (folder / "JPEGImages/000000.jpg").unlink()

    def read():
        stored = validate.read_example(sources.open_folder(folder), "train", "000000")[0]
        return np.array(Image.open(io.BytesIO(stored.image)))

    np.testing.assert_array_equal(read(), np.array(upright))
    if orientation >= 5:
        Image.new("L", as_stored.size, 1).save(folder / "SegmentationClass/000000.png")
        np.testing.assert_array_equal(read(), np.array(as_stored))


# -------------------------------------------------------------------------------------- bad


def save_mask(root, array):
    Image.fromarray(array).save(root / "SegmentationClass/000002.png")


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(path, text):
    path.write_text(text)


DAMAGES = {
    "sizes": (
        lambda r: save_mask(r, np.zeros((16, 20), np.uint8)),
        "image 000002.jpg is 16x24, its mask 16x20 (height x width): "
        "fix the mask or remove the id from train.txt",
    ),
    "no image": (
        lambda r: (r / "JPEGImages/000002.jpg").unlink(),
        "image of 000002 (listed in train.txt) is missing",
    ),
    "no mask": (
        lambda r: (r / "SegmentationClass/000002.png").unlink(),
        "mask of 000002 (listed in train.txt) is missing",
    ),
    "jpeg cut": (
        lambda r: cut_in_half(r / "JPEGImages/000002.jpg"),
        "image 000002.jpg cannot be decoded",
    ),
    "png cut": (
        lambda r: cut_in_half(r / "SegmentationClass/000002.png"),
        "mask 000002.png cannot be decoded",
    ),
    "text": (
        lambda r: rewrite(r / "JPEGImages/000002.jpg", "<html>"),
        "image 000002.jpg is no readable image",
    ),
    "empty file": (
        lambda r: rewrite(r / "SegmentationClass/000002.png", ""),
        "mask 000002.png is no readable image",
    ),
    "colours": (
        lambda r: save_mask(r, np.zeros((16, 24, 3), np.uint8)),
        "mask 000002.png is in colours (mode RGB), not class indices",
    ),
    "class id": (
        lambda r: save_mask(r, np.full((16, 24), 77, np.uint8)),
        "mask 000002.png holds the class id 77, not 0..20 or 255 (void)",
    ),
    "16 bits": (
        lambda r: save_mask(r, np.full((16, 24), 300, np.uint16)),
        "mask 000002.png holds the class id 300",
    ),
    "mask is a jpeg": (
        lambda r: Image.new("L", (24, 16)).save(r / "SegmentationClass/000002.png", "JPEG"),
        "mask 000002.png is JPEG inside, not PNG",
    ),
    "frames": (
        lambda r: Image.new("RGB", (24, 16)).save(
            r / "JPEGImages/000002.jpg",
            "WEBP",
            save_all=True,
            append_images=[Image.new("RGB", (24, 16), "red")],
        ),
        "image 000002.jpg has 2 frames",
    ),
    "duplicate": (
        lambda r: rewrite(r / "ImageSets/Segmentation/train.txt", "000001\n000002\n000001\n"),
        "train.txt lists 000001 twice",
    ),
    "empty list": (
        lambda r: rewrite(r / "ImageSets/Segmentation/val.txt", "\n \n"),
        "ImageSets/Segmentation/val.txt is empty",
    ),
    "no val": (
        lambda r: (r / "ImageSets/Segmentation/val.txt").unlink(),
        "has no ImageSets/Segmentation/val.txt",
    ),
    "only void": (
        lambda r: [
            Image.fromarray(np.full((16, 24), 255 * (i % 2), np.uint8)).save(path)
            for i, path in enumerate((r / "SegmentationClass").iterdir())
        ],
        "no mask has any class but 0 and void 255",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damages_are_named_by_training_and_by_problems_alike(damage, folder, tmp_path):
    do, expected = DAMAGES[damage]
    do(folder)
    message = error_of(load, folder, tmp_path)
    assert expected in message
    assert message in [p.message for p in validate.problems(sources.open_folder(folder))]
    prepared = list((tmp_path / "data/voc_segmentation").glob("*/2.0.0"))
    assert prepared == []  # nothing half done is left to be read


def test_problems_collects_everything(folder):
    DAMAGES["sizes"][0](folder)
    (folder / "JPEGImages/000004.jpg").unlink()
    source, ticks = sources.open_folder(folder), []
    found = list(validate.problems(source, lambda: ticks.append(1)))
    assert len(found) == 2
    assert len(ticks) == 6
    assert list(validate.problems(sources.open_folder(make_folder(folder / "good")))) == []


def test_image_bombs_are_refused(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # 24x16 = 384 warns, twice it raises
    assert "has over" in error_of(load, folder, tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "has over" in error_of(load, folder, tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(images, "MAX_PIXELS", 300)
    assert "has 384 pixels" in error_of(load, folder, tmp_path)


def test_unknown_colour_in_a_mask(tmp_path):
    root = make_folder(tmp_path / "set", classes=3)
    (root / "classes.txt").write_text("a 1 1 1\nb 2 2 2\nc 3 3 3\n")
    save_mask(root, np.full((16, 24, 3), 4, np.uint8))
    assert "mask 000002.png holds the colour (4, 4, 4)" in error_of(load, root, tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\na\n", "names the class 'a' twice"),
        ("a\n", "names 1 classes"),
        ("a 1 2 3\nb\n", "gives no colour for 'b'"),
        ("a 1 2 3\nb 1 2 3\n", "gives (1, 2, 3) to two classes"),
        ("a 1 2 3\nb 1 2 999\n", "line 2: colour (1, 2, 999) is not in 0..255"),
        ("", "names 0 classes"),
    ],
)
def test_bad_classes_files(text, expected, folder, tmp_path):
    (folder / "classes.txt").write_text(text)
    message = error_of(load, folder, tmp_path)
    assert expected in message
    assert "classes.txt" in message


def test_text_files_in_another_encoding(folder, tmp_path):
    (folder / "classes.txt").write_bytes("Gebäude\nb\n".encode("latin-1"))
    assert "no UTF-8 text" in error_of(load, folder, tmp_path)


def test_no_such_data_set(tmp_path):
    assert "give voc2007, shapes or an existing folder" in error_of(load, "voc2008", tmp_path)
    assert "JPEGImages or images" in error_of(load, tmp_path, tmp_path)
    message = error_of(load, "shapes", tmp_path, archives=tmp_path)
    assert "archives go with the data set voc2007 only" in message
    (tmp_path / "file").write_text("")
    assert "/file is a file: unpack it, and give the folder" in error_of(
        load, tmp_path / "file", tmp_path
    )
    call = lambda: prepare.load("shapes", data_dir=tmp_path / "file" / "x", progress=False)
    assert "choose another directory for prepared data" in error_of(call)


def test_the_right_folder_is_suggested(tmp_path):
    make_folder(tmp_path / "top/VOCdevkit/VOC2007")
    assert "did you mean" in error_of(load, tmp_path / "top", tmp_path)


def test_no_network_and_no_archive(tmp_path, monkeypatch):
    dead = {
        key: download.Artifact(a.filename, a.size, a.sha256, ("http://127.0.0.1:9/x",))
        for key, a in voc2007.ARCHIVES.items()
    }
    monkeypatch.setattr(voc2007, "ARCHIVES", dead)
    message = error_of(load, "voc2007", tmp_path)
    assert TRAINVAL in message
    assert f"put it into {tmp_path / 'data' / 'downloads'}" in message
    empty = tmp_path / "empty"
    empty.mkdir()
    message = error_of(load, "voc2007", tmp_path, archives=empty)
    assert f"no {TRAINVAL} in {empty}" in message


def archive_error(archives, tmp_path):
    return error_of(load, "voc2007", tmp_path, archives=archives)


def test_cut_archives_are_refused(archives, tmp_path):
    path = archives / TRAINVAL
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        second = tar.getmembers()[2]
    path.write_bytes(whole[: second.offset])  # between two members: tarfile sees no error
    assert "is cut off" in archive_error(archives, tmp_path)
    path.write_bytes(whole[: second.offset_data + 100])
    assert "no complete tar archive" in archive_error(archives, tmp_path)
    path.write_bytes(b"<html>" * 300)
    assert "no complete tar archive" in archive_error(archives, tmp_path)
    path.write_bytes(b"")
    assert str(path) in archive_error(archives, tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "VOCdevkit/VOC2007/../../x.jpg"])
def test_archives_with_paths_outside_are_refused(name, archives, tmp_path):
    with tarfile.open(archives / TRAINVAL, "a") as tar:
        tar.addfile(tarfile.TarInfo(name))
    assert "unsafe path" in archive_error(archives, tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_archives_with_links_are_refused(kind, archives, tmp_path):
    member = tarfile.TarInfo("VOCdevkit/VOC2007/JPEGImages/link.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(archives / TRAINVAL, "a") as tar:
        tar.addfile(member)
    assert "no plain file" in archive_error(archives, tmp_path)


def test_archive_of_something_else(archives, tmp_path):
    shutil.copy(archives / TEST, archives / TRAINVAL)
    assert "train.txt: it is not the VOC-2007 archive" in archive_error(archives, tmp_path)


def official(archives, monkeypatch, **changed):
    """Declare the archives at hand the official ones."""
    known = {}
    for key, artifact in voc2007.ARCHIVES.items():
        path = archives / artifact.filename
        sha = changed.get(key, download.sha256_of(path))
        known[key] = download.Artifact(path.name, path.stat().st_size, sha, ())
    monkeypatch.setattr(voc2007, "ARCHIVES", known)


def test_official_archives_are_checked(archives, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "fcn_jax")
    official(archives, monkeypatch, test="0" * 64)
    assert "has the sha256" in archive_error(archives, tmp_path)
    official(archives, monkeypatch)
    message = archive_error(archives, tmp_path)
    assert "{'train': 3, 'val': 2, 'test': 2} images, not {'train': 209" in message
    monkeypatch.setattr(voc2007, "OFFICIAL_SIZES", {"train": 3, "val": 2, "test": 2})
    caplog.clear()
    assert len(load("voc2007", tmp_path, archives=archives).splits["test"]) == 2
    assert caplog.messages == []  # nothing to note
    shutil.rmtree(archives)
    assert len(load("voc2007", tmp_path).splits["test"]) == 2  # prepared: no archive needed


def test_archives_put_into_downloads_are_used(archives, tmp_path, monkeypatch):
    official(archives, monkeypatch)
    monkeypatch.setattr(voc2007, "OFFICIAL_SIZES", {"train": 3, "val": 2, "test": 2})
    (tmp_path / "data").mkdir()
    archives.rename(tmp_path / "data/downloads")
    assert len(load("voc2007", tmp_path).splits["train"]) == 3


# ---------------------------------------------------------------------------------- the disk


def test_full_disk_is_noticed_before(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free", lambda _: 100)
    error = error_of(load, folder, tmp_path)
    assert "too full (100 bytes free, preparing set needs 33.6 MB): make room or choose" in error


FULL = "No space left on device"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, FULL), RuntimeError(f"{FULL}; writing a"), PermissionError(13)]
)
def test_a_disk_that_refuses_while_preparing(error, folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(prepare.VocSegmentation, "download_and_prepare", fail)
    words = "cannot be written" if isinstance(error, PermissionError) else "disk is too full ("
    assert words in error_of(load, folder, tmp_path)
    monkeypatch.undo()
    assert len(load(folder, tmp_path).splits["train"]) == 4


def test_no_temporary_folder_is_left_behind(folder, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    load(folder, tmp_path)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_leftovers_of_a_killed_run_are_removed(folder, tmp_path):
    load(folder, tmp_path)
    (prepared,) = (tmp_path / "data/voc_segmentation").glob("folder_*/2.0.0")
    leftover = prepared.rename(prepared.parent / "incomplete.ABCDEF_2.0.0")
    assert len(load(folder, tmp_path).splits["train"]) == 4
    assert not leftover.exists()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: rewrite(path, "")])
def test_damaged_prepared_data(damage, folder, tmp_path):
    load(folder, tmp_path)
    (path,) = (tmp_path / "data").rglob("*train.array_record*")
    damage(path)
    assert "delete that directory" in error_of(load, folder, tmp_path)


def _load_in_process(root, data_dir, results):
    dataset = prepare.load(str(root), data_dir=data_dir, progress=False)
    results.put([e.id for e in dataset.splits["train"]])


@pytest.mark.slow
def test_two_processes_at_once(folder, tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (folder, Path(tmp_path / "data"), results)
    processes = [context.Process(target=_load_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found == [["000000", "000001", "000002", "000003"]] * 2
    (prepared,) = (tmp_path / "data/voc_segmentation").iterdir()
    assert sorted(os.listdir(prepared)) == [".lock", "2.0.0"]


@pytest.mark.slow
def test_one_is_killed_while_preparing_and_another_waits(folder, tmp_path):
    context = multiprocessing.get_context("spawn")
    begun, results = context.Event(), context.Queue()
    killed = context.Process(target=_prepare_for_ever, args=(folder, tmp_path / "data", begun))
    killed.start()
    assert begun.wait(60)
    other = context.Process(target=_load_in_process, args=(folder, tmp_path / "data", results))
    other.start()
    with pytest.raises(queue.Empty):  # it does not go on while the first is alive
        results.get(timeout=6)
    killed.kill()
    assert results.get(timeout=60) == ["000000", "000001", "000002", "000003"]
    for process in (killed, other):
        process.join()
    assert not list((tmp_path / "data").rglob("incomplete.*"))


def _prepare_for_ever(root, data_dir, begun):
    read = validate.read_example

    def stuck(source, split, example_id):
        if example_id == "000002":
            begun.set()
            time.sleep(600)
        return read(source, split, example_id)

    validate.read_example = stuck
    prepare.load(str(root), data_dir=data_dir, progress=False)
