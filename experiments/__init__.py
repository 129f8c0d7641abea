"""The commands: `python -m experiments.run` and its like; importing one changes nothing."""
