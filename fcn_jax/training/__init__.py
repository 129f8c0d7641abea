"""Steps, the loop around them, evaluation, and the run folder."""
