"""Imports follow one order of levels, without cycles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LEVELS = [
    ["types"],
    ["config"],
    ["runtime", "ops", "losses", "metrics", "optim"],
    ["models", "data", "report"],
    ["weights"],
    ["inference"],
    ["training"],
    ["analysis"],
]
"""A module imports modules of its own package and of the levels above it in this list."""

MUST_NOT_IMPORT = {
    "fcn_jax/report": {"jax", "flax", "fcn_jax.models", "fcn_jax.data"},
    "fcn_jax/ops": {"flax", "fcn_jax.types", "fcn_jax.runtime"},
    "fcn_jax/losses.py": {"flax"},
    "fcn_jax/metrics.py": {"flax"},
    "fcn_jax/models": {"fcn_jax.data", "fcn_jax.losses", "fcn_jax.optim"},
    "fcn_jax/weights/torch_files.py": {"torch"},
    "fcn_jax/weights/torch_names.py": {"torch"},
    "fcn_jax/weights/torch_weights.py": {"torch"},
    "fcn_jax/training/steps.py": {"fcn_jax.report", "fcn_jax.weights"},
}


def _imports(path: Path) -> set[str]:
    """Every module a file names, `from fcn_jax import x` counted as fcn_jax.x."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inside if _is_module(name)}
            # `from package import module` reads the module, not what the package's face names.
            names |= modules | ({node.module} if inside - modules else set())
    return names


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _level(package: str) -> int:
    for number, packages in enumerate(LEVELS):
        if package in packages:
            return number
    raise AssertionError(f"fcn_jax.{package} has no level: add it to LEVELS")


def _files():
    return [p for p in (ROOT / "fcn_jax").rglob("*.py") if p != ROOT / "fcn_jax/__init__.py"]


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_order_of_levels(path):
    package = path.relative_to(ROOT / "fcn_jax").parts[0].removesuffix(".py")
    for name in _imports(path):
        assert not name.startswith("experiments"), f"{path} imports {name}"
        parts = name.split(".")
        if parts[0] == "fcn_jax" and len(parts) > 1 and parts[1] != package:
            assert _level(parts[1]) < _level(package), f"{path} imports {name}"


@pytest.mark.parametrize("part", MUST_NOT_IMPORT)
def test_forbidden_imports(part):
    where = ROOT / part
    for path in [where] if where.suffix else where.rglob("*.py"):
        for name in _imports(path):
            for forbidden in MUST_NOT_IMPORT[part]:
                assert name != forbidden, f"{path} imports {name}"
                assert not name.startswith(forbidden + "."), f"{path} imports {name}"


def test_no_cycles_between_modules():
    graph = {}
    for path in _files():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[module] = _imports(path)
    graph = {m: {n for n in names if n in graph and n != m} for m, names in graph.items()}
    done: set[str] = set()

    def visit(module, trail):
        assert module not in trail, " -> ".join([*trail, module])
        if module not in done:
            for other in graph[module]:
                visit(other, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])
