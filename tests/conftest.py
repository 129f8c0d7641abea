"""A strict session: warnings are errors (pyproject.toml), and no silent rank promotion."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax starts

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
