"""The numbers of the README and the pages come from result files, all of them."""

import json
from pathlib import Path

import chex
import numpy as np
from PIL import Image

from experiments import accuracy_figures, accuracy_tables, archived, paper, tables


def text():
    return "\n".join(path.read_text() for path in tables.PAGES)


def test_the_pages_agree_with_the_result_files():
    assert tables.main(["--check"]) == 0


def test_every_table_is_on_a_page():
    assert {name for _, name, _ in tables.MARKED.findall(text())} == set(tables.TABLES)


def test_every_result_file_is_used(monkeypatch):
    read, real = set(), Path.read_text

    def noted(path, *args, **kwargs):
        read.add(path.name)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", noted)
    for make in tables.TABLES.values():
        make()
    assert {path.name for path in tables.RESULTS.glob("*.json")} <= read


def test_a_changed_number_is_noticed():
    page = text()
    marked = tables.MARKED.search(page)
    assert marked
    changed = page[: marked.end(1)] + "| 0.9999 |\n" + page[marked.start(3) :]
    assert tables.rendered(changed) == page


def _run(experiment, seed, miou, accuracy, best, device="cpu", collapsed=False):
    """A run with the scores that the tables show; the IoU of 16 images is half the mIoU."""

    def scores(miou, accuracy):
        return {
            "miou": miou,
            "paper_iou": miou / 4,
            "paper_iou_batch16": miou / 2,
            "pixel_accuracy": accuracy,
            "mean_class_accuracy": accuracy / 2,
            "paper_pixel_accuracy": accuracy,
        }

    result = {
        "experiment": experiment,
        "arch": "fcn",
        "dataset": "towns",
        "seed": seed,
        "epochs_run": 10 + seed,
        "images_per_second": 5.0,
        "seconds": 60.0 + seed,
        "val": scores(miou, accuracy),
        "trivial": scores(0.04, 0.7),
        "perfect": scores(1.0, 1.0),
        "collapsed": collapsed,
        "environment": {"device": device, "cores": 2, "jax": "1", "flax": "2"},
    }
    names = ("paper_iou", "paper_iou_batch16", "paper_pixel_accuracy")
    return archived.Run(result, dict.fromkeys(names, best), None)


KNOWN = {"a": paper.PaperNumbers(0.05, 0.7), "released_b": paper.PaperNumbers(0.06, 0.8)}


def test_the_papers_table_by_hand():
    first = _run("a", 0, 0.25, 0.5, 0.6, collapsed=True)
    found = {"a": [first, _run("a", 1, 0.35, 0.5, 0.6, device="gpu")]}
    lines = accuracy_tables.paper_table(KNOWN, found).splitlines()
    std = "0.0707"  # of 0.25 and 0.35
    assert lines[2] == (
        f"| a (collapsed) | 0.0500 | 0.1500 ± 0.0354 | 0.6000 ± 0.0000 | 0.0750 ± 0.0177 "
        f"| 0.3000 ± {std} | 0.7000 | 0.5000 ± 0.0000 | 0.6000 ± 0.0000 | 0, 1 | 10, 11 |"
    )
    assert lines[3] == "| b (not run) | 0.0600 |  |  |  |  | 0.8000 |  |  |  |  |"
    assert lines[4] == "| all-background |  | 0.0200 |  | 0.0100 | 0.0400 |  | 0.7000 |  |  |  |"
    assert lines[5] == "| perfect |  | 0.5000 |  | 0.2500 | 1.0000 |  | 1.0000 |  |  |  |"
    assert lines[7:] == [
        "towns (val):",
        "",
        "- 1 run in 1 min 0 s on cpu, 2 cores; jax 1, flax 2",
        "- 1 run in 1 min 1 s on gpu, 2 cores; jax 1, flax 2",
    ]


def test_before_there_are_runs_the_papers_table_has_its_numbers_alone():
    lines = accuracy_tables.paper_table(KNOWN, {}).splitlines()
    assert lines[2] == "| a (not run) | 0.0500 |  |  |  |  | 0.7000 |  |  |  |  |"
    assert (len(lines), lines[-1]) == (6, "Not run yet.")


def _keep(folder, experiment, seed, right):
    """A kept run of four images of two classes; `right` of each one's four pixels are."""
    folder.mkdir(parents=True)
    run = _run(experiment, seed, right / 4, right / 4, 0.0)
    run.result["val"]["iou"] = {"sky": 1.0, "ground": right / 4}
    (folder / "result.json").write_text(json.dumps(run.result))
    (folder / "config.json").write_text('{"data": {"image_size": [96, 64]}}')
    scores = {1: 0.1, 2: 0.3, 3: 0.2}
    names = [*run.best_of_epochs, "miou"]
    epochs = [{"epoch": e, "val": dict.fromkeys(names, v)} for e, v in scores.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in epochs))
    counts = np.zeros((4, 3, 2), np.int64)  # [image, label (void last), prediction]
    counts[:, 0, 0], counts[:, 1, 1], counts[:, 1, 0] = 4, right, 4 - right
    (folder / "eval-val.json").write_text(json.dumps({"confusion": counts[:, :2].sum(0).tolist()}))
    np.savez(folder / "eval-val.npz", counts=counts, ids=np.array(list("wxyz")))


def test_kept_runs_are_found_by_experiment_and_seed(tmp_path):
    _keep(tmp_path / "voc2007/second", "weighted", 2, 3)
    _keep(tmp_path / "voc2007/first", "weighted", 1, 1)
    (tmp_path / "best-voc2007.json").write_text(json.dumps(_run("base_x", 0, 0.5, 0.5, 0).result))
    found = archived.runs(tmp_path)
    assert {name: [run.result["seed"] for run in runs] for name, runs in found.items()} == {
        "weighted": [1, 2],
        "best": [0],
    }
    assert found["weighted"][0].best_of_epochs["paper_iou"] == 0.3
    assert found["weighted"][0].folder == tmp_path / "voc2007/first"


def test_kept_runs_have_the_same_order_on_every_system(tmp_path):
    names = [f"run{i}" for i in range(8)]
    for name in names[::-1]:
        _keep(tmp_path / "voc2007" / name, name, 1, 3)
    assert list(archived.runs(tmp_path)) == names


def test_the_recipes_table_by_hand(tmp_path):
    _keep(tmp_path / "voc2007/theirs", "weighted", 1, 1)
    _keep(tmp_path / "voc2007/ours", "tuned_fcn", 1, 3)
    lines = accuracy_tables.tuned_table(archived.runs(tmp_path)).splitlines()
    # all images are alike, so every resample has the same IoUs: ours 4/5 and 3/4, theirs 4/7, 1/4
    difference = (4 / 5 + 3 / 4) / 2 - (4 / 7 + 1 / 4) / 2
    assert lines[2] == (
        "| fcn | 0.2500 | 1 | 11 | 0.7500 | 96x64 | 1 | 11 "
        f"| {difference:+.4f} | {difference:+.4f} to {difference:+.4f} |"
    )
    assert lines[3] == "| simplified_unet |  |  |  | not run |  |  |  |  |  |"
    assert lines[8] == "| background everywhere |  |  |  | 0.0400 |  |  |  |  |  |"
    assert lines[-1] == "- 2 runs in 2 min 2 s on cpu, 2 cores; jax 1, flax 2"


def test_the_table_of_views_by_hand(tmp_path):
    folder = tmp_path / "voc2007/ours"
    _keep(folder, "tuned_fcn", 1, 3)
    _keep(tmp_path / "voc2007/not-evaluated", "weighted", 1, 3)
    for name, flip, factors, miou in (
        ("", False, [1.0], 0.5),
        ("-2", True, [0.75, 1.0, 1.25], 0.7),
    ):
        scores = {"summary": {"miou": miou}, "trivial": {"miou": 0.04}}
        data = {**scores, "method": {"flip": flip, "factors": factors}}
        (folder / f"eval-val-native{name}.json").write_text(json.dumps(data))
    lines = accuracy_tables.views_table(archived.runs(tmp_path)).splitlines()
    assert lines[2:] == [
        "| tuned_fcn, seed 1 | 0.7500 | 0.5000 |  | 0.7000 |",
        "| background everywhere |  | 0.0400 | 0.0400 | 0.0400 |",
    ]
    other = accuracy_tables.views_table(archived.runs(tmp_path), "majority class").splitlines()
    assert other[-1] == "| majority class |  | 0.0400 | 0.0400 | 0.0400 |"


def test_the_table_of_another_data_set_by_hand(tmp_path):
    _keep(tmp_path / "camvid/better", "tuned_fcn", 1, 3)
    _keep(tmp_path / "camvid/again", "tuned_fcn", 2, 1)
    _keep(tmp_path / "camvid/worse", "weighted", 1, 1)
    _keep(tmp_path / "voc2007/other", "weighted", 5, 1)
    without_the_papers = '{"epoch": 1, "val": {"miou": 0.2}}\n'  # as there is no background
    (tmp_path / "camvid/worse/metrics.jsonl").write_text(without_the_papers)
    lines = accuracy_tables.recipes_table(archived.runs(tmp_path, "camvid")).splitlines()
    std = "0.5000 ± 0.3536"  # of 0.75 and 0.25
    assert lines[2:5] == [
        "| weighted | fcn | 96x64 | 11 | 1 | 0.2500 | 0.2500 | 0.1250 |",
        f"| tuned_fcn | fcn | 96x64 | 11, 12 | 1, 2 | {std} | {std} | 0.2500 ± 0.1768 |",
        "| all-background |  |  |  |  | 0.0400 | 0.7000 | 0.3500 |",
    ]
    assert lines[-1] == "- 3 runs in 3 min 4 s on cpu, 2 cores; jax 1, flax 2"
    assert accuracy_tables.recipes_table({}) == "Not run yet."
    again = tmp_path / "camvid/again/result.json"
    again.write_text(json.dumps({**json.loads(again.read_text()), "epochs_run": 11}))
    same = accuracy_tables.recipes_table(archived.runs(tmp_path, "camvid"))
    assert "| tuned_fcn | fcn | 96x64 | 11 | 1, 2 |" in same


def test_the_best_recipe_stands_beside_the_one_for_two_cores(tmp_path):
    _keep(tmp_path / "voc2007/laptop", "best_cpu", 1, 3)
    best, theirs = _run("best", 0, 0.5, 0.9, 0), _run("resnet50", 0, 0.25, 0.8, 0)
    found = {**archived.runs(tmp_path), "best": [best], "resnet50": [theirs]}
    native = {"summary": best.result["val"], "trivial": best.result["trivial"]}
    lines = accuracy_tables.best_table(found, native).splitlines()
    assert "| `best_cpu`, validated at 96x64 | 0.7500 | 0.7500 | 0.3750 |" in lines
    without = accuracy_tables.best_table({**found, "best_cpu": []}, native)
    assert "best_cpu" not in without
    twice = accuracy_tables.best_table(
        {**found, "best": [best, _run("best", 1, 0.7, 0.9, 0)]}, native
    )
    mean, made = (
        line for line in twice.splitlines() if "`best`" in line and "own size" not in line
    )
    assert "| 0.6000 ± 0.1414 | 0.9000 ± 0.0000 |" in mean
    assert "seed 0, 10 epochs" in made
    assert made.endswith("Mean and standard deviation of the seeds 0, 1.")


def test_a_networks_best_run_is_shown_with_its_size_and_length(tmp_path):
    _keep(tmp_path / "voc2007/shorter", "tuned_fcn", 1, 3)
    _keep(tmp_path / "voc2007/longer", "tuned_fcn", 2, 1)
    (tmp_path / "best-voc2007.json").write_text(
        json.dumps({**_run("base_x", 0, 0.5, 0.5, 0).result, "arch": "deeplabv3_resnet50"})
    )
    assert accuracy_tables.measured_miou(archived.runs(tmp_path)) == {
        "fcn": "0.750 (`tuned_fcn`, 96x64, 11 epochs)",
        "deeplabv3_resnet50": "0.500 (`best`, 320x320, 10 epochs)",
    }


def test_the_figures_show_the_kept_runs(tmp_path):
    _keep(tmp_path / "voc2007/theirs", "weighted", 1, 1)
    _keep(tmp_path / "voc2007/ours", "tuned_fcn", 1, 3)
    found = archived.runs(tmp_path)
    runs = [*found["weighted"], *found["tuned_fcn"]]
    [axes] = accuracy_figures.curves(runs).axes
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.lines}
    chex.assert_trees_all_close(lines["tuned_fcn, seed 1"], np.array([0.1, 0.3, 0.2]))
    chex.assert_trees_all_close(lines["background everywhere"], np.array([0.04, 0.04]))
    accuracy_figures.draw(runs, tmp_path)
    for name in ("curves", "confusion"):
        with Image.open(tmp_path / f"{name}-voc2007.png") as image:
            assert image.format == "PNG"
    [axes] = accuracy_figures.confusion(runs[1]).axes
    assert [text.get_text() for text in axes.texts] == ["100", "25", "75"]  # in % of a row


def test_without_the_counts_a_difference_has_no_interval():
    found = {"tuned_fcn": [_run("tuned_fcn", 0, 0.5, 0.8, 0)]}
    found["weighted"] = [_run("weighted", seed, 0.1 * seed, 0.8, 0) for seed in (1, 2)]
    assert "| fcn | 0.1500 ± 0.0707 | 1, 2 | 11, 12 | 0.5000 |" in (
        table := accuracy_tables.tuned_table(found)
    )
    assert "| +0.3500 |  |" in table


def test_a_network_without_a_recipe_of_the_papers_has_no_difference():
    found = {"best": [_run("best", 0, 0.5, 0.8, 0)]}
    table = accuracy_tables.tuned_table(found)
    assert "| deeplabv3_resnet50 |  |  |  | 0.5000 | 320x320 | 0 | 10 |  |  |" in table


def test_result_files_name_no_folder_of_a_machine():
    def texts(data):
        """All the text in a JSON tree."""
        if isinstance(data, dict | list):
            for child in data.values() if isinstance(data, dict) else data:
                yield from texts(child)
        elif isinstance(data, str):
            yield data

    for path in tables.RESULTS.rglob("*.json"):
        words = " ".join(texts(json.loads(path.read_text()))).split()
        assert not [word for word in words if Path(word).is_absolute()], path
