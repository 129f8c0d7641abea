"""`fcn_jax.ops` as a part for others: its example runs, and it needs jax only."""

import doctest
import subprocess
import sys

from fcn_jax import ops


def test_the_example_runs():
    result = doctest.testmod(ops)
    assert result.attempted >= 6
    assert result.failed == 0


def test_it_needs_jax_only():
    code = """
import pkgutil, sys
for name in ("flax", "optax", "orbax", "tqdm", "PIL", "matplotlib", "torch", "fcn_jax.types"):
    sys.modules[name] = None  # an import of it raises ImportError
import fcn_jax.ops
for module in pkgutil.iter_modules(fcn_jax.ops.__path__, "fcn_jax.ops."):
    __import__(module.name)
print(sorted(name for name in sys.modules if name.startswith("fcn_jax.ops.")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("conv", "dilated", "im2col", "max_pool", "upsample", "winograd"):
        assert f"'fcn_jax.ops.{name}'" in done.stdout
