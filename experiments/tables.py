"""Write the tables of the README and the pages from result files: `python -m experiments.tables`.

No number in them is typed by hand. Between `<!-- table: NAME -->` and `<!-- end -->` stands what
`TABLES[NAME]` makes of the files in experiments/results, which the commands named beside the tables
wrote; a test holds the two together.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import paper
from experiments.benchmarks import layers, start
from experiments.benchmarks import tables as speed_tables
from experiments.cli import arguments, command
from fcn_jax.report import tables
from fcn_jax.report.tables import markdown
from fcn_jax.runtime import files, text

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "experiments/docs").glob("*.md"))]
RESULTS = Path(__file__).resolve().parent / "results"

MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

ROWS = ("miou", "pixel_accuracy", "mean_class_accuracy", "frequency_weighted_iou")
"""Scores of the table of one run."""


def _load(name: str) -> Any:
    """The content of a result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def result_table(name: str) -> str:
    """One run's result.json: ours beside all-background, and how it was made."""
    result = _load(name)
    rows: list[Sequence[str]] = [("", "ours", "all-background")]
    for key in ROWS:
        scores = (text.number(result[which][key]) for which in ("val", "trivial"))
        rows.append((tables.METRICS[key], *scores))
    return f"{markdown(rows)}\n\n{_how(result)}"


def _how(result: dict[str, Any]) -> str:
    return (
        f"{result['arch']} on {result['dataset']} ({tables.evaluated_on(result, 'val')}), "
        f"seed {result['seed']}, "
        f"{result['epochs_run']} epochs in {result['seconds']:.0f} s "
        f"({result['images_per_second']:.0f} training images/s) on {_machine(result)}."
    )


def _machine(result: dict[str, Any]) -> str:
    about = result["environment"]
    return f"{about['device']}, {about['cores']} cores; jax {about['jax']}, flax {about['flax']}"


BEST_IOU, BEST_ACCURACY = "our best IoU of all epochs", "our best accuracy"
_PAPER_SCORES = ("paper_iou", "paper_iou_batch16", "miou", "paper_pixel_accuracy")


def paper_table(name: str) -> str:
    """The table.json of `experiments.reproduce`: the paper's numbers, ours, floor and ceiling.

    Before there is such a file, the paper's numbers alone.
    """
    data = _load(name) if (RESULTS / f"{name}.json").exists() else None
    header = ["", "paper's IoU", "our IoU, per 16", BEST_IOU, "our IoU, per image", "our mIoU"]
    header += ["paper's accuracy", "our accuracy", BEST_ACCURACY, "seeds", "epochs"]
    rows = [header, *_measured(data)] if data else [header]
    known = _released() if name.startswith("released") else paper.PAPER
    for row, (iou, accuracy) in known.items():
        if data is None or row not in data["results"]:
            marked = f"{row} (not run)" if data else row
            cells = [text.number(iou), *[""] * 4, text.number(accuracy), *[""] * 4]
            rows.append([marked, *cells])
    if data:
        rows += _limits(data)
    best = (BEST_IOU, BEST_ACCURACY) if data is None or "best_of_epochs" not in data else ()
    kept = [i for i, title in enumerate(header) if title not in best]
    table = markdown([[cells[i] for i in kept] for cells in rows])
    return f"{table}\n\n{_made(data) if data else 'Not run yet.'}"


def _released() -> dict[str, paper.PaperNumbers]:
    """The released scripts, each with the paper's numbers."""
    from experiments import released

    return {name: paper.PAPER[script.text] for name, script in released.EXPERIMENTS.items()}


def _measured(data: dict[str, Any]) -> Iterator[list[str]]:
    """The cells of each experiment that was run."""
    scores = _scores(data, *_PAPER_SCORES)
    for rows, facts in zip(zip(*scores, strict=True), data["runs"], strict=True):
        image, batch, miou, accuracy = (tables.mean_std_text(row) for row in rows)
        printed = [text.number(rows[0]["paper"]), text.number(rows[3]["paper"])]
        mark = " (collapsed)" if rows[0]["collapsed"] else ""
        best = data.get("best_of_epochs", {}).get(rows[0]["name"], {})
        most = [_mean(best.get(n)) for n in ("paper_iou_batch16", "paper_pixel_accuracy")]
        cells = [printed[0], batch, most[0], image, miou, printed[1], accuracy, most[1]]
        yield [rows[0]["name"] + mark, *cells, facts["seeds"], facts["epochs"]]


def _limits(data: dict[str, Any]) -> Iterator[list[str]]:
    """The cells of background everywhere, and of the truth itself."""
    scores = _scores(data, *_PAPER_SCORES)
    for title, key in (("all-background", "trivial"), ("perfect", "perfect")):
        image, batch, miou, accuracy = (text.number(rows[0][key]) for rows in scores)
        yield [title, "", batch, "", image, miou, "", accuracy, "", "", ""]


def _mean(values: list[float] | None) -> str:
    return text.number(sum(values) / len(values)) if values else ""


def short_paper_table() -> str:
    """The paper's experiments in a few columns, for the README."""
    scores = _scores(_load("paper-voc2007"), "paper_iou_batch16", "miou", "paper_pixel_accuracy")
    runs = {found[0]["name"]: found for found in zip(*scores, strict=True)}
    accuracies = "paper's accuracy", "our accuracy"
    rows: list[Sequence[str]] = [("experiment", "paper's IoU", "our IoU", "our mIoU", *accuracies)]
    for name, (iou, accuracy) in paper.PAPER.items():
        ours = (
            [tables.mean_std_text(row) for row in runs[name]] if name in runs else ["not run"] * 3
        )
        rows.append((name, text.number(iou), *ours[:2], text.number(accuracy), ours[2]))
    floor = [text.number(row[0]["trivial"]) for row in scores]
    return markdown([*rows, ("background everywhere", "", *floor[:2], "", floor[2])])


def best_table() -> str:
    """The best recipe on VOC-2007 beside the paper's and beside background everywhere."""
    best, native = _load("best-voc2007"), _load("best-voc2007-native")
    theirs = _load("paper-voc2007")["results"]["resnet50"][0]
    shown = {
        f"`best`: {best['arch']}, validated at 320x320": best["val"],
        "the same at each image's own size": native["summary"],
        "the paper's `resnet50` recipe, at 224x224": theirs["val"],
        "background everywhere, at each image's own size": native["trivial"],
    }
    rows = [("", *(tables.METRICS[key] for key in ROWS[:3]))]
    rows += [(name, *(text.number(score[k]) for k in ROWS[:3])) for name, score in shown.items()]
    return f"{markdown(rows)}\n\n{_how(best)}"


def explained_table() -> str:
    """The explained.json of `experiments.explain --out`."""
    from experiments import explain

    data = _load("explained")
    masks = ", ".join(f"{split} {count}" for split, count in data["masks"].items())
    made = f"From the masks of VOC-2007 ({masks}):\n\n```bash\n{data['command']}\n```"
    return f"{explain.table(data['numbers'])}\n\n{made}"


def _scores(data: dict[str, Any], *names: str) -> list[list[dict[str, Any]]]:
    return [data["metrics"][name] for name in names]


def _made(data: dict[str, Any]) -> str:
    """How a table of several runs was made."""
    runs = [result for results in data["results"].values() for result in results]
    first = runs[0]
    seeds = ", ".join(sorted({str(result["seed"]) for result in runs}))
    return (
        f"{first['dataset']} (val), seed {seeds}; {text.count(len(runs), 'run')} in "
        f"{text.duration(sum(result['seconds'] for result in runs))} on {_machine(first)}:\n\n"
        f"```bash\n{data['command']}\n```"
    )


def counted_models() -> list[dict[str, Any]]:
    """Parameters, FLOPs and published weights of every network, without running it."""
    import math

    import jax
    import jax.numpy as jnp

    from fcn_jax import models
    from fcn_jax.models import flops

    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    rows = []
    for name in models.MODELS:
        model, network = models.create_model(name), models.MODELS[name]
        weights = "torchvision, backbone" if network.backbone else ""
        params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
        rows.append(
            {
                "name": name,
                "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(params)),
                "flops": flops.forward_flops(model, image.shape),
                "weights": "torchvision, whole network" if network.published else weights,
            }
        )
    return rows


def models_table() -> str:
    """The models.json that `--models` wrote."""
    measured = measured_miou()
    rows = [("network", "parameters", "GFLOPs", "published weights", "mIoU on VOC-2007 val")]
    for row in _load("models"):
        size, flops = f"{row['parameters']:,}".replace(",", " "), f"{row['flops'] / 1e9:.1f}"
        rows.append((row["name"], size, flops, row["weights"], measured.get(row["name"], "")))
    note = (
        "Parameters for 21 classes; GFLOPs of the convolutions for one 224x224 image. mIoU: the "
        "best run here, and its recipe."
    )
    return f"{markdown(rows, left=(0, 3))}\n\n{note}"


def measured_miou() -> dict[str, str]:
    """Network -> the best mIoU on VOC-2007's val split among the result files, and its recipe."""
    runs = [{**_load("best-voc2007"), "experiment": "best"}]  # by its name of today
    runs += [run for results in _load("paper-voc2007")["results"].values() for run in results]
    best = {}
    for run in sorted(runs, key=lambda run: run["val"]["miou"]):
        best[run["arch"]] = f"{run['val']['miou']:.3f} (`{run['experiment']}`)"
    return best


def speed_table() -> str:
    """Every speed-*.json that `experiments.benchmark --out` wrote."""
    return speed_tables.speed_table(sorted(RESULTS.glob("speed-*.json"))).strip()


def measured_table(name: str, table: Callable[[Any], str]) -> str:
    """What `table` makes of a result file of `experiments.benchmark`, once there is one."""
    return table(_load(name)) if (RESULTS / f"{name}.json").exists() else "Not measured yet."


TABLES: dict[str, Callable[[], str]] = {
    "shapes": lambda: result_table("shapes"),
    "models": models_table,
    "paper-voc2007": lambda: paper_table("paper-voc2007"),
    "released-voc2007": lambda: paper_table("released-voc2007"),
    "explained": explained_table,
    "best-voc2007": best_table,
    "paper-short": short_paper_table,
    "speed": speed_table,
    "memory": lambda: measured_table("memory-cpu", speed_tables.memory_table),
    "layers": lambda: measured_table("layers-cpu", layers.table),
    "start": lambda: measured_table("start-cpu", start.table),
}


def rendered(page: str) -> str:
    """The text of a page with every marked table written again."""
    return MARKED.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", page)


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser("tables", __doc__)
    parser.add_argument("--check", action="store_true", help="only say (exit 1) what is stale")
    parser.add_argument(
        "--models", action="store_true", help="first count parameters and FLOPs of every network"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Rewrite the pages, or with --check only say whether they are up to date."""
    args = parser().parse_args(argv)
    if args.models:
        files.write_json(RESULTS / "models.json", counted_models())
    stale = 0
    for path in PAGES:
        old = path.read_text()
        new = rendered(old)
        stale += new != old
        if args.check and new != old:
            print(f"{path} is out of date: run python -m experiments.tables")
        elif not args.check:
            path.write_text(new)
            print(f"{path}: {len(MARKED.findall(old))} tables")
    return int(args.check and stale > 0)


if __name__ == "__main__":
    command.start(main)
