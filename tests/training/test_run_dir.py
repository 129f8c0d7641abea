"""The run folder: one run, one process, no half-written file."""

import json

import pytest

from fcn_jax.runtime import files
from fcn_jax.training import run_dir
from fcn_jax.types import InputError
from tests import fakes


def test_a_claimed_folder_says_what_it_holds(tmp_path):
    with run_dir.claim(tmp_path / "run", fakes.config()):
        stored = json.loads((tmp_path / "run/config.json").read_text())
        assert stored["schema"] == 2
        assert stored["model"]["arch"] == "tiny"


def test_another_run_in_the_folder_is_refused_with_the_fields(tmp_path):
    with run_dir.claim(tmp_path, fakes.config()):
        pass
    with (
        pytest.raises(InputError, match=r"holds another run \(optim.lr: 0.03 -> 1.0\)"),
        run_dir.claim(tmp_path, fakes.config(**{"optim.lr": 1.0})),
    ):
        pass


def test_a_second_process_is_told_so(tmp_path):
    with (
        run_dir.claim(tmp_path, fakes.config()),
        pytest.raises(InputError, match="another process is training there"),
        run_dir.claim(tmp_path, fakes.config()),
    ):
        pass


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with (
        pytest.raises(InputError, match=r"'thesis.tex' but no config.json"),
        run_dir.claim(tmp_path, fakes.config()),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir() if p.suffix] == ["thesis.tex"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"x": float("nan")})
    assert files.read_json(path) == {"x": 1}


def test_unreadable_json_is_named(tmp_path):
    with pytest.raises(InputError, match="not there"):
        files.read_json(tmp_path / "result.json")
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(InputError, match=r"result.json: cannot be read"):
        files.read_json(tmp_path / "result.json")
