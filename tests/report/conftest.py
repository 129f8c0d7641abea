"""A small made-up run of three classes, one of them absent."""

import numpy as np
import pytest

from fcn_jax.report.masks import Panel

NAMES = ("background", "cat", "dog")
PALETTE = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
CONFUSION = np.array([[90, 10, 0], [30, 70, 0], [0, 0, 0], [5, 5, 0]])


def summary(miou: float, cat: float | None = 0.25) -> dict:
    return {
        "miou": miou,
        "pixel_accuracy": 0.75,
        "mean_class_accuracy": 0.5,
        "frequency_weighted_iou": 0.6,
        "paper_iou": 0.05,
        "paper_iou_batch16": 0.2,
        "paper_pixel_accuracy": 0.7,
        "loss": 1.25,
        "iou": {"background": 0.8, "cat": cat, "dog": None},
    }


def make_result(miou: float = 0.525, seed: int = 0, collapsed: bool = False) -> dict:
    return {
        "experiment": "small",
        "arch": "fcn",
        "dataset": "voc2007",
        "seed": seed,
        "epochs_run": 3,
        "best_epoch": 2,
        "seconds": 125.0,
        "images_per_second": 42.0,
        "val": summary(miou),
        "trivial": summary(0.1, 0.0),
        "perfect": {"paper_iou": 0.1245, "paper_iou_batch16": 0.6735, "loss": 0.0},
        "collapsed": collapsed,
        "environment": {"jax": "0.10.2", "devices": {"kind": "cpu", "count": 1}},
    }


def make_rows(mious=(0.2, 0.5, 0.4)) -> list[dict]:
    return [
        {
            "epoch": i + 1,
            "step": 10 * (i + 1),
            "lr": 1e-3 / (i + 1),
            "train": {"loss": 2.0 - 0.5 * i},
            "val": {"miou": miou, "loss": 2.5 - 0.5 * i},
        }
        for i, miou in enumerate(mious)
    ]


def make_panel(title: str = "000001") -> Panel:
    """20 x 30 (height x width): a cat at the left, void at the right, a dog never."""
    truth = np.zeros((20, 30), np.uint8)
    truth[5:15, 0:10] = 1
    truth[:, 28:] = 255
    prediction = np.zeros((20, 30), np.uint8)
    prediction[5:15, 5:15] = 1
    image = np.full((20, 30, 3), (90, 120, 200), np.uint8)
    return Panel(title, image, truth, prediction)


@pytest.fixture
def result():
    return make_result()


@pytest.fixture
def rows():
    return make_rows()


@pytest.fixture
def panel():
    return make_panel()


@pytest.fixture(scope="session")
def whole_run():
    """Everything a page can show; shared, so not to be changed."""
    return {
        "class_names": NAMES,
        "palette": PALETTE,
        "config": {"optim": {"lr": 1e-4}, "arch": "fcn"},
        "changed": {"optim.lr"},
        "history": make_rows(),
        "result": make_result(),
        "confusion": CONFUSION,
        "panels": [make_panel()],
        "batch": [(make_panel().image, make_panel().truth)],
        "facts": [("parameters", "1,234"), ("time", "2 min 5 s")],
        "downloads": ["result.json", "a b.json"],
        "command": "python -m experiments.run --arch fcn",
    }
