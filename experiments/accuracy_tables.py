"""The tables of accuracy, see `experiments.tables`."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from experiments import archived, paper, study, tuned
from fcn_jax.report import tables
from fcn_jax.report.tables import markdown
from fcn_jax.runtime import files, text
from fcn_jax.training import run_dir

SCORES = ("miou", "pixel_accuracy", "mean_class_accuracy", "frequency_weighted_iou")
"""Scores of the table of one run."""

Runs = Mapping[str, Sequence[archived.Run]]
"""Experiment -> its runs."""


def how(result: Mapping[str, Any]) -> str:
    """One run's network, data, seed, length and machine."""
    return (
        f"{result['arch']} on {result['dataset']} ({tables.evaluated_on(result, 'val')}), "
        f"seed {result['seed']}, "
        f"{result['epochs_run']} epochs in {text.duration(result['seconds'])} "
        f"({result['images_per_second']:.3g} training images/s) on {machine(result)}."
    )


def machine(result: Mapping[str, Any]) -> str:
    """Where a run was made."""
    about = result["environment"]
    return f"{about['device']}, {about['cores']} cores; jax {about['jax']}, flax {about['flax']}"


def made(runs: Iterable[archived.Run]) -> str:
    """The machines of these runs and the time they took, a line a machine."""
    results = sorted((run.result for run in runs), key=machine)
    lines = []
    for name, group in itertools.groupby(results, machine):
        times = [result["seconds"] for result in group]
        lines.append(f"{text.count(len(times), 'run')} in {text.duration(sum(times))} on {name}")
    return "\n".join(f"- {line}" for line in lines)


# ---- the paper's table ---------------------------------------------------------------------------

HEADER = (
    "",
    "paper's IoU",
    "our IoU, per 16",
    "our best IoU of all epochs",
    "our IoU, per image",
    "our mIoU",
    "paper's accuracy",
    "our accuracy",
    "our best accuracy",
    "seeds",
    "epochs",
)


def released_experiments() -> dict[str, paper.PaperNumbers]:
    """What the released scripts did: experiment -> the paper's numbers."""
    from experiments import released

    scripts = released.EXPERIMENTS.items()
    return {f"released_{name}": paper.PAPER[script.text] for name, script in scripts}


def paper_table(known: Mapping[str, paper.PaperNumbers], found: Runs) -> str:
    """Experiments with the paper's numbers, ours, background everywhere, and a perfect prediction.

    Args:
      known: experiment -> the paper's numbers.
      found: our runs, as `archived.runs` gives them.
    """
    rows: list[Sequence[str]] = [HEADER]
    for experiment, numbers in known.items():
        name = experiment.removeprefix("released_")
        rows.append(_paper_row(name, numbers, found.get(experiment, ())))
    measured = [run for experiment in known for run in found.get(experiment, ())]
    if not measured:
        return f"{markdown(rows)}\n\nNot run yet."
    result = measured[0].result
    for title, score in (("all-background", result["trivial"]), ("perfect", result["perfect"])):
        names = ("paper_iou_batch16", "paper_iou", "miou", "paper_pixel_accuracy")
        batch, image, miou, accuracy = (text.number(score.get(name)) for name in names)
        rows.append((title, "", batch, "", image, miou, "", accuracy, "", "", ""))
    return f"{markdown(rows)}\n\n{result['dataset']} (val):\n\n{made(measured)}"


def _paper_row(
    name: str, numbers: paper.PaperNumbers, runs: Sequence[archived.Run]
) -> tuple[str, ...]:
    printed = text.number(numbers.iou), text.number(numbers.pixel_accuracy)
    if not runs:
        return (f"{name} (not run)", printed[0], *[""] * 4, printed[1], *[""] * 4)
    results = [run.result for run in runs]
    scores = [result["val"] for result in results]
    best = [run.best_of_epochs for run in runs]
    mark = " (collapsed)" if any(result["collapsed"] for result in results) else ""
    return (
        name + mark,
        printed[0],
        mean_text(scores, "paper_iou_batch16"),
        mean_text(best, "paper_iou_batch16"),
        mean_text(scores, "paper_iou"),
        mean_text(scores, "miou"),
        printed[1],
        mean_text(scores, "paper_pixel_accuracy"),
        mean_text(best, "paper_pixel_accuracy"),
        _each(results, "seed"),
        _each(results, "epochs_run"),
    )


def mean_text(scores: Iterable[Mapping[str, Any]], name: str) -> str:
    """Mean and standard deviation of one of these scores over some runs."""
    return tables.mean_std_text(tables.mean_and_std([score.get(name) for score in scores]))


def _each(results: Sequence[Mapping[str, Any]], name: str) -> str:
    """Of every run, or once where all have the same."""
    values = [str(result[name]) for result in results]
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def short_paper_table(found: Runs) -> str:
    """The paper's experiments in a few columns, for the README."""
    accuracies = "paper's accuracy", "our accuracy"
    rows: list[Sequence[str]] = [("experiment", "paper's IoU", "our IoU", "our mIoU", *accuracies)]
    shown = ("paper_iou_batch16", "miou", "paper_pixel_accuracy")
    for name, (iou, accuracy) in paper.PAPER.items():
        scores = [run.result["val"] for run in found.get(name, ())]
        ours = [mean_text(scores, score) if scores else "not run" for score in shown]
        rows.append((name, text.number(iou), *ours[:2], text.number(accuracy), ours[2]))
    floor = found["baseline"][0].result["trivial"]
    iou, miou, accuracy = (text.number(floor[score]) for score in shown)
    return markdown([*rows, ("background everywhere", "", iou, miou, "", accuracy)])


# ---- recipes of our own --------------------------------------------------------------------------


def tuned_table(found: Runs) -> str:
    """For each network the mIoU of the paper's recipe and of ours, with the difference's interval.

    The interval is of the paired bootstrap over images, of the runs whose counts are kept.
    """
    columns = ("", "the paper's recipe", "seeds", "epochs", "ours", "size", "seeds", "epochs")
    rows: list[Sequence[str]] = [(*columns, "difference", "95 % interval")]
    shown: list[archived.Run] = []
    for arch in tuned.KEPT:
        ours = found.get("best" if arch == tuned.BEST else f"tuned_{arch}", ())
        theirs = found.get(study.PAPER.get(arch, ""), ())
        if not ours:
            rows.append((arch, *_recipe_cells(theirs), "not run", *[""] * 5))
            shown += theirs
            continue
        score, *facts = _recipe_cells(ours)
        difference = _difference(ours, theirs)
        rows.append((arch, *_recipe_cells(theirs), score, _size(ours[0]), *facts, *difference))
        shown += [*theirs, *ours]
    if not shown:
        return f"{markdown(rows)}\n\nNot run yet."
    trivial = text.number(shown[0].result["trivial"]["miou"])
    rows.append(("background everywhere", "", "", "", trivial, *[""] * 5))
    return f"{markdown(rows)}\n\nThe runs:\n\n{made(shown)}"


def _recipe_cells(runs: Sequence[archived.Run]) -> tuple[str, str, str]:
    """The mIoU, the seeds and the epochs; nothing where there are no runs."""
    results = [run.result for run in runs]
    if not results:
        return "", "", ""
    scores = [result["val"] for result in results]
    return mean_text(scores, "miou"), _each(results, "seed"), _each(results, "epochs_run")


def _size(run: archived.Run) -> str:
    """What a run was trained and validated at; its recipe's, where its settings are not kept."""
    if run.folder:
        size = files.read_json(run.folder / run_dir.CONFIG)["data"]["image_size"]
    else:
        experiment = run.result["experiment"].removeprefix("released_")
        size = {**paper.EXPERIMENTS, **tuned.EXPERIMENTS}[experiment]().data.image_size
    return "x".join(map(str, size))


def _difference(ours: Sequence[archived.Run], theirs: Sequence[archived.Run]) -> tuple[str, str]:
    """The difference of the mIoU, and its interval where the counts of both are kept."""
    if not theirs:
        return "", ""
    from fcn_jax.analysis import compare

    entries = [
        compare.Entry(name, [run.folder for run in runs if run.folder])
        for name, runs in (("ours", ours), ("theirs", theirs))
    ]
    if not all(entry.folders for entry in entries):
        mean, other = (fmean(run.result["val"]["miou"] for run in runs) for runs in (ours, theirs))
        return f"{mean - other:+.4f}", ""
    [pair] = compare.pairs(entries)
    low, high = (f"{pair[end]:+.4f}" for end in ("low", "high"))
    return f"{pair['difference']:+.4f}", f"{low} to {high}"


VIEWS = {
    "each image's own size": (False, 1.0),
    "and its mirror image": (True, 1.0),
    "and 0.75 and 1.25 of the size": (True, 0.75, 1.0, 1.25),
}
"""Column -> what `experiments.evaluate --resolution native` averaged: whether flips too, sizes."""


def views_table(found: Runs, trivial_name: str = "background everywhere") -> str:
    """The mIoU of the kept runs at each image's own size, averaged over more and more views."""
    rows: list[Sequence[str]] = [("", "as in training", *VIEWS)]
    trivial = ""
    for run in itertools.chain(*found.values()):
        known = {}
        for path in sorted(run.folder.glob("eval-val-native*.json")) if run.folder else ():
            data = files.read_json(path)
            method = data["method"]
            known[method["flip"], *method["factors"]] = text.number(data["summary"]["miou"])
            trivial = text.number(data["trivial"]["miou"])
        if known:
            name = f"{run.result['experiment']}, seed {run.result['seed']}"
            cells = (known.get(views, "") for views in VIEWS.values())
            rows.append((name, text.number(run.result["val"]["miou"]), *cells))
    return markdown([*rows, (trivial_name, "", *[trivial] * len(VIEWS))])


def best_table(found: Runs, native: Mapping[str, Any]) -> str:
    """The best recipe on VOC-2007 beside the paper's and beside background everywhere.

    Args:
      found: the kept runs.
      native: what `experiments.evaluate --resolution native` wrote of the run of `best`.
    """
    ours = {name: found[name] for name in ("best", "best_cpu") if found.get(name)}
    shown = {
        f"`{name}`, validated at {_size(runs[0])}": [run.result["val"] for run in runs]
        for name, runs in ours.items()
    }
    shown |= {
        "`best` at each image's own size": [native["summary"]],
        "the paper's `resnet50` recipe, at 224x224": [r.result["val"] for r in found["resnet50"]],
        "background everywhere, at each image's own size": [native["trivial"]],
    }
    rows = [("", *(tables.METRICS[score] for score in SCORES[:3]))]
    rows += [(name, *(mean_text(scores, s) for s in SCORES[:3])) for name, scores in shown.items()]
    lines = []
    for name, runs in ours.items():
        seeds = _each([run.result for run in runs], "seed")
        others = f" Mean and standard deviation of the seeds {seeds}." if len(runs) > 1 else ""
        lines.append(f"- `{name}`: {how(runs[0].result)}{others}")
    return "\n".join([markdown(rows), "", *lines])


def recipes_table(found: Runs) -> str:
    """The runs on a data set that the paper does not have: a row an experiment, the worst first."""
    if not found:
        return "Not run yet."
    columns = ("recipe", "network", "size", "epochs", "seeds")
    rows: list[Sequence[str]] = [(*columns, *(tables.METRICS[score] for score in SCORES[:3]))]
    for recipe, runs in sorted(found.items(), key=lambda entry: entry[1][0].result["val"]["miou"]):
        results = [run.result for run in runs]
        facts = _size(runs[0]), _each(results, "epochs_run"), _each(results, "seed")
        scores = (mean_text([result["val"] for result in results], name) for name in SCORES[:3])
        rows.append((recipe, results[0]["arch"], *facts, *scores))
    every = list(itertools.chain(*found.values()))
    result = every[0].result
    trivial = (text.number(result["trivial"][name]) for name in SCORES[:3])
    rows.append((tables.trivial_name(result), "", "", "", "", *trivial))
    return f"{markdown(rows, left=(0, 1))}\n\n{result['dataset']} (val):\n\n{made(every)}"


def measured_miou(found: Runs) -> dict[str, str]:
    """Network -> the best mIoU on VOC-2007's val split among the kept runs, and how it was made."""
    best = {}
    for run in sorted(itertools.chain(*found.values()), key=lambda run: run.result["val"]["miou"]):
        result = run.result
        made = f"`{result['experiment']}`, {_size(run)}, {result['epochs_run']} epochs"
        best[result["arch"]] = f"{result['val']['miou']:.3f} ({made})"
    return best
