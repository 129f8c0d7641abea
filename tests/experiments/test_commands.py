"""The commands as a user meets them: what they write, and one clear line for whatever is wrong."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import (
    benchmark,
    compare,
    evaluate,
    export,
    predict,
    reproduce,
    run,
    runs,
    study,
)
from experiments.cli import command
from fcn_jax.data import prepare
from fcn_jax.inference.predict import load_checkpoint
from fcn_jax.runtime import files
from fcn_jax.training import loop
from fcn_jax.types import VOID, InputError
from fcn_jax.weights import model_folder
from tests import fakes

pytestmark = pytest.mark.usefixtures("tiny", "fake_data")

SMALL = ["--arch", "tiny", "--dataset", "fake", "--image-size", "32", "--batch-size", "3"]


@pytest.fixture
def fake_data(monkeypatch):
    """`--dataset fake` needs no files; compiled programs go nowhere."""
    load = prepare.load

    def fake(name, **kwargs):
        return fakes.dataset() if name == "fake" else load(name, **kwargs)

    monkeypatch.setattr(prepare, "load", fake)
    monkeypatch.setattr(command, "setup_jax", lambda **_: None)


def _enter(main, *argv) -> int:
    """Run a command as `python -m` does; returns the exit code."""
    with pytest.raises(SystemExit) as left:
        command.run(lambda _: main([str(a) for a in argv]))
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a small finished run."""
    folder = tmp_path_factory.mktemp("commands") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules["fcn_jax.models"].MODELS, "tiny", fakes.TINY)
        patch.setattr(prepare, "load", lambda *_, **__: fakes.dataset())
        patch.setattr(command, "setup_jax", lambda **_: None)
        argv = [*SMALL, "--epochs", "2", "--lr", "0.03", "--workdir", str(folder), "--quiet"]
        assert run.main([*argv, "--tensorboard"]) == 0
    return folder


def test_a_finished_run_names_the_next_command(trained, fake_data, capsys):
    argv = [*SMALL, "--epochs", "2", "--lr", "0.03", "--workdir", str(trained)]
    assert run.main([*argv, "--quiet"]) == 0
    assert capsys.readouterr().out.endswith(f"\nreport: {trained}/report.html\n")
    assert run.main(argv) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"  python -m experiments.predict {trained} IMAGE --out DIR"


def test_a_run_leaves_everything_it_promises(trained):
    names = {p.name for p in trained.iterdir()}
    assert names >= {
        "config.json", "metrics.jsonl", "result.json", "curves.png", "gallery.png",
        "report.html", "checkpoints", "eval-val.json", "tensorboard",
    }  # fmt: skip
    result = json.loads((trained / "result.json").read_text())
    for key in ("experiment", "arch", "dataset", "seed", "epochs_run", "best_epoch", "seconds",
                "images_per_second"):  # fmt: skip
        assert key in result
    for row in ("val", "trivial"):
        assert {"miou", "pixel_accuracy", "mean_class_accuracy", "paper_iou",
                "paper_pixel_accuracy", "loss", "iou"} <= set(result[row])  # fmt: skip
    assert len((trained / "metrics.jsonl").read_text().splitlines()) == 2


def test_evaluate_repeats_the_result(trained, capsys):
    assert _enter(evaluate.main, trained) == 0
    result = json.loads((trained / "result.json").read_text())
    written = json.loads((trained / "eval-val.json").read_text())
    assert written["summary"] == result["val"]
    assert written["trivial"] == result["trivial"]
    assert "all-background" in capsys.readouterr().out


def test_predict_writes_masks_of_the_images_size(trained, tmp_path):
    for i in range(2):
        Image.fromarray(fakes.example(i, 50, 70 + i).image).save(tmp_path / f"photo{i}.jpg")
    assert _enter(predict.main, trained, tmp_path, "--out", tmp_path / "out") == 0
    with Image.open(tmp_path / "out/photo1.png") as mask:
        assert (mask.mode, mask.size) == ("P", (71, 50))
        assert np.asarray(mask).max() <= 2
    with Image.open(tmp_path / "out/photo1-overlay.jpg") as overlay:
        assert overlay.size == (71, 50)


def test_one_bad_image_does_not_stop_the_others(trained, tmp_path, capsys):
    Image.fromarray(fakes.example(0).image).save(tmp_path / "b.jpg")
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    assert _enter(predict.main, trained, tmp_path, "--out", tmp_path / "out") != 0
    assert (tmp_path / "out/b.png").exists()
    assert "a.jpg" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_groups_seeds_and_writes_its_page(trained, tmp_path, capsys):
    other = tmp_path / "run-seed1"
    argv = [*SMALL, "--epochs", "2", "--lr", "0.03", "--seed", "1", "--quiet"]
    assert _enter(run.main, *argv, "--workdir", other) == 0
    assert _enter(compare.main, trained, other, "--out", tmp_path / "page") == 0
    table = json.loads((tmp_path / "page/table.json").read_text())
    (row,) = table["metrics"]["miou"]
    assert row["n"] == 2
    assert (tmp_path / "page/report.html").exists()
    assert "all-background" in capsys.readouterr().out


@pytest.mark.parametrize("main", [compare.main, evaluate.main])
def test_an_exported_network_asks_for_its_data_in_one_line(main, trained, tmp_path):
    restored = load_checkpoint(trained)
    model_folder.save(tmp_path / "net", restored.variables, restored.meta)
    more = ["--out", str(tmp_path / "page")] if main is compare.main else []
    with pytest.raises(InputError, match="name them with --dataset"):
        main([str(tmp_path / "net"), *more])


def test_compare_takes_runs_of_which_only_the_results_are_kept(trained, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for kept in ("config.json", "metrics.jsonl", "result.json", "eval-val.json"):
            shutil.copy(trained / kept, tmp_path / name)
        shutil.copy(trained / "eval-val.npz", tmp_path / name)
    folders = tmp_path / "a", tmp_path / "b"
    assert _enter(compare.main, *folders, "--out", tmp_path / "page") == 0
    table = json.loads((tmp_path / "page/table.json").read_text())
    [pair] = table["pairs"]
    assert (pair["difference"], pair["low"], pair["high"]) == (0, 0, 0)


BAD_FLAGS = [
    (["--archives", ""], "--archives '': give a path"),
    (["--arch", "vgg"], "--arch vgg: choose one of fcn"),
    (["--arch", "fnc"], "did you mean fcn?"),
    (["--experiment", "bset"], "--experiment bset: choose one of default"),
    (["--dataset", "nowhere"], "'nowhere'"),
    (["--image-size", "8"], "--image-size 8x8: must be height and width"),
    (["--image-size", "axb"], "--image-size axb: give one side"),
    (["--image-size", "4096"], "--image-size 4096x4096: must be"),
    (["--epochs", "0"], "--epochs 0: must lie between"),
    (["--epochs", "many"], "--epochs many: give a whole number"),
    (["--lr", "-1"], "--lr -1: must lie between"),
    (["--flip", "2"], "--flip 2: must lie between 0 and 1"),
    (["--clip-norm", "-1"], "--clip-norm -1: must lie between"),
    (["--weight-cap", "0"], "--weight-cap 0: must lie between"),
    (["--save-every", "0"], "--save-every 0: must lie between"),
    (["--save-steps", "some"], "--save-steps some: give a whole number"),
    (["--cache", "disk"], "--cache disk: choose one of auto"),
    (["--devices", "0"], "--devices 0: must lie between"),
    (["--crop-scale", "1"], "--crop-scale 1: give two numbers"),
    (["--crop-scale", "0.9,0.1"], "--crop-scale 0.9,0.1: must be (min, max)"),
    (["--crop-scale", "0.5,1", "--scale-jitter", "1,2"], "combined with --scale-jitter"),
    (["--remat", "maybe"], "--remat maybe: give yes or no"),
    (["--no-remat", "yes"], "--remat yes: takes no value"),
    (["--learning-rate", "1"], "--learning-rate: there is no such flag"),
    (["--bach-size", "1"], "--bach-size: there is no such flag: did you mean --batch-size?"),
    (["--lr"], "--lr: expected one argument"),
    (["more"], "more: not expected here"),
    (["--process-id", "0"], "belong together"),
    (["--precision", "f16"], "--precision f16: choose one of f32"),
    (["--batch-size", "9"], "--batch-size 9: training has 8 images"),
    (["--overfit", "99"], "--overfit 99: the train split has 8"),
    (["--devices", "64"], "--devices 64: this machine has"),
    (["--resume"], "holds no run"),
]


@pytest.mark.parametrize(("flags", "words"), BAD_FLAGS, ids=lambda v: " ".join(v)[:24])
def test_bad_flags_are_one_line_and_exit_code_2(flags, words, tmp_path, capsys):
    assert _enter(run.main, *SMALL, "--workdir", tmp_path / "run", *flags) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert words in lines[0]


def test_a_folder_that_holds_another_run_is_refused(trained, capsys):
    assert _enter(run.main, *SMALL, "--epochs", "5", "--workdir", trained) == 2
    assert "holds another run" in capsys.readouterr().err


@pytest.mark.parametrize("main", [run.main, reproduce.main])
def test_a_run_that_was_stopped_says_how_to_resume(main, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise loop.Interrupted("stopped after step 1")

    monkeypatch.setattr(loop, "train", interrupted)
    argv = ["--dataset", "fake", "--image-size", "32", "--workdir", str(tmp_path / "run")]
    assert _enter(main, *argv) == 0
    assert re.match(
        "stopped after step 1; to resume:\n  python -m experiments.* --dataset fake",
        capsys.readouterr().out,
    )


def test_a_validation_split_without_any_label(tmp_path, monkeypatch, capsys):
    dataset = fakes.dataset()
    for example in dataset.splits["val"]:
        example.mask[:] = VOID
    monkeypatch.setattr(prepare, "load", lambda *_, **__: dataset)
    assert _enter(run.main, *SMALL, "--epochs", "1", "--workdir", tmp_path / "run") == 0
    assert re.search(r"1/1 +\d\S+ +- +- +- ", capsys.readouterr().err)
    assert json.loads((tmp_path / "run/result.json").read_text())["val"]["miou"] is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device here")
@pytest.mark.parametrize("text", ["short", "long" * 10_000])
def test_output_that_finds_the_disk_full(text):
    code = f"from experiments.cli import command; command.run(lambda _: print({text!r}))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    expected = "error: the output: the disk is full: make room, then repeat\n"
    assert (done.returncode, done.stderr) == (2, expected)


@pytest.mark.slow
def test_each_file_of_a_run_finds_the_disk_full_once(trained, tmp_path, monkeypatch, capsys):
    """Every time there is one line and exit code 2, and the repeated command goes on."""
    folder, refused = tmp_path / "run", []
    replace, require = os.replace, files.require

    def full_once(part, path):
        if path.parent == folder and path.name not in refused:
            refused.append(path.name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(part, path)

    def no_room_once(where, needed, what):
        second = "the second checkpoint"
        if (where / "1").exists() and second not in refused:
            refused.append(second)
            needed = 10**18
        require(where, needed, what)

    monkeypatch.setattr(os, "replace", full_once)
    monkeypatch.setattr(files, "require", no_room_once)
    argv = [*SMALL, "--epochs", "2", "--lr", "0.03", "--workdir", str(folder), "--quiet"]
    while _enter(run.main, *argv) == 2:
        # A page that cannot be refreshed while the run lives is a warning and ends nothing.
        lines = capsys.readouterr().err.splitlines()
        (line,) = [line for line in lines if not line.startswith("warning: ")]
        assert line.startswith(f"error: {folder}")
        assert re.search(
            r"the disk is too full \(\d.* free, .* needs \d.*\): make room, then", line
        )
    pages = {"curves.png", "gallery.png", "report.html"}  # also while the run lives
    assert [name for name in refused if name not in pages] == [
        "config.json", "data.json", "metrics.jsonl", "the second checkpoint", "eval-val.json",
        "eval-val.npz", "result.json",
    ]  # fmt: skip
    assert pages <= set(refused)
    results = [json.loads((f / "result.json").read_text()) for f in (trained, folder)]
    assert results[0]["val"] == results[1]["val"]
    assert not list(folder.glob("*.part"))


def test_a_finished_run_whose_data_have_gone(trained, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr(prepare, "load", lambda *_, **__: fakes.dataset(val=2))
    argv = [*SMALL, "--epochs", "2", "--lr", "0.03", "--workdir", folder, "--quiet"]
    assert _enter(run.main, *argv) == 0  # result and page are there
    (folder / "report.html").unlink()
    assert _enter(run.main, *argv) == 2
    assert "has no val image" in capsys.readouterr().err


def test_a_file_that_the_system_refuses_is_one_line(capsys):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "/some/file")

    assert _enter(refuse) == 2
    assert capsys.readouterr().err == "error: /some/file: Permission denied: check it\n"


def test_a_data_set_that_has_moved_is_asked_for(tmp_path):
    meta = {"config": {"data": {"dataset": str(tmp_path / "moved")}}}
    args = evaluate.parser().parse_args(["run"])
    words = f"{tmp_path}/moved: no such folder: name the data set's with --dataset DIR"
    with pytest.raises(InputError, match=words):
        evaluate.open_dataset(meta, args)


def test_no_archive_where_it_was_said_to_be(tmp_path, capsys):
    argv = ["--arch", "tiny", "--archives", tmp_path, "--data-dir", tmp_path / "data"]
    assert _enter(run.main, *argv, "--workdir", tmp_path / "run") == 2
    assert "VOCtrainval_06-Nov-2007.tar" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "argv", "words"),
    [
        (evaluate.main, ["nowhere"], "no checkpoint there"),
        (evaluate.main, ["nowhere", "--split", "all"], "--split all: choose"),
        (predict.main, ["nowhere", "none.jpg", "--out", "out"], "none.jpg"),
        (reproduce.main, ["--only", "resnet"], "--only 'resnet': choose one of baseline"),
        (reproduce.main, ["--seeds", "0,a"], "--seeds a: give a whole number"),
        (reproduce.main, ["--seeds", "-1"], "--seeds -1: must lie between"),
        (reproduce.main, ["--precision", "f16"], "--precision f16: choose one of f32"),
        (reproduce.main, ["--batch-size", "0"], "--batch-size 0: must lie between"),
        (reproduce.main, ["--epochs", "0"], "--epochs 0: must lie between"),
        (reproduce.main, ["--image-size", "9x9x9"], "--image-size 9x9x9: give one side"),
        (study.main, ["ablations"], "did you mean ablation?"),
        (
            study.main,
            ["ablation", "--arch", "vgg"],
            "--arch vgg: unknown network: choose one of fcn",
        ),
        (study.main, ["networks", "--batch-size", "0"], "--batch-size 0: must lie between"),
        (compare.main, ["a"], "the following arguments are required: --out"),
        (export.main, ["a", "--format", "pb", "--out", "b"], "--format pb: choose one of onnx"),
        (export.main, ["a", "--format", "onnx", "--out", "b", "--size", "x"], "--size x: give one"),
        (benchmark.main, ["--rounds", "10001"], "--rounds 10001: must lie between"),
        (benchmark.main, ["--arch", "vgg"], "--arch vgg: choose one of fcn"),
        (benchmark.main, ["--image-size", "1"], "--image-size 1x1: must be height"),
        (runs.main, ["--remove", "nowhere"], "nowhere: no run there"),
        (runs.main, ["nowhere"], "nowhere: no such folder"),
    ],
)
def test_other_commands_say_what_is_wrong(main, argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _enter(main, *argv) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("main", [run.main, evaluate.main, predict.main, reproduce.main])
def test_help_is_helpful(main, capsys):
    assert _enter(main, "--help") == 0
    assert len(capsys.readouterr().out) > 400


def test_the_seven_experiments_differ_as_the_paper_says():
    made = {name: make() for name, make in reproduce.paper.EXPERIMENTS.items()}
    assert list(made) == list(reproduce.paper.PAPER)
    for earlier, later in [
        ("baseline", "cosine"),
        ("cosine", "augmented"),
        ("augmented", "weighted"),
    ]:
        found = reproduce.configs.differences(made[earlier], made[later])
        groups = {line.split(".")[0].split(":")[0] for line in found}
        assert groups - {"experiment"} <= {"optim", "augment", "loss"}
        assert len(groups - {"experiment"}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    ["run --dataset shapes --workdir OUT", "evaluate NO-RUN", "predict NO-RUN IMAGE --out OUT",
     "predict --pretrained fcn_resnet50 IMAGE --out OUT", "compare NO-RUN --out OUT",
     "export NO-RUN --format onnx --out OUT", "reproduce --dataset shapes --workdir OUT",
     "study ablation --dataset shapes --workdir OUT", "benchmark --mode predict"],
)  # fmt: skip
def test_a_platform_that_is_not_there_is_one_line(words, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    words = words.replace("IMAGE", str(tmp_path / "image.png"))
    name, *flags = words.replace("OUT", str(tmp_path / "out")).split()
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *flags],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAX_PLATFORMS": "absent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: no absent device (Unable to initialize backend 'absent': ")
    assert line.endswith(
        "): set JAX_PLATFORMS=cpu to run on the CPU, or install JAX for the device"
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
