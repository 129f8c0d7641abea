"""The package as its users import it."""

import ast
import inspect
import pydoc
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

import fcn_jax
from tests import fakes

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", fcn_jax.__all__)
def test_every_public_name_is_there_and_documented(name):
    found = getattr(fcn_jax, name)
    assert name in dir(fcn_jax)
    if callable(found) or inspect.ismodule(found):
        assert inspect.getdoc(found)


def test_the_names_for_readers_and_for_type_checkers_are_the_same():
    tree = ast.parse(inspect.getsource(fcn_jax))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    names = [a.asname or a.name for node in typed.body for a in getattr(node, "names", [])]
    assert sorted(names) == sorted(fcn_jax.__all__)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fcn_jax.nothing  # noqa: B018


def test_the_import_costs_nothing():
    code = "import sys; import fcn_jax; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    assert not {"numpy", "jax", "flax", "dataclasses"} & set(loaded)


def test_help_shows_the_functions_with_their_arguments():
    text = pydoc.plain(pydoc.render_doc(fcn_jax))
    for part in (
        "create_model(",
        "load_checkpoint(",
        "predict(",
        "train(",
        "class Config",
        "Train a",
    ):
        assert part in text


def test_version_and_types_are_shipped():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "fcn_jax.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", fcn_jax.__version__)
    assert resources.files("fcn_jax").joinpath("py.typed").is_file()


def test_a_checkpoint_has_a_short_repr():
    assert repr(fakes.checkpoint()) == "Checkpoint(TinyNet, 267 parameters, 3 classes, 32x32)"


@pytest.mark.slow
def test_the_example_of_the_docstring_runs(tmp_path, monkeypatch, capsys, data_dir):
    monkeypatch.chdir(tmp_path)
    block = re.search(r"\n\n((?:    .*\n|\n)+)", fcn_jax.__doc__ or "")
    assert block is not None
    code, values = inspect.cleandoc(block[1]), {}
    code = code.replace('"shapes")\n', '"shapes", data_dir=data_dir)\n', 1)
    code = code.replace("(64, 64)", "(32, 32), overfit=16, batch_size=8")  # a minute less
    exec(code, {"data_dir": data_dir}, values)
    assert values["mask"].shape == values["dataset"].splits["val"][0].mask.shape
    assert 0 <= float(capsys.readouterr().out) <= 1
