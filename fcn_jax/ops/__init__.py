"""Convolutions and max-pooling with derivatives that are fast on a CPU. Needs jax only."""
