"""Finished runs laid side by side: one page, one table, and who is better than whom."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fcn_jax import report
from fcn_jax.analysis import bootstrap, run_report
from fcn_jax.data import prepare
from fcn_jax.runtime import files
from fcn_jax.training import evaluate, run_dir
from fcn_jax.types import InputError


class Entry(NamedTuple):
    """One line of the comparison: the runs of one configuration over several seeds."""

    name: str
    folders: Sequence[Path]
    paper: Mapping[str, float] | None = None
    note: str = ""


def write(
    entries: Sequence[Entry],
    dataset: prepare.Dataset,
    out: Path,
    title: str,
    command: str,
    compared: Sequence[tuple[str, str]] | None = None,
) -> None:
    """Write table.json, table.md and report.html to `out`.

    Args:
      entries: runs that are finished, on the same data set.
      dataset: to show images of.
      out: made if new.
      title: of the page.
      command: how to make the page again.
      compared: which entries the bootstrap compares, by name; None for all with all.

    Raises:
      InputError: if a folder holds no finished run, or runs differ in their validation images.
    """
    files.make_folder(out)
    _check(entries)
    ids = shown_ids(entries[0].folders[0])
    runs: list[report.Run] = [_run(entry, dataset, ids) for entry in entries]
    perfect = runs[0]["result"][0]["perfect"]
    tests = pairs(entries, compared)
    table = report.table_json(runs, perfect=perfect, pairs=tests, command=command)
    files.write_text(out / "table.json", table)
    files.write_text(out / "table.md", report.table_markdown(runs, perfect=perfect))
    report.write_comparison(
        runs,
        out / "report.html",
        class_names=dataset.class_names,
        palette=dataset.palette,
        title=title,
        perfect=perfect,
        pairs=tests,
        environment=runs[0]["result"][0]["environment"],
        command=command,
    )


def _check(entries: Sequence[Entry]) -> None:
    """All runs must have been validated on the same images, or nothing can be compared."""
    first = entries[0].folders[0]
    _, counts, ids = evaluate.load(first)
    for folder in itertools.chain(*(entry.folders for entry in entries)):
        _, other, other_ids = evaluate.load(folder)
        if other_ids != ids or other.shape != counts.shape:
            raise InputError(
                f"{folder} was validated on {len(other_ids)} images and {other.shape[-1]} classes, "
                f"{first} on {len(ids)} and {counts.shape[-1]}, or on other images: compare runs "
                "of one data set"
            )


def shown_ids(folder: Path, count: int = 6) -> list[str]:
    """Ids of images from the first run's best to its worst, evenly spaced."""
    data, _, _ = evaluate.load(folder)
    scored = sorted((s, i) for i, s in data["images"].items() if s is not None)[::-1]
    places = np.unique(np.linspace(0, len(scored) - 1, min(count, len(scored))).round().astype(int))
    return [scored[place][1] for place in places]


def _run(entry: Entry, dataset: prepare.Dataset, ids: Sequence[str]) -> report.Run:
    first = entry.folders[0]
    data, _, _ = evaluate.load(first)
    run: report.Run = {
        "name": entry.name,
        "result": [files.read_json(folder / run_dir.RESULT) for folder in entry.folders],
        "rows": run_dir.read_metrics(first),
        "confusion": np.asarray(data["confusion"]),
        "panels": run_report.panels_of(first, dataset, ids),
    }
    if entry.paper:
        run["paper"] = entry.paper
    if entry.note:
        run["note"] = entry.note
    return run


def pairs(
    entries: Sequence[Entry],
    compared: Sequence[tuple[str, str]] | None = None,
    samples: int = 10_000,
) -> list[dict[str, Any]]:
    """Paired bootstrap over images of the entries named, or of all with all; first seeds."""
    counts = {e.name: evaluate.load(e.folders[0])[1] for e in entries}
    compared = list(itertools.combinations(counts, 2)) if compared is None else compared
    return [
        {"a": a, "b": b, **bootstrap.paired_bootstrap(counts[a], counts[b], samples)._asdict()}
        for a, b in compared
    ]
