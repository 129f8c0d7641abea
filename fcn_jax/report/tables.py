"""Scores as tables: for the terminal, for Markdown, for JSON; the pages use the same rows."""

import html
import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fcn_jax.runtime.text import DASH, duration, is_number, number, plain

if TYPE_CHECKING:
    import numpy as np

METRICS = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "paper_iou": "paper's IoU, per image",
    "paper_iou_batch16": "paper's IoU, per 16 images",
    "paper_pixel_accuracy": "paper's pixel accuracy",
    "loss": "loss",
}
"""Every score of a summary, in reading order, with the name that a reader sees."""

COMPARED = tuple(key for key in METRICS if key != "loss")
"""The scores of a comparison; losses of different settings cannot be compared."""

BY_DEFINITION = dict.fromkeys((*COMPARED[:4], "paper_pixel_accuracy"), 1.0)
"""What a perfect prediction scores on any data. The paper's IoUs depend on the masks instead:
absent classes count as 0 there, so their ceilings have to be measured."""

PAPER_NAMES = {
    "paper_iou": "iou",
    "paper_iou_batch16": "iou",
    "paper_pixel_accuracy": "pixel_accuracy",
}
"""Which printed number of the paper stands beside which of our scores. It does not say which of
the two IoUs it printed, so its number stands beside both; a standard mIoU it never gives."""


COLLAPSED = (
    "this network predicts one class everywhere: its score is that of the constant prediction "
    "beside it"
)


def trivial_name(result: Mapping[str, Any]) -> str:
    """What the constant prediction is called: `all-background`, or `majority class`."""
    return plain(result.get("trivial_name") or "all-background")


def paper_metrics_apply(result: Mapping[str, Any]) -> bool:
    """Whether the paper's own variants of the scores mean anything: on its data set only."""
    return result.get("dataset") == "voc2007" or bool(result.get("paper"))


def perfect_scores(result: Mapping[str, Any]) -> dict[str, Any]:
    """A perfect prediction's scores: measured where the result has them, else by definition."""
    measured = result.get("perfect") or {}
    return {**BY_DEFINITION, **{k: v for k, v in measured.items() if k != "loss"}}


def evaluated_on(result: Mapping[str, Any], split: str) -> str:
    """The split's name; of a run that was not validated on val, what it was validated on."""
    images, fraction = result.get("overfit"), result.get("split_train")
    if images and split == "val":
        return f"the {images} images it was trained on"
    return f"{1 - fraction:.0%} of train, held out" if fraction and split == "val" else split


def _heading(result: Mapping[str, Any], split: str) -> str:
    what = f"{result.get('arch', 'network')} on {result.get('dataset', 'data')}"
    parts = [plain(f"{what} ({evaluated_on(result, split)})")]
    if is_number(result.get("best_epoch")):
        parts.append(f"best epoch {result['best_epoch']} of {result.get('epochs_run', '?')}")
    if is_number(result.get("seed")):
        parts.append(f"seed {result['seed']}")
    return ", ".join(parts)


def score_rows(result: Mapping[str, Any], split: str = "val") -> list[tuple[str, Any, Any, Any]]:
    """(name, the network's, the constant prediction's, perfect) for every score of the result.

    The paper's variants are left out where the data is not the paper's.
    """
    scores, trivial = result[split], result.get("trivial") or {}
    perfect, paper = perfect_scores(result), paper_metrics_apply(result)
    return [
        (name, scores.get(key), trivial.get(key), perfect.get(key))
        for key, name in METRICS.items()
        if key in scores and (paper or key not in PAPER_NAMES)
    ]


class ClassRow(NamedTuple):
    """The scores of one class; None where they are not known or the class does not occur."""

    name: str
    iou: float | None
    accuracy: float | None
    dice: float | None
    pixels: int | None
    """Of the truth."""
    trivial: float | None
    """The constant prediction's IoU."""


def class_rows(
    result: Mapping[str, Any],
    class_names: Sequence[str],
    split: str = "val",
    confusion: "np.ndarray | None" = None,
) -> list[ClassRow]:
    """One row a class; accuracy, Dice and pixels come from the confusion matrix [K, K]."""
    iou = result[split].get("iou") or {}
    trivial = (result.get("trivial") or {}).get("iou") or {}
    if confusion is None:
        none = (None, None, None)
        return [ClassRow(n, iou.get(n), *none, trivial.get(n)) for n in class_names]
    matrix = [[int(count) for count in row] for row in confusion[: len(class_names)]]
    rows = []
    for i, name in enumerate(class_names):
        hit, truth, predicted = matrix[i][i], sum(matrix[i]), sum(row[i] for row in matrix)
        accuracy = hit / truth if truth else None
        dice = 2 * hit / (truth + predicted) if truth + predicted else None
        rows.append(ClassRow(name, iou.get(name), accuracy, dice, truth, trivial.get(name)))
    return rows


def result_table(result: Mapping[str, Any], class_names: Sequence[str], split: str = "val") -> str:
    """The result for a terminal: the network, the constant prediction, perfect; then each class.

    Absent classes show a dash. A collapsed network is called so in words.
    """
    names = [plain(name, 30) for name in class_names]
    width = max([len(name) for name in (*METRICS.values(), *names)])
    trivial = trivial_name(result)

    def line(name: str, *values: Any) -> str:
        texts = [v if isinstance(v, str) else number(v, missing="-") for v in values]
        return f"{name:<{width}}{''.join(f'{text:>16}' for text in texts)}".rstrip()

    lines = [_heading(result, split), line("", "model", trivial, "perfect")]
    lines += [line(*row) for row in score_rows(result, split)]
    lines += ["", line("IoU of each class", "model", trivial)]
    rows = class_rows(result, class_names, split)
    lines += [line(name, row.iou, row.trivial) for name, row in zip(names, rows, strict=True)]
    if result.get("collapsed"):
        lines += ["", COLLAPSED]
    return "\n".join(lines)


def mean_and_std(values: Sequence[Any]) -> dict[str, Any]:
    """Mean, sample standard deviation (None below two) and number of the values that exist."""
    known = [float(v) for v in values if is_number(v)]
    return {
        "mean": statistics.fmean(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
        "n": len(known),
    }


def mean_std_text(score: Mapping[str, Any], digits: int = 4) -> str:
    """`0.4123 ± 0.0031`, without a std for a single seed; a dash for no number."""
    text = number(score["mean"], digits)
    return text if score["sd"] is None else f"{text} ± {number(score['sd'], digits)}"


def compare_rows(runs: Sequence[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """One row a run under one score: paper, mean and std over the seeds, trivial, perfect.

    A run is {"name", "result": [a result a seed], "paper": {"iou", "pixel_accuracy"} or absent}.
    """
    rows = []
    for run in runs:
        results = run["result"]
        first = results[0]
        rows.append(
            {
                "name": run["name"],
                "paper": (run.get("paper") or {}).get(PAPER_NAMES.get(metric, "")),
                **mean_and_std([r["val"].get(metric) for r in results]),
                "trivial": (first.get("trivial") or {}).get(metric),
                "perfect": perfect_scores(first).get(metric),
                "collapsed": sum(bool(r.get("collapsed")) for r in results),
                "seeds": len(results),
            }
        )
    return rows


def paper_scores_shown(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the paper's variants of the scores stand in the comparison of these runs."""
    results = [result for run in runs for result in run["result"]]
    return any(map(paper_metrics_apply, results)) or any(run.get("paper") for run in runs)


def shown_metrics(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The scores that at least one run has, the paper's variants on the paper's data only."""
    paper = paper_scores_shown(runs)
    return [
        metric
        for metric in COMPARED
        if (paper or metric not in PAPER_NAMES)
        and any(r["val"].get(metric) is not None for run in runs for r in run["result"])
    ]


class Column(NamedTuple):
    """One column of the score table."""

    title: str
    cells: Sequence[Mapping[str, Any]]
    """One a run, as `mean_and_std` returns them."""
    trivial: Any
    perfect: Any


def score_columns(runs: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The score table of a comparison: a row a run, then the constant prediction and perfection.

    A number that the paper prints stands in a column before ours.
    """
    columns, printed = [], set()
    for metric in shown_metrics(runs):
        rows = compare_rows(runs, metric)
        theirs = PAPER_NAMES.get(metric)
        if theirs not in printed and any(is_number(row["paper"]) for row in rows):
            printed.add(theirs)
            title = "IoU printed in the paper" if theirs == "iou" else "accuracy printed there"
            columns.append(Column(title, [mean_and_std([r["paper"]]) for r in rows], None, None))
        columns.append(Column(METRICS[metric], rows, rows[0]["trivial"], rows[0]["perfect"]))
    return columns


def markdown_cell(text: Any) -> str:
    """A foreign string in a Markdown table: no cell breaks, no markup."""
    escaped = html.escape(plain(text), quote=False)
    return "".join("\\" + c if c in "\\|`*_[]~" else c for c in escaped)


SHORT = ("miou", "pixel_accuracy", "mean_class_accuracy")
"""The scores of a comparison on a terminal."""


def comparison_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """The comparison for a terminal: a line a run, and the constant prediction's."""
    columns = [compare_rows(runs, metric) for metric in SHORT]
    names = [plain(run["name"]) for run in runs]
    lines = [("", *(METRICS[metric] for metric in SHORT))]
    lines += [
        (name, *map(mean_std_text, cells))
        for name, cells in zip(names, zip(*columns, strict=True), strict=True)
    ]
    trivial = trivial_name(runs[0]["result"][0])
    lines.append((trivial, *(number(column[0]["trivial"]) for column in columns)))
    width = max(len(line[0]) for line in lines)
    return "\n".join(
        f"{name:<{width}}" + "".join(f"{cell:>21}" for cell in cells) for name, *cells in lines
    )


def table_markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """The comparison as Markdown: one table of all scores, then seeds and time of every run."""
    columns = score_columns(runs)
    collapsed = [any(r.get("collapsed") for r in run["result"]) for run in runs]
    rows = [("", *(column.title for column in columns))]
    for i, run in enumerate(runs):
        name = markdown_cell(run["name"]) + (" (collapsed)" if collapsed[i] else "")
        rows.append((name, *(mean_std_text(column.cells[i]) for column in columns)))
    first = runs[0]["result"][0]
    rows.append((trivial_name(first), *(number(column.trivial) for column in columns)))
    rows.append(("perfect", *(number(column.perfect) for column in columns)))
    head = ("run", "network", "seeds", "epochs", "time a run", "images/s")
    facts = [[markdown_cell(value) for value in fact.values()] for fact in run_facts(runs)]
    blocks = [markdown(rows), markdown([head, *facts])]
    if any(collapsed):
        blocks.append(f"(collapsed) {COLLAPSED}.")
    return "\n\n".join(blocks) + "\n"


def markdown(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """A Markdown table, the first row its header; columns are set right, but for those `left`."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    rule = ("---" if i in left else "--:" for i in range(len(rows[0])))
    lines.insert(1, f"|{'|'.join(rule)}|")
    return "\n".join(lines)


def run_facts(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What a reader must know of each run beside its scores: network, seeds, epochs, time, rate."""
    return [
        {
            "name": str(run["name"]),
            "arch": str(run["result"][0].get("arch", DASH)),
            "seeds": ", ".join(str(r.get("seed", DASH)) for r in run["result"]),
            "epochs": ", ".join(str(r.get("epochs_run", DASH)) for r in run["result"]),
            "time": duration(mean_and_std([r.get("seconds") for r in run["result"]])["mean"]),
            "rate": number(
                mean_and_std([r.get("images_per_second") for r in run["result"]])["mean"], 1
            ),
        }
        for run in runs
    ]


def differing_settings(
    configs: Sequence[Mapping[str, str]],
) -> list[tuple[str, list[str]]]:
    """The settings in which runs differ: (dotted name, its value in each run).

    Each config maps dotted names to texts, as `text.flatten` makes them.
    """
    names = dict.fromkeys(name for config in configs for name in config)
    rows = [(name, [config.get(name, DASH) for config in configs]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _finite(value: Any) -> Any:
    """The same tree with null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not is_number(value) else value


def table_json(
    runs: Sequence[Mapping[str, Any]],
    *,
    pairs: Sequence[Mapping[str, Any]] = (),
    command: str = "",
) -> str:
    """The comparison as JSON, complete enough to write any of its tables again.

    {"command", "metrics": {score: rows of `compare_rows`}, "runs": facts, "pairs": tests as
    `write_comparison` takes them, "results": {run: a result a seed}}.
    """
    present = [m for m in METRICS if any(m in r["val"] for run in runs for r in run["result"])]
    content = {
        "command": command,
        "metrics": {metric: compare_rows(runs, metric) for metric in present},
        "runs": run_facts(runs),
        "pairs": list(pairs),
        "results": {str(run["name"]): run["result"] for run in runs},
    }
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"
