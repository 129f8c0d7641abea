"""Pages of a run and of an evaluation, from what is in the run's folder."""

import dataclasses
import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fcn_jax import config as configs
from fcn_jax.config import Config
from fcn_jax.data import augment, batches, prepare
from fcn_jax.inference import predict
from fcn_jax.report import gallery, masks, pages, tables
from fcn_jax.runtime import files, text
from fcn_jax.training import evaluate, run_dir, setup
from fcn_jax.types import Example, InputError

DOWNLOADS = ("config.json", "metrics.jsonl", "result.json", "eval-*.json", "*.png", "table.*")
"""Files of a run or a comparison that its page links to."""

BATCH = 6
"""Training images shown."""


def panels_of(
    restored: predict.Checkpoint,
    examples: Sequence[Example],
    method: Mapping[str, Any] | None = None,
) -> list[masks.Panel]:
    """These images as a network sees them; titles are the bare ids.

    `method` is that of the evaluation, where it was not as in training: scale and views.
    """
    method = method or {}
    tta = predict.TTA(method.get("flip", False), tuple(method.get("factors", (1.0,))))
    scale = method.get("scale", "fit")
    return [
        masks.Panel(e.id, e.image, e.mask, predict.predict(restored, e.image, scale, tta))
        for e in examples
    ]


def find_example(
    dataset: prepare.Dataset, config: Config, split: str, ids: Sequence[str]
) -> Callable[[str], Example]:
    """A lookup by id of the examples that a run was evaluated on.

    Args:
      dataset: that has them.
      config: of the run. An overfit run, and one that holds a part of the train split
        out, were validated on images of the train split; these are looked through then.
      split: that was evaluated.
      ids: of the evaluation, in its order, which is the split's: so only what is asked for has to
        be decoded.
    """
    names = [split]
    if split == "val" and (config.data.overfit or config.data.split_train):
        names.append("train")
    pools = [dataset.splits[name] for name in names]
    positions = {example_id: i for i, example_id in enumerate(ids)}

    def find(example_id: str) -> Example:
        position = positions[example_id]
        for pool in pools:
            if position < len(pool) and (example := pool[position]).id == example_id:
                return example
        for pool in pools:
            for i in range(len(pool)):
                if (example := pool[i]).id == example_id:
                    return example
        raise InputError(
            f"{dataset.name} has no {split} image {example_id} any more, on which the run was "
            "evaluated: restore the data to draw its images"
        )

    return find


def _extremes(
    restored: predict.Checkpoint, dataset: prepare.Dataset, data: Mapping[str, Any], each: int = 2
) -> list[masks.Panel]:
    """The best, median and worst images of an evaluation, predicted at their own size."""
    ids, scores = list(data["images"]), list(data["images"].values())
    chosen = masks.choose_examples(scores, each)
    find = find_example(dataset, evaluate.config_of(restored), data["split"], ids)
    examples = [find(ids[index]) for _, index in chosen]
    return [
        panel._replace(title=masks.panel_title(label, panel.title, scores[index]))
        for panel, (label, index) in zip(
            panels_of(restored, examples, data.get("method")), chosen, strict=True
        )
    ]


def training_images(
    config: Config, train: Sequence[Example], count: int = BATCH
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Some training images and masks as the network gets them: augmented, or only resized."""
    spaced = np.linspace(0, len(train) - 1, min(count, len(train))).round().astype(int)
    examples = [train[int(i)] for i in spaced]
    size = config.data.image_size
    if config.augment == configs.AugmentConfig():
        return [
            (batches.resize_image(e.image, size), batches.resize_mask(e.mask, size))
            for e in examples
        ]
    run = jax.jit(augment.make(config.augment, size))
    images, masks = run(jax.random.key(config.seed), batches.full_resolution(examples))
    images = np.clip(np.rint(np.asarray(images)), 0, 255).astype(np.uint8)
    return list(zip(images, np.asarray(masks), strict=True))


def training_note(config: Config) -> str:
    """What is done to the training images: resized, or augmented, and how."""
    height, width = config.data.image_size
    of = text.flatten(dataclasses.asdict(config.augment))
    off = dict(text.flatten(dataclasses.asdict(configs.AugmentConfig())))
    done = [f"{name.replace('_', ' ')} {value}" for name, value in of if off[name] != value]
    size = f"resized to {height} x {width}"
    return f"{size}, augmented at random ({'; '.join(done)})" if done else size


def describe_settings(config: Config, base: Config | None) -> dict[str, Any]:
    """The settings, and which of them differ from those of `base`, or from the defaults."""
    ours, theirs = (
        dict(text.flatten(configs.to_dict(c))) for c in (config, Config() if base is None else base)
    )
    return {
        "config": {k: v for k, v in configs.to_dict(config).items() if k != "schema"},
        "changed": {name for name, value in ours.items() if theirs.get(name) != value},
        "base": "the defaults" if base is None else f"in the experiment {base.experiment}",
    }


def describe_data(
    config: Config, dataset: prepare.Dataset, train: Sequence[Example], val: Sequence[Example]
) -> list[tuple[str, str]]:
    """The sizes of the splits that a run uses, of the images, and the number of classes."""
    parts = [f"{len(train):,} train", f"{len(val):,} val"]
    if "test" in dataset.splits:
        parts.append(f"{len(dataset.splits['test']):,} test")
    height, width = config.data.image_size
    return [
        ("images", ", ".join(parts)),
        ("classes", str(len(dataset.class_names))),
        ("image size", f"{height} x {width}"),
    ]


def describe_network(arch: str, parameters: int) -> list[tuple[str, str]]:
    """The network's name and number of parameters."""
    return [("network", arch), ("parameters", f"{parameters:,}")]


def _parameters(restored: predict.Checkpoint) -> int:
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(restored.variables["params"]))


def page_data(
    config: Config,
    dataset: prepare.Dataset,
    parameters: int,
    command: str,
    base: Config | None = None,
) -> dict[str, Any]:
    """The parts of a run's page that are the same from its start to its end.

    Args:
      config: of the run.
      dataset: what it is trained on.
      parameters: of its network.
      command: how to repeat the run.
      base: settings from which others are marked; None: the defaults.
    """
    train, val = setup.examples(config, dataset)
    return {
        "class_names": dataset.class_names,
        "palette": dataset.palette,
        **describe_settings(config, base),
        "batch": training_images(config, train),
        "batch_note": training_note(config),
        "facts": [
            *describe_network(config.model.arch, parameters),
            *describe_data(config, dataset, train, val),
        ],
        "command": command,
    }


def write_images(
    folder: Path,
    result: Mapping[str, Any],
    panels: Sequence[masks.Panel],
    dataset: prepare.Dataset,
    dpi: int = 160,
) -> None:
    """Write curves.png of a run's metrics so far, and gallery.png of its panels."""
    from fcn_jax.report import figures  # matplotlib takes a while

    curves = figures.curves(run_dir.read_metrics(folder), result, dpi)
    files.write_bytes(folder / "curves.png", figures.png(curves))
    sheet = gallery.gallery(panels, dataset.class_names, dataset.palette)
    files.write_bytes(folder / "gallery.png", masks.png(sheet))


def describe_result(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Seed, epochs, time and device of a run, as far as they are known."""
    facts = tables.run_facts([{"name": "", "result": [result]}])[0]
    device = (result.get("environment") or {}).get("device")
    pairs = [
        ("seed", facts["seeds"]),
        ("epochs run", facts["epochs"]),
        ("time", facts["time"]),
        ("images per second", facts["rate"]),
        ("device", device),
    ]
    return [(name, value) for name, value in pairs if value and value != text.DASH]


def _date(path: Path) -> tuple[str, str]:
    """When a file was written."""
    moment = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    return ("date", f"{moment:%Y-%m-%d %H:%M} UTC")


def downloads(folder: Path) -> list[str]:
    """Names of the files in a folder that its page links to."""
    return [p.name for pattern in DOWNLOADS for p in sorted(folder.glob(pattern))]


def render(
    folder: Path, dataset: prepare.Dataset, command: str, base: Config | None = None
) -> None:
    """Write curves.png, gallery.png and report.html of a finished run.

    Args:
      folder: of the run; result.json, metrics.jsonl and eval-val.* are read from it.
      dataset: what it was trained on.
      command: how to repeat the run, shown on the page.
      base: settings from which others are marked on the page; None: the defaults.
    """
    result = files.read_json(folder / run_dir.RESULT)
    data = files.read_json(folder / "eval-val.json")
    config = configs.from_dict(files.read_json(folder / run_dir.CONFIG), str(folder))
    restored = predict.load_checkpoint(folder)
    panels = _extremes(restored, dataset, data)
    write_images(folder, result, panels, dataset)
    page = page_data(config, dataset, _parameters(restored), command, base)
    date = _date(folder / run_dir.RESULT)
    shown: pages.RunData = {
        **page,
        "result": result,
        "history": run_dir.read_metrics(folder),
        "confusion": np.asarray(data["confusion"]),
        "panels": panels,
        "facts": [*page["facts"], *describe_result(result), date],
        "downloads": downloads(folder),
    }  # pyright: ignore[reportAssignmentType]
    pages.write_report(shown, folder / "report.html")


def render_evaluation(
    restored: predict.Checkpoint,
    dataset: prepare.Dataset,
    path: Path,
    base: Mapping[str, Any],
    command: str = "",
) -> Path:
    """Write the page of an evaluation beside its JSON file.

    Args:
      restored: the network.
      dataset: what it was evaluated on.
      path: the JSON file that `evaluate.save` wrote.
      base: arch and dataset, as in result.json.
      command: how to repeat it, shown on the page.

    Returns:
      The page's path.
    """
    data = files.read_json(path)
    page = path.with_suffix(".html")
    method = data.get("method") or {}
    of = " of the data set, not the part of train" if data.get("other_split") else ""
    height, width = restored.image_size
    seen = f"{height} x {width}" if method.get("scale", "fit") == "fit" else "every pixel"
    pages.write_report(
        {
            "class_names": restored.class_names,
            "palette": dataset.palette,
            "title": "Evaluation of ",
            "result": {**base, **data, data["split"]: data["summary"]},
            "split": data["split"],
            "confusion": np.asarray(data["confusion"]),
            "panels": _extremes(restored, dataset, data),
            "facts": [
                *describe_network(base["arch"], _parameters(restored)),
                ("split", f"{data['split']}{of}, {len(data['images']):,} images"),
                ("scored at", "each image's own size" if method else "the training's size"),
                ("the network sees", seen),
                ("test-time views", _views(method) or "none"),
                ("labelled pixels", f"{data['summary']['pixels']:,}"),
                _date(path),
            ],
            "downloads": [path.name, path.with_suffix(".npz").name],
            "command": command,
        },
        page,
    )
    return page


def _views(method: Mapping[str, Any]) -> str:
    """The test-time augmentation in words."""
    sizes = [f"{factor:g}" for factor in method.get("factors", ())]
    parts = [f"sizes {', '.join(sizes)}"] if len(sizes) > 1 else []
    return " and ".join([*parts, *(["mirror images"] if method.get("flip") else [])])
