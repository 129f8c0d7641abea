"""Raw pictures and masks: the VOC-2007 archives or a VOC-shaped folder, and all that can be wrong.

A `Source` says which ids there are and hands out bytes; `read_example` checks one pair and turns it
into what the builder of `voc.py` stores. `problems` runs the very same checks over everything.
"""

import dataclasses
import hashlib
import io
import struct
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fcn_jax.data.classes import VOC_CLASSES, voc_palette
from fcn_jax.types import VOID, InputError

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
IMAGE_FOLDERS = ("JPEGImages", "images")
MASK_FOLDERS = ("SegmentationClass", "masks")
LISTS = "ImageSets/Segmentation"
VOC_ROOT = "VOCdevkit/VOC2007"
VOID_COLOUR = (224, 224, 192)
"""VOC's own colour of void, understood in RGB masks."""

MAX_PIXELS = 89_478_485
"""Pillow's own limit for one picture: above it a small file can fill the memory."""

_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    MemoryError,
    Image.DecompressionBombError,
    Warning,
)


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


class FolderFiles:
    """The files below a directory."""

    def __init__(self, root: Path):
        """Index `root` once."""
        self.title, self._root, self._sizes = str(root), root, {}
        self.stamps: list[tuple[str, int, int]] = []
        """(path, size, mtime in ns) of every file that matters: what a digest is taken of."""
        folders = [root / f for f in (*IMAGE_FOLDERS, *MASK_FOLDERS, LISTS)]
        for path in sorted([root / "classes.txt", *(p for f in folders for p in f.rglob("*"))]):
            if path.is_file() and not path.name.startswith("."):
                name, stat = path.relative_to(root).as_posix(), path.stat()
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
                f"{self.title}/{name} cannot be read ({error.strerror}): check its permissions"
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


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set before it is prepared: ids, names of files, classes."""

    name: str
    files: Files
    class_names: tuple[str, ...]
    palette: np.ndarray
    """uint8 [K, 3]."""
    colours: Mapping[tuple[int, ...], int] | None
    """RGB colour -> class id (or VOID) for masks in colours; None when only indices are allowed."""
    splits: Mapping[str, tuple[str, ...]]
    """Ids in the order of the lists; "train", "val", "test", as far as there are any."""
    images: Mapping[str, str]
    """id -> path."""
    masks: Mapping[str, str]
    has_lists: bool
    honour_exif: bool
    digest: str
    """Changes when any file changes."""
    root: str = ""
    """The absolute path of the folder, or of the folder of the archives."""
    notes: tuple[str, ...] = ()
    """Worth telling the user, and no error."""

    def list_name(self, split: str) -> str:
        """Where an id of `split` can be removed."""
        return f"{split}.txt" if self.has_lists else "the folder"

    def bytes_needed(self) -> int:
        """Bytes of all listed pictures and masks: about what the prepared data will take."""
        sizes, total = self.files.names(), 0
        for ids in self.splits.values():
            for example_id in ids:
                for paths in (self.images, self.masks):
                    total += sizes.get(paths.get(example_id, ""), 0)
        return total


class Stored(NamedTuple):
    """One checked pair, as the builder stores it."""

    id: str
    image: bytes
    """JPEG as it came where it is RGB, else PNG."""
    mask: bytes
    """PNG of mode L whose values are class ids and VOID."""
    classes: frozenset[int]
    """The values that occur in the mask."""


# ---------------------------------------------------------------------------------- opening


def open_archives(trainval: Path, test: Path | None, name: str = "voc2007") -> Source:
    """VOC-2007 in its official tar archives (`test` may be absent: then there is no such split).

    Raises InputError for an archive that is cut off, no tar, or has no split list.
    """
    paths = [path for path in (trainval, test) if path is not None]
    files = TarFiles(paths)
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    splits = _read_lists(files)
    for split in SPLITS if test is not None else SPLITS[:2]:
        if split not in splits:
            path = test if split == "test" else trainval
            raise InputError(
                f"{path} has no {VOC_ROOT}/{LISTS}/{split}.txt: it is not the VOC-2007 archive; "
                "download it again"
            )
    return Source(
        name=name,
        files=files,
        class_names=VOC_CLASSES,
        palette=voc_palette(len(VOC_CLASSES)),
        colours=None,
        splits=splits,
        images=_by_id(files, IMAGE_FOLDERS[0], IMAGE_SUFFIXES),
        masks=_by_id(files, MASK_FOLDERS[0], (".png",)),
        has_lists=True,
        honour_exif=False,  # the official masks lie on the pixels as they are stored
        digest=_digest(stamps),
        root=str(trainval.resolve().parent),
    )


def open_folder(root: Path, name: str | None = None, seed: int = 0) -> Source:
    """A VOC-shaped folder.

    JPEGImages (or images) and SegmentationClass (or masks) hold files of equal stems,
    ImageSets/Segmentation/{train,val,test}.txt one id a line. Without lists one image of five,
    chosen by `seed`, is val and the rest train. classes.txt names the classes, see `read_classes`;
    without it the classes are VOC's 21.

    Raises InputError when the folder is missing or not of this shape.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no directory: give the folder of a VOC-shaped data set")
    images, masks = _first_folder(root, IMAGE_FOLDERS), _first_folder(root, MASK_FOLDERS)
    files, notes = FolderFiles(root), []
    if "classes.txt" in files.names():
        text = _decode_text(files, "classes.txt")
        class_names, palette, colours = read_classes(text, str(root / "classes.txt"))
    else:
        class_names, palette = VOC_CLASSES, voc_palette(len(VOC_CLASSES))
        colours = None
        notes.append(f"{root} has no classes.txt: its masks are read with VOC's 21 classes")
    image_paths = _by_id(files, images, IMAGE_SUFFIXES)
    splits = _read_lists(files)
    has_lists = bool(splits)
    if not has_lists:
        splits = _seeded_split(image_paths, seed, root)
        sizes = ", ".join(f"{split} {len(ids)}" for split, ids in splits.items())
        notes.append(f"{root} has no {LISTS}/*.txt: split by seed {seed} into {sizes}")
    return Source(
        name=name or root.resolve().name,
        files=files,
        class_names=class_names,
        palette=palette,
        colours=colours,
        splits=splits,
        images=image_paths,
        masks=_by_id(files, masks, (".png",)),
        has_lists=has_lists,
        honour_exif=True,
        digest=_digest([str(root.resolve()), seed, files.stamps]),
        root=str(root.resolve()),
        notes=tuple(notes),
    )


def read_classes(
    text: str, where: str
) -> tuple[tuple[str, ...], np.ndarray, dict[tuple[int, ...], int] | None]:
    """Parse classes.txt: `name` or `name r g b` a line; line i names class id i.

    Empty lines and lines that begin with # are skipped. With colours, a last line `void r g b` may
    name the colour of pixels that do not count. Returns (names, palette uint8 [K, 3], colour -> id
    or None without colours). Raises InputError that names `where` and the line.
    """
    names, colours = [], []
    for number, line in enumerate(text.splitlines(), 1):
        tokens = line.split()
        if not tokens or tokens[0].startswith("#"):
            continue
        has_colour = len(tokens) >= 4 and all(t.isascii() and t.isdigit() for t in tokens[-3:])
        colour = tuple(int(t) for t in tokens[-3:]) if has_colour else None
        if colour and max(colour) > 255:
            raise InputError(f"{where} line {number}: colour {colour} is not in 0..255: correct it")
        names.append(" ".join(tokens[:-3] if has_colour else tokens))
        colours.append(colour)
    void = colours.pop() if names and names[-1] == "void" and colours[-1] else None
    names = names[:-1] if void else names
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(f"{where} names the class {repeated[0]!r} twice: remove or rename one")
    if not 2 <= len(names) <= VOID:
        raise InputError(f"{where} names {len(names)} classes: 2 to {VOID} are possible")
    given = [colour for colour in colours if colour]
    if not given:
        return tuple(names), voc_palette(len(names)), None
    if len(given) < len(names):
        lacking = names[colours.index(None)]
        raise InputError(f"{where} gives no colour for {lacking!r}: give all classes one, or none")
    table: dict[tuple[int, ...], int] = {VOID_COLOUR: VOID}
    if void:
        table[void] = VOID
    for index, colour in enumerate(given):
        if given.index(colour) < index or colour == void:
            raise InputError(f"{where} gives {colour} to two classes: make the colours differ")
        table[colour] = index
    return tuple(names), np.array(given, np.uint8), table


def _first_folder(root: Path, candidates: tuple[str, ...]) -> str:
    for name in candidates:
        if (root / name).is_dir():
            return name
    nested = root / VOC_ROOT
    hint = f"; did you mean {nested}?" if nested.is_dir() else ""
    raise InputError(f"{root} has no folder {' or '.join(candidates)}: add it{hint}")


def _decode_text(files: Files, name: str) -> str:
    try:
        return files.read(name).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name} in {files.title} is no UTF-8 text: save it as UTF-8") from None


def _read_lists(files: Files) -> dict[str, tuple[str, ...]]:
    splits = {}
    for split in SPLITS:
        name = f"{LISTS}/{split}.txt"
        if name in files.names():
            lines = _decode_text(files, name).splitlines()
            splits[split] = tuple(line.split()[0] for line in lines if line.strip())
    return splits


def _seeded_split(ids: Mapping[str, str], seed: int, root: Path) -> dict[str, tuple[str, ...]]:
    if len(ids) < 2:
        raise InputError(f"{root} has {len(ids)} images: at least 2 are needed, to train and judge")
    # Ordered by a hash of the id, so that adding an image moves no other between the splits' order.
    ranked = sorted(ids, key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())
    count = max(1, round(len(ids) / 5))
    return {"train": tuple(sorted(ranked[count:])), "val": tuple(sorted(ranked[:count]))}


def _by_id(files: Files, folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Id (path below `folder` without suffix) -> path; the first suffix wins, in their order."""
    found: dict[str, str] = {}
    for name in files.names():
        pure = PurePosixPath(name)
        if pure.is_relative_to(folder) and pure.suffix.lower() in suffixes:
            example_id = pure.relative_to(folder).with_suffix("").as_posix()
            rank = suffixes.index(pure.suffix.lower())
            other = found.get(example_id)
            if other is None or rank < suffixes.index(PurePosixPath(other).suffix.lower()):
                found[example_id] = name
    return found


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


# --------------------------------------------------------------------------------- checking


def problems(
    source: Source,
    tick: Callable[[], object] = lambda: None,
    see: Callable[[str, "Stored"], object] = lambda split, stored: None,
) -> Iterator[str]:
    """Everything that would make training on `source` fail, one line each.

    `tick` is called once a pair, `see` with the split and each pair that is sound.
    """
    yield from list_problems(source)
    seen: set[int] = set()
    for split, ids in source.splits.items():
        for example_id in dict.fromkeys(ids):
            try:
                stored = read_example(source, split, example_id)
                seen |= stored.classes
                see(split, stored)
            except InputError as error:
                yield str(error)
            tick()
    yield from class_problems(seen)


def list_problems(source: Source) -> Iterator[str]:
    """What is wrong with the lists themselves: a split missing or empty, an id given twice."""
    where = source.files.title
    for split in ("train", "val"):
        if split not in source.splits:
            yield f"{where} has no {LISTS}/{split}.txt: add it, with one id a line"
    for split, ids in source.splits.items():
        if not ids:
            yield f"{where}: {LISTS}/{split}.txt is empty: list at least one id, or delete it"
        seen = set()
        for example_id in ids:
            if example_id in seen:
                yield f"{split}.txt lists {example_id} twice: remove one of the lines"
            seen.add(example_id)


def class_problems(seen: set[int]) -> Iterator[str]:
    """What is wrong with the class ids of all masks together: none but 0 and void."""
    if seen and seen <= {0, VOID}:
        void = f" and void {VOID}" if VOID in seen else ""
        yield (
            f"no mask has any class but 0{void}: where 255 was meant as the object, "
            "save it as the class id 1"
        )


def read_example(source: Source, split: str, example_id: str) -> Stored:
    """Check one pair and return it as it is stored.

    Raises InputError with one line that names the file, what is wrong with it, and the remedy.
    """
    remove = f"or remove the id from {source.list_name(split)}"
    where = f"(listed in {source.list_name(split)})" if source.has_lists else ""
    for kind, paths in (("image", source.images), ("mask", source.masks)):
        if example_id not in paths:
            message = f"{kind} of {example_id} {where}".rstrip()
            raise InputError(f"{message} is missing in {source.files.title}: add it {remove}")
    image_path, mask_path = source.images[example_id], source.masks[example_id]
    image_bytes = source.files.read(image_path)
    image = _open(image_bytes, f"image {_short(image_path)}", remove)
    mask = _mask_ids(source, mask_path, remove)
    picture = _upright(image, mask.shape[:2]) if source.honour_exif else image
    if picture.size != (mask.shape[1], mask.shape[0]):
        size, mask_size = (f"{w}x{h}" for w, h in (picture.size, mask.shape[::-1]))
        raise InputError(
            f"image {_short(image_path)} is {size}, its mask {mask_size}: fix the mask {remove}"
        )
    if not (image.format == "JPEG" and picture is image and image.mode == "RGB"):
        image_bytes = _png(to_rgb(picture))
    classes = frozenset(np.flatnonzero(np.bincount(mask.ravel())).tolist())
    return Stored(example_id, image_bytes, _png(Image.fromarray(mask)), classes)


def _short(path: str) -> str:
    """The path below JPEGImages or SegmentationClass."""
    return path.split("/", 1)[-1]


def _open(data: bytes, what: str, remove: str) -> Image.Image:
    """Decode completely; InputError instead of Pillow's many ways to fail."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            frames = getattr(image, "n_frames", 1)
            pixels = image.width * image.height
            if frames == 1 and pixels <= MAX_PIXELS:
                image.load()
    except UnidentifiedImageError:
        raise InputError(f"{what} is no readable picture: replace it {remove}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{what} has over {MAX_PIXELS} pixels: reduce it {remove}") from None
    except _UNREADABLE as error:
        raise InputError(f"{what} cannot be decoded ({error}): replace it {remove}") from None
    if frames != 1:
        raise InputError(f"{what} has {frames} frames: save the one that counts {remove}")
    if pixels > MAX_PIXELS:
        raise InputError(f"{what} has {pixels} pixels: reduce it below {MAX_PIXELS} {remove}")
    if image.mode[0] in "IF":
        raise InputError(f"{what} has the mode {image.mode}: save it with 8 bits {remove}")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Greyscale, palette, alpha and CMYK pictures as plain RGB (transparency is dropped)."""
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about transparency
    return image.convert("RGB")


def _upright(image: Image.Image, mask_shape: tuple[int, ...]) -> Image.Image:
    """The picture as viewers show it, or as stored where only that fits its mask.

    Masks are drawn on what an annotation tool shows, which is nearly always the upright picture.
    """
    if image.getexif().get(0x0112, 1) == 1:
        return image
    upright = ImageOps.exif_transpose(image)
    stored_fits = (image.height, image.width) == mask_shape
    return image if stored_fits and (upright.height, upright.width) != mask_shape else upright


def _mask_ids(source: Source, path: str, remove: str) -> np.ndarray:
    """The mask as uint8 [H, W] of class ids and VOID."""
    what = f"mask {_short(path)}"
    mask = _open(source.files.read(path), what, remove)
    if mask.format != "PNG":
        raise InputError(f"{what} is {mask.format} inside, not PNG: save it as PNG {remove}")
    if mask.mode == "RGB" and source.colours is not None:
        return _ids_of_colours(np.asarray(mask), source.colours, what, remove)
    if mask.mode not in ("P", "L"):
        raise InputError(
            f"{what} is in colours (mode {mask.mode}), not class indices: save it as an index PNG, "
            "or give every class its colour in classes.txt (name r g b)"
        )
    ids = np.array(mask)  # of mode P too these are the indices, which are the class ids
    limit = len(source.class_names)
    counts = np.bincount(ids.ravel(), minlength=256)
    wrong = [int(i) for i in np.flatnonzero(counts[:VOID]) if i >= limit]
    if wrong:
        raise InputError(
            f"{what} holds the class id {wrong[0]}, not 0..{limit - 1} or {VOID} (void): "
            f"fix the mask or classes.txt, {remove}"
        )
    return ids


def _ids_of_colours(
    rgb: np.ndarray, colours: Mapping[tuple[int, ...], int], what: str, remove: str
) -> np.ndarray:
    packed = (rgb.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(-1, dtype=np.uint32)
    ids = np.full(packed.shape, VOID, np.uint8)
    known = np.zeros(packed.shape, bool)
    for (r, g, b), index in colours.items():
        here = packed == (r << 16 | g << 8 | b)
        ids[here], known = index, known | here
    if not known.all():
        colour = tuple(int(v) for v in rgb[~known][0])
        raise InputError(
            f"{what} holds the colour {colour}, which classes.txt does not give: add it there, "
            f"fix the mask {remove}"
        )
    return ids


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def read_photo(path: Path) -> np.ndarray:
    """A photograph by itself, upright, uint8 [H, W, 3] RGB.

    Raises:
        InputError: if it cannot be read or decoded, or is too large.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"image {path} cannot be read ({error.strerror}): check it") from None
    image = _open(data, f"image {path}", "or leave it out")
    return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
