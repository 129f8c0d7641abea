import json
import math

import pytest

from fcn_jax.report import tables

NAMES = ("background", "cat", "dog")


def cells(text, name):
    """The values of the row of this name."""
    (line,) = [line for line in text.splitlines() if line.startswith(name + " ")]
    return line[len(name) :].split()


def run(result, name="a", **changes):
    return {"name": name, "result": [result], **changes}


def seeds(result, *mious):
    return [{**result, "seed": i, "val": {**result["val"], "miou": m}} for i, m in enumerate(mious)]


def test_result_table_lays_ours_beside_all_background_and_perfect(result):
    text = tables.result_table(result, NAMES)
    assert cells(text, "mIoU") == ["0.5250", "0.1000", "1.0000"]
    assert cells(text, "paper's IoU, per image") == ["0.0500", "0.0500", "0.1245"]
    assert cells(text, "loss") == ["1.2500", "1.2500", "-"]
    assert text.splitlines()[1].split() == ["ours", "all-background", "perfect"]


def test_result_table_shows_classes_and_a_dash_for_the_absent(result):
    text = tables.result_table(result, NAMES)
    assert cells(text, "cat") == ["0.2500", "0.0000"]
    assert cells(text, "dog") == ["-", "-"]


def test_unmeasured_ceiling_is_a_dash_not_a_guess(result):
    del result["perfect"]
    assert cells(tables.result_table(result, NAMES), "paper's IoU, per image")[2] == "-"


def test_without_a_background_the_constant_prediction_is_the_majority_class(result):
    text = tables.result_table({**result, "trivial_name": "majority class"}, NAMES)
    assert text.splitlines()[1].split() == ["ours", "majority", "class", "perfect"]
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
    assert papers == {
        "miou": None,
        "paper_iou": 0.157,
        "paper_iou_batch16": 0.157,
        "pixel_accuracy": None,
        "paper_pixel_accuracy": 0.824,
    }


def test_measured_ceilings_are_taken_from_the_argument_before_the_result(result):
    rows = tables.compare_rows([run(result)], "paper_iou", {"paper_iou": 0.5})
    assert rows[0]["perfect"] == 0.5
    assert tables.compare_rows([run(result)], "paper_iou")[0]["perfect"] == 0.1245
    assert tables.compare_rows([run(result)], "miou")[0]["perfect"] == 1.0


def test_markdown_has_a_table_a_score_with_mean_and_sd(result):
    numbers = {"iou": 0.157, "pixel_accuracy": 0.824}
    runs = [run(result, paper=numbers), {"name": "b", "result": seeds(result, 0.2, 0.4)}]
    text = tables.table_markdown(runs)
    assert "| a | \N{EN DASH} | 0.5250 | 0.1000 | 1.0000 |" in text
    assert "| a | 0.1570 | " in text
    assert "0.3000 ± 0.1414" in text
    without = tables.table_markdown([run(result)])
    assert "| a | 0.5250 | 0.1000 | 1.0000 |" in without
    assert "paper |" not in without
    assert [line for line in text.splitlines() if line.startswith("**")] == [
        f"**{tables.METRICS[m]}**" for m in tables.COMPARED
    ]
    assert "| b | fcn | 0, 1 | 3, 3 | 2 min 5 s | 42.0 |" in text


def test_markdown_marks_the_collapsed_and_says_what_it_means(result):
    assert "collapsed" not in tables.table_markdown([run(result)])
    text = tables.table_markdown([run({**result, "collapsed": True})])
    assert "0.5250 (collapsed)" in text
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
    assert "paper_iou_batch16" not in tables.shown_metrics([run(result)])


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
