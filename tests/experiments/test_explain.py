"""Scores of constant predictions, by hand."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from experiments import explain
from experiments.explain import Counting, Printed
from fcn_jax import metrics
from fcn_jax.types import VOID, InputError


def _histogram(**pixels):
    """int64 [22] of e.g. c0=3, void=1."""
    counts = np.zeros(22, np.int64)
    for name, number in pixels.items():
        counts[21 if name == "void" else int(name[1:])] = number
    return counts


THREE = np.stack([_histogram(c0=3, c1=1), _histogram(c0=2, void=2), _histogram(c2=4)])
"""Images of 4 pixels; in batches of 2: 5 background, 1 of class 1, 2 void; and 4 of class 2."""


@pytest.mark.parametrize(
    ("label", "void", "unit", "expected"),
    [
        (0, "wrong", "image", (3 / 4 + 2 / 4 + 0) / 3),
        (0, "wrong", "batch", (5 / 8 + 0) / 2),
        (0, "wrong", "full batch", 5 / 8),
        (0, "wrong", "data set", 5 / 12),
        (0, "background", "batch", (7 / 8 + 0) / 2),
        (0, "ignored", "batch", (5 / 6 + 0) / 2),
        (0, "ignored", "data set", 5 / 10),
        (2, "wrong", "batch", (0 + 1) / 2),
        (2, "background", "data set", 4 / 12),
    ],
)
def test_accuracy(label, void, unit, expected):
    scores = dict(explain.candidates({("val", 224): THREE}, batch=2))
    assert scores[Counting(label, "val", 224, void, unit, None)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("label", "void", "unit", "classes", "expected"),
    [
        (0, "wrong", "batch", "absent 0", (5 / 8) / 21 / 2),
        (0, "class", "batch", "absent 0", (5 / 8) / 22 / 2),
        (0, "background", "image", "absent 0", (3 / 4 + 1) / 21 / 3),
        (0, "wrong", "image", "absent 1", (3 / 4 + 19 + 2 / 4 + 20 + 0 + 19) / 21 / 3),
        (0, "wrong", "image", "no background", 0.0),
        (1, "wrong", "image", "no background", (1 / 4) / 20 / 3),
        (0, "wrong", "batch", "present", ((5 / 8) / 2 + 0) / 2),
        (0, "class", "batch", "present", ((5 / 8) / 3 + 0) / 2),
        (0, "wrong", "batch", "present by class", ((5 / 8 + 0) / 2 + 0 + 0) / 3),
        (0, "wrong", "image", "labelled", ((3 / 4) / 2 + 2 / 4 + 0) / 3),
        (2, "wrong", "image", "labelled", (0 + 0 + 1) / 3),
        (0, "ignored", "data set", "present", (5 / 10) / 3),
    ],
)
def test_iou(label, void, unit, classes, expected):
    scores = dict(explain.candidates({("val", 224): THREE}, batch=2))
    found = scores[Counting(label, "val", 224, void, unit, classes)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_usual_counting_is_what_the_library_calls_the_papers_iou():
    rng = np.random.default_rng(0)
    masks = rng.choice([0, 0, 3, 7, VOID], (5, 6, 6)).astype(np.uint8)
    counts = np.stack([metrics.image_counts(m, np.zeros_like(m), 21) for m in masks])
    histograms = np.stack([explain.histogram(Image.fromarray(m), 0, "") for m in masks])
    scores = dict(explain.candidates({("val", 224): histograms}, batch=2))
    for unit, group in (("image", 1), ("batch", 2)):
        usual = Counting(0, "val", 224, "background", unit, "absent 0")
        assert scores[usual] == pytest.approx(metrics.paper_iou_of_counts(counts, group))
        assert usual.departures() == 0


def test_departures_are_counted_one_by_one():
    usual = Counting(0, "val", 224, "wrong", "image", None)
    others = {"label": 1, "split": "test", "side": 0, "void": "ignored", "unit": "data set"}
    for field, value in others.items():
        assert usual._replace(**{field: value}).departures() == 1
    assert usual._replace(**others, classes="present").departures() == 6


def test_a_number_is_explained_by_what_is_nearest_to_the_released_code():
    usual = Counting(0, "val", 224, "wrong", "batch", None)
    tried = [
        (usual._replace(split="test"), 0.7041),
        (usual, 0.7044),
        (usual._replace(label=1), 0.7046),  # rounds to 0.705
        (usual._replace(label=2), 0.1),
        (usual._replace(classes="absent 0"), 0.704),  # an IoU
    ]
    found = explain.explain(Printed("baseline", "pixel accuracy", "0.704"), tried)
    assert (found["tried"], found["matches"]) == (4, 2)
    assert found["chance"] == pytest.approx(3 * 0.001 / 0.352)
    assert found["best"]["split"] == "val"
    assert (found["best"]["departures"], found["best"]["like_it"]) == (0, 1)
    nothing = explain.explain(Printed("weighted", "pixel accuracy", "0.529"), tried)
    assert nothing["best"] is None
    assert "no constant prediction" in explain.table([nothing])


def _archive(path, masks, root="VOCdevkit/VOC2007/"):
    def add(name, data):
        member = tarfile.TarInfo(root + name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))

    with tarfile.open(path, "w") as archive:
        add("ImageSets/Segmentation/val.txt", "\n".join(masks).encode())
        for name, mask in masks.items():
            stream = io.BytesIO()
            Image.fromarray(mask).save(stream, "PNG")
            add(f"SegmentationClass/{name}.png", stream.getvalue())


def test_the_command_reads_archives_and_writes_what_it_prints(tmp_path, capsys):
    mask = np.zeros((448, 224), np.uint8)
    mask[:112] = 15
    mask[112:168] = VOID
    _archive(tmp_path / "VOCtrainval.tar", {"a": mask, "b": mask})
    out = tmp_path / "explained.json"
    assert explain.main(["--archives", str(tmp_path), "--out", str(out)]) == 0
    data = json.loads(out.read_text())
    assert data["masks"] == {"val": 2}
    assert [n["text"] for n in data["numbers"]][:2] == ["0.055", "0.704"]
    assert explain.table(data["numbers"]) in capsys.readouterr().out
    histograms = explain.read_histograms(tmp_path)
    whole = [56, 28, 140]  # person, void and background, in rows of the resized mask
    for side, factor in ((224, 224), (0, 448)):
        row = histograms["val", side][0]
        assert [row[15], row[21], row[0]] == [rows * factor for rows in whole]


def test_masks_that_cannot_be_counted_are_refused(tmp_path):
    with pytest.raises(InputError, match="lacks masks of VOC-2007's val split"):
        explain.read_histograms(tmp_path)
    bad = tmp_path / "VOC.tar"
    _archive(bad, {"a": np.full((4, 4), 21, np.uint8)})
    with pytest.raises(InputError, match="mask a: holds values that are neither"):
        explain.read_histograms(bad)
    bad.write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read"):
        explain.read_histograms(bad)
