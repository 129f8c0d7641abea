"""Which image files a command reads, and what their results are called."""

import glob
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from experiments.cli import streams
from fcn_jax.data.raw_files import walk
from fcn_jax.types import IMAGE_SUFFIXES, InputError

UNREAD_SUFFIXES = (
    *(".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".tga", ".psd"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw"),
)
"""Of image files that are not read, which in a folder are worth a note."""


class Job(NamedTuple):
    """One image, and what its results are called."""

    path: Path
    name: Path
    """Below the output folder, without suffix."""


def find_images(inputs: list[str], recursive: bool = False) -> list[tuple[Path, Path]]:
    """(file, the folder it is named from) for each image, none twice, in a steady order.

    Files and folders of tools are passed over. Prints a note on images in folders that are of a
    type that is not read, and on subfolders with images that are not searched.

    Raises:
      InputError: for an input that does not exist, or if there is no image at all.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    unread: list[str] = []
    unsearched: list[str] = []
    for text in inputs:
        for path in _expand(text):
            if path.is_dir():
                inside = [p for _, p in walk(path, recursive)]
                pairs = [
                    (p, path)
                    for p in inside
                    if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()
                ]
                unsearched += [str(p) for p in inside if p.is_dir() and _holds_images(p)]
                unread += [str(p) for p in inside if p.suffix.lower() in UNREAD_SUFFIXES]
            else:
                pairs = [(path, path.parent)]
            for file, root in pairs:
                found.setdefault(file.resolve(), (file, root))
    for what, paths in (
        ("left out, as of a type that is not read", unread),
        ("not searched without --recursive", unsearched),
    ):
        if paths:
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            streams.say(f"{what}: {paths[0]}{more}", "note")
    if not found:
        raise InputError(f"{inputs[0]}: no image there: {', '.join(IMAGE_SUFFIXES)} are read")
    return list(found.values())


def _holds_images(folder: Path) -> bool:
    if not os.access(folder, os.R_OK | os.X_OK):
        return False
    return any(p.suffix.lower() in IMAGE_SUFFIXES for _, p in walk(folder, recursive=False))


def _expand(text: str) -> list[Path]:
    if os.path.exists(text):
        return [Path(text)]
    matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
    if not matches:
        raise InputError(f"{text}: no such file or folder: check the name")
    return [Path(match) for match in matches]


def name_jobs(files: list[tuple[Path, Path]]) -> list[Job]:
    """Give each image a name of its own, the shortest that tells it from all others.

    The path below the input folder without suffix; where that is taken, with the suffix; then with
    the folder's name before it; then with a number. The time is linear in the number of files.
    """
    resolved = {root: root.resolve().name for _, root in files}
    choices = []
    for path, root in files:
        below = path.relative_to(root)
        full = Path(resolved[root]) / below
        choices.append([below.with_suffix(""), below, full.with_suffix(""), full])
    chosen: list[Path | None] = [None] * len(files)
    taken: set[str] = set()
    for level in range(4):
        if None not in chosen:
            break
        keys = [_key(names[level]) for names in choices]
        counts = Counter(keys)
        for i, key in enumerate(keys):
            if chosen[i] is None and counts[key] == 1 and key not in taken:
                chosen[i] = choices[i][level]
                taken.add(key)
    jobs = []
    for i, name in enumerate(chosen):
        number = i + 1
        while name is None or (chosen[i] is None and _key(name) in taken):
            full = choices[i][3]
            name = full.with_name(f"{full.name}-{number}")
            number += 1
        taken.add(_key(name))
        jobs.append(Job(files[i][0], name))
    return jobs


def _key(name: Path) -> str:
    return name.as_posix().lower()  # some file systems do not tell A from a


def check_targets(jobs: list[Job], out: Path, areas: Path | None = None) -> None:
    """Refuse to write over an image that is read, or twice to one file."""
    inputs = {job.path.resolve() for job in jobs}
    targets = [suffixed(out / job.name, s) for job in jobs for s in (".png", "-overlay.jpg")]
    for target in targets:
        if target.resolve() in inputs:
            raise InputError(f"{target} is an input, and would be overwritten: change --out")
    others = {*inputs, *(t.resolve() for t in targets), (out / "index.html").resolve()}
    if areas and areas.exists() and not areas.is_file():
        raise InputError(f"--areas {areas}: is no file: choose another name")
    if areas and areas.resolve() in others:
        raise InputError(f"--areas {areas} is an image or a result: choose another name")


def suffixed(target: Path, suffix: str) -> Path:
    """`with_suffix` would eat a part of a name with dots in it."""
    return target.with_name(target.name + suffix)
