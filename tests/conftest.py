"""A strict session: warnings are errors (pyproject.toml), and no silent rank promotion."""

import atexit
import os
import shutil
import tempfile
from importlib import metadata

# PyTorch's threads wait for each other by spinning: beside another worker, they take twice as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before jax starts. Many tests compile the same programs: one cache for the whole session, and for
# the commands that the tests start, halves its time. A limit on its size makes jax lock it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "FCN_JAX_TESTS" not in os.environ:
    _folder = tempfile.mkdtemp(prefix="fcn_jax-tests-")
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    os.environ["FCN_JAX_TESTS"] = _folder
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": f"{_folder}/programs",
            "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**32),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
        }
# Compiling takes most of the time, and half of it goes into speed that small tests do not need.
# With 0 they test what users run; CI does so for some tests of the convolutions.
_quick = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1"
if _quick and metadata.version("jaxlib").startswith("0.10."):  # later ones do not have the flag
    _flags = os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = " ".join(_flags).strip()

from pathlib import Path

import jax
import pytest

from experiments.cli import compilation_cache
from fcn_jax import models
from tests import fakes

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def cache():
    """Mend the cache after the tests that kill what is using it."""
    yield
    compilation_cache.mend(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))


@pytest.fixture
def optimized():
    """Compile as users' programs are, where the last digit counts."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def data_dir() -> Path:
    """Where `shapes` is drawn and prepared, once for the whole session."""
    folder = Path(os.environ["FCN_JAX_TESTS"]) / "data"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def tiny(monkeypatch):
    """Make the network `tiny` known by name."""
    monkeypatch.setitem(models.MODELS, "tiny", fakes.TINY)
