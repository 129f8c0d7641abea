"""Do the recipes of `tuned` earn their name? `python -m experiments.study ablation | networks`."""

import argparse

from experiments import paper, tuned
from experiments.cli import command, sweep
from fcn_jax import config as configs
from fcn_jax.analysis import compare
from fcn_jax.types import InputError

EPILOG = """examples:
  python -m experiments.study ablation --dataset DIR --image-size 96x128 --epochs 6
  python -m experiments.study ablation --arch unet --dataset DIR --epochs 60 --seeds 0,1,2
  python -m experiments.study networks --dataset DIR --image-size 360x480 --seeds 0,1,2

Finished runs are reused and interrupted ones go on, so the command can be repeated."""

CANDIDATE = "the candidate"

OUTVOTED: dict[str, object] = {"optim.name": "adamw", "optim.weight_decay": 1e-2}
"""What the candidate has besides the recipe: its ablation was not in favour of them."""

ABLATION: dict[str, dict[str, object]] = {
    "the recipe: Adam, the paper's L2": {"optim.name": "adam", "optim.weight_decay": 1e-5},
    "batches of 16": {"data.batch_size": 16},
    "without class weights": {"loss.class_weights": "none"},
    "class weights without a cap": {"loss.weight_cap": None},
    "without Dice": {"loss.dice": 0.0},
    "without warm-up": {"optim.warmup": 0},
    "constant rate": {"optim.schedule": "constant"},
    "Xavier initialisation": {"model.init": "xavier"},
    "without flips": {"augment.flip": 0.0},
    "void as background": {"data.void_as_background": True},
    "+ re-estimated batch norm": {"bn_batches": 40},
    "+ averaged parameters, re-estimated": {"optim.ema": 0.98, "bn_batches": 40},
    "+ scale jitter": {"augment.scale_jitter": (0.8, 1.5)},
}
"""Name -> what is changed in the candidate: an ingredient taken out, or (+) one put in. Those that
change nothing, because a flag has them so, are left out."""

PAPER = {
    "fcn": "weighted",
    "simplified_unet": "simplified_unet",
    "unet": "unet",
    "resnet50_fcn": "resnet50",
}
"""Network -> the paper's last experiment with it, which has all that the paper adds."""


def parser() -> argparse.ArgumentParser:
    """The flags of this door."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.study",
        description="Two studies of the tuned recipes, each a page with its table.md and "
        "table.json. ablation: a candidate, which is the recipe of one network and what was "
        "outvoted, and what becomes of it without each ingredient and with each that it leaves "
        "out. networks: the paper's recipe and the tuned "
        "one, for every network.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=("ablation", "networks"))
    parser.add_argument("--arch", choices=PAPER, default="fcn", help="of the ablation")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the study's lines")
    sweep.add_flags(parser, "runs/study")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then write the page."""
    args = parser().parse_args(argv)
    plans = ablation(args.arch) if args.study == "ablation" else networks()
    plans = [plan._replace(config=sweep.adapted(plan.config, args)) for plan in plans]
    if args.study == "ablation":
        plans = plans[:1] + [p for p in plans[1:] if p.config != plans[0].config]
    plans = chosen(plans, args.only)
    place = sweep.open_place(args, "experiments.study", argv)
    entries = sweep.run(plans, place)
    names = [entry.name for entry in entries]
    title = f"{args.study.capitalize()} on {place.dataset.name}"
    compare.write(
        entries, place.dataset, args.workdir, title, place.command, compared(args.study, names)
    )
    print((args.workdir / "table.md").read_text())
    print(f"page: {args.workdir}/report.html")
    return 0


def ablation(arch: str) -> list[sweep.Plan]:
    """The candidate for a network's recipe, the paper's recipe, then the candidate's variants."""
    candidate = configs.replace(tuned.EXPERIMENTS[f"tuned_{arch}"](), **OUTVOTED)
    theirs = paper.EXPERIMENTS[PAPER[arch]]()
    plans = [sweep.Plan(CANDIDATE, candidate), sweep.Plan("the paper's recipe", theirs)]
    for name, changes in ABLATION.items():
        config = configs.replace(candidate, **changes)
        note = "; ".join(configs.differences(candidate, config))
        plans.append(sweep.Plan(name, config, note=note))
    return plans


def networks() -> list[sweep.Plan]:
    """The paper's recipe and the tuned one for every network, in pairs."""
    return [
        sweep.Plan(f"{arch}, {kind}", make())
        for arch, name in PAPER.items()
        for kind, make in (
            ("paper", paper.EXPERIMENTS[name]),
            ("tuned", tuned.EXPERIMENTS[f"tuned_{arch}"]),
        )
    ]


def chosen(plans: list[sweep.Plan], names: list[str] | None) -> list[sweep.Plan]:
    """The plans of these names, in the study's order; all for None."""
    known = [plan.name for plan in plans]
    for name in names or ():
        if name not in known:
            raise InputError(f"--only {name!r}: there is none of that name: choose of {known}")
    return [plan for plan in plans if names is None or plan.name in names]


def compared(study: str, names: list[str]) -> list[tuple[str, str]]:
    """Whom the bootstrap compares: every variant with the candidate, or tuned with the paper's."""
    if study == "ablation":
        return [(name, CANDIDATE) for name in names if name != CANDIDATE and CANDIDATE in names]
    pairs = [(f"{arch}, tuned", f"{arch}, paper") for arch in PAPER]
    return [pair for pair in pairs if set(pair) <= set(names)]


if __name__ == "__main__":
    command.run(main)
