"""The run folder: one run, one process, no half-written file."""

import errno
import json
import os
import threading
from pathlib import Path

import filelock
import pytest

from fcn_jax.config import Config, ModelConfig, replace, to_dict, with_absolute_paths
from fcn_jax.runtime import files
from fcn_jax.training import run_dir
from fcn_jax.types import InputError
from tests import fakes

DATA = {"train": ["a"], "val": ["b"], "classes": ["x"], "name": "d", "root": "/d", "digest": "1"}


def _finish_a_step(folder, config=None, data=DATA):
    """What a run leaves once it has saved a step."""
    config = config or fakes.config()
    with run_dir.claim(folder, config):
        run_dir.begin(folder, config, data)
        (folder / "checkpoints/1").mkdir(parents=True)


def test_a_run_that_has_saved_a_step_says_what_it_is(tmp_path):
    _finish_a_step(tmp_path / "run")
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert (stored["schema"], stored["model"]["arch"]) == (2, "tiny")


def test_another_run_in_the_folder_is_refused_with_the_fields(tmp_path):
    _finish_a_step(tmp_path)
    with (
        pytest.raises(InputError, match=r"holds another run \(optim.lr: 0.03 -> 1.0\)"),
        run_dir.claim(tmp_path, fakes.config(**{"optim.lr": 1.0})),
    ):
        pass
    with run_dir.claim(tmp_path, fakes.config()):
        pass


def test_a_start_that_saves_no_step_leaves_nothing(tmp_path):
    folder = tmp_path / "run"
    with run_dir.claim(folder, fakes.config()):
        run_dir.begin(folder, fakes.config(), DATA)
        (folder / "checkpoints").mkdir()
    assert not folder.exists()
    folder.mkdir()
    with run_dir.claim(folder, fakes.config()):
        run_dir.begin(folder, fakes.config(), DATA)
    assert {p.name for p in folder.iterdir()} <= {".lock"}


def test_a_killed_start_does_not_hold_the_folder(tmp_path):
    """Nothing is tidied then; the next run takes the folder over."""
    files.write_json(tmp_path / "config.json", {"of": "another version"})
    files.write_json(tmp_path / "data.json", {"train": []})
    (tmp_path / "checkpoints/1.orbax-checkpoint-tmp").mkdir(parents=True)
    other = fakes.config(**{"optim.lr": 1.0})
    _finish_a_step(tmp_path, other)
    assert files.read_json(tmp_path / "config.json")["optim"]["lr"] == 1.0
    assert files.read_json(tmp_path / "data.json") == DATA


@pytest.mark.parametrize(
    "make",
    [
        lambda f: (f / "checkpoints-damaged/1").mkdir(parents=True),  # all were moved away
        lambda f: (f / "metrics.jsonl").write_text('{"epoch": 1}\n'),
        lambda f: (f / "result.json").write_text("{}"),
    ],
    ids=["damaged", "scored", "finished"],
)
def test_a_run_without_checkpoints_still_owns_its_folder(tmp_path, make):
    files.write_json(tmp_path / "config.json", to_dict(fakes.config()))
    make(tmp_path)
    before = _content(tmp_path)
    with (
        pytest.raises(InputError, match="holds another run"),
        run_dir.claim(tmp_path, fakes.config(**{"optim.lr": 1.0})),
    ):
        pass
    with run_dir.claim(tmp_path, fakes.config()):
        run_dir.begin(tmp_path, fakes.config(**{"optim.lr": 2.0}), DATA)
    assert _content(tmp_path) == before


def _content(folder):
    found = {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*")}
    return {path: content for path, content in found.items() if path.name != ".lock"}


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_a_folder_that_cannot_be_read_is_left_alone(tmp_path, monkeypatch, number):
    """Neither taken over at the start, nor tidied at the end."""
    listdir = os.listdir

    def refuse(path="."):
        if Path(path).name == "checkpoints":
            raise OSError(number, os.strerror(number), str(path))
        return listdir(path)

    other = fakes.config(**{"optim.lr": 1.0})
    _finish_a_step(tmp_path)
    before = _content(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", refuse)
        for config in (fakes.config(), other):
            with (
                pytest.raises(InputError, match=r"checkpoints: cannot be read .*nothing was chang"),
                run_dir.claim(tmp_path, config),
            ):
                pass
    assert _content(tmp_path) == before
    with run_dir.claim(tmp_path / "new", other):  # cannot be read when it ends
        run_dir.begin(tmp_path / "new", other, DATA)
        (tmp_path / "new/checkpoints").mkdir()
        monkeypatch.setattr(os, "listdir", refuse)
    assert (tmp_path / "new/config.json").exists()


def test_a_start_removes_only_what_it_wrote(tmp_path):
    """A folder that was not empty keeps what was there, whatever it is."""
    (tmp_path / "checkpoints/of-another-tool").mkdir(parents=True)
    (tmp_path / "diverged.json").write_text("{}")
    with run_dir.claim(tmp_path, fakes.config()):
        pass
    assert (tmp_path / "checkpoints/of-another-tool").exists()
    assert (tmp_path / "diverged.json").exists()


def test_a_setting_without_effect_makes_no_other_run(tmp_path):
    """No network without an auxiliary head uses its weight, whose default has changed."""
    _finish_a_step(tmp_path, Config())
    with run_dir.claim(tmp_path, replace(Config(), **{"loss.aux_weight": 0.0})):
        pass
    config = Config(model=ModelConfig(arch="fcn_resnet50"))
    changed = replace(config, **{"loss.aux_weight": 0.0})
    assert run_dir.differences(config, changed) == ["loss.aux_weight: 0.4 -> 0.0"]


def test_the_same_run_by_another_spelling_of_its_paths(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data2").mkdir()
    monkeypatch.chdir(tmp_path)
    configs = [
        fakes.config(**{"data.dataset": name})
        for name in ("data", "data/", "./data", str(tmp_path / "data"), "data2")
    ]
    _finish_a_step(tmp_path / "run", with_absolute_paths(configs[0]))
    monkeypatch.chdir(tmp_path / "data2")
    with run_dir.claim(tmp_path / "run", configs[3]):
        pass
    monkeypatch.chdir(tmp_path)
    for config in configs[:4]:
        with run_dir.claim(tmp_path / "run", config):
            pass
    with (
        pytest.raises(InputError, match="another run"),
        run_dir.claim(tmp_path / "run", configs[4]),
    ):
        pass


def test_the_same_run_where_its_data_have_moved(tmp_path):
    """The content decides, which is compared as soon as it is read."""
    before, now = (
        fakes.config(**{"data.dataset": str(tmp_path / name)}) for name in ("before", "now")
    )
    (tmp_path / "before").mkdir()
    _finish_a_step(tmp_path / "run", before)
    with pytest.raises(InputError, match="another run"), run_dir.claim(tmp_path / "run", now):
        pass
    (tmp_path / "before").rename(tmp_path / "now")
    with run_dir.claim(tmp_path / "run", now):
        run_dir.check_data(tmp_path / "run", {**DATA, "root": str(tmp_path / "now")})
        with pytest.raises(InputError, match="have changed since the run began"):
            run_dir.check_data(tmp_path / "run", {**DATA, "digest": "2"})
    files.write_json(tmp_path / "run/data.json", {**DATA, "digest": ""})
    with pytest.raises(InputError, match="another run"), run_dir.claim(tmp_path / "run", now):
        pass


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": ["a", "c"]}, "began with 1 train entries, the data set now has 2"),
        ({"classes": ["y"]}, "began with 1 classes entries, the data set now has 1 or other ones"),
        ({"digest": "2"}, "images or masks in /d have changed since the run began"),
    ],
)
def test_changed_data_is_refused(tmp_path, change, words):
    _finish_a_step(tmp_path)
    with pytest.raises(InputError, match=words):
        run_dir.check_data(tmp_path, {**DATA, **change})
    run_dir.check_data(tmp_path, {**DATA, "root": "/elsewhere"})
    run_dir.check_data(tmp_path, {**DATA, "digest": ""})


def test_a_second_process_is_told_so(tmp_path):
    with (
        run_dir.claim(tmp_path, fakes.config()),
        pytest.raises(InputError, match="another process is training there"),
        run_dir.claim(tmp_path, fakes.config()),
    ):
        pass


def test_a_look_at_the_lock_does_not_keep_a_run_from_its_folder(tmp_path):
    held = filelock.FileLock(tmp_path / ".lock", thread_local=False)
    held.acquire()
    threading.Timer(0.1, held.release).start()
    with run_dir.claim(tmp_path, fakes.config()):
        pass


def test_damaged_files_of_a_run_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"ep')
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be read"):
        run_dir.read_metrics(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(InputError, match=r"result\.json: holds no result"):
        run_dir.read_result(tmp_path)


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
