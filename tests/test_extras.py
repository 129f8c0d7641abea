"""Predicting needs neither tfds nor matplotlib; what does need them names the extra."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fcn_jax.models import create_model
from fcn_jax.weights import model_folder
from tests import fakes
from tests.models.variables import random_variables

COMMAND = """
import importlib, sys
for name in ("tensorflow_datasets", "array_record", "importlib_resources", "matplotlib"):
    sys.modules[name] = None
from experiments.cli import command
command.start(importlib.import_module(sys.argv.pop(1)).main)
"""


def run(name, *arguments):
    """A command where the extra `train` is not installed."""
    line = [sys.executable, "-c", COMMAND, f"experiments.{name}", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.fixture
def network(tmp_path):
    variables = random_variables(create_model("simplified_unet", 3, width=4))
    spec = {"name": "simplified_unet", "num_classes": 3, "precision": "f32", "width": 4}
    meta = {"model": spec, "image_size": [16, 16], "class_names": list(fakes.CLASSES)}
    meta["palette"] = [[0, 0, 0], [255, 0, 0], [0, 0, 255]]
    model_folder.save(tmp_path / "net", {"batch_stats": {}, **variables}, meta)
    return tmp_path / "net"


def test_predicting_without_the_extra(network, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / name)
    photos = tmp_path / "a.png", tmp_path / "b.png"
    done = run("predict", network, *photos, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"a.png", "b.png", "a-overlay.jpg", "index.html"} <= written


@pytest.mark.parametrize("arguments", [("run", "--dataset", "shapes"), ("check", "shapes")])
def test_training_names_the_extra(arguments, tmp_path):
    done = run(*arguments, *(("--workdir", tmp_path / "run") if arguments[0] == "run" else ()))
    remedy = "install the extra train, as in README.md"
    expected = f"error: tensorflow_datasets is not installed: {remedy}\n"
    assert (done.returncode, done.stderr) == (2, expected)
    assert not (tmp_path / "run").exists()
