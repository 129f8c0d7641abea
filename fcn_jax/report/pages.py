"""report.html of one run, and the page that lays many runs side by side.

Both are single files: images inlined, no script, no network. Every value goes through jinja2's
escaping, and a content policy in the page forbids whatever might still slip through.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Required, TypedDict

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from fcn_jax.report import figures, notes, tables
from fcn_jax.report.masks import (
    ERROR_COLOURS,
    Panel,
    error_map,
    image_miou,
    index_png,
    legend_entries,
    overlay,
)
from fcn_jax.report.text import flatten, is_number, number, plain
from fcn_jax.runtime import files

THUMB = 400
"""The longer side, in pixels, of the images in a page: sharp on a phone, small in the file."""


class RunData(TypedDict, total=False):
    """What `write_report` draws. Parts that are absent are left out of the page."""

    class_names: Required[Sequence[str]]
    palette: Required[np.ndarray]
    result: Required[Mapping[str, Any]]
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    confusion: np.ndarray
    panels: Sequence[Panel]
    command: str


class Run(TypedDict, total=False):
    """One line of a comparison; `result` holds one result a seed.

    `rows` and `confusion` are those of the first seed. The `panels` of all runs show the same
    images, their titles the bare ids.
    """

    name: Required[str]
    result: Required[Sequence[Mapping[str, Any]]]
    rows: Sequence[Mapping[str, Any]]
    paper: Mapping[str, Any]
    note: str
    confusion: np.ndarray
    panels: Sequence[Panel]


def _uri(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _thumb(image: Image.Image, method: Image.Resampling) -> Image.Image:
    scale = THUMB / max(image.size)
    if scale >= 1:
        return image
    return image.resize([max(1, round(side * scale)) for side in image.size], method)


def _photo(image: np.ndarray) -> str:
    buffer = BytesIO()
    small = _thumb(Image.fromarray(np.ascontiguousarray(image)), Image.Resampling.BICUBIC)
    small.save(buffer, "JPEG", quality=85)
    return _uri(buffer.getvalue(), "jpeg")


def _mask(mask: np.ndarray, palette: np.ndarray) -> str:
    small = _thumb(Image.fromarray(np.ascontiguousarray(mask)), Image.Resampling.NEAREST)
    return _uri(index_png(np.asarray(small), palette))


def _errors(panel: Panel) -> str:
    image = Image.fromarray(error_map(panel.image, panel.truth, panel.prediction))
    buffer = BytesIO()
    _thumb(image, Image.Resampling.NEAREST).quantize(256).save(buffer, "PNG")
    return _uri(buffer.getvalue())


def _pair(light: bytes, dark: bytes, text: str) -> dict[str, str]:
    """One plot in both themes; the reader's device picks."""
    return {"light": _uri(light), "dark": _uri(dark), "text": text}


def _shades(colour: Iterable[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _legend(
    masks: Sequence[np.ndarray], class_names: Sequence[str], palette: np.ndarray
) -> list[tuple[str, str]]:
    entries = legend_entries(masks, class_names, palette)
    return [(plain(name), _shades(colour)) for name, colour in entries]


ERROR_LEGEND = [(name, _shades(colour)) for name, colour in ERROR_COLOURS.items()]


def _percent(value: Any) -> str:
    """A fraction as a CSS width; nothing for what is no number, never outside its track."""
    return f"{100 * min(max(float(value), 0), 1):.2f}%" if is_number(value) else "0%"


def _breakable(name: Any) -> Markup:
    """An escaped name that a narrow column may break after underscores."""
    return escape(plain(name)).replace("_", Markup("_<wbr>"))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=_percent, plain=plain, breakable=_breakable)
    environment.tests["known"] = is_number
    return environment


def _write(template: str, path: str | Path, **values: Any) -> None:
    page = _environment().get_template(template).render(values)
    files.write_bytes(path, page.encode("utf-8", "backslashreplace"))


def _plots(rows: figures.Rows, trivial: Any, floor: str) -> list[dict[str, str]]:
    texts = ("loss over the epochs", "validation mIoU over the epochs", "learning rate")
    light = figures.curve_images(rows, figures.LIGHT, trivial, floor)
    dark = figures.curve_images(rows, figures.DARK, trivial, floor)
    return [_pair(*images) for images in zip(light, dark, texts, strict=True)]


def _confusion(matrix: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    names = list(class_names)
    light = figures.confusion_image(matrix, names, figures.LIGHT)
    dark = figures.confusion_image(matrix, names, figures.DARK)
    most = [(plain(t), plain(p), fraction) for t, p, fraction in figures.confusions(matrix, names)]
    return {"image": _pair(light, dark, "confusion matrix"), "most": most, "classes": len(names)}


def _panels(panels: Sequence[Panel], palette: np.ndarray) -> list[dict[str, str]]:
    return [
        {
            "title": plain(panel.title),
            "image": _photo(panel.image),
            "truth": _mask(panel.truth, palette),
            "prediction": _mask(panel.prediction, palette),
            "overlay": _photo(overlay(panel.image, panel.prediction, palette)),
        }
        for panel in panels
    ]


def _headline(result: Mapping[str, Any], split: str) -> dict[str, Any]:
    ours = result[split].get("miou")
    trivial = (result.get("trivial") or {}).get("miou")
    both = is_number(ours) and is_number(trivial) and trivial
    return {
        "ours": ours,
        "trivial": trivial,
        "trivial_name": tables.trivial_name(result),
        "times": ours / trivial if both else None,
    }


def write_report(data: RunData, path: str | Path, *, split: str = "val") -> None:
    """Write report.html of one run: headline, curves, gallery, classes, confusion, how to repeat.

    Palette uint8 [K, 3], confusion integers [K, K] or [K+1, K] (the last row void).
    """
    result, names, palette = data["result"], data["class_names"], data["palette"]
    panels = data.get("panels") or []
    head = _headline(result, split)
    masks = [m for p in panels for m in (p.truth, p.prediction)]
    confusion = data.get("confusion")
    classes = [
        (plain(name, 32), _shades(palette[i].tolist()), ours, trivial)
        for i, (name, ours, trivial) in enumerate(tables.class_rows(result, names, split))
    ]
    rows = data.get("rows") or []
    _write(
        "report.html",
        path,
        title=plain(f"{result.get('arch', 'network')} on {result.get('dataset', 'data')}"),
        experiment=plain(result.get("experiment") or ""),
        split=tables.evaluated_on(result, split),
        head=head,
        collapsed=tables.COLLAPSED if result.get("collapsed") else "",
        scores=tables.score_rows(result, split),
        facts=tables.run_facts([{"name": "", "result": [result]}])[0],
        best_epoch=result.get("best_epoch"),
        plots=_plots(rows, head["trivial"], head["trivial_name"]) if len(rows) else [],
        panels=_panels(panels, palette),
        legend=_legend(masks, names, palette),
        classes=classes,
        confusion=None if confusion is None else _confusion(confusion, names),
        config=flatten(data.get("config") or {}),
        environment=flatten(result.get("environment") or {}),
        command=plain(data.get("command") or ""),
        notes=notes.METRIC_NOTES,
    )


def _side_by_side(runs: Sequence[Run], palette: np.ndarray) -> list[dict[str, Any]]:
    """The images that every run with panels shows, in the first run's order."""
    shown = [(run["name"], {p.title: p for p in run.get("panels") or []}) for run in runs]
    shown = [(name, panels) for name, panels in shown if panels]
    first = shown[0][1] if shown else {}
    return [
        {
            "title": plain(title),
            "image": _photo(panel.image),
            "truth": _mask(panel.truth, palette),
            "networks": [
                (
                    plain(name),
                    _mask(panels[title].prediction, palette),
                    image_miou(panels[title].truth, panels[title].prediction),
                )
                for name, panels in shown
            ],
        }
        for title, panel in first.items()
        if all(title in panels for _, panels in shown)
    ]


def _extremes(run: Run) -> list[dict[str, Any]]:
    """The best and the worst image of a run, with error maps."""
    scored = [(image_miou(p.truth, p.prediction), p) for p in run.get("panels") or []]
    known = sorted(((s, i) for i, (s, _) in enumerate(scored) if s is not None), reverse=True)
    picks = [("best", known[0])] if known else []
    picks += [("worst", known[-1])] if len(known) > 1 else []
    return [
        {
            "title": f"{label}: {plain(scored[i][1].title)}, mIoU {score:.3f}",
            "image": _photo(scored[i][1].image),
            "errors": _errors(scored[i][1]),
        }
        for label, (score, i) in picks
    ]


def _class_table(runs: Sequence[Run], class_names: Sequence[str]) -> list[tuple[str, list[Any]]]:
    """(class, the mean IoU over the seeds of every run)."""
    return [
        (
            plain(name, 32),
            [
                tables.mean_and_std([(r["val"].get("iou") or {}).get(name) for r in run["result"]])[
                    "mean"
                ]
                for run in runs
            ],
        )
        for name in class_names
    ]


def _run_plots(runs: Sequence[Run]) -> list[dict[str, str]]:
    drawn = [(run["name"], run.get("rows") or []) for run in runs]
    drawn = [(name, rows) for name, rows in drawn if len(rows)]
    floors = {(r.get("trivial") or {}).get("miou") for run in runs for r in run["result"]}
    floor = floors.pop() if len(floors) == 1 else None  # one line only where it is one number
    plots = (
        (("val", "miou"), "Validation mIoU", floor),
        (("train", "loss"), "Train loss", None),
        (("val", "loss"), "Validation loss", None),
    )
    return [
        _pair(
            figures.runs_image(drawn, keys, title, figures.LIGHT, level),
            figures.runs_image(drawn, keys, title, figures.DARK, level),
            f"{title} of all runs",
        )
        for keys, title, level in plots
        if drawn
    ]


def write_comparison(
    runs: Sequence[Run],
    path: str | Path,
    *,
    class_names: Sequence[str],
    palette: np.ndarray,
    title: str = "Comparison",
    perfect: Mapping[str, Any] | None = None,
    pairs: Sequence[Mapping[str, Any]] = (),
    differences: Sequence[str] | None = None,
    environment: Mapping[str, Any] | None = None,
    command: str = "",
) -> None:
    """Write a page that lays runs side by side: scores, curves, classes, confusions, images.

    `perfect` holds measured scores of a perfect prediction (`paper_iou`, `paper_iou_batch16`);
    `pairs` are tests {"a", "b", "difference", "low", "high", "p"}; `differences` replaces the text
    on why the paper's numbers differ, which is shown where a run has numbers of the paper.
    """
    if differences is None:
        differences = notes.PAPER_DIFFERENCES if any(r.get("paper") for r in runs) else ()
    shown = tables.shown_metrics(runs)
    _write(
        "comparison.html",
        path,
        title=plain(title),
        tables=[(tables.METRICS[m], tables.compare_rows(runs, m, perfect)) for m in shown],
        pairs=pairs,
        plots=_run_plots(runs),
        notes=notes.METRIC_NOTES,
        differences=differences,
        environment=flatten(environment or {}),
        command=plain(command),
        **_run_words(runs, class_names),
        **_run_pictures(runs, class_names, palette),
    )


def _run_words(runs: Sequence[Run], class_names: Sequence[str]) -> dict[str, Any]:
    return {
        "names": [plain(run["name"]) for run in runs],
        "paper": any(run.get("paper") for run in runs),
        "facts": tables.run_facts(runs),
        "notes_of_runs": [(r["name"], r.get("note")) for r in runs if r.get("note")],
        "floor": tables.trivial_name(runs[0]["result"][0]) if runs else "all-background",
        "collapsed": tables.COLLAPSED,
        "any_collapsed": any(r.get("collapsed") for run in runs for r in run["result"]),
        "classes": _class_table(runs, class_names),
    }


def _run_pictures(
    runs: Sequence[Run], class_names: Sequence[str], palette: np.ndarray
) -> dict[str, Any]:
    masks = [m for run in runs for p in run.get("panels") or [] for m in (p.truth, p.prediction)]
    matrices = [(run["name"], run.get("confusion")) for run in runs]
    return {
        "images": _side_by_side(runs, palette),
        "legend": _legend(masks, class_names, palette),
        "extremes": [(plain(run["name"]), _extremes(run)) for run in runs if run.get("panels")],
        "error_legend": ERROR_LEGEND,
        "confusions": [
            (plain(name), _confusion(matrix, class_names))
            for name, matrix in matrices
            if matrix is not None
        ],
    }
