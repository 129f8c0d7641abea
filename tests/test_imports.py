"""The rule of the house: imports go down only, and no room knows what it must not."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = [
    ["types"],
    ["data", "models", "conv", "losses", "metrics", "optim", "checkpoint", "torch_files",
     "torch_weights", "pretrained", "pooling", "report", "bootstrap", "progress", "allocator",
     "resizing", "tiling", "compiler", "onnx_graph", "hosts", "disk", "winograd", "patches",
     "interrupts"],
    ["steps", "precise_bn"],
    ["inference"],
    ["config"],
    ["workdir", "evaluation", "session", "present", "comparison", "starting", "export"],
    ["loop"],
]  # fmt: skip

MUST_NOT_KNOW = {
    "fcn_jax/report": {"jax", "flax", "fcn_jax.models", "fcn_jax.steps"},
    "fcn_jax/losses.py": {"fcn_jax.models", "fcn_jax.optim", "flax"},
    "fcn_jax/conv.py": {"flax", "fcn_jax.models"},
    "fcn_jax/patches.py": {"flax", "fcn_jax.conv", "fcn_jax.winograd", "fcn_jax.models"},
    "fcn_jax/winograd.py": {"flax", "fcn_jax.conv", "fcn_jax.models"},
    "fcn_jax/metrics.py": {"fcn_jax.models", "flax"},
    "fcn_jax/checkpoint.py": {"fcn_jax.models", "fcn_jax.optim", "fcn_jax.config"},
    "fcn_jax/torch_files.py": {"torch"},
    "fcn_jax/torch_weights.py": {"torch"},
    "fcn_jax/models": {"fcn_jax.data", "fcn_jax.steps", "fcn_jax.loop"},
    "fcn_jax/steps.py": {"fcn_jax.workdir", "fcn_jax.loop", "fcn_jax.report"},
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


def _floor(module: str) -> int:
    for height, rooms in enumerate(FLOORS):
        if module in rooms:
            return height
    raise AssertionError(f"fcn_jax.{module} has no floor: add it to FLOORS")


def _files():
    return [p for p in (ROOT / "fcn_jax").rglob("*.py") if p != ROOT / "fcn_jax/__init__.py"]


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    room = path.relative_to(ROOT / "fcn_jax").parts[0].removesuffix(".py")
    for name in _imports(path):
        assert not name.startswith("experiments"), f"{path} imports {name}"
        parts = name.split(".")
        if parts[0] == "fcn_jax" and len(parts) > 1 and parts[1] != room:
            assert _floor(parts[1]) <= _floor(room), f"{path} imports {name} from above"


@pytest.mark.parametrize("place", MUST_NOT_KNOW)
def test_rooms_do_not_know_what_they_must_not(place):
    where = ROOT / place
    for path in [where] if where.suffix else where.rglob("*.py"):
        for name in _imports(path):
            for secret in MUST_NOT_KNOW[place]:
                assert name != secret, f"{path} imports {name}"
                assert not name.startswith(secret + "."), f"{path} imports {name}"


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
