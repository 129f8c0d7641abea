"""The workers of `experiments.benchmark`."""
