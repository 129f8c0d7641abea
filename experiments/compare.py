"""Lay finished runs side by side: `python -m experiments.compare WORKDIR WORKDIR ... --out DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments import evaluate
from experiments.cli import arguments, command, flags, stopping

if TYPE_CHECKING:
    from fcn_jax.analysis import compare


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser(
        "compare",
        "Write table.md, table.json and report.html that compare finished runs on the "
        "same data: scores beside the all-background row, curves, classes, images, and a paired "
        "bootstrap over the images that says whether a difference is more than chance. Runs that "
        "differ in nothing but the seed are one line, as mean and deviation.",
    )
    parser.add_argument("workdirs", type=Path, nargs="+", metavar="WORKDIR", help="finished runs")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder to write to")
    parser.add_argument(
        "--dataset", metavar="NAME", help="data set of the images (default: the first run's)"
    )
    flags.add_data_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, group by seed, write."""
    args = parser().parse_args(argv)
    command.setup_jax()

    from fcn_jax.analysis import compare
    from fcn_jax.inference import predict

    dataset = evaluate.open_dataset(predict.load_checkpoint(args.workdirs[0]), args)
    entries = group(args.workdirs)
    again = stopping.command("compare", argv)
    compare.write(entries, dataset, args.out, "Comparison", again)
    print((args.out / "table.md").read_text(encoding="utf-8"))
    print(f"page: {args.out}/report.html")
    return 0


def group(folders: list[Path]) -> list[compare.Entry]:
    """One entry a configuration; runs that differ only in the seed belong together."""
    from fcn_jax.analysis import compare
    from fcn_jax.runtime import files
    from fcn_jax.training import run_dir

    unique = {folder.resolve(): folder for folder in folders}
    groups: dict[str, list[Path]] = {}
    for folder in unique.values():
        config = files.read_json(folder / run_dir.CONFIG)
        config.pop("seed")
        groups.setdefault(str(sorted(config.items())), []).append(folder)
    names = entry_names(list(groups.values()))
    return [compare.Entry(n, found) for n, found in zip(names, groups.values(), strict=True)]


def entry_names(groups: list[list[Path]]) -> list[str]:
    """The first folder's name, without the seed where there are several; no name twice.

    Folders of one name are told apart by as many of their parents as it takes.
    """
    depths = [1] * len(groups)
    paths = [found[0].resolve() for found in groups]
    while True:
        names = [
            _without_seed("/".join(path.parts[-depth:]), len(found))
            for path, depth, found in zip(paths, depths, groups, strict=True)
        ]
        repeated = [i for i, n in enumerate(names) if names.count(n) > 1]
        longer = [i for i in repeated if depths[i] < len(paths[i].parts)]
        if not longer:
            return [n if names.count(n) == 1 else f"{n} ({i + 1})" for i, n in enumerate(names)]
        for i in longer:
            depths[i] += 1


def _without_seed(name: str, runs: int) -> str:
    return name.rsplit("-seed", 1)[0] if runs > 1 else name


if __name__ == "__main__":
    command.start(main)
