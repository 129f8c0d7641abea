"""Self-contained pages: of a run, of an evaluation, of several runs, and of predictions.

Each is one file: images and charts inlined, no request to anywhere. Every value goes through
jinja2's escaping; a content policy in the page allows the one script below, by its hash, and
forbids whatever might still slip through.
"""

import json
import os
import time
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Required, TypedDict
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from fcn_jax.report import charts, confusions, notes, tables
from fcn_jax.report.gallery import Prediction, shrunk, thumbnail
from fcn_jax.report.masks import (
    Panel,
    error_kinds,
    error_map,
    index_png,
    legend_entries,
    overlay,
    png,
)
from fcn_jax.runtime import files
from fcn_jax.runtime.text import DASH, flatten, is_number, number, plain, signed_numbers
from fcn_jax.types import background_class

THUMB = 400
"""The longer side, in pixels, of the images in a page: sharp on a phone, small in the file."""

FEW = 8
"""A confusion matrix of at most so many classes is drawn larger."""

CELLS = 40
"""A confusion matrix of more classes is an image without numbers."""

MOST_PREDICTIONS = 2000
"""Images on a page of predictions, at most: some 6 kB each."""

TEMPLATES = Path(__file__).parent / "templates"
SCRIPT = (TEMPLATES / "page.js").read_text("utf-8")


def is_live(page: str) -> bool:
    """Whether a page of a run, as HTML, has a `Live`."""
    return '<p id="live"' in page


class Live(NamedTuple):
    """Says that a page is of a run that is still training, or that stopped unfinished."""

    state: str
    """`running` or `stopped`."""
    every: float
    """Seconds after which the page reloads itself while it is `running`."""
    late: float = 300.0
    """Age in seconds from which on the page says that the run may have been killed."""


class RunData(TypedDict, total=False):
    """What `write_report` renders. Parts that are absent are left out of the page."""

    class_names: Required[Sequence[str]]
    palette: Required[np.ndarray]
    """uint8 [K, 3]."""
    result: Required[Mapping[str, Any]]
    """As result.json, with a summary under the split's name."""
    title: str
    """What stands before network and data set in the title."""
    split: str
    """`val` if absent."""
    config: Mapping[str, Any]
    changed: Collection[str]
    """Dotted names of the settings that are not those of `base`."""
    base: str
    """`the defaults` if absent."""
    history: Sequence[Mapping[str, Any]]
    confusion: np.ndarray
    """Integers [K, K] or [K+1, K], the last row void."""
    panels: Sequence[Panel]
    batch: Sequence[tuple[np.ndarray, np.ndarray]]
    """Training images as the network gets them: (uint8 [h, w, 3], mask uint8 [h, w])."""
    batch_note: str
    """What was done to them."""
    facts: Sequence[tuple[str, Any]]
    """(name, value) pairs beside the scores: sizes of the splits, parameters, date, ..."""
    downloads: Sequence[str]
    """Names of files beside the page."""
    command: str
    live: Live | None


class Run(TypedDict, total=False):
    """One line of a comparison; `result` holds one result a seed.

    `history` and `confusion` are those of the first seed. The `panels` of all runs show the same
    images, their titles the bare ids.
    """

    name: Required[str]
    result: Required[Sequence[Mapping[str, Any]]]
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    paper: Mapping[str, Any]
    note: str
    confusion: np.ndarray
    panels: Sequence[Panel]
    scores: Mapping[str, float | None]
    """Of each image, by its id: the mean IoU."""


def _uri(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _photo(image: np.ndarray) -> str:
    return _uri(thumbnail(image, THUMB), "jpeg")


def _mask(mask: np.ndarray, palette: np.ndarray) -> str:
    return _uri(index_png(np.asarray(shrunk(mask, Image.Resampling.NEAREST, THUMB)), palette))


def _errors(panel: Panel, background: int | None) -> str:
    errors = error_map(panel.image, panel.truth, panel.prediction, background)
    return _uri(png(shrunk(errors, Image.Resampling.NEAREST, THUMB).quantize(256)))


def _hex(colour: Iterable[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _legend(
    masks: Iterable[np.ndarray], class_names: Sequence[str], palette: np.ndarray
) -> list[tuple[str, str]]:
    entries = legend_entries(masks, class_names, palette)
    return [(plain(name), _hex(colour)) for name, colour in entries]


def _error_legend(class_names: Sequence[str]) -> list[tuple[str, str]]:
    kinds = [(name, _hex(colour)) for name, colour in error_kinds(class_names)]
    return [*kinds, ("right", "linear-gradient(90deg, #999, #eee)")]


def _percent(value: Any) -> str:
    """A fraction as a CSS width; nothing for what is no number, never outside its track."""
    return f"{100 * min(max(float(value), 0), 1):.2f}%" if is_number(value) else "0%"


def _breakable(name: Any) -> Markup:
    """An escaped name that a narrow column may break after underscores and dots."""
    text = escape(plain(name))
    return text.replace("_", Markup("_<wbr>")).replace(".", Markup(".<wbr>"))


def _write(template: str, path: str | Path, **values: Any) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=_percent, plain=plain, breakable=_breakable)
    environment.tests["known"] = is_number
    values["script"] = Markup(SCRIPT)
    values["script_hash"] = b64encode(sha256(SCRIPT.encode()).digest()).decode()
    page = environment.get_template(template).render(values)
    files.write_bytes(path, page.encode("utf-8", "backslashreplace"))


def _confusion(matrix: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """A table of percentages; an image of many classes, transparent where nothing is."""
    names = [plain(name, 18) for name in class_names]
    fractions = confusions.row_normalised(matrix)
    few = len(names) <= CELLS
    alpha = np.rint(255 * np.nan_to_num(fractions)).astype(np.uint8)
    heat = np.dstack([np.full((*alpha.shape, 3), (60, 140, 210), np.uint8), alpha])
    return {
        "names": names,
        "rows": list(zip(names, fractions.tolist(), strict=True)) if few else [],
        "large": len(names) <= FEW,
        "image": "" if few else _uri(png(Image.fromarray(heat))),
        "most": [(plain(t), plain(p), f) for t, p, f in confusions.largest(matrix, class_names)],
    }


def _panels(
    panels: Sequence[Panel], class_names: Sequence[str], palette: np.ndarray
) -> list[dict[str, str]]:
    background = background_class(class_names)
    return [
        {
            "title": plain(panel.title),
            "image": _photo(panel.image),
            "truth": _mask(panel.truth, palette),
            "prediction": _mask(panel.prediction, palette),
            "errors": _errors(panel, background),
            "overlay": _photo(overlay(panel.image, panel.prediction, palette)),
        }
        for panel in panels
    ]


def _headline(result: Mapping[str, Any], split: str) -> dict[str, Any]:
    ours = result[split].get("miou")
    trivial = (result.get("trivial") or {}).get("miou")
    both = is_number(ours) and is_number(trivial) and trivial
    return {"miou": ours, "trivial": trivial, "times": ours / trivial if both else None}


def write_report(data: RunData, path: str | Path) -> None:
    """Write the page of a run or of an evaluation.

    Scores, curves, images, classes, confusion, settings, how to repeat it; during a run
    the page reloads itself and says how old it is.
    """
    result, split = data["result"], data.get("split", "val")
    changed, history = data.get("changed", ()), data.get("history", ())
    head, trivial = _headline(result, split), tables.trivial_name(result)
    what = f"{result.get('arch', 'network')} on {result.get('dataset', 'data')}"
    _write(
        "report.html",
        path,
        title=plain(f"{data.get('title', '')}{what}"),
        experiment=plain(result.get("experiment") or ""),
        split=tables.evaluated_on(result, split),
        live=data.get("live"),
        updated=time.time(),
        head=head,
        trivial_name=trivial,
        collapsed=tables.COLLAPSED if result.get("collapsed") else "",
        scores=tables.score_rows(result, split),
        facts=[(name, plain(value)) for name, value in data.get("facts", ())],
        best_epoch=result.get("best_epoch"),
        charts=charts.run_charts(history, head["trivial"], trivial) if len(history) else [],
        **_report_images(data),
        classes=_classes(data, split),
        config=[(n, v, n in changed) for n, v in flatten(data.get("config") or {})],
        base=plain(data.get("base", "the defaults")),
        environment=flatten(result.get("environment") or {}),
        downloads=[(plain(name), quote(name)) for name in data.get("downloads", ())],
        command=plain(data.get("command") or ""),
        notes=_notes(tables.paper_metrics_apply(result), trivial),
    )


def _report_images(data: RunData) -> dict[str, Any]:
    """The images of a report, and its confusion matrix."""
    names, palette, confusion = data["class_names"], data["palette"], data.get("confusion")
    panels, batch = data.get("panels") or [], data.get("batch") or []
    return {
        "panels": _panels(panels, names, palette),
        "legend": _legend([mask for panel in panels for mask in panel[2:]], names, palette),
        "error_legend": _error_legend(names),
        "batch": [(_photo(i), _photo(overlay(i, mask, palette))) for i, mask in batch],
        "batch_legend": _legend([mask for _, mask in batch], names, palette),
        "batch_note": plain(data.get("batch_note", "")),
        "confusion": None if confusion is None else _confusion(confusion, names),
    }


def _classes(data: RunData, split: str) -> list[dict[str, Any]]:
    """The scores of each class, with its colour."""
    rows = tables.class_rows(data["result"], data["class_names"], split, data.get("confusion"))
    return [
        row._replace(name=plain(row.name, 32))._asdict() | {"colour": _hex(colour)}
        for row, colour in zip(rows, data["palette"].tolist(), strict=False)
    ]


def _notes(paper: bool, trivial: str) -> list[tuple[str, str]]:
    """How to read the scores that are shown, and what the constant prediction's name means."""
    return [
        (f"{name}, perfect" if name == trivial else name, text)
        for name, text in notes.METRIC_NOTES
        if (paper or "paper" not in name) and (name not in notes.TRIVIAL or name == trivial)
    ]


def _side_by_side(runs: Sequence[Run], palette: np.ndarray) -> list[dict[str, Any]]:
    """The images that every run with panels shows, in the first run's order."""
    found = [(run, {panel.title: panel for panel in run.get("panels") or []}) for run in runs]
    shown = [(run, panels) for run, panels in found if panels]
    first = shown[0][1] if shown else {}
    return [
        {
            "title": plain(title),
            "image": _photo(panel.image),
            "truth": _mask(panel.truth, palette),
            "networks": [
                (
                    plain(run["name"]),
                    _mask(panels[title].prediction, palette),
                    run.get("scores", {}).get(title),
                )
                for run, panels in shown
            ],
        }
        for title, panel in first.items()
        if all(title in panels for _, panels in shown)
    ]


def _class_scores(runs: Sequence[Run], name: str) -> list[dict[str, Any]]:
    """Mean and std over the seeds of every run's IoU of one class."""
    return [
        tables.mean_and_std([(r["val"].get("iou") or {}).get(name) for r in run["result"]])
        for run in runs
    ]


def _settings(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The settings in which the runs differ; several seeds of one stand in a table of their own."""
    configs = [dict(flatten(run.get("config") or {})) for run in runs]
    several = any(len(run["result"]) > 1 for run in runs)
    rows = tables.differing_settings(configs)
    return [row for row in rows if row[0] != "seed" or not several]


def pair_texts(pair: Mapping[str, Any]) -> dict[str, str]:
    """A bootstrap test as text: names, difference, interval, p, digits enough for each."""
    texts = signed_numbers(pair["difference"], pair["low"], pair["high"])
    p = "< 0.001" if pair["p"] < 0.001 else number(pair["p"], 3)
    names = ("a", "b", "difference", "low", "high", "p")
    return dict(zip(names, [plain(pair["a"]), plain(pair["b"]), *texts, p], strict=True))


def write_comparison(
    runs: Sequence[Run],
    path: str | Path,
    *,
    class_names: Sequence[str],
    palette: np.ndarray,
    title: str = "Comparison",
    pairs: Sequence[Mapping[str, Any]] = (),
    command: str = "",
    downloads: Sequence[str] = (),
) -> None:
    """Write a page of several runs: scores, settings, curves, classes, confusions, images.

    Args:
      runs: the lines of the score table.
      path: of the page.
      class_names: K names.
      palette: uint8 [K, 3].
      title: of the page.
      pairs: bootstrap tests {"a", "b", "difference", "low", "high", "p"}.
      command: how to make the page again.
      downloads: names of files beside the page.
    """
    _write(
        "comparison.html",
        path,
        title=plain(title),
        **_compared_scores(runs, class_names),
        pairs=[pair_texts(pair) for pair in pairs],
        **_compared_images(runs, class_names, palette),
        environment=flatten(runs[0]["result"][0].get("environment") or {}),
        downloads=[(plain(name), quote(name)) for name in downloads],
        command=plain(command),
    )


def _compared_scores(runs: Sequence[Run], class_names: Sequence[str]) -> dict[str, Any]:
    """Tables, curves and texts of a comparison."""
    results = [result for run in runs for result in run["result"]]
    trivial = tables.trivial_name(results[0])
    floors = {(r.get("trivial") or {}).get("miou") for r in results}
    floor = floors.pop() if len(floors) == 1 else None  # one line only where it is one number
    drawn = [(run["name"], run.get("history") or []) for run in runs]
    drawn = [(name, history) for name, history in drawn if len(history)]
    return {
        "names": [plain(run["name"]) for run in runs],
        "seeds": [len(run["result"]) for run in runs],
        "columns": tables.score_columns(runs),
        "collapsed": [any(r.get("collapsed") for r in run["result"]) for run in runs],
        "collapsed_text": tables.COLLAPSED,
        "trivial_name": trivial,
        "settings": _settings(runs),
        "differences": notes.PAPER_DIFFERENCES if any(r.get("paper") for r in runs) else (),
        "notes_of_runs": [(r["name"], r.get("note")) for r in runs if r.get("note")],
        "notes": _notes(tables.paper_scores_shown(runs), trivial),
        "charts": charts.comparison_charts(drawn, floor, trivial) if drawn else [],
        "classes": [(plain(name, 32), _class_scores(runs, name)) for name in class_names],
        "facts": tables.run_facts(runs),
    }


def _compared_images(
    runs: Sequence[Run], class_names: Sequence[str], palette: np.ndarray
) -> dict[str, Any]:
    """Images and confusion matrices of a comparison."""
    masks = [mask for run in runs for panel in run.get("panels") or [] for mask in panel[2:]]
    known = [(plain(run["name"]), run.get("confusion")) for run in runs]
    return {
        "images": _side_by_side(runs, palette),
        "legend": _legend(masks, class_names, palette),
        "confusions": [(name, _confusion(m, class_names)) for name, m in known if m is not None],
    }


def _common_folder(names: Sequence[str]) -> str:
    """The innermost folder that all files are in; empty if there is none."""
    try:
        return os.path.commonpath([os.path.dirname(name) for name in names])
    except ValueError:  # no file, or absolute and relative ones
        return ""


def write_predictions(
    predictions: Sequence[Prediction],
    path: str | Path,
    *,
    class_names: Sequence[str],
    palette: np.ndarray,
    title: str = "Predictions",
    command: str = "",
) -> None:
    """Write the page of predicted images: thumbnails, areas of the classes, a filter by class.

    The thumbnails are inlined; enlarging one loads its overlay, a file beside the page. The first
    `MOST_PREDICTIONS` images are shown.
    """
    shown = predictions[:MOST_PREDICTIONS]
    total = np.array([p.fractions for p in shown], float).reshape(len(shown), len(class_names))
    order = [int(i) for i in np.argsort(-total.mean(axis=0), kind="stable")] if shown else []
    classes = [(i, plain(class_names[i], 32), int((total[:, i] > 0).sum())) for i in order]
    folder = _common_folder([p.name for p in shown])
    _write(
        "predictions.html",
        path,
        title=plain(title),
        count=len(predictions),
        left_out=len(predictions) - len(shown),
        folder=plain(folder),
        classes=[entry for entry in classes if entry[2]],
        cards=[
            {
                "name": plain(os.path.relpath(p.name, folder) if folder else p.name),
                "overlay": quote(p.overlay, errors="surrogateescape"),
                "thumbnail": _uri(p.thumbnail, "jpeg"),
                "areas": json.dumps({i: round(f, 6) for i, f in enumerate(p.fractions) if f}),
                "largest": [
                    (plain(class_names[i], 24), _hex(palette[i]), p.fractions[i])
                    for i in sorted(order, key=lambda i: -p.fractions[i])[:4]
                    if p.fractions[i]
                ],
            }
            for p in shown
        ],
        command=plain(command),
        dash=DASH,
    )
