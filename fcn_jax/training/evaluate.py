"""Evaluation of a network on a split: one program and exact counts, in training and after."""

import contextlib
import io
import re
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from fcn_jax import config as configs
from fcn_jax import metrics
from fcn_jax.config import MATMUL_PRECISION
from fcn_jax.data import batches, classes, loader, prepare
from fcn_jax.inference import predict
from fcn_jax.runtime import distributed, files
from fcn_jax.training import steps
from fcn_jax.types import Batch, Example, InputError

IN_FLIGHT = 8
"""Batches dispatched and not yet fetched, at most."""

EvalProgram = Callable[[dict, Batch, np.ndarray], steps.EvalSums]


class Evaluation(NamedTuple):
    """The result of an evaluation."""

    split: str
    ids: tuple[str, ...]
    counts: np.ndarray
    """int64 [N, K+1, K], see `metrics`."""
    summary: dict[str, Any]
    """`metrics.summary` of the network."""
    trivial: dict[str, Any]
    """The same of a constant prediction on the same images: background, or the majority class."""
    perfect: dict[str, Any]
    """The same of the truth itself: the ceiling of each metric."""
    collapsed: bool
    """Whether the network predicts (nearly) what the trivial predictor does."""
    trivial_name: str = "all-background"
    """What the constant prediction is called, see `data.classes.Trivial`."""
    method: dict[str, Any] | None = None
    """How it was evaluated, where that was not as in training: resolution, scale, views."""
    other_data: dict[str, str] | None = None
    """`identity` of the data set, where it is not the one that the network was trained with."""
    other_split: bool = False
    """Whether it is the data set's val split, and the run validated on a part of train instead."""


def make_program(
    model,
    num_classes: int,
    class_weights: Sequence[float] | None,
    void_class: int | None,
    sharding: NamedSharding | None = None,
) -> EvalProgram:
    """Build the jitted `(variables, images, indices [B]) -> EvalSums` of one batch."""
    weights = None if class_weights is None else jnp.asarray(class_weights, jnp.float32)
    eval_step = steps.make_eval_step(
        model,
        num_classes,
        class_weights=weights,
        void_class=void_class,
        sharding=sharding,
    )
    return steps.jit_eval_step(eval_step, sharding)


def evaluate(
    program: EvalProgram,
    variables: dict,
    load: loader.Loader,
    ids: Sequence[str],
    class_names: Sequence[str],
    batch_size: int,
    split: str = "val",
    tick: Callable[[], object] = lambda: None,
    trivial: classes.Trivial | None = None,
) -> Evaluation:
    """Evaluate on all images of a split, as padded batches.

    Results are fetched some batches late, so that the device never waits. The filler of the last
    batch is dropped; what remains counts each pixel exactly once.

    Args:
      program: `make_program`'s.
      variables: {"params", "batch_stats"}, on the devices.
      load: gives the images of the split for their indices.
      ids: of the images of the split.
      class_names: K names.
      batch_size: images at a time.
      split: its name.
      tick: called before each result is fetched; may raise, to stop.
      trivial: the constant predictor to compare with; None for class 0.
    """
    n = len(ids)
    running: deque[steps.EvalSums] = deque()
    parts: list[steps.EvalSums] = []

    def fetch(left: int) -> None:
        while len(running) > left:
            tick()
            parts.append(jax.tree.map(np.asarray, running.popleft()))

    with contextlib.closing(load(batches.eval_indices(n, batch_size))) as loaded:
        for images, indices in loaded:
            running.append(program(variables, images, indices))
            fetch(IN_FLIGHT)
    fetch(0)
    sums = jax.tree.map(lambda *p: np.concatenate(p)[:n], *parts)
    counts = sums.counts.astype(np.int64)
    weight = sums.weight.astype(np.float64).sum()
    loss = float(sums.loss.astype(np.float64).sum() / weight) if weight > 0 else None
    return _from_counts(counts, ids, class_names, split, trivial or classes.Trivial(), loss)


def void_class(config: configs.Config, trivial: classes.Trivial) -> int | None:
    """The class that void pixels count as in a run; None: they are ignored.

    Raises:
      InputError: if void is to count as background and no class is the background.
    """
    if not config.data.void_as_background:
        return None
    if trivial.background is None:
        raise InputError(
            "no class of the data set is named background: leave it out, or name the class",
            field="data.void_as_background",
            value=True,
        )
    return trivial.background


def config_of(restored: predict.Checkpoint) -> configs.Config:
    """The configuration of a network's run; one that has none, as exported ones, gets defaults."""
    stored = restored.meta.get("config")
    if stored is not None:
        return configs.from_dict(stored, "checkpoint")
    precision = restored.meta.get("model", {}).get("precision", "f32")
    return configs.Config(
        data=configs.DataConfig(image_size=restored.image_size), precision=precision
    )


def _trivial(restored: predict.Checkpoint) -> classes.Trivial:
    """The constant predictor of a saved network; class 0 where an older run did not say."""
    return classes.Trivial(*restored.meta.get("trivial", ()))


def _from_counts(counts, ids, class_names, split, trivial, loss=None, method=None) -> Evaluation:
    """Everything that follows from the counts."""
    background = trivial.background
    summarize = partial(metrics.summary, class_names=class_names, background=background)
    return Evaluation(
        split,
        tuple(ids),
        counts,
        summarize(counts, loss=loss),
        summarize(metrics.constant(counts, trivial.label)),
        summarize(metrics.perfect(counts, background or 0)),
        is_collapsed(counts, trivial.label),
        trivial.name,
        method,
    )


def evaluate_native(
    restored: predict.Checkpoint,
    examples: Iterable[Example],
    split: str = "val",
    scale: str = "fit",
    tta: predict.TTA | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Evaluate at each label's own size: the mask that `predict` returns, counted exactly.

    Args:
      restored: the network.
      examples: of the split, at full resolution; read one after another.
      split: its name.
      scale: `fit` or `native`, what the network sees; see `types.SCALES`.
      tta: views whose probabilities are averaged.
      tick: called after each image.

    There is no loss: it belongs to the size of the training.
    """
    tta = tta or predict.TTA()
    counts, ids = [], []
    for example in examples:
        mask = predict.predict(restored, example.image, scale, tta)
        counts.append(metrics.image_counts(example.mask, mask, len(restored.class_names)))
        ids.append(example.id)
        tick()
    method = {"resolution": "native", "scale": scale, "flip": tta.flip}
    method["factors"] = list(tta.factors)
    names, trivial = restored.class_names, _trivial(restored)
    return _from_counts(np.stack(counts), ids, names, split, trivial, None, method)


def is_collapsed(counts: np.ndarray, label: int = 0) -> bool:
    """Whether at least 99.9 % of the pixels were predicted as class `label`."""
    return bool(counts[..., label].sum() >= 0.999 * counts.sum())


def image_scores(counts: np.ndarray) -> list[float | None]:
    """The mean IoU of each image over the classes of its truth; None where no pixel is labelled.

    A class that is only predicted has no term of its own: one stray pixel of it would halve the
    score. It lowers the IoU of the classes whose pixels it took.
    """
    square = counts[:, :-1]
    hit, truth = np.diagonal(square, axis1=1, axis2=2), square.sum(2)
    union = truth + square.sum(1) - hit
    iou = np.divide(hit, union, out=np.zeros(hit.shape), where=truth > 0)
    present = (truth > 0).sum(1)
    return [float(s / n) if n else None for s, n in zip(iou.sum(1), present, strict=True)]


def identity(dataset: prepare.Dataset) -> dict[str, str]:
    """Which data set it is: {"name", "root": absolute path, "digest": of the content}."""
    return {"name": dataset.name, "root": dataset.root, "digest": dataset.digest}


def mark_data(
    result: Evaluation, restored: predict.Checkpoint, dataset: prepare.Dataset
) -> Evaluation:
    """Mark an evaluation on other images than those that the network was validated on in training.

    The content of a data set decides, wherever it lies; its path does where there is no digest. An
    exported network does not say what it was trained with: all data are others.
    """
    split_train = config_of(restored).data.split_train
    return result._replace(
        other_data=None if _is_own(restored, dataset) else identity(dataset),
        other_split=result.split == "val" and split_train is not None,
    )


def _is_own(restored: predict.Checkpoint, dataset: prepare.Dataset) -> bool:
    """Whether it is the data set that the network was trained with, see `mark_data`."""
    found, stored = identity(dataset), restored.meta.get("data")
    if "config" not in restored.meta:
        return False
    if stored is None:  # written by an older version
        path = configs.with_absolute_paths(config_of(restored)).data.dataset
        return not found["root"] or path in (found["root"], found["name"])
    key = "digest" if stored["digest"] and found["digest"] else "root"
    return stored[key] == found[key]


def save(evaluation: Evaluation, folder: Path) -> Path:
    """Write eval-<split>.json, and eval-<split>.npz with the counts of each image.

    Other files are written for an evaluation in another way than in training, such as
    eval-<split>-native-flip-0.75, for one on other data than the run's,
    eval-<split>-on-<name>-<digest>, and for the val split of a run that validated on a part of
    train, eval-val-real.
    The JSON holds the summary rows, the confusion matrix [K, K] and each image's miou.
    """
    suffix = "-real" if evaluation.other_split else ""
    suffix += _method_suffix(evaluation.method) if evaluation.method else ""
    if evaluation.other_data is not None:
        other = evaluation.other_data
        name = re.sub(r"[^A-Za-z0-9_]+", "-", other["name"]).strip("-") or "data"
        key = f"{zlib.crc32(repr(sorted(other.items())).encode()):08x}"
        suffix += f"-on-{name}-{key}"
    path = folder / f"eval-{evaluation.split}{suffix}.json"
    data = evaluation._asdict()
    ids, counts = data.pop("ids"), data.pop("counts")
    data["confusion"] = counts[:, :-1].sum(0).tolist()
    data["images"] = dict(zip(ids, image_scores(counts), strict=True))
    files.write_json(path, data)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, counts=counts, ids=np.asarray(ids))
    files.write_bytes(path.with_suffix(".npz"), arrays.getvalue())
    return path


def _method_suffix(method: Mapping[str, Any]) -> str:
    """A name for each way to evaluate at the labels' own sizes."""
    words = ["native", *(["every-pixel"] if method["scale"] == "native" else [])]
    words += ["flip"] if method["flip"] else []
    words += [f"{factor:g}" for factor in method["factors"] if factor != 1]
    return "".join(f"-{word}" for word in words)


def load(folder: Path, split: str = "val") -> tuple[dict[str, Any], np.ndarray, tuple[str, ...]]:
    """Read back what `save` wrote: (the JSON, counts [N, K+1, K], ids).

    Raises:
      InputError: if a file is missing or damaged.
    """
    data = files.read_json(folder / f"eval-{split}.json")
    path = folder / f"eval-{split}.npz"
    try:
        if not isinstance(data, dict) or "confusion" not in data:
            path = path.with_suffix(".json")
            raise ValueError("it holds no evaluation")
        # Opened here: NumPy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return data, arrays["counts"], tuple(arrays["ids"].tolist())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}): evaluate the run again") from error


def evaluate_checkpoint(
    restored: predict.Checkpoint,
    dataset: prepare.Dataset,
    split: str = "val",
    batch_size: int | None = None,
) -> Evaluation:
    """Evaluate a saved network on a split, exactly as its training validated it.

    The size, precision, loss and reading of void are the checkpoint's own, and so is the batch size
    unless one is given; an exported or published network has no class weights, ignores void, and
    takes batches of 16. All devices that divide a batch share it.

    Raises:
      InputError: if the data set has other classes than the network, or no such split.

    Examples::

      result = evaluate_checkpoint(load_checkpoint("runs/mine"), load_dataset("MY-FOLDER"), "test")
      print(result.summary["miou"], result.trivial["miou"])
    """
    config = config_of(restored)
    examples = split_examples(restored, dataset, split)
    batch_size = batch_size or config.data.batch_size
    mesh = distributed.mesh(batch_size, None)
    replicate = partial(distributed.replicate, mesh=mesh)
    opened = loader.open_split(examples, restored.image_size, len(restored.class_names), replicate)
    program = make_program(
        restored.model,
        len(restored.class_names),
        restored.meta.get("class_weights"),
        void_class(config, _trivial(restored)),
        distributed.batch_sharding(mesh),
    )
    with jax.default_matmul_precision(MATMUL_PRECISION[config.precision]):
        result = evaluate(
            program,
            replicate(restored.variables),
            opened.loader,
            opened.ids,
            restored.class_names,
            batch_size,
            split,
            trivial=_trivial(restored),
        )
    return mark_data(result, restored, dataset)


def split_examples(
    restored: predict.Checkpoint, dataset: prepare.Dataset, split: str
) -> Sequence[Example]:
    """The examples a network is evaluated on.

    Raises:
      InputError: if the data set has other classes than the network, or no such split.
    """
    check_classes(dataset, restored.class_names, "the network")
    overfit = config_of(restored).data.overfit
    if split == "val" and overfit and _is_own(restored, dataset):
        # Such a run is validated on its training images.
        return dataset.splits["train"][:overfit]
    return dataset.splits[split]


def check_classes(dataset: prepare.Dataset, class_names: Sequence[str], owner: str) -> None:
    """Refuse a data set of other classes than `owner`, a network or a run, was trained with."""
    if tuple(dataset.class_names) != tuple(class_names):
        raise InputError(
            f"data set {dataset.name} has {len(dataset.class_names)} classes "
            f"({', '.join(dataset.class_names[:3])}, ...), {owner} "
            f"{len(class_names)} ({', '.join(class_names[:3])}, ...): "
            "give the data set it was trained on"
        )
