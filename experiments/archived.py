"""The runs whose results are kept, in experiments/results/DATASET.

A folder there is that of a finished run without checkpoints, images and report page; as long as it
has `eval-val.npz`, `experiments.compare` takes it. Of older runs on VOC-2007 only the tables are
left that `experiments.reproduce` wrote.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments import reproduce
from fcn_jax.training import run_dir

RESULTS = Path(__file__).resolve().parent / "results"

OLDER = ("paper-voc2007.json", "released-voc2007.json")
BEST = "best-voc2007.json"
"""The result.json of a run of `best`, made under another name."""


class Run(NamedTuple):
    """One finished run."""

    result: Mapping[str, Any]
    """Its result.json."""
    best_of_epochs: Mapping[str, float]
    """Each score of `reproduce.BEST_OF_EPOCHS` -> its best over the epochs."""
    folder: Path | None
    """Where the counts of its images are; None: they are not kept."""


def runs(results: Path = RESULTS, dataset: str = "voc2007") -> dict[str, list[Run]]:
    """Experiment -> its runs on a data set, by seed."""
    found = _older(results) if dataset == "voc2007" else []
    kept = sorted((results / dataset).glob(f"*/{run_dir.RESULT}"))  # on every system alike
    found += [_of_folder(path.parent) for path in kept]
    grouped: dict[str, list[Run]] = {}
    for run in sorted(found, key=lambda run: run.result["seed"]):
        grouped.setdefault(run.result["experiment"], []).append(run)
    return grouped


def _older(results: Path) -> list[Run]:
    found = [run for name in OLDER for run in _of_table(results / name)]
    if (results / BEST).exists():
        result = json.loads((results / BEST).read_text())
        found.append(Run({**result, "experiment": "best"}, {}, None))
    return found


def _of_table(path: Path) -> list[Run]:
    if not path.exists():
        return []
    data = json.loads(path.read_text())
    return [
        Run(result, {score: best[i] for score, best in data["best_of_epochs"][name].items()}, None)
        for name, results in data["results"].items()
        for i, result in enumerate(results)
    ]


def _of_folder(folder: Path) -> Run:
    epochs = [row["val"] for row in run_dir.read_metrics(folder)]
    known = [name for name in reproduce.BEST_OF_EPOCHS if name in epochs[0]]  # all on VOC-2007
    best = {name: max(epoch[name] for epoch in epochs) for name in known}
    return Run(json.loads((folder / run_dir.RESULT).read_text()), best, folder)
