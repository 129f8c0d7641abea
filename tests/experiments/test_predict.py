"""The command `predict`: which images, which names, what is written, what is survived."""

import csv
import errno
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments import predict as command
from experiments.cli import image_files
from fcn_jax.inference import predict
from fcn_jax.types import InputError
from tests import fakes

NAMES = ["a/x.jpg", "a/x.png", "b/x.jpg", "b/a/x.jpg", "a/X.JPG", "A/x.jpg", "c/x.jpg-6", "x.jpg"]


@pytest.fixture
def folder(tmp_path):
    """a/x.jpg, a/x.png (with alpha), b/x.jpg (grey), b/deep/y.png, b/note.txt."""
    rng = np.random.default_rng(0)
    for name, shape in (
        ("a/x.jpg", (20, 30, 3)),
        ("a/x.png", (21, 31, 4)),
        ("b/x.jpg", (22, 32)),
        ("b/deep/y.png", (23, 33, 3)),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / name)
    (tmp_path / "b/note.txt").write_text("no photo")
    return tmp_path


@pytest.fixture(autouse=True)
def _network(monkeypatch):
    restored = fakes.checkpoint()
    monkeypatch.setattr(predict, "load_checkpoint", lambda workdir: restored)
    monkeypatch.setattr(command.command, "setup_jax", lambda **_: None)


def run(folder, *flags):
    return command.main(["run", *map(str, flags), "--out", str(folder / "out")])


def read(path):
    """Pixels of an image file, which is closed again."""
    with Image.open(path) as photo:
        return np.array(photo)


def written(folder):
    out = folder / "out"
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())


def test_masks_and_overlays_have_the_size_of_the_image(folder, capsys):
    assert run(folder, folder / "a/x.jpg") == 0
    assert written(folder) == ["x-overlay.jpg", "x.png"]
    with Image.open(folder / "out/x.png") as mask:
        assert (mask.mode, mask.size) == ("P", (30, 20))
        expected = predict.predict(fakes.checkpoint(), read(folder / "a/x.jpg"))
        np.testing.assert_array_equal(np.asarray(mask), expected)
    assert "1 of 1 image segmented" in capsys.readouterr().out


def test_equal_stems_never_share_a_name(folder):
    assert run(folder, folder / "a", folder / "b", "--recursive") == 0
    masks = [name for name in written(folder) if name.endswith(".png")]
    assert masks == ["a/x.jpg.png", "b/x.png", "deep/y.png", "x.png.png"]
    assert read(folder / "out/b/x.png").shape == (22, 32)
    assert read(folder / "out/a/x.jpg.png").shape == (20, 30)


def test_names_differ_whatever_is_given():
    files = [(Path(p), Path(p).parent) for p in ("a/x.jpg", "b/x.jpg", "c/a/x.jpg", "a/X.JPG")]
    names = [job.name.as_posix().lower() for job in image_files.name_jobs(files)]
    assert len(set(names)) == 4


def test_naming_takes_time_in_proportion_to_the_files(monkeypatch):
    key, names = image_files._key, []
    monkeypatch.setattr(image_files, "_key", lambda name: names.append(name) or key(name))

    def looked_at(count):
        files = [(Path(f"frames/frame_{i // 2:06d}.{['jpg', 'png'][i % 2]}"), Path("frames"))
                 for i in range(count)]  # fmt: skip
        names.clear()
        jobs = image_files.name_jobs(files)
        assert len({job.name for job in jobs}) == count
        assert jobs[1].name == Path("frame_000000.png")
        return len(names)

    assert looked_at(2000) == 2 * looked_at(1000)


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=12, unique=True))
def test_no_two_images_share_a_name(paths):
    files = [(Path(p), Path(p).parent) for p in paths]
    names = [job.name.as_posix().lower() for job in image_files.name_jobs(files)]
    assert len(set(names)) == len(names)


def test_folders_globs_and_repeats(folder):
    found = image_files.find_images(
        [str(folder / "a/*"), str(folder / "a/x.jpg"), str(folder / "b")]
    )
    assert [f.name for f, _ in found] == ["x.jpg", "x.png", "x.jpg"]
    with pytest.raises(InputError, match=r"\*\.gif: no such file"):
        image_files.find_images([str(folder / "*.gif")])
    with pytest.raises(InputError, match="no image there"):
        image_files.find_images([str(folder)])


def test_images_that_are_not_read_are_noted(folder, capsys):
    for name in ("photo.HEIC", "scan.gif", "notes.txt"):
        (folder / "a" / name).touch()
    assert len(image_files.find_images([str(folder / "a")])) == 2
    note = f"note: left out, as of a type that is not read: {folder}/a/photo.HEIC and 1 more\n"
    assert capsys.readouterr().err == note


def test_subfolders_are_noted_and_links_followed_but_folders_of_tools_are_passed_over(
    folder, tmp_path, capsys
):
    (folder / "b/.thumbnails").mkdir()
    (folder / "b/.thumbnails/x.jpg").touch()
    (folder / "b/._x.jpg").touch()
    (folder / "b/up").symlink_to(folder / "b")
    (folder / "b/linked").symlink_to(folder / "a")
    found = image_files.find_images([str(folder / "b")])
    assert [str(p.relative_to(tmp_path)) for p, _ in found] == ["b/x.jpg"]
    note = f"note: not searched without --recursive: {folder}/b/deep and 2 more\n"
    assert capsys.readouterr().err == note
    found = image_files.find_images([str(folder / "b")], recursive=True)
    names = [str(p.relative_to(tmp_path)) for p, _ in found]
    assert names == ["b/deep/y.png", "b/linked/x.jpg", "b/linked/x.png", "b/x.jpg"]
    assert capsys.readouterr().err == ""


def test_a_link_to_nothing_is_named(folder, capsys):
    (folder / "a/gone.jpg").symlink_to(folder / "nowhere")
    assert run(folder, folder / "a") == 2
    assert "a/gone.jpg cannot be read (No such file or directory)" in capsys.readouterr().err


def test_one_bad_file_does_not_stop_the_rest(folder, capsys):
    (folder / "a/w.jpg").write_bytes(b"\xff\xd8\xff")
    assert run(folder, folder / "a", folder / "b/note.txt") == 2
    assert len(written(folder)) == 5  # two masks, two overlays, the page
    captured = capsys.readouterr()
    assert "w.jpg is no readable image" in captured.err
    assert "note.txt is no readable image" in captured.err
    assert re.search(
        r"2 of 4 images segmented into \S+ \(\d+ programs? compiled, [\d.e+]+ img/s\)", captured.out
    )


def test_several_images_have_a_page_with_areas(folder):
    assert run(folder, folder / "a", folder / "b", "--recursive") == 0
    page = (folder / "out/index.html").read_text()
    areas = [json.loads(html.unescape(a)) for a in re.findall('data-areas="([^"]*)"', page)]
    assert len(areas) == 4
    mask = read(folder / "out/b/x.png")
    expected = {str(i): (mask == i).mean() for i in range(3) if (mask == i).any()}
    position = re.findall("<figcaption>([^<]*)<", page).index("b/x.jpg")
    assert areas[position] == pytest.approx(expected, abs=1e-6)
    overlays = re.findall('data-full="./([^"]*)"', page)
    assert sorted(overlays) == [n for n in written(folder) if n.endswith("-overlay.jpg")]


def test_probabilities_and_areas(folder):
    table = folder / "tables/areas.csv"
    assert run(folder, folder / "b/x.jpg", "--probabilities", "--areas", table) == 0
    values = np.load(folder / "out/x.npy")
    assert (values.dtype, values.shape) == (np.float16, (22, 32, 3))
    np.testing.assert_allclose(values.astype(np.float32).sum(-1), 1, atol=2e-3)
    mask = read(folder / "out/x.png")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [r["class"] for r in rows] == list(fakes.CLASSES)
    assert [int(r["pixels"]) for r in rows] == [int((mask == i).sum()) for i in range(3)]
    assert sum(float(r["fraction"]) for r in rows) == pytest.approx(1, abs=1e-5)


def test_an_image_is_turned_as_viewers_show_it(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(read(folder / "a/x.jpg")).save(folder / "turned.jpg", exif=exif)
    assert run(folder, folder / "turned.jpg", "--scale", "native") == 0
    assert read(folder / "out/turned.png").shape == (30, 20)


def test_inputs_are_never_overwritten(folder):
    Image.new("RGB", (9, 9)).save(folder / "a/z.png")
    with pytest.raises(InputError, match="is an input, and would be overwritten"):
        command.main(["run", str(folder / "a/z.png"), "--out", str(folder / "a")])


@pytest.mark.parametrize("name", ["a/z.png", "out/z.png", "out/index.html"])
def test_the_table_of_areas_replaces_no_image_and_no_result(folder, name):
    Image.new("RGB", (9, 9)).save(folder / "a/z.png")
    with pytest.raises(InputError, match="is an image or a result"):
        run(folder, folder / "a/z.png", "--areas", folder / name)


def test_a_table_of_areas_that_is_no_file_is_refused_first(folder):
    with pytest.raises(InputError, match="is no file"):
        run(folder, folder / "a/x.png", "--areas", folder / "b")
    assert not (folder / "out").exists()


def test_probabilities_on_a_full_disk_are_one_line(folder, monkeypatch, capsys):
    def full(file, header):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    assert run(folder, folder / "b/x.jpg", "--probabilities") == 2
    assert "the disk is too full" in capsys.readouterr().err


def test_flags_may_stand_anywhere(folder):
    assert command.main(["run", "--out", str(folder / "out"), str(folder / "b/x.jpg")]) == 0
    assert written(folder) == ["x-overlay.jpg", "x.png"]


def test_an_overlay_that_no_jpeg_can_hold_is_made_smaller(folder, monkeypatch):
    monkeypatch.setattr("experiments.cli.segment.JPEG_LIMIT", 20)
    assert run(folder, folder / "b/x.jpg") == 0
    assert read(folder / "out/x.png").shape == (22, 32)
    assert max(read(folder / "out/x-overlay.jpg").shape) == 20


def test_control_characters_of_a_name_do_not_reach_the_terminal(folder, capsys):
    (folder / "a\n\x1b[31mb.png").write_bytes(b"")
    assert run(folder, folder / "a\n\x1b[31mb.png") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line


def test_published_weights_need_no_run(folder, monkeypatch, capsys):
    asked = []

    def fake(name, weights):
        asked.append((name, weights))
        return fakes.checkpoint()

    monkeypatch.setattr("fcn_jax.inference.predict.load_published", fake)
    flags = ["--pretrained", "fcn_resnet50", "--out", str(folder / "out")]
    assert command.main([str(folder / "a/x.jpg"), *flags]) == 0
    assert asked == [("fcn_resnet50", None)]
    assert written(folder) == ["x-overlay.jpg", "x.png"]


def test_flags_that_lack_something(folder):
    with pytest.raises(InputError, match="goes with --pretrained"):
        run(folder, folder / "a/x.jpg", "--weights", "w.pth")
    with pytest.raises(InputError, match="name the images after the folder"):
        run(folder)
    with pytest.raises(InputError, match="name the folder of a run, then the images"):
        command.main(["--out", "x"])
    with pytest.raises(InputError, match="nothing to predict: name the images"):
        command.main(["--out", "x", "--pretrained", "fcn_resnet50"])
