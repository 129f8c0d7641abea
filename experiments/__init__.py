"""Thin doors to fcn_jax: each parses its flags and calls the library."""
