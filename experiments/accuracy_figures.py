"""The pages' figures of the kept runs on VOC-2007, see `experiments.tables --figures`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.archived import Run
from fcn_jax.report import charts, figures
from fcn_jax.runtime import files
from fcn_jax.training import evaluate, run_dir


def draw(runs: Sequence[Run], out: Path) -> None:
    """Write curves-voc2007.png, and confusion-voc2007.png of the best run.

    Args:
      runs: whose folders are kept; at least one.
      out: folder to write to.
    """
    best = max(runs, key=lambda run: run.result["val"]["miou"])
    for name, figure in (("curves", curves(runs)), ("confusion", confusion(best))):
        files.write_bytes(out / f"{name}-voc2007.png", figures.png(figure))


def curves(runs: Sequence[Run]) -> Figure:
    """The validation mIoU of every epoch of these runs, and that of background everywhere."""
    figure = figures.blank(8, 4)
    axes = figure.subplots()
    for run in runs:
        assert run.folder is not None
        epochs, values = charts.series(run_dir.read_metrics(run.folder), "val", "miou")
        name = f"{run.result['experiment']}, seed {run.result['seed']}"
        axes.plot(epochs, values, linewidth=1.5, label=name)
    trivial = runs[0].result["trivial"]["miou"]
    axes.axhline(trivial, color=figures.INK, linestyle="--", label="background everywhere")
    axes.set_ylim(0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("mIoU on val")
    axes.grid(True, color=figures.FAINT, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(edgecolor=figures.FAINT)
    return figure


def confusion(run: Run) -> Figure:
    """The confusion matrix of a run on val."""
    assert run.folder is not None
    data, _, _ = evaluate.load(run.folder)
    return figures.confusion(np.asarray(data["confusion"]), list(run.result["val"]["iou"]))
