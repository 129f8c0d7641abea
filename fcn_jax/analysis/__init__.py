"""Reports and comparisons of finished runs."""
