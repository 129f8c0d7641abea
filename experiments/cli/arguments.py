"""Command-line parsing: flags made from the fields of dataclasses, and errors of one line.

A field's docstring, type and default are its flag's help, so nothing is said twice. A wrong flag or
value is an `InputError`, which `command.run` prints without the usage, and names the nearest flag.
Imports nothing heavy: `--help` and a mistake are answered at once.
"""

import argparse
import ast
import difflib
import functools
import inspect
import itertools
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cli import stopping
from fcn_jax import config as configs
from fcn_jax.types import InputError

NAMES = {
    "optim.name": "--optimizer",
    "loss.function": "--loss",
    "augment.function": "--augment",
}
"""Flags that are not called as the last part of their field."""

ALIASES = {"augment.colour_jitter": ["--color-jitter"]}

_VALUE = "\0"
"""Marks an error of a converter, which begins with the value."""


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `InputError`, and suggests what may have been meant."""

    def __init__(self, command: str, description: str | None, epilog: str = "") -> None:
        as_called = lambda text: text.replace("python -m experiments.", stopping.prefix(""))
        if description and "\n" not in description:  # several lines are laid out already
            description = textwrap.fill(description, _width())
        super().__init__(
            prog=stopping.prefix(command),
            description=as_called(description or ""),
            epilog=as_called(epilog),
            formatter_class=_Formatter,
            allow_abbrev=False,
        )

    def parse_args(self, args=None, namespace=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse; every mistake raises `InputError`."""
        words = list(sys.argv[1:] if args is None else args)
        known = self._option_string_actions
        for word in itertools.takewhile(lambda w: w != "--", words):
            if word in ("-h", "--help"):  # the first pass below knows of no positional argument
                self.print_help()
                self.exit()
            name = word.partition("=")[0]
            if name.startswith("--") and name not in known:
                raise InputError(f"{name}: there is no such flag{nearest(name, known)}")
        parsed, rest = self.parse_known_intermixed_args(words, namespace)
        if rest and "--" in words:  # which is lost if no other word stands before it
            parsed, rest = self.parse_known_args(words, namespace)
        if rest:
            raise InputError(f"{rest[0]}: not expected here: see {self.prog} --help")
        return parsed

    def error(self, message: str) -> typing.NoReturn:
        """Raise what argparse would print below the usage."""
        match = re.fullmatch(r"argument ([^\s:/]+)[^:]*: (.*)", message, re.DOTALL)
        if match is None:
            raise InputError(f"{message}: see {self.prog} --help")
        name, text = match.groups()
        raise InputError(f"{name} {text[1:]}" if text.startswith(_VALUE) else f"{name}: {text}")


def _width() -> int:
    return min(100, shutil.get_terminal_size().columns - 2)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps examples as they are written; lines are as wide as the terminal, up to 100."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=_width())

    def _format_action_invocation(self, action) -> str:
        """`--a, --b VALUE`; a switch has no value."""
        if not action.option_strings:
            names = action.metavar or action.dest
            return names if isinstance(names, str) else names[0]
        bare = action.nargs == 0 or isinstance(action, Switch)
        value = "" if bare else " " + self._format_args(action, action.dest.upper())
        return ", ".join(action.option_strings) + value

    def add_usage(self, usage, actions, groups, prefix=None) -> None:
        """Positional arguments and what is required; `[flags]` stands for all others."""
        positional = [a for a in actions if not a.option_strings]
        required = [a for a in actions if a.option_strings and a.required]
        parts = [self._format_args(a, a.dest) for a in positional]
        parts += [f"{a.option_strings[0]} {self._format_args(a, a.dest.upper())}" for a in required]
        super().add_usage(" ".join(["%(prog)s", *parts, "[flags]"]), actions, groups, prefix)


def nearest(word: str, known: Iterable[str]) -> str:
    """`: did you mean X?`, or nothing where no known word is near."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean {found[0]}?" if found else ""


# ---- values --------------------------------------------------------------------------------------


class Converter(NamedTuple):
    """How a value is read from the command line."""

    convert: Callable[[str], Any]
    metavar: str


def _typed(convert: Callable[[str], Any], what: str) -> Callable[[str], Any]:
    """`convert`, with an error that says what to give."""

    def converted(text: str) -> Any:
        try:
            return convert(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(f"{_VALUE}{text}: {error}") from None
        except ValueError:
            raise argparse.ArgumentTypeError(f"{_VALUE}{text}: give {what}") from None

    return converted


def whole(low: float = -float("inf"), high: float = float("inf")) -> Callable[[str], int]:
    """A converter of whole numbers in [low, high]."""

    def convert(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise InputError(f"must lie between {low:g} and {high:g}")
        return number

    return _typed(convert, "a whole number")


def path(text: str) -> Path:
    """A converter of paths; an empty one, as of an unset variable, would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError(_VALUE + "'': give a path")
    return Path(text).expanduser()  # of `--out=~/x` a shell leaves it to us


def name(text: str) -> str:
    """A converter of names; an empty one, as of an unset variable, would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError(_VALUE + "'': give a name")
    return text


def choice(choices: Collection[str], plugin: bool = False) -> Callable[[str], str]:
    """A converter that accepts one of some words, and with `plugin` also `module:name`."""

    def convert(text: str) -> str:
        if text in choices or (plugin and ":" in text):
            return text
        known = f"choose one of {', '.join(choices)}"
        raise InputError(known + (" or give module:name" * plugin) + nearest(text, choices))

    return _typed(convert, "another word")


def image_size(text: str) -> tuple[int, int]:
    """Read `224` or `360x480` (height x width)."""
    sides = [int(part) for part in text.lower().split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError(text)
    return sides[0], sides[-1]


def _pair(text: str) -> tuple[float, float]:
    low, high = text.split(",")
    return float(low), float(high)


size = Converter(_typed(image_size, "one side (224) or HEIGHTxWIDTH (360x480)"), "HEIGHTxWIDTH")

CONVERTERS: dict[Any, Converter] = {
    int: Converter(whole(), "N"),
    float: Converter(_typed(float, "a number"), "X"),
    str: Converter(str, "NAME"),
    tuple[int, int]: size,
    tuple[float, float]: Converter(_typed(_pair, "two numbers, as 0.5,2"), "MIN,MAX"),
}


def converter_of(hint: Any) -> Converter:
    """How a field of this type is read; `none` stands for None where the field may be None."""
    if words := configs.choices_of(hint):
        plugin = configs.accepts_plugin(hint)
        return Converter(
            choice(words, plugin), "{" + ",".join(words) + ",module:name" * plugin + "}"
        )
    if isinstance(hint, types.UnionType):
        inner = next(converter_of(t) for t in typing.get_args(hint) if t is not type(None))
        return inner._replace(convert=lambda text: None if text == "none" else inner.convert(text))
    return CONVERTERS[hint]


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ("x" if all(isinstance(v, int) for v in value) else ",").join(map(shown, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


class Switch(argparse.Action):
    """`--x` and `--no-x`; `--x yes` and `--x no` are accepted too."""

    def __init__(self, option_strings, dest, **kwargs) -> None:
        names = [*option_strings, *(f"--no-{name[2:]}" for name in option_strings)]
        kwargs |= {"nargs": "?", "metavar": ""}
        super().__init__(names, dest, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Set the field."""
        off = (option_string or "").startswith("--no-")
        if values is None:
            value = not off
        elif off or values not in ("yes", "no"):
            what = "takes no value" if off else "give yes or no, or nothing"
            raise argparse.ArgumentError(self, f"{_VALUE}{values}: {what}")
        else:
            value = values == "yes"
        setattr(namespace, self.dest, value)


# ---- flags from fields ---------------------------------------------------------------------------


@functools.cache
def docstrings(cls: type) -> dict[str, str]:
    """Field -> the docstring that stands under it in the source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(str(text.value.value))
        for field, text in itertools.pairwise(tree.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def flag(field: str) -> str:
    """The flag that sets a field, as `--batch-size` for `data.batch_size`."""
    return NAMES.get(field, "--" + field.rpartition(".")[2].replace("_", "-"))


def add_fields(
    parser: Any, prefix: str, defaults: Any, names: Sequence[str] | None = None, **replaced: Any
) -> None:
    """Add the flags of a dataclass's fields; what is not given stays out of the namespace.

    Args:
      parser: or one of its groups.
      prefix: of the fields' dotted names, such as `data`; empty at the top.
      defaults: an instance: its values are the defaults that the help shows.
      names: which fields; None for all that are no dataclasses themselves.
      **replaced: field -> arguments of `add_argument` that differ from those made here.
    """
    cls = type(defaults)
    hints, docs = typing.get_type_hints(cls), docstrings(cls)
    for name in names or [n for n, hint in hints.items() if not hasattr(hint, "__post_init__")]:
        field = f"{prefix}.{name}".lstrip(".")
        text = docs[name].replace("`", "").replace("None:", "none:").replace("None ", "none ")
        text = f"{text} (default: {shown(getattr(defaults, name))})"
        options: dict[str, Any] = {"dest": field, "default": argparse.SUPPRESS}
        options["help"] = text.replace("%", "%%")
        if hints[name] is bool:
            options["action"] = Switch
        else:
            options["type"], options["metavar"] = converter_of(hints[name])
        options |= replaced.get(name, {})
        parser.add_argument(flag(field), *ALIASES.get(field, ()), **options)
