"""The doors: `python -m experiments.run` and its like."""

import sys

from experiments import huge_pages, stops

if sys.argv[0] == "-m":  # Python is looking for the door, nothing heavy has been imported
    huge_pages.ask()
    stops.listen()
