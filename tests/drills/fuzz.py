"""Mutated files: each one loads or gives one clear error.

Run `python -m tests.drills.fuzz --count 2000`.

Photographs, masks, data-set folders' archives and weight files are bit-flipped, cut, spliced and
grown at random. Anything but a result or an `InputError` of one line, and anything that takes more
than five seconds, is a failure.
"""

import argparse
import io
import random
import signal
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from fcn_jax.data import images, masks, source, validate
from fcn_jax.data.class_lists import parse_classes
from fcn_jax.data.classes import voc_palette
from fcn_jax.types import InputError
from fcn_jax.weights.torch_files import read_state_dict
from tests import fakes

LIMIT = 5  # seconds


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four random changes."""
    new = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        kind, place = rng.choice("fffsczg"), rng.randrange(len(new) or 1)
        if (
            kind == "f" and new
        ):  # a few flipped bits; headers, where formats are decided, more often
            place = rng.choice([place, place % 64])
            new[place % len(new)] ^= 1 << rng.randrange(8)
        elif kind == "s":  # a piece copied elsewhere
            piece = new[place : place + rng.randint(1, 200)]
            at = rng.randrange(len(new) + 1)
            new[at:at] = piece
        elif kind == "c":  # cut short
            del new[place:]
        elif kind == "z":  # a run of one value
            end = min(len(new), place + rng.randint(1, 16))
            new[place:end] = bytes([rng.choice([0, 255])]) * (end - place)
        elif kind == "g":  # garbage behind
            new += rng.randbytes(rng.randint(1, 300))
    return bytes(new)


def archive(example) -> bytes:
    """A small VOC-2007 archive with one image in train and in val."""
    root, buffer = "VOCdevkit/VOC2007", io.BytesIO()
    image, mask = io.BytesIO(), io.BytesIO()
    Image.fromarray(example.image).save(image, "JPEG")
    Image.fromarray(example.mask).save(mask, "PNG")
    members = {
        f"{root}/ImageSets/Segmentation/train.txt": b"000001\n",
        f"{root}/ImageSets/Segmentation/val.txt": b"000001\n",
        f"{root}/JPEGImages/000001.jpg": image.getvalue(),
        f"{root}/SegmentationClass/000001.png": mask.getvalue(),
    }
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def weights(form: str) -> bytes:
    """A small weights file."""
    arrays = {"conv.weight": np.ones((4, 3, 3, 3), np.float32), "conv.bias": np.ones(4, np.float32)}
    if form == "safetensors":
        from safetensors.numpy import save

        return save(arrays)
    import torch

    buffer = io.BytesIO()
    tensors = {name: torch.from_numpy(a) for name, a in arrays.items()}
    torch.save(tensors, buffer, _use_new_zipfile_serialization=form == "pth")
    return buffer.getvalue()


def read_archive(path: Path) -> None:
    """What preparing does: open it, check every pair."""
    opened = source.open_archives(path, None)
    validate.raise_first(validate.problems(opened))


def read_mask(path: Path) -> None:
    """A mask in VOC's first colours."""
    colours = enumerate(voc_palette(3).tolist())
    text = "".join(f"class{i} {r} {g} {b}\n" for i, (r, g, b) in colours)
    masks.decode_mask(path.read_bytes(), parse_classes(text, "classes.txt"), "mask", "")


def targets() -> dict[str, tuple[str, bytes, object]]:
    """Kind -> (suffix, a sound file, its reader)."""
    example, jpeg, png = fakes.example(1, 120, 160), io.BytesIO(), io.BytesIO()
    Image.fromarray(example.image).save(jpeg, "JPEG")
    Image.fromarray(example.image).save(png, "PNG")
    coloured = io.BytesIO()
    Image.fromarray(voc_palette(3)[example.mask % 3]).save(coloured, "PNG")
    made = {
        "jpeg": (".jpg", jpeg.getvalue(), images.read_image),
        "png": (".png", png.getvalue(), images.read_image),
        "mask": (".png", coloured.getvalue(), read_mask),
        "archive": (".tar", archive(example), read_archive),
        "safetensors": (".safetensors", weights("safetensors"), read_state_dict),
    }
    for form in ("TIFF", "WEBP", "BMP"):
        other = io.BytesIO()
        Image.fromarray(example.image).save(other, form)
        made[form.lower()] = (f".{form.lower()}", other.getvalue(), images.read_image)
    try:
        made["pth"] = (".pth", weights("pth"), read_state_dict)
        made["old pth"] = (".pth", weights("old"), read_state_dict)
    except ImportError:
        print("PyTorch is not installed: no .pth files in this run")
    return made


def attempt(reader, path: Path) -> str:
    """`read`, `refused`, or what went wrong."""

    def too_long(number, frame):
        raise TimeoutError(f"over {LIMIT} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT)
    try:
        reader(path)
    except InputError as error:
        return "refused" if "\n" not in str(error) else f"more than one line: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return "read"


def main() -> int:
    """Mutate, read, count."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, made = random.Random(args.seed), targets()
    outcomes: dict[str, Counter] = {kind: Counter() for kind in made}
    failures, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.count):
            kind = rng.choice(list(made))
            suffix, sound, reader = made[kind]
            path = Path(folder) / f"file{suffix}"
            path.write_bytes(mutate(sound, rng))
            began = time.monotonic()
            outcome = attempt(reader, path)
            slowest = max(slowest, time.monotonic() - began)
            if outcome in ("read", "refused"):
                outcomes[kind][outcome] += 1
            else:
                failures.append(f"{number} ({kind}): {outcome}")
    for kind, counter in outcomes.items():
        print(f"{kind}: {counter['read']} read, {counter['refused']} refused")
    print(*failures[:20], sep="\n")
    print(f"{args.count} files, {len(failures)} failures, the slowest took {slowest:.2f} s")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
