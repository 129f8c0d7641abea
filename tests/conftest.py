"""A strict session: warnings are errors (pyproject.toml), and no silent rank promotion."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax starts

import jax
import pytest

from fcn_jax import models
from tests import fakes

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def tiny(monkeypatch):
    """Make the network `tiny` known by name."""
    monkeypatch.setitem(models.MODELS, "tiny", fakes.TINY)
