import json
import math

import numpy as np
import pytest

from fcn_jax.report import confusions, tables
from tests.report.conftest import make_result

NAMES = ("background", "cat", "dog")


def cells(text, name):
    """The values of the row of this name."""
    (line,) = [line for line in text.splitlines() if line.startswith(name + " ")]
    return line[len(name) :].split()


def run(result, name="a", **changes):
    return {"name": name, "result": [result], **changes}


def seeds(result, *mious):
    return [{**result, "seed": i, "val": {**result["val"], "miou": m}} for i, m in enumerate(mious)]


def test_result_table_lays_the_model_beside_all_background_and_perfect(result):
    text = tables.result_table(result, NAMES)
    assert cells(text, "mIoU") == ["0.5250", "0.1000", "1.0000"]
    assert cells(text, "paper's IoU, per image") == ["0.0500", "0.0500", "0.1245"]
    assert cells(text, "loss") == ["1.2500", "1.2500", "-"]
    assert text.splitlines()[1].split() == ["model", "all-background", "perfect"]


def test_result_table_shows_classes_and_a_dash_for_the_absent(result):
    text = tables.result_table(result, NAMES)
    assert cells(text, "cat") == ["0.2500", "0.0000"]
    assert cells(text, "dog") == ["-", "-"]


def test_unmeasured_ceiling_is_a_dash_not_a_guess(result):
    del result["perfect"]
    assert cells(tables.result_table(result, NAMES), "paper's IoU, per image")[2] == "-"


def test_without_a_background_the_constant_prediction_is_the_majority_class(result):
    text = tables.result_table({**result, "trivial_name": "majority class"}, NAMES)
    assert text.splitlines()[1].split() == ["model", "majority", "class", "perfect"]
    assert "all-background" not in text


def test_collapsed_network_is_called_so(result):
    assert tables.COLLAPSED not in tables.result_table(result, NAMES)
    result["collapsed"] = True
    assert tables.result_table(result, NAMES).endswith(
        "this network predicts one class everywhere: its score is that of the constant prediction "
        "beside it"
    )


def test_other_splits_have_a_table_too(result):
    result["test"] = {**result["val"], "miou": 0.333}
    text = tables.result_table(result, NAMES, "test")
    assert "(test)" in text
    assert cells(text, "mIoU")[0] == "0.3330"


def test_result_table_is_plain_ascii_and_safe_in_a_terminal(result):
    text = tables.result_table(result, ("background", "\x1b[31mred", "dog"))
    assert "\x1b" not in text
    assert tables.result_table(result, NAMES).isascii()


def test_mean_and_sample_deviation_over_seeds():
    score = tables.mean_and_std([0.2, 0.4, None, math.nan])
    assert score == {"mean": pytest.approx(0.3), "sd": pytest.approx(math.sqrt(0.02)), "n": 2}
    assert tables.mean_std_text(score) == "0.3000 ± 0.1414"
    assert tables.mean_std_text(tables.mean_and_std([0.2])) == "0.2000"
    assert tables.mean_std_text(tables.mean_and_std([None])) == "\N{EN DASH}"


def test_the_papers_iou_stands_beside_its_own_variants_only(result):
    runs = [run(result, paper={"iou": 0.157, "pixel_accuracy": 0.824})]
    papers = {m: tables.compare_rows(runs, m)[0]["paper"] for m in tables.COMPARED}
    assert {m: p for m, p in papers.items() if p is not None} == {
        "paper_iou": 0.157,
        "paper_iou_batch16": 0.157,
        "paper_pixel_accuracy": 0.824,
    }


def test_the_papers_variants_are_shown_on_its_data_only(result):
    other = {**result, "dataset": "/data/own"}
    assert "paper" in tables.result_table(result, NAMES)
    assert "paper" not in tables.result_table(other, NAMES)
    assert "paper" not in tables.table_markdown([run(other)])
    assert "paper" in tables.table_markdown([run(other, paper={"iou": 0.1})])


def test_scores_of_a_class_by_hand(result):
    # Truth in rows: background 90 right, 10 as cat; cat 30 as background, 70 right; no dog.
    confusion = np.array([[90, 10, 0], [30, 70, 0], [0, 0, 0], [5, 5, 0]])
    background, cat, dog = tables.class_rows(result, NAMES, confusion=confusion)
    assert (background.accuracy, cat.accuracy) == (0.9, 0.7)
    assert background.dice == pytest.approx(2 * 90 / (100 + 120))
    assert cat.dice == pytest.approx(2 * 70 / (100 + 80))
    assert (background.pixels, dog.pixels) == (100, 0)
    assert (dog.accuracy, dog.dice, dog.iou) == (None, None, None)
    assert (cat.iou, cat.trivial) == (0.25, 0.0)


def test_rows_are_normalised_void_left_out_and_absent_classes_unknown():
    counts = np.array([[3, 1, 0], [0, 0, 0], [1, 1, 2], [9, 9, 9]])
    expected = [[0.75, 0.25, 0], [math.nan] * 3, [0.25, 0.25, 0.5]]
    np.testing.assert_allclose(confusions.row_normalised(counts), expected)


def test_largest_confusions_come_first():
    counts = np.array([[6, 4, 0], [0, 0, 0], [1, 1, 8]])
    pairs = confusions.largest(counts, ["a", "b", "c"], most=2)
    assert pairs == [("a", "b", 0.4), ("c", "a", 0.1)]
    assert confusions.largest(np.eye(3), ["a", "b", "c"]) == []


def test_settings_that_differ():
    configs = [{"lr": "0.1", "seed": "0"}, {"lr": "0.2", "seed": "0", "new": "on"}]
    dash = "\N{EN DASH}"
    assert tables.differing_settings(configs) == [("lr", ["0.1", "0.2"]), ("new", [dash, "on"])]
    assert tables.differing_settings(configs[:1]) == []


def test_measured_ceilings_come_before_those_by_definition(result):
    assert tables.compare_rows([run(result)], "paper_iou")[0]["perfect"] == 0.1245
    assert tables.compare_rows([run(result)], "miou")[0]["perfect"] == 1.0


def lines_of(text):
    return [[c.strip() for c in line.strip("|").split(" | ")] for line in text.splitlines() if line]


def test_markdown_has_one_table_of_scores_with_mean_and_std(result):
    numbers = {"iou": 0.157, "pixel_accuracy": 0.824}
    runs = [run(result, paper=numbers), {"name": "b", "result": seeds(result, 0.2, 0.4)}]
    lines = lines_of(tables.table_markdown(runs))
    head, a, b, trivial, perfect = lines[0], *lines[2:6]
    assert head == [
        "", "mIoU", "pixel accuracy", "mean class accuracy", "frequency-weighted IoU",
        "IoU printed in the paper", "paper's IoU, per image", "paper's IoU, per 16 images",
        "accuracy printed there", "paper's pixel accuracy",
    ]  # fmt: skip
    assert (a[0], a[1], a[5], a[8]) == ("a", "0.5250", "0.1570", "0.8240")
    assert (b[0], b[1], b[5]) == ("b", "0.3000 ± 0.1414", "\N{EN DASH}")
    assert trivial[:2] == ["all-background", "0.1000"]
    assert perfect[:2] == ["perfect", "1.0000"]
    assert lines[-1] == ["b", "fcn", "0, 1", "3, 3", "2 min 5 s", "42.0"]


def test_markdown_marks_the_collapsed_and_says_what_it_means(result):
    assert "collapsed" not in tables.table_markdown([run(result)])
    text = tables.table_markdown([run({**result, "collapsed": True})])
    assert "| a (collapsed) | 0.5250 |" in text
    assert tables.COLLAPSED in text


def test_markdown_names_cannot_break_the_table(result):
    text = tables.table_markdown([run(result, name="a|b\n<img src=x>_*")])
    assert "<img" not in text
    rows = [line for line in text.splitlines() if "img" in line]
    assert rows
    assert all(line.startswith("| a\\|b\ufffd&lt;img src=x&gt;\\_\\*") for line in rows)


def test_scores_that_no_run_has_are_left_out(result):
    for key in ("val", "trivial"):
        result[key].pop("paper_iou_batch16")
    shown = tables.shown_metrics([run(result)])
    assert "paper_iou_batch16" not in shown
    assert "paper_iou" in shown


def test_json_is_strict_and_complete(result):
    result["val"]["loss"] = math.nan
    content = json.loads(tables.table_json([run(result)]), parse_constant=pytest.fail)
    row = content["metrics"]["miou"][0]
    assert (row["name"], row["mean"], row["trivial"], row["perfect"]) == ("a", 0.525, 0.1, 1.0)
    assert content["results"]["a"][0]["val"]["loss"] is None
    assert content["runs"][0]["seeds"] == "0"


def test_a_run_evaluated_on_its_training_images_says_so(result):
    heading = tables.result_table({**result, "overfit": 24}, NAMES).splitlines()[0]
    assert "(the 24 images it was trained on)" in heading
    assert "(val)" in tables.result_table({**result, "overfit": 0}, NAMES).splitlines()[0]


def test_a_comparison_fits_a_terminal():
    runs = [
        {"name": "plain", "result": [make_result(0.5)]},
        {"name": "two seeds", "result": [make_result(0.25), make_result(0.75, seed=1)]},
    ]
    lines = tables.comparison_table(runs).splitlines()
    assert lines[0].split("  ")[-1] == "mean class accuracy"
    assert lines[1].split() == ["plain", "0.5000", "0.7500", "0.5000"]
    # The sample standard deviation of 0.25 and 0.75 is 0.5 / sqrt(2).
    assert lines[2].split()[:5] == ["two", "seeds", "0.5000", "±", "0.3536"]
    assert lines[3].split() == ["all-background", "0.1000", "0.7500", "0.5000"]
    assert max(map(len, lines)) <= 80
