"""Read-only trees of raw files: a folder, or VOC's tar archives."""

import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from fcn_jax.types import InputError

VOC_ROOT = "VOCdevkit/VOC2007"


class Files(Protocol):
    """A read-only tree of files, in a directory or inside archives."""

    title: str
    """For messages: where the files are."""

    def names(self) -> Mapping[str, int]:
        """Relative POSIX paths of all files, with their sizes in bytes."""
        ...

    def read(self, name: str) -> bytes:
        """The content of one file."""
        ...


TOOL_FOLDERS = (
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
    *("__macosx", "__pycache__", "$recycle.bin", "system volume information", "lost+found"),
)
"""What tools and systems put beside a user's files; hidden names are theirs as well."""


def is_tool_name(name: str) -> bool:
    """Whether a file or folder belongs to a tool or the system."""
    return name.startswith(".") or name.lower() in TOOL_FOLDERS


def walk(
    folder: Path, recursive: bool = True, above: tuple[str, ...] = ()
) -> Iterator[tuple[str, Path]]:
    """(name below the folder, path) of what it holds, through links, without what is of tools.

    These are files, links to nothing, and folders where they are not searched.
    """
    real = os.path.realpath(folder)
    if real in above:
        return  # a link to a folder that it is in
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if is_tool_name(name):
            continue
        if recursive and path.is_dir():
            for inner, found in walk(path, True, (*above, real)):
                yield f"{name}/{inner}", found
        else:
            yield name, path


class FolderFiles:
    """The files below a directory, through links, without those of tools."""

    def __init__(self, root: Path, wanted: Callable[[str], bool] = lambda name: True):
        """Index `root` once.

        Args:
            root: the directory.
            wanted: of the files and folders right below it, by name.
        """
        self.title, self._root, self._sizes = str(root), root, {}
        self.stamps: list[tuple[str, int, int]] = []
        """(path, size, mtime in ns) of every file: what tells that something was edited."""
        self.elsewhere: list[str] = []
        """Paths of what lies right below a folder that is not wanted; their content is not read."""
        for top, path in walk(root, recursive=False):
            if wanted(top) and path.is_dir():
                for name, inner in walk(path):
                    self._add(f"{top}/{name}", inner)
            elif wanted(top):
                self._add(top, path)
            elif path.is_dir() and os.access(path, os.R_OK):
                self.elsewhere += [f"{top}/{name}" for name, _ in walk(path, recursive=False)]

    def _add(self, name: str, path: Path) -> None:
        if path.is_file() or not path.exists():  # a link to nothing, which cannot be read
            stat = path.stat() if path.exists() else path.lstat()
            self._sizes[name] = stat.st_size
            self.stamps.append((name, stat.st_size, stat.st_mtime_ns))

    def names(self) -> Mapping[str, int]:
        """As `Files.names`."""
        return self._sizes

    def read(self, name: str) -> bytes:
        """As `Files.read`."""
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"{self.title}/{name} cannot be read ({error.strerror}): "
                "check its permissions, and the file that it links to"
            ) from None


class TarFiles:
    """The files below VOCdevkit/VOC2007 in uncompressed tar archives, read in place.

    Nothing is ever extracted. An archive is refused when it is cut off (also exactly between two
    members, which `tarfile` alone takes for a shorter archive) or when it names paths outside.
    """

    def __init__(self, archives: list[Path]):
        """Index the archives; where two hold the same file, the first counts."""
        self.title = " + ".join(path.name for path in archives)
        self._members: dict[str, tuple[Path, int, int]] = {}
        for path in archives:
            for name, offset, size in _tar_members(path):
                self._members.setdefault(name, (path, offset, size))

    def names(self) -> Mapping[str, int]:
        """As `Files.names`."""
        return {name: size for name, (_, _, size) in self._members.items()}

    def read(self, name: str) -> bytes:
        """As `Files.read`."""
        path, offset, size = self._members[name]
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def _tar_members(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name below VOC_ROOT, offset, size) of each file, after checking the whole archive."""
    remedy = "copy or download it again"
    size = 0
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(size - 1024, 0))
            end = file.read()
        with tarfile.open(path, "r:") as archive:
            members = archive.getmembers()
    except tarfile.TarError as error:
        raise InputError(
            f"{path} is no complete tar archive ({error}, {size} bytes): {remedy}"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    if len(end) < 1024 or any(end):
        # A tar ends with two empty blocks; without them it was cut between two members.
        raise InputError(f"{path} is cut off ({size} bytes, no end mark): {remedy}")
    for member in members:
        pure = PurePosixPath(member.name)
        if pure.is_absolute() or ".." in pure.parts:
            raise InputError(f"{path} holds the unsafe path {member.name!r}: {remedy}")
        if not pure.is_relative_to(VOC_ROOT) or member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise InputError(f"{path}: member {member.name!r} is no plain file: {remedy}")
        if member.offset_data + member.size > size:
            raise InputError(f"{path} is cut off inside {member.name} ({size} bytes): {remedy}")
        yield pure.relative_to(VOC_ROOT).as_posix(), member.offset_data, member.size
