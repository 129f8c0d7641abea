"""Data sets prepared with tfds, without TensorFlow: VOC-2007, any folder, and `shapes`.

One builder prepares all three once, as array_record files of checked, encoded bytes; reading is
lazy random access. `load` plans (what is to be prepared, and under which name), prepares where that
has not been done, and opens.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs
from absl import logging as absl_logging

from fcn_jax.data import dataset as datasets
from fcn_jax.data import shapes, validate, voc2007
from fcn_jax.data.classes import VOC_CLASSES, Classes, plain_classes
from fcn_jax.data.dataset import Dataset, Facts, Records
from fcn_jax.data.source import Source, open_folder
from fcn_jax.data.splits import LISTS, SPLITS
from fcn_jax.runtime import files
from fcn_jax.runtime.terminal import LOGGER, progress
from fcn_jax.types import InputError

try:
    import tensorflow_datasets as tfds
except ModuleNotFoundError as error:
    message = f"{error.name} is not installed: install the extra train, as in README.md"
    raise InputError(message) from None

_ROOM = "make room or choose another directory for prepared data"
_FACTS = "facts.npz"

Opener = Callable[[], Source]
"""Opens raw files only when they have to be prepared."""


def load(
    dataset: str,
    *,
    archives: Path | str | None = None,
    data_dir: Path | str | None = None,
    progress: bool = True,
) -> Dataset:
    """Open a data set, preparing it first where that has not been done yet.

    What is worth knowing about it (how it was split, what is left out) is logged then, once.

    Args:
        dataset: "voc2007", "shapes" (drawn, needs no network), or the path of a folder, see
            `source.open_folder`.
        archives: a directory that holds VOC's two archives; only for "voc2007". They may be cut
            down, which is logged, and the one with the test split may be absent. Without it they
            are downloaded to DATA_DIR/downloads.
        data_dir: where prepared data are kept; by default in the user's cache directory.
        progress: show progress bars on stderr, or log lines where that is no terminal.

    Raises:
        InputError: one line on what is wrong with the data and how to set it right.
    """
    data_dir = _absolute(data_dir)
    _make_folder(data_dir)
    plan = _plan(dataset, archives, data_dir, progress)
    records, content = _prepared(plan.key, plan.opener, data_dir, progress)
    sizes = {split: len(examples) for split, examples in records.items()}
    if plan.key == "voc2007" and sizes != voc2007.OFFICIAL_SIZES:
        raise InputError(
            f"prepared VOC-2007 in {data_dir} has {sizes} images, not {voc2007.OFFICIAL_SIZES}: "
            "delete that directory and start again"
        )
    names = plan.classes.names
    digest = hashlib.sha256(repr((content, names)).encode()).hexdigest()[:12]
    splits = datasets.Splits(records, plan.remedy)
    return Dataset(plan.name, names, plan.classes.palette, splits, digest, plan.root)


def open_source(
    dataset: str,
    *,
    archives: Path | str | None = None,
    data_dir: Path | str | None = None,
    progress: bool = True,
) -> Source:
    """The raw files that `load` would prepare, for the same arguments; prepares nothing.

    VOC's archives are downloaded and `shapes` is drawn first, where that has not been done yet.

    Raises:
        InputError: if they are not there, or not of the right shape.
    """
    return _plan(dataset, archives, _absolute(data_dir), progress).opener()


class _Plan(NamedTuple):
    """What is to be prepared."""

    name: str
    classes: Classes
    key: str
    """What the prepared data are called; changes with the raw files."""
    opener: Opener
    root: str
    remedy: str
    """What to do about a split that is missing."""


def _plan(dataset: str, archives: Path | str | None, data_dir: Path, progress: bool) -> _Plan:
    if archives is not None and dataset != "voc2007":
        raise InputError(f"archives go with the data set voc2007 only, not with {dataset!r}")
    if dataset != "voc2007":
        source = _open(dataset, data_dir, progress)
        key = f"{'shapes' if dataset == 'shapes' else 'folder'}_{source.digest}"
        remedy = f"add {LISTS}/SPLIT.txt"
        return _Plan(source.name, source.classes, key, lambda: source, source.root, remedy)
    key, root = "voc2007", data_dir / "downloads"
    opener = lambda: voc2007.download_archives(data_dir, progress)
    if archives is not None:
        root = Path(archives).expanduser()
        paths = voc2007.archive_paths(root)
        key, opener = voc2007.prepared_name(paths), lambda: voc2007.open_checked(paths)
    remedy = f"for test put {voc2007.ARCHIVES['test'].filename} beside the other archive"
    return _Plan("voc2007", plain_classes(VOC_CLASSES), key, opener, str(root.resolve()), remedy)


def _open(dataset: str, data_dir: Path, progress: bool) -> Source:
    """The raw files of `shapes`, or of a folder."""
    if dataset == "shapes":
        _make_folder(data_dir)
        root = shapes.ensure(data_dir / "drawn", progress)
        return dataclasses.replace(open_folder(root, "shapes"), notes=())
    path = Path(dataset).expanduser()
    if path.is_file():
        raise InputError(f"{dataset} is a file: unpack it, and give the folder")
    if not path.is_dir():
        raise InputError(f"no data set {dataset!r}: give voc2007, shapes or an existing folder")
    return open_folder(path)


def _absolute(data_dir: Path | str | None) -> Path:
    return Path(data_dir or default_data_dir()).expanduser().absolute()


def default_data_dir() -> Path:
    """The user's cache directory of this package."""
    return Path(platformdirs.user_cache_dir("fcn_jax")) / "data"


def _make_folder(path: Path) -> None:
    files.require_utf8(path)
    files.make_folder(path, "choose another directory for prepared data")


# ---------------------------------------------------------------------------------- builder


@dataclasses.dataclass(eq=False)
class SourceConfig(tfds.core.BuilderConfig):
    """A tfds configuration that carries what is to be prepared; None when only reading."""

    source: Source | None = None
    tick: Callable[[], object] = lambda: None
    """Called once an example."""


class VocSegmentation(tfds.core.GeneratorBasedBuilder):
    """Images with masks, stored as encoded bytes and sorted by id."""

    VERSION = tfds.core.Version("2.0.0")
    failure: InputError | None = None
    """What stopped the preparation: tfds would wrap it in words of its own."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                # Class ids as grey values: through a palette, some decoders return the colours.
                "mask": tfds.features.Image(shape=(None, None, 1)),
                "id": tfds.features.Text(),
            }
        )
        info = self.dataset_info_from_configs(features=features, disable_shuffling=True)
        # Google's bucket knows nothing of these data, and asking it leaves a temporary folder.
        info.initialize_from_bucket = lambda: None
        return info

    def _split_generators(self, dl_manager: Any) -> Any:
        del dl_manager  # it needs TensorFlow for local files, and cannot resume downloads
        source = self._source
        self.checker = validate.Checker(source)
        self.facts: dict[str, list[validate.Stored]] = {split: [] for split in source.splits}
        self.digest = hashlib.sha256()
        self._left = sum(len(ids) for ids in source.splits.values())
        return {split: self._generate_examples(split) for split in source.splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for example_id in sorted(self._source.splits[split]):
            try:
                stored = self.checker.read(split, example_id)
                self._config.tick()
                self._left -= 1
                if not self._left:
                    validate.raise_first(self.checker.problems())
            except InputError as error:
                self.failure = error
                raise
            for part in (split.encode(), stored.id.encode(), stored.image, stored.mask):
                self.digest.update(len(part).to_bytes(8, "little") + part)
            self.facts[split].append(stored._replace(image=b"", mask=b""))
            record = {"image": stored.image, "mask": stored.mask, "id": stored.id}
            yield example_id, record

    @property
    def _config(self) -> SourceConfig:
        assert isinstance(self.builder_config, SourceConfig)
        return self.builder_config

    @property
    def _source(self) -> Source:
        assert self._config.source is not None
        return self._config.source


def _builder(
    name: str,
    data_dir: Path,
    source: Source | None = None,
    tick: Callable[[], object] = lambda: None,
) -> VocSegmentation:
    config = SourceConfig(name=name, source=source, tick=tick)
    with _quiet():
        # The file format goes to the constructor: given later, tfds deletes what is there.
        return VocSegmentation(config=config, data_dir=data_dir, file_format="array_record")


def _prepare(name: str, source: Source, data_dir: Path, show: bool) -> None:
    validate.raise_first(validate.list_problems(source))
    needed = int(1.2 * source.bytes_needed()) + 2**25
    files.require(data_dir, needed, f"preparing {source.name}", _ROOM)
    total = sum(len(ids) for ids in source.splits.values())
    with progress(f"preparing {source.name}", total, show) as tick:
        builder = _builder(name, data_dir, source, tick)
        _build(builder, needed)
    for note in (*source.notes, *builder.checker.notes()):
        LOGGER.info("%s", note)
    _write_facts(builder)


def _build(builder: VocSegmentation, needed: int) -> None:
    for leftover in Path(builder.data_dir).parent.glob("incomplete.*"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a killed run; the lock is ours
    try:
        with _quiet():
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except Exception as error:
        if builder.failure is not None:
            raise builder.failure from None
        if files.is_full(error):
            folder = Path(builder.data_dir)
            raise files.full(folder, needed, "preparing it", _ROOM) from error
        if isinstance(error, OSError):
            raise files.refused(Path(builder.data_dir), error) from error
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep tfds silent: it announces and warns at length; what matters is said by us."""
    level = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            yield
    finally:
        absl_logging.set_verbosity(level)


# ---------------------------------------------------------------------------------- reading


def _prepared(
    name: str, opener: Opener, data_dir: Path, show: bool
) -> tuple[dict[str, Records], str]:
    """The splits of the data prepared under `name`, and their digest; prepared first if need be."""
    builder = _builder(name, data_dir)
    folder = Path(builder.data_dir)
    if not folder.is_dir():
        _make_folder(folder.parent)
        with files.alone(folder.parent / ".lock", f"preparing {name} in {data_dir}"):
            if not folder.is_dir():  # else the other process has done it
                _prepare(name, opener(), data_dir, show)
    with _quiet():
        builder = _builder(name, data_dir)
        opened = {s: _open_split(builder, s) for s in SPLITS if s in builder.info.splits}
    digest, facts = _read_facts(folder, opened)
    cache = data_dir / "resized"
    splits = {
        split: Records(records, facts[split], cache, f"{digest}-{split}")
        for split, records in opened.items()
    }
    return splits, digest


def _open_split(builder: VocSegmentation, split: str) -> Any:
    raw = tfds.decode.SkipDecoding()
    try:
        open_records: Any = builder.as_data_source  # whose decorator hides the signature
        records = open_records(split, decoders={"image": raw, "mask": raw})
        _ = records[0], records[len(records) - 1]  # opens the files, which is else done much later
        return records
    except (OSError, ValueError, RuntimeError, LookupError, AssertionError) as error:
        line = " ".join(str(error).split())
        raise InputError(
            f"prepared data in {builder.data_dir} cannot be read ({line}): delete that directory, "
            "they are then prepared again"
        ) from None


# ------------------------------------------------------------------------------------ facts


def _write_facts(builder: VocSegmentation) -> None:
    facts = {
        split: Facts(
            tuple(stored.id for stored in found),
            np.asarray([stored.shape for stored in found], np.int32),
            np.stack([stored.pixels for stored in found]),
        )
        for split, found in builder.facts.items()
    }
    _save_facts(Path(builder.data_dir), builder.digest.hexdigest()[:12], facts)


def _save_facts(folder: Path, digest: str, facts: dict[str, Facts]) -> None:
    arrays = {"digest": np.asarray(digest)}
    for split, found in facts.items():
        for key, value in found._asdict().items():
            arrays[f"{split}.{key}"] = np.asarray(value)
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    files.write_bytes(folder / _FACTS, content.getvalue())


def _read_facts(folder: Path, opened: dict[str, Any]) -> tuple[str, dict[str, Facts]]:
    """The facts stored with the data; taken again where a kill or damage has lost them."""
    try:
        with np.load(folder / _FACTS, allow_pickle=False) as arrays:
            facts = {
                split: Facts(
                    tuple(arrays[f"{split}.ids"].tolist()),
                    arrays[f"{split}.shapes"],
                    arrays[f"{split}.pixels"],
                )
                for split in opened
            }
            digest = str(arrays["digest"])
        if all(len(facts[split].ids) == len(records) for split, records in opened.items()):
            return digest, facts
    except Exception:  # zipfile and numpy raise many kinds; whatever it was, the facts are lost
        LOGGER.info("counting the prepared data in %s again", folder)
    # What `digest` of an undisturbed preparation is, again.
    whole = hashlib.sha256()
    for split, records in opened.items():
        for i in range(len(records)):
            record = records[i]
            for part in (split.encode(), record["id"], record["image"], record["mask"]):
                whole.update(len(part).to_bytes(8, "little") + part)
    facts = {split: datasets.facts_of(Records(records)) for split, records in opened.items()}
    _save_facts(folder, whole.hexdigest()[:12], facts)
    return whole.hexdigest()[:12], facts
