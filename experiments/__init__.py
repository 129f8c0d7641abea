"""The doors: `python -m experiments.run` and its like."""

import os
import sys

from experiments.cli import huge_pages

if sys.argv[0] == "-m":  # Python is looking for the door, nothing heavy has been imported
    # numpy's products here are small, and made by several threads: more would only spin.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    huge_pages.ask()
