"""Write the tables of the README and the pages from result files: `python -m experiments.tables`.

No number in them is typed by hand. Between `<!-- table: NAME -->` and `<!-- end -->` stands what
`TABLES[NAME]` makes of the files in experiments/results, which the commands named beside the tables
wrote; a test holds the two together.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import accuracy_tables, archived, paper
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


def _load(name: str) -> Any:
    """The content of a result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def result_table(name: str) -> str:
    """One run's result.json: ours beside all-background, and how it was made."""
    result = _load(name)
    rows: list[Sequence[str]] = [("", "ours", "all-background")]
    for key in accuracy_tables.SCORES:
        scores = (text.number(result[which][key]) for which in ("val", "trivial"))
        rows.append((tables.METRICS[key], *scores))
    return f"{markdown(rows)}\n\n{accuracy_tables.how(result)}"


def explained_table() -> str:
    """The explained.json of `experiments.explain --out`."""
    from experiments import explain

    data = _load("explained")
    masks = ", ".join(f"{split} {count}" for split, count in data["masks"].items())
    made = f"From the masks of VOC-2007 ({masks}):\n\n```bash\n{data['command']}\n```"
    return f"{explain.table(data['numbers'])}\n\n{made}"


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
    kept = archived.runs()
    measured = accuracy_tables.measured_miou(kept)
    rows = [("network", "parameters", "GFLOPs", "published weights", "mIoU on VOC-2007 val")]
    for row in _load("models"):
        size, flops = f"{row['parameters']:,}".replace(",", " "), f"{row['flops'] / 1e9:.1f}"
        rows.append((row["name"], size, flops, row["weights"], measured.get(row["name"], "")))
    note = (
        "Parameters for 21 classes; GFLOPs of the convolutions for one 224x224 image, two for a "
        "multiply-add. mIoU: the best run here, with recipe, size and length; background "
        f"everywhere has {kept['baseline'][0].result['trivial']['miou']:.3f}."
    )
    return f"{markdown(rows, left=(0, 3))}\n\n{note}"


def speed_table() -> str:
    """Every speed-*.json that `experiments.benchmark --out` wrote."""
    return speed_tables.speed_table(sorted(RESULTS.glob("speed-*.json"))).strip()


def measured_table(name: str, table: Callable[[Any], str]) -> str:
    """What `table` makes of a result file of `experiments.benchmark`, once there is one."""
    return table(_load(name)) if (RESULTS / f"{name}.json").exists() else "Not measured yet."


TABLES: dict[str, Callable[[], str]] = {
    "shapes": lambda: result_table("shapes"),
    "models": models_table,
    "paper-voc2007": lambda: accuracy_tables.paper_table(paper.PAPER, archived.runs()),
    "released-voc2007": lambda: accuracy_tables.paper_table(
        accuracy_tables.released_experiments(), archived.runs()
    ),
    "explained": explained_table,
    "best-voc2007": lambda: accuracy_tables.best_table(
        archived.runs(), _load("best-voc2007-native")
    ),
    "tuned-voc2007": lambda: accuracy_tables.tuned_table(archived.runs()),
    "views-voc2007": lambda: accuracy_tables.views_table(archived.runs()),
    "camvid": lambda: accuracy_tables.recipes_table(archived.runs(dataset="camvid")),
    "views-camvid": lambda: accuracy_tables.views_table(
        archived.runs(dataset="camvid"), "majority class"
    ),
    "paper-short": lambda: accuracy_tables.short_paper_table(archived.runs()),
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
    parser.add_argument(
        "--figures",
        action="store_true",
        help="first draw the figures of the kept runs of our recipes",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Rewrite the pages, or with --check only say whether they are up to date."""
    args = parser().parse_args(argv)
    if args.models:
        files.write_json(RESULTS / "models.json", counted_models())
    if args.figures:
        from experiments import accuracy_figures

        recipes = ("tuned_", "best")
        ours = [runs for name, runs in archived.runs().items() if name.startswith(recipes)]
        kept = [run for runs in ours for run in runs if run.folder]
        accuracy_figures.draw(kept, ROOT / "experiments/docs")
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
