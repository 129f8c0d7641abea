"""Importing changes nothing; the library does not print and names no command-line flag."""

import ast
import importlib
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import main

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "fcn_jax").rglob("*.py"))
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for part in ("fcn_jax", "experiments")
    for path in (ROOT / part).rglob("*.py")
)

IMPORT_ALL = f"""
import importlib, json, logging, os, signal, sys, threading, warnings

def state():
    loggers = [logging.getLogger(name) for name in (None, "fcn_jax", "absl", "jax")]
    return {{
        "environment": dict(os.environ),
        "handlers": [str(signal.getsignal(n)) for n in signal.valid_signals() if n not in (9, 19)],
        "wakeup": signal.set_wakeup_fd(-1),
        "levels": [logger.level for logger in loggers],
        "log handlers": [len(logger.handlers) for logger in loggers[:2]],
        "argv": sys.argv,
        "threads": threading.active_count(),
        "streams": [id(sys.stdout), id(sys.stderr)],
    }}

# What jax, numpy and tfds do when they are imported is theirs.
import absl.logging, flax, jax, matplotlib.figure, numpy, optax
import orbax.checkpoint, tensorflow_datasets
before = state()
for name in {MODULES!r}:
    if name not in {{"experiments.benchmarks.torch_worker"}}:
        importlib.import_module(name)
after = state()
print(json.dumps({{k: [v, after[k]] for k, v in before.items() if v != after[k]}}))
"""


def test_importing_every_module_changes_nothing():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {}


def _flags() -> set[str]:
    """Every flag of every command."""
    parsers = (importlib.import_module(f"experiments.{name}").parser() for name in main.COMMANDS)
    return {flag for parser in parsers for flag in parser._option_string_actions}


FLAGS = _flags()


def _strings(path: Path):
    """(line, text) of every string in a file, docstrings and f-strings' parts included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_names_no_flag(path):
    for line, text in _strings(path):
        found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)) & FLAGS
        assert not found, f"{path}:{line} names {found}: say it with InputError's field"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_does_not_print(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno} prints: log it instead"


HEAVY = {"jax", "numpy", "tensorflow_datasets", "orbax", "matplotlib", "flax", "PIL"}


@pytest.mark.parametrize("command", main.COMMANDS)
def test_a_command_imports_nothing_heavy_before_it_parses(command):
    code = f"import sys; import experiments.{command}; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    allowed = {"numpy", "PIL"} if command in ("tables", "explain") else set()
    assert not (HEAVY - allowed) & set(loaded)


@pytest.mark.parametrize("command", main.COMMANDS)
def test_help_and_mistakes_are_answered_at_once(command):
    for word, code in (("--help", 0), ("--no-such-flag", 2)):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        call = [sys.executable, "-m", f"experiments.{command}", word]
        assert subprocess.run(call, cwd=ROOT, capture_output=True, check=False).returncode == code
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert seconds < 0.5  # of computing: a busy machine may take longer


def test_prediction_does_not_import_tensorflow_datasets():
    code = (
        "import sys; from experiments.cli import segment; "
        "from fcn_jax.report import gallery, masks, pages; print(*sys.modules)"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    assert "tensorflow_datasets" not in loaded
