"""Comparison of finished runs: a page, a table, and confidence intervals of the differences."""

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fcn_jax import config as configs
from fcn_jax.analysis import bootstrap, run_report
from fcn_jax.config import Config
from fcn_jax.data import prepare
from fcn_jax.inference import predict
from fcn_jax.report import pages, tables
from fcn_jax.runtime import files
from fcn_jax.training import evaluate, run_dir
from fcn_jax.types import InputError


class Entry(NamedTuple):
    """One line of the comparison: the runs of one configuration over several seeds."""

    name: str
    folders: Sequence[Path]
    paper: Mapping[str, float] | None = None
    note: str = ""


def group(folders: Sequence[Path]) -> list[Entry]:
    """One entry a configuration; runs that differ only in the seed belong together.

    The same seed twice is not another seed: such runs are entries of their own. Entries are named
    by their folders' paths, as far as these differ.

    Raises:
      InputError: if a folder is given twice, or holds no run.
    """
    twice = [f for f, count in Counter(f.resolve() for f in folders).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]}: given twice: name each run once")
    groups: dict[tuple[Config, int], list[Path]] = {}
    seen: Counter[Config] = Counter()
    for folder in folders:
        path = folder / run_dir.CONFIG
        config = run_dir.comparable(configs.from_dict(files.read_json(path), str(path)))
        groups.setdefault((configs.replace(config, seed=0), seen[config]), []).append(folder)
        seen[config] += 1
    found = list(groups.values())
    return [Entry(name, list(f)) for name, f in zip(distinct_names(found), found, strict=True)]


def distinct_names(groups: Sequence[Sequence[Path]]) -> list[str]:
    """A name for each group of folders: its first path, below the folder that all have in common.

    >>> distinct_names([[Path("/a/run")], [Path("/b/run")], [Path("/x-seed0"), Path("/x-seed1")]])
    ['a/run', 'b/run', 'x']
    """
    paths = [found[0].resolve() for found in groups]
    common = os.path.commonpath([path.parent for path in paths])
    names = [path.relative_to(common).as_posix() for path in paths]
    several = [len(found) > 1 for found in groups]
    names = [n.rsplit("-seed", 1)[0] if s else n for n, s in zip(names, several, strict=True)]
    return [f"{n} ({i + 1})" if names.count(n) > 1 else n for i, n in enumerate(names)]


def write(
    entries: Sequence[Entry],
    dataset: prepare.Dataset,
    out: Path,
    title: str,
    command: str,
    compared: Sequence[tuple[str, str]] | None = None,
) -> list[pages.Run]:
    """Write table.json, table.md and report.html to `out`.

    Args:
      entries: runs that are finished, on the same data set.
      dataset: to show images of.
      out: made if new.
      title: of the page.
      command: how to make the page again.
      compared: which entries the bootstrap compares, by name; None for all with all.

    Returns:
      The lines of the page.

    Raises:
      InputError: if a folder holds no finished run, runs differ in their validation images, or two
        entries have the same name.
    """
    _check(entries, dataset)
    files.make_folder(out)
    ids = shown_ids(entries[0].folders[0])
    runs = [_run(entry, dataset, ids) for entry in entries]
    tests = pairs(entries, compared)
    files.write_text(out / "table.json", tables.table_json(runs, pairs=tests, command=command))
    files.write_text(out / "table.md", tables.table_markdown(runs))
    pages.write_comparison(
        runs,
        out / "report.html",
        class_names=dataset.class_names,
        palette=dataset.palette,
        title=title,
        pairs=tests,
        command=command,
        downloads=("table.md", "table.json"),
    )
    return runs


def _check(entries: Sequence[Entry], dataset: prepare.Dataset) -> None:
    """All runs must have been validated on the same images, or nothing can be compared."""
    names = Counter(entry.name for entry in entries)
    if len(names) < len(entries):
        raise InputError(f"{names.most_common(1)[0][0]!r} names two entries: name each differently")
    first = entries[0].folders[0]
    _, counts, ids = evaluate.load(first)
    for folder in itertools.chain(*(entry.folders for entry in entries)):
        data, other, other_ids = evaluate.load(folder)
        evaluate.check_classes(dataset, list(data["summary"]["iou"]), str(folder))
        if other_ids != ids or other.shape != counts.shape:
            raise InputError(
                f"{folder} was validated on {len(other_ids)} images and {other.shape[-1]} classes, "
                f"{first} on {len(ids)} and {counts.shape[-1]}, or on other images: compare runs "
                "on the same data set"
            )


def shown_ids(folder: Path, count: int = 6) -> list[str]:
    """Ids of images from the first run's best to its worst, evenly spaced."""
    data, _, _ = evaluate.load(folder)
    scored = sorted((s, i) for i, s in data["images"].items() if s is not None)[::-1]
    spaced = np.linspace(0, len(scored) - 1, min(count, len(scored))).round().astype(int)
    return [scored[index][1] for index in np.unique(spaced)]


def _run(entry: Entry, dataset: prepare.Dataset, ids: Sequence[str]) -> pages.Run:
    first = entry.folders[0]
    data, _, all_ids = evaluate.load(first)
    panels = []
    if (first / run_dir.CHECKPOINTS).is_dir():  # a run that was archived without them has numbers
        restored = predict.load_checkpoint(first)
        find = run_report.find_example(dataset, evaluate.config_of(restored), "val", all_ids)
        panels = run_report.panels_of(restored, [find(i) for i in ids])
    run: pages.Run = {
        "name": entry.name,
        "result": [run_dir.read_result(folder) for folder in entry.folders],
        "config": files.read_json(first / run_dir.CONFIG),
        "history": run_dir.read_metrics(first),
        "confusion": np.asarray(data["confusion"]),
        "panels": panels,
        "scores": data["images"],
        "note": entry.note,
    }
    if entry.paper:
        run["paper"] = entry.paper
    return run


def pairs(
    entries: Sequence[Entry],
    compared: Sequence[tuple[str, str]] | None = None,
    samples: int = 10_000,
) -> list[dict[str, Any]]:
    """Paired bootstrap over images of the entries named, or of all with all.

    The counts of as many seeds as both entries have are added, so that all of them count for an
    image.
    """
    folders = {entry.name: entry.folders for entry in entries}
    compared = list(itertools.combinations(folders, 2)) if compared is None else compared
    found = []
    for a, b in compared:
        both = zip(folders[a], folders[b], strict=False)
        ours, theirs = (
            np.sum([evaluate.load(f)[1] for f in side], axis=0) for side in zip(*both, strict=True)
        )
        found.append(
            {"a": a, "b": b, **bootstrap.paired_bootstrap(ours, theirs, samples)._asdict()}
        )
    return found
