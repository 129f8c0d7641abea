"""Write the README's tables from result files: `python -m experiments.tables`.

No number in the README is typed by hand. Between `<!-- table: NAME -->` and `<!-- end -->` stands
what `TABLES[NAME]` makes of the files in experiments/results, which the commands named beside the
tables wrote; a test holds the two together.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import benchmark
from fcn_jax.report import tables

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = Path(__file__).resolve().parent / "results"

MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

ROWS = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}


def result_table(name: str) -> str:
    """One run's result.json: ours beside all-background, and how it was made."""
    result = json.loads((RESULTS / f"{name}.json").read_text())
    lines = ["| | ours | all-background |", "|---|--:|--:|"]
    for key, title in ROWS.items():
        lines.append(f"| {title} | {result['val'][key]:.4f} | {result['trivial'][key]:.4f} |")
    lines += ["", _how(result)]
    return "\n".join(lines)


def _how(result: dict[str, Any]) -> str:
    about = result["environment"]
    return (
        f"{result['arch']} on {result['dataset']} ({tables.judged_on(result, 'val')}), "
        f"seed {result['seed']}, "
        f"{result['epochs_run']} epochs in {result['seconds']:.0f} s "
        f"({result['images_per_second']:.0f} training images/s) on {about['device']}, "
        f"{about['cores']} cores; jax {about['jax']}, flax {about['flax']}."
    )


def speed_table() -> str:
    """Every speed-*.json that `experiments.benchmark --out` wrote."""
    return benchmark.speed_table(sorted(RESULTS.glob("speed-*.json"))).strip()


TABLES: dict[str, Callable[[], str]] = {
    "shapes": lambda: result_table("shapes"),
    "overfit": lambda: result_table("overfit"),
    "speed": speed_table,
}


def rendered(text: str) -> str:
    """The README's text with every marked table made anew."""
    return MARKED.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text)


def main(argv: list[str] | None = None) -> int:
    """Rewrite README.md, or with --check only say whether it is up to date."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say (exit 1) if it is stale")
    args = parser.parse_args(argv)
    text = README.read_text()
    new = rendered(text)
    if args.check:
        return int(new != text)
    README.write_text(new)
    print(f"{README}: {len(MARKED.findall(text))} tables written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
