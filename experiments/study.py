"""Do the recipes of `tuned` earn their name? `python -m experiments.study ablation | networks`."""

from experiments import paper, tuned
from experiments.cli import arguments, command, sweep
from fcn_jax import config as configs
from fcn_jax.types import InputError

EPILOG = """examples:
  python -m experiments.study ablation --dataset DIR --image-size 96x128 --epochs 6
  python -m experiments.study ablation --arch unet --dataset DIR --epochs 60 --seeds 0,1,2
  python -m experiments.study networks --dataset DIR --image-size 360x480 --seeds 0,1,2

Finished runs are reused and interrupted ones resumed, so the command can be repeated."""

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


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser(
        "study",
        "Two studies of the tuned recipes, each a page with its table.md and "
        "table.json. ablation: a candidate, which is the recipe of one network and what was "
        "outvoted, and what becomes of it without each ingredient and with each that it leaves "
        "out. networks: the paper's recipe and the tuned one, for every network.",
        EPILOG,
    )
    parser.add_argument(
        "study",
        type=arguments.choice(("ablation", "networks")),
        metavar="STUDY",
        help="ablation or networks",
    )
    parser.add_argument(
        "--arch",
        type=arguments.choice(PAPER),
        metavar="NAME",
        default="fcn",
        help=f"of the ablation: {', '.join(PAPER)} (default: fcn)",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the study's lines")
    sweep.add_flags(parser, "runs/study")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then write the page."""
    args = parser().parse_args(argv)
    specs = ablation(args.arch) if args.study == "ablation" else networks()
    specs = [spec._replace(config=sweep.adapted(spec.config, args)) for spec in specs]
    if args.study == "ablation":
        specs = specs[:1] + [s for s in specs[1:] if s.config != specs[0].config]
    specs = chosen(specs, args.only)
    opened = sweep.open_sweep(args, "study", argv)

    from fcn_jax.analysis import compare

    entries = sweep.run(specs, opened)
    title = f"{args.study.capitalize()} on {opened.dataset.name}"
    pairs = compared(args.study, [entry.name for entry in entries])
    compare.write(entries, opened.dataset, args.workdir, title, opened.command, pairs)
    print((args.workdir / "table.md").read_text(encoding="utf-8"))
    print(f"page: {args.workdir}/report.html")
    return 0


def ablation(arch: str) -> list[sweep.RunSpec]:
    """The candidate for a network's recipe, the paper's recipe, then the candidate's variants."""
    candidate = configs.replace(tuned.EXPERIMENTS[f"tuned_{arch}"](), **OUTVOTED)
    theirs = paper.EXPERIMENTS[PAPER[arch]]()
    specs = [sweep.RunSpec(CANDIDATE, candidate), sweep.RunSpec("the paper's recipe", theirs)]
    for name, changes in ABLATION.items():
        config = configs.replace(candidate, **changes)
        note = "; ".join(configs.differences(candidate, config))
        specs.append(sweep.RunSpec(name, config, note=note))
    return specs


def networks() -> list[sweep.RunSpec]:
    """The paper's recipe and the tuned one for every network, in pairs."""
    return [
        sweep.RunSpec(f"{arch}, {kind}", make())
        for arch, name in PAPER.items()
        for kind, make in (
            ("paper", paper.EXPERIMENTS[name]),
            ("tuned", tuned.EXPERIMENTS[f"tuned_{arch}"]),
        )
    ]


def chosen(specs: list[sweep.RunSpec], names: list[str] | None) -> list[sweep.RunSpec]:
    """The runs of these names, in the study's order; all for None."""
    known = [spec.name for spec in specs]
    for name in names or ():
        if name not in known:
            near = arguments.nearest(name, known)
            raise InputError(f"--only {name!r}: choose of {', '.join(known)}{near}")
    return [spec for spec in specs if names is None or spec.name in names]


def compared(study: str, names: list[str]) -> list[tuple[str, str]]:
    """Pairs for the bootstrap: each variant and the candidate, or the tuned and the paper's."""
    if study == "ablation":
        return [(name, CANDIDATE) for name in names if name != CANDIDATE and CANDIDATE in names]
    pairs = [(f"{arch}, tuned", f"{arch}, paper") for arch in PAPER]
    return [pair for pair in pairs if set(pair) <= set(names)]


if __name__ == "__main__":
    command.start(main)
