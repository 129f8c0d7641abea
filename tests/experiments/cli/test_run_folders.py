"""Run folders that nobody named: numbered, resumed, listed, removed."""

import errno
import json
import re

import filelock
import numpy as np
import pytest

from experiments import runs
from experiments.cli import run_folders
from fcn_jax import config as configs
from fcn_jax.types import InputError
from fcn_jax.weights import model_folder


@pytest.fixture
def config():
    return configs.Config()


def begin(folder, config, finished=False):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(configs.to_dict(config)))
    if finished:
        result = {"val": {"miou": 0.5}, "epochs_run": 7}
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_each_new_run_gets_the_next_number(tmp_path, config):
    chosen = [run_folders.choose(tmp_path, config) for _ in range(3)]
    assert [f.name for f in chosen] == ["fcn-voc2007-1", "fcn-voc2007-2", "fcn-voc2007-3"]
    assert all(f.is_dir() for f in chosen)
    (tmp_path / "fcn-voc2007-10").mkdir()
    (tmp_path / "fcn-voc2007-old").mkdir()
    assert run_folders.choose(tmp_path, config).name == "fcn-voc2007-11"


def test_an_unfinished_run_of_the_same_configuration_is_resumed(tmp_path, config):
    other = configs.replace(config, seed=1)
    begin(tmp_path / "fcn-voc2007-1", config, finished=True)
    begin(tmp_path / "fcn-voc2007-2", other)
    begin(tmp_path / "fcn-voc2007-3", config)
    assert run_folders.choose(tmp_path, config).name == "fcn-voc2007-3"
    assert run_folders.choose(tmp_path, other, resume=True).name == "fcn-voc2007-2"
    (tmp_path / "fcn-voc2007-3/config.json").write_text("{")
    assert run_folders.choose(tmp_path, config).name == "fcn-voc2007-4"


def test_a_run_that_is_being_trained_is_left_alone(tmp_path, config):
    folder = begin(tmp_path / "fcn-voc2007-1", config)
    with filelock.FileLock(folder / ".lock"):
        assert run_folders.choose(tmp_path, config).name == "fcn-voc2007-2"
    assert run_folders.choose(tmp_path, config).name == "fcn-voc2007-1"


def test_to_resume_needs_an_unfinished_run(tmp_path, config):
    begin(tmp_path / "fcn-voc2007-1", config, finished=True)
    with pytest.raises(InputError, match="no unfinished run"):
        run_folders.choose(tmp_path, config, resume=True)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"data.dataset": "/data/My Trees (2)"}, "fcn-my-trees-2"),
        ({"experiment": "tuned_unet", "model.arch": "unet"}, "tuned_unet-voc2007"),
        ({"model.arch": "my_nets.deep:Net"}, "my_nets-deep-net-voc2007"),
    ],
)
def test_names_say_what_the_run_is(changes, name):
    assert run_folders.default_name(configs.replace(configs.Config(), **changes)) == name


def test_runs_are_listed_with_state_score_and_size(tmp_path, config, capsys):
    begin(tmp_path / "a/done", config, finished=True)
    begin(tmp_path / "run-10", config, finished=True)
    open_run = begin(tmp_path / "run-9", configs.replace(config, epochs=30))
    scores = [json.dumps({"val": {"miou": miou}}) for miou in (0.25, 0.125, None)]
    (open_run / "metrics.jsonl").write_text("\n".join(scores) + "\n")
    assert runs.main([str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["run", "state", "epochs", "mIoU", "size"]
    assert lines[1][:4] == [str(tmp_path / "a/done"), "finished", "7", "0.5000"]
    assert lines[2][:6] == [str(open_run), "unfinished", "3", "of", "30", "0.2500"]
    assert lines[3][0] == str(tmp_path / "run-10")
    (open_run / "metrics.jsonl").write_text("{")
    assert runs.main([str(tmp_path)]) == 0
    assert re.search(r"run-9 +damaged ", capsys.readouterr().out)


def test_a_run_is_removed_on_request_and_nothing_else_is(tmp_path, config, capsys):
    done = begin(tmp_path / "done", config, finished=True)
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="no run there"):
        runs.main(["--remove", str(done), str(tmp_path / "photos")])
    assert done.exists()
    with (
        filelock.FileLock(done / ".lock"),
        pytest.raises(InputError, match="a process is training there"),
    ):
        runs.main(["--remove", str(done)])
    assert runs.main(["--remove", str(done)]) == 0
    assert not done.exists()
    assert "removed" in capsys.readouterr().out


def test_an_exported_network_is_no_run(tmp_path, config, capsys):
    begin(tmp_path / "run-1", config, finished=True)
    variables = {"params": {"kernel": np.zeros(3, np.float32)}}
    meta = {"model": {"name": "mine"}, "image_size": [8, 8], "class_names": [], "palette": []}
    model_folder.save(tmp_path / "net", variables, meta)
    assert runs.main([str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2  # the heading, and run-1
    with pytest.raises(InputError, match="no run there"):
        runs.main(["--remove", str(tmp_path / "net")])
    assert model_folder.is_model_folder(tmp_path / "net")


@pytest.mark.parametrize("text", ['{"theme": 1}', "[]", "no json"])
def test_a_config_of_another_program_is_no_run(tmp_path, text):
    (tmp_path / "website").mkdir()
    (tmp_path / "website/config.json").write_text(text)
    with pytest.raises(InputError, match="no run there"):
        runs.main(["--remove", str(tmp_path / "website")])
    assert (tmp_path / "website/config.json").exists()


def test_a_run_whose_config_is_damaged_can_be_removed(tmp_path, config):
    folder = begin(tmp_path / "run", config)
    (folder / "config.json").write_text("{")
    (folder / ".lock").touch()
    assert runs.main(["--remove", str(folder)]) == 0


def test_links_repeats_and_runs_within_runs(tmp_path, config):
    outer = begin(tmp_path / "run", config)
    inner = begin(tmp_path / "run/inner", config)
    (tmp_path / "link").symlink_to(outer)
    with pytest.raises(InputError, match="a link: name the folder that it leads to"):
        runs.main(["--remove", str(tmp_path / "link")])
    assert runs.main(["--remove", str(inner), str(outer), f"{outer}/"]) == 0
    assert not outer.exists()


def test_a_lock_that_cannot_be_opened_says_nothing_of_a_training(tmp_path, monkeypatch, config):
    folder = begin(tmp_path / "run", config)
    (folder / ".lock").touch()

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(filelock.FileLock, "acquire", read_only)
    assert not run_folders.is_locked(folder)
