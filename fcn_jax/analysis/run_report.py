"""A finished run made visible: curves, gallery and page from what is in its folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcn_jax import report
from fcn_jax.data import prepare
from fcn_jax.inference import predict
from fcn_jax.report import tables
from fcn_jax.runtime import files
from fcn_jax.training import evaluate, run_dir
from fcn_jax.types import Example, InputError


def panels(
    folder: Path, dataset: prepare.Dataset, split: str = "val", each: int = 2
) -> list[report.Panel]:
    """The best, median and worst images of an evaluation, predicted at their own size."""
    data, _, ids = evaluate.load(folder, split)
    scores = [data["images"][i] for i in ids]
    chosen = report.choose_examples(scores, each)
    shown = panels_of(folder, dataset, [ids[row] for _, row in chosen], split)
    return [
        panel._replace(title=report.panel_title(label, panel.title, scores[row]))
        for panel, (label, row) in zip(shown, chosen, strict=True)
    ]


def panels_of(
    folder: Path, dataset: prepare.Dataset, ids: Sequence[str], split: str = "val"
) -> list[report.Panel]:
    """These images of a split as a run's best checkpoint sees them; titles are the bare ids."""
    restored = predict.load_checkpoint(folder)
    examples = map(_by_id(dataset, split, restored.meta), ids)
    return [
        report.Panel(e.id, e.image, e.mask, predict.predict(restored, e.image)) for e in examples
    ]


def _by_id(dataset: prepare.Dataset, split: str, meta: dict[str, Any]):
    """Look examples up by id; some runs are validated on images of the train split."""
    data = meta["config"]["data"]
    splits = [split]
    if split == "val" and (data["overfit"] or data.get("split_train")):
        splits = ["train", "val"]
    found = [dataset.splits[name] for name in splits if name in dataset.splits]
    positions = {s[i].id: (s, i) for s in found for i in range(len(s))}

    def find(example_id: str) -> Example:
        if example_id not in positions:
            raise InputError(
                f"{dataset.name} has no {split} image {example_id} any more, on which the run was "
                "evaluated: restore the data to draw its images"
            )
        examples, index = positions[example_id]
        return examples[index]

    return find


def render(folder: Path, dataset: prepare.Dataset, command: str) -> None:
    """Write the images and the page of a finished run.

    Args:
      folder: of the run; result.json, metrics.jsonl and eval-val.* are read from it.
      dataset: what it was trained on.
      command: how to repeat the run, shown on the page.
    """
    result = files.read_json(folder / run_dir.RESULT)
    rows = run_dir.read_metrics(folder)
    data, _, _ = evaluate.load(folder, "val")
    shown = panels(folder, dataset)
    report.write_curves(
        rows,
        folder / "curves.png",
        trivial_miou=result["trivial"]["miou"],
        trivial_name=tables.trivial_name(result),
    )
    report.write_gallery(shown, dataset.class_names, dataset.palette, folder / "gallery.png")
    report.write_report(
        {
            "class_names": dataset.class_names,
            "palette": dataset.palette,
            "result": result,
            "config": files.read_json(folder / run_dir.CONFIG),
            "rows": rows,
            "confusion": np.asarray(data["confusion"]),
            "panels": shown,
            "command": command,
        },
        folder / "report.html",
    )


def split_result(data: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """A result.json-like dict for any split, for the tables of `report`."""
    return {
        **base,
        data["split"]: data["summary"],
        "trivial": data["trivial"],
        "trivial_name": data.get("trivial_name"),
        "perfect": data["perfect"],
        "collapsed": data["collapsed"],
    }
