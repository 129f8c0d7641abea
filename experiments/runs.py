"""List runs with their scores, or remove some: `python -m experiments.runs`."""

import os
import shutil
from pathlib import Path

from experiments.cli import arguments, command, run_folders
from fcn_jax.runtime import text
from fcn_jax.training import run_dir
from fcn_jax.types import InputError

EPILOG = """examples:
  python -m experiments.runs
  python -m experiments.runs runs/paper runs/study
  python -m experiments.runs --remove runs/fcn-voc2007-1"""


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser(
        "runs", "List the runs in a folder with their state, score and size.", EPILOG
    )
    parser.add_argument(
        "folders",
        type=arguments.path,
        nargs="*",
        metavar="DIR",
        default=[Path("runs")],
        help="folders to search, with their subfolders (default: runs)",
    )
    parser.add_argument(
        "--remove",
        type=arguments.path,
        nargs="+",
        metavar="RUN",
        help="delete these run folders instead",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, then list or remove."""
    args = parser().parse_args(argv)
    if args.remove:
        for folder in args.remove:
            check_removable(folder)  # all of them, before the first is gone
        for folder in args.remove:
            if not folder.exists():  # named twice, or inside of one that is gone
                continue
            size = text.amount(run_folders.summary(folder)["bytes"])
            shutil.rmtree(folder)
            print(f"{folder}: removed, {size} freed")
        return 0
    found = find_runs(args.folders)
    if not found:
        print(f"no runs in {', '.join(map(str, args.folders))}")
        return 0
    print(table(found))
    return 0


def check_removable(folder: Path) -> None:
    """Refuse what is no run, or is being trained.

    Raises:
      InputError: says which it is.
    """
    if not run_folders.holds_run(folder):
        raise InputError(f"{folder}: no run there: name the folder that holds its config.json")
    if folder.is_symlink():
        raise InputError(f"{folder}: a link: name the folder that it leads to")
    if run_folders.is_locked(folder):
        raise InputError(f"{folder}: a process is training there: stop it first")


def find_runs(folders: list[Path]) -> list[Path]:
    """The run folders below, sorted by name and number.

    Raises:
      InputError: if a folder does not exist.
    """
    for folder in folders:
        if not folder.is_dir() and folder != Path("runs"):
            raise InputError(f"{folder}: no such folder: check the name")
    inner = {
        Path(inner)
        for folder in folders
        for inner, _, names in os.walk(folder)
        if run_dir.CONFIG in names
    }
    return sorted(filter(run_folders.holds_run, inner), key=run_folders.by_number)


def table(folders: list[Path]) -> str:
    """A line for each run."""
    rows = [("run", "state", "epochs", "mIoU", "size")]
    for folder in folders:
        found = run_folders.summary(folder)
        miou = "" if found["miou"] is None else f"{found['miou']:.4f}"
        size = text.amount(found["bytes"])
        rows.append((str(folder), found["state"], found["epochs"], miou, size))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


if __name__ == "__main__":
    command.start(main)
