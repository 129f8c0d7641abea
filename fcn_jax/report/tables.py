"""Scores as tables: for the terminal, for Markdown, for JSON; the pages draw from the same rows."""

import html
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fcn_jax.report.text import DASH, duration, is_number, number, plain

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

COMPARED = (
    "miou",
    "paper_iou",
    "paper_iou_batch16",
    "pixel_accuracy",
    "paper_pixel_accuracy",
)
"""The scores that a comparison lays side by side."""

BY_DEFINITION = {
    "miou": 1.0,
    "pixel_accuracy": 1.0,
    "mean_class_accuracy": 1.0,
    "frequency_weighted_iou": 1.0,
    "paper_pixel_accuracy": 1.0,
}
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


def perfect_scores(
    result: Mapping[str, Any], perfect: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A perfect prediction's scores: by definition, or measured (argument first, then result)."""
    measured = {**(result.get("perfect") or {}), **(perfect or {})}
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
    """(name, ours, constant prediction, perfect) for every score that the result has."""
    ours, trivial = result[split], result.get("trivial") or {}
    perfect = perfect_scores(result)
    return [
        (name, ours.get(key), trivial.get(key), perfect.get(key))
        for key, name in METRICS.items()
        if key in ours
    ]


def class_rows(
    result: Mapping[str, Any], class_names: Sequence[str], split: str = "val"
) -> list[tuple[str, Any, Any]]:
    """(class, our IoU, the constant prediction's IoU), None where the class is absent."""
    ours = result[split].get("iou") or {}
    trivial = (result.get("trivial") or {}).get("iou") or {}
    return [(name, ours.get(name), trivial.get(name)) for name in class_names]


def result_table(result: Mapping[str, Any], class_names: Sequence[str], split: str = "val") -> str:
    """The result for a terminal: ours, constant prediction, perfect; then the IoU of every class.

    Absent classes show a dash. A collapsed network is called so in words.
    """
    names = [plain(name, 30) for name in class_names]
    width = max([len(name) for name in (*METRICS.values(), *names)])

    def line(name: str, *values: Any) -> str:
        cells = "".join(f"{number(value, missing='-'):>16}" for value in values)
        return f"{name:<{width}}{cells}".rstrip()

    floor = trivial_name(result)
    header = f"{'':<{width}}{'ours':>16}{floor:>16}{'perfect':>16}"
    lines = [_heading(result, split), header]
    lines += [line(*row) for row in score_rows(result, split)]
    lines += ["", f"{'IoU of each class':<{width}}{'ours':>16}{floor:>16}"]
    rows = class_rows(result, class_names, split)
    lines += [line(name, *row[1:]) for name, row in zip(names, rows, strict=True)]
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
    """`0.4123 ± 0.0031`, without the sd where there is but one seed; a dash where there is none."""
    text = number(score["mean"], digits)
    return text if score["sd"] is None else f"{text} ± {number(score['sd'], digits)}"


def paper_value(paper: Mapping[str, Any] | None, metric: str) -> Any:
    """The paper's number to stand beside one of our scores, or None where it has none."""
    return (paper or {}).get(PAPER_NAMES.get(metric, ""))


def compare_rows(
    runs: Sequence[Mapping[str, Any]], metric: str, perfect: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One row a run under one score: paper, ours over the seeds, constant prediction, perfect.

    A run is {"name", "result": [a result a seed], "paper": {"iou", "pixel_accuracy"} or absent}.
    """
    rows = []
    for run in runs:
        results = run["result"]
        first = results[0]
        rows.append(
            {
                "name": run["name"],
                "paper": paper_value(run.get("paper"), metric),
                **mean_and_std([r["val"].get(metric) for r in results]),
                "trivial": (first.get("trivial") or {}).get(metric),
                "perfect": perfect_scores(first, perfect).get(metric),
                "collapsed": sum(bool(r.get("collapsed")) for r in results),
                "seeds": len(results),
            }
        )
    return rows


def shown_metrics(
    runs: Sequence[Mapping[str, Any]], metrics: Sequence[str] = COMPARED
) -> list[str]:
    """The scores among `metrics` that at least one run has."""
    return [
        m for m in metrics if any(r["val"].get(m) is not None for u in runs for r in u["result"])
    ]


def _cell(text: str) -> str:
    """A foreign string in a Markdown table: no cell breaks, no markup."""
    escaped = html.escape(plain(text), quote=False)
    return "".join("\\" + c if c in "\\|`*_[]~" else c for c in escaped)


def table_markdown(
    runs: Sequence[Mapping[str, Any]],
    *,
    perfect: Mapping[str, Any] | None = None,
    metrics: Sequence[str] = COMPARED,
) -> str:
    """The comparison as Markdown: a table a score, then the seeds and the time of every run.

    `perfect` holds measured scores of a perfect prediction (`paper_iou`, `paper_iou_batch16`).
    """
    blocks = []
    printed = any(run.get("paper") for run in runs)
    floor = trivial_name(runs[0]["result"][0]) if runs else "all-background"
    titles = ["experiment", *(["paper"] if printed else []), "ours", floor, "perfect"]
    head = "| " + " | ".join(titles) + " |\n|---" + "|--:" * (len(titles) - 1) + "|"
    for metric in shown_metrics(runs, metrics):
        lines = [f"**{METRICS[metric]}**\n", head]
        for row in compare_rows(runs, metric, perfect):
            mark = " (collapsed)" if row["collapsed"] else ""
            cells = [number(row["paper"])] if printed else []
            cells += [mean_std_text(row) + mark, number(row["trivial"]), number(row["perfect"])]
            lines.append(f"| {_cell(row['name'])} | " + " | ".join(cells) + " |")
        blocks.append("\n".join(lines))
    lines = ["| experiment | network | seeds | epochs | time a run | images/s |"]
    lines.append("|---|---|--:|--:|--:|--:|")
    for run in run_facts(runs):
        cells = (run["name"], run["arch"], run["seeds"], run["epochs"], run["time"], run["rate"])
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    blocks.append("\n".join(lines))
    if any(r.get("collapsed") for run in runs for r in run["result"]):
        blocks.append(f"(collapsed) {COLLAPSED}.")
    return "\n\n".join(blocks) + "\n"


def run_facts(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What a reader must know of each run beside its scores: network, seeds, epochs, time, rate."""
    facts = []
    for run in runs:
        results = run["result"]
        time = mean_and_std([r.get("seconds") for r in results])["mean"]
        rate = mean_and_std([r.get("images_per_second") for r in results])["mean"]
        facts.append(
            {
                "name": str(run["name"]),
                "arch": str(results[0].get("arch", DASH)),
                "seeds": ", ".join(str(r.get("seed", DASH)) for r in results),
                "epochs": ", ".join(str(r.get("epochs_run", DASH)) for r in results),
                "time": duration(time),
                "rate": number(rate, 1),
            }
        )
    return facts


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
    perfect: Mapping[str, Any] | None = None,
    pairs: Sequence[Mapping[str, Any]] = (),
    command: str = "",
) -> str:
    """The comparison as JSON, complete enough to write any of its tables again.

    {"command", "metrics": {score: rows of `compare_rows`}, "runs": facts, "pairs": tests as
    `write_comparison` takes them, "results": {run: a result a seed}}.
    """
    shown = shown_metrics(runs, tuple(METRICS))
    tables = {metric: compare_rows(runs, metric, perfect) for metric in shown}
    results = {str(run["name"]): run["result"] for run in runs}
    content = {
        "command": command,
        "metrics": tables,
        "runs": run_facts(runs),
        "pairs": list(pairs),
        "results": results,
    }
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"
